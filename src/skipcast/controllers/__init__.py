"""Controllers: evaluate the network at this step, or forecast? One kind of rule per file."""

from skipcast.controllers.adaptive import TEACACHE as TEACACHE
from skipcast.controllers.adaptive import TEACACHE_FLUX as TEACACHE_FLUX
from skipcast.controllers.adaptive import AccumulatedChange as AccumulatedChange
from skipcast.controllers.adaptive import DynamicHorizon as DynamicHorizon
from skipcast.controllers.adaptive import EasyRatio as EasyRatio
from skipcast.controllers.adaptive import ErrorBound as ErrorBound
from skipcast.controllers.adaptive import FirstBlockChange as FirstBlockChange
from skipcast.controllers.adaptive import Stability as Stability
from skipcast.controllers.adaptive import Verified as Verified
from skipcast.controllers.base import Controller as Controller
from skipcast.controllers.base import Probe as Probe
from skipcast.controllers.base import StaticController as StaticController
from skipcast.controllers.filtered import FilteredChange as FilteredChange
from skipcast.controllers.fixed import MEANCACHE_SPANS as MEANCACHE_SPANS
from skipcast.controllers.fixed import PUBLISHED_INTERVAL as PUBLISHED_INTERVAL
from skipcast.controllers.fixed import SEARCHED as SEARCHED
from skipcast.controllers.fixed import SEARCHED_AT as SEARCHED_AT
from skipcast.controllers.fixed import Even as Even
from skipcast.controllers.fixed import FixedSteps as FixedSteps
from skipcast.controllers.fixed import Growing as Growing
from skipcast.controllers.fixed import Multiples as Multiples
from skipcast.controllers.fixed import Periodic as Periodic
from skipcast.controllers.fixed import Searched as Searched
from skipcast.controllers.fixed import published_set as published_set
from skipcast.controllers.interleaved import DualOrder as DualOrder
from skipcast.controllers.interleaved import Interleaved as Interleaved
