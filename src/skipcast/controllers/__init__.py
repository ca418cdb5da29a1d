"""Controllers: evaluate the network at this step, or forecast? One kind of rule per file."""

from skipcast.controllers.base import Controller as Controller
from skipcast.controllers.base import Probe as Probe
from skipcast.controllers.base import StaticController as StaticController
from skipcast.controllers.fixed import PUBLISHED_INTERVAL as PUBLISHED_INTERVAL
from skipcast.controllers.fixed import Even as Even
from skipcast.controllers.fixed import FixedSteps as FixedSteps
from skipcast.controllers.fixed import Multiples as Multiples
from skipcast.controllers.fixed import Periodic as Periodic
from skipcast.controllers.growing import Growing as Growing
from skipcast.controllers.probing import TEACACHE_FLUX as TEACACHE_FLUX
from skipcast.controllers.probing import AccumulatedChange as AccumulatedChange
from skipcast.controllers.probing import EasyRatio as EasyRatio
from skipcast.controllers.probing import FirstBlockChange as FirstBlockChange
from skipcast.controllers.remembering import DynamicHorizon as DynamicHorizon
from skipcast.controllers.remembering import ErrorBound as ErrorBound
from skipcast.controllers.remembering import Stability as Stability
from skipcast.controllers.remembering import Verified as Verified
from skipcast.controllers.searched import MEANCACHE_SPANS as MEANCACHE_SPANS
from skipcast.controllers.searched import SEARCHED as SEARCHED
from skipcast.controllers.searched import Searched as Searched
