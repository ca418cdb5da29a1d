"""Controllers: evaluate the network at this step, or forecast? One kind of rule per file."""

from driftcast.controllers.base import Controller as Controller
from driftcast.controllers.base import Probe as Probe
from driftcast.controllers.base import StaticController as StaticController
from driftcast.controllers.fixed import PUBLISHED_INTERVAL as PUBLISHED_INTERVAL
from driftcast.controllers.fixed import Even as Even
from driftcast.controllers.fixed import FixedSteps as FixedSteps
from driftcast.controllers.fixed import Multiples as Multiples
from driftcast.controllers.fixed import Periodic as Periodic
from driftcast.controllers.growing import Growing as Growing
from driftcast.controllers.probing import TEACACHE_FLUX as TEACACHE_FLUX
from driftcast.controllers.probing import AccumulatedChange as AccumulatedChange
from driftcast.controllers.probing import EasyRatio as EasyRatio
from driftcast.controllers.probing import FirstBlockChange as FirstBlockChange
from driftcast.controllers.remembering import DynamicHorizon as DynamicHorizon
from driftcast.controllers.remembering import ErrorBound as ErrorBound
from driftcast.controllers.remembering import Stability as Stability
from driftcast.controllers.remembering import Verified as Verified
from driftcast.controllers.searched import MEANCACHE_SPANS as MEANCACHE_SPANS
from driftcast.controllers.searched import SEARCHED as SEARCHED
from driftcast.controllers.searched import Searched as Searched
