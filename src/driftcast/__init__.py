"""driftcast: evaluate a diffusion model at a few sampler steps, forecast it at the rest, and measure what that costs.

A method is four parts:

    ResilPhase   Method(Mapped(Lagrange(1), Balanced(0.55)), Periodic(3, 6), StepIndex(), GlobalDrift())
    TaylorSeer   Method(TaylorSeer(1, start=1),              Periodic(3, 6), StepIndex(), Output())
    FORA         Method(Reuse(),                             Periodic(1, 6), StepIndex(), Output())
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from driftcast.controllers import AccumulatedChange as AccumulatedChange
from driftcast.controllers import Controller as Controller
from driftcast.controllers import DynamicHorizon as DynamicHorizon
from driftcast.controllers import EasyRatio as EasyRatio
from driftcast.controllers import ErrorBound as ErrorBound
from driftcast.controllers import Even as Even
from driftcast.controllers import FirstBlockChange as FirstBlockChange
from driftcast.controllers import FixedSteps as FixedSteps
from driftcast.controllers import Growing as Growing
from driftcast.controllers import Multiples as Multiples
from driftcast.controllers import Periodic as Periodic
from driftcast.controllers import Searched as Searched
from driftcast.controllers import Stability as Stability
from driftcast.controllers import StaticController as StaticController
from driftcast.controllers import Verified as Verified
from driftcast.coordinates import Angle as Angle
from driftcast.coordinates import Balanced as Balanced
from driftcast.coordinates import Chebyshev as Chebyshev
from driftcast.coordinates import Coordinate as Coordinate
from driftcast.coordinates import HalfLogSNR as HalfLogSNR
from driftcast.coordinates import PhaseMap as PhaseMap
from driftcast.coordinates import Sigma as Sigma
from driftcast.coordinates import StepIndex as StepIndex
from driftcast.forecasters import ABCache as ABCache
from driftcast.forecasters import AdamsBashforth as AdamsBashforth
from driftcast.forecasters import Blend as Blend
from driftcast.forecasters import ChebyshevRidge as ChebyshevRidge
from driftcast.forecasters import FoCa as FoCa
from driftcast.forecasters import Forecaster as Forecaster
from driftcast.forecasters import HiCache as HiCache
from driftcast.forecasters import HighBand as HighBand
from driftcast.forecasters import Lagrange as Lagrange
from driftcast.forecasters import LinearForecaster as LinearForecaster
from driftcast.forecasters import Mapped as Mapped
from driftcast.forecasters import MeanVelocity as MeanVelocity
from driftcast.forecasters import PadeCode as PadeCode
from driftcast.forecasters import PadeLiteral as PadeLiteral
from driftcast.forecasters import PadePaper as PadePaper
from driftcast.forecasters import Principal as Principal
from driftcast.forecasters import RecursiveForecaster as RecursiveForecaster
from driftcast.forecasters import Reuse as Reuse
from driftcast.forecasters import Shrunk as Shrunk
from driftcast.forecasters import Smoothed as Smoothed
from driftcast.forecasters import Subspace as Subspace
from driftcast.forecasters import TaylorSeer as TaylorSeer
from driftcast.forecasters import Within as Within
from driftcast.grid import TimeGrid as TimeGrid
from driftcast.history import History as History
from driftcast.history import Point as Point
from driftcast.method import IncompatibleParts as IncompatibleParts
from driftcast.method import Method as Method
from driftcast.names import method as method
from driftcast.planning.compiled import compile_plan as compile_plan
from driftcast.planning.plan import Plan as Plan
from driftcast.planning.profile import Profile as Profile
from driftcast.run import Run as Run
from driftcast.samplers import Sampler as Sampler
from driftcast.tableau import amplification as amplification
from driftcast.tableau import degree_of_exactness as degree_of_exactness
from driftcast.tableau import evaluated_steps as evaluated_steps
from driftcast.tableau import tableau as tableau
from driftcast.targets import CarriedDrift as CarriedDrift
from driftcast.targets import GlobalDrift as GlobalDrift
from driftcast.targets import LastHidden as LastHidden
from driftcast.targets import ModuleOutputs as ModuleOutputs
from driftcast.targets import Output as Output
from driftcast.targets import OutputDrift as OutputDrift
from driftcast.targets import SpanDrift as SpanDrift
from driftcast.targets import StagedSpans as StagedSpans
from driftcast.targets import Target as Target
from driftcast.wrapped import Wrapped as Wrapped
from driftcast.wrapped import wrap as wrap

if TYPE_CHECKING:
    from driftcast.backends.diffusers import accelerate as accelerate
    from driftcast.backends.plans import PlanScheduler as PlanScheduler
    from driftcast.backends.record import record as record
    from driftcast.backends.session import Acceleration as Acceleration
    from driftcast.reference.load import load_reference as load_reference
    from driftcast.reference.plans import shipped_plan as shipped_plan

__version__ = "0.1.0"

# Only these import diffusers, so they are looked up on first use and `import driftcast` stays fast.
_LAZY = {
    "Acceleration": "driftcast.backends.session",
    "PlanScheduler": "driftcast.backends.plans",
    "SchedulerMixin": "driftcast.backends.plans",  # diffusers asks for it when it loads a saved PlanScheduler
    "accelerate": "driftcast.backends.diffusers",
    "load_reference": "driftcast.reference.load",
    "record": "driftcast.backends.record",
    "shipped_plan": "driftcast.reference.plans",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'driftcast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
