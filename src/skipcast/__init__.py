"""skipcast: evaluate a diffusion model at a few sampler steps, forecast it at the rest, and measure what that costs.

A method is four parts:

    ResilPhase   Method(Mapped(Lagrange(1), Balanced(0.55)), Periodic(3, 6), StepIndex(), GlobalDrift())
    TaylorSeer   Method(TaylorSeer(1, start=1),              Periodic(3, 6), StepIndex(), Output())
    FORA         Method(Reuse(),                             Periodic(1, 6), StepIndex(), Output())
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from skipcast.controllers import AccumulatedChange as AccumulatedChange
from skipcast.controllers import Controller as Controller
from skipcast.controllers import DynamicHorizon as DynamicHorizon
from skipcast.controllers import EasyRatio as EasyRatio
from skipcast.controllers import ErrorBound as ErrorBound
from skipcast.controllers import Even as Even
from skipcast.controllers import FirstBlockChange as FirstBlockChange
from skipcast.controllers import FixedSteps as FixedSteps
from skipcast.controllers import Growing as Growing
from skipcast.controllers import Multiples as Multiples
from skipcast.controllers import Periodic as Periodic
from skipcast.controllers import Searched as Searched
from skipcast.controllers import Stability as Stability
from skipcast.controllers import StaticController as StaticController
from skipcast.controllers import Verified as Verified
from skipcast.coordinates import Angle as Angle
from skipcast.coordinates import Balanced as Balanced
from skipcast.coordinates import Chebyshev as Chebyshev
from skipcast.coordinates import Coordinate as Coordinate
from skipcast.coordinates import HalfLogSNR as HalfLogSNR
from skipcast.coordinates import PhaseMap as PhaseMap
from skipcast.coordinates import Sigma as Sigma
from skipcast.coordinates import StepIndex as StepIndex
from skipcast.forecasters import ABCache as ABCache
from skipcast.forecasters import AdamsBashforth as AdamsBashforth
from skipcast.forecasters import Blend as Blend
from skipcast.forecasters import ChebyshevRidge as ChebyshevRidge
from skipcast.forecasters import FoCa as FoCa
from skipcast.forecasters import Forecaster as Forecaster
from skipcast.forecasters import HiCache as HiCache
from skipcast.forecasters import HighBand as HighBand
from skipcast.forecasters import Lagrange as Lagrange
from skipcast.forecasters import LinearForecaster as LinearForecaster
from skipcast.forecasters import Mapped as Mapped
from skipcast.forecasters import MeanVelocity as MeanVelocity
from skipcast.forecasters import PadeCode as PadeCode
from skipcast.forecasters import PadeLiteral as PadeLiteral
from skipcast.forecasters import PadePaper as PadePaper
from skipcast.forecasters import Principal as Principal
from skipcast.forecasters import RecursiveForecaster as RecursiveForecaster
from skipcast.forecasters import Reuse as Reuse
from skipcast.forecasters import Shrunk as Shrunk
from skipcast.forecasters import Smoothed as Smoothed
from skipcast.forecasters import Subspace as Subspace
from skipcast.forecasters import TaylorSeer as TaylorSeer
from skipcast.forecasters import Within as Within
from skipcast.grid import TimeGrid as TimeGrid
from skipcast.history import History as History
from skipcast.history import Point as Point
from skipcast.methods.base import IncompatibleParts as IncompatibleParts
from skipcast.methods.base import Method as Method
from skipcast.methods.names import method as method
from skipcast.plans.from_method import compile_plan as compile_plan
from skipcast.plans.plan import Plan as Plan
from skipcast.plans.profile import Profile as Profile
from skipcast.run import Run as Run
from skipcast.samplers import Sampler as Sampler
from skipcast.tableaux import amplification as amplification
from skipcast.tableaux import degree_of_exactness as degree_of_exactness
from skipcast.tableaux import evaluated_steps as evaluated_steps
from skipcast.tableaux import tableau as tableau
from skipcast.targets import CarriedDrift as CarriedDrift
from skipcast.targets import GlobalDrift as GlobalDrift
from skipcast.targets import LastHidden as LastHidden
from skipcast.targets import ModuleOutputs as ModuleOutputs
from skipcast.targets import Output as Output
from skipcast.targets import OutputDrift as OutputDrift
from skipcast.targets import SpanDrift as SpanDrift
from skipcast.targets import StagedSpans as StagedSpans
from skipcast.targets import Target as Target
from skipcast.wrapped import Wrapped as Wrapped
from skipcast.wrapped import wrap as wrap

if TYPE_CHECKING:
    from skipcast.models.load import load_reference as load_reference
    from skipcast.models.shipped import shipped_plan as shipped_plan
    from skipcast.pipelines.accelerate import accelerate as accelerate
    from skipcast.pipelines.plan_scheduler import PlanScheduler as PlanScheduler
    from skipcast.pipelines.recording.record import record as record
    from skipcast.pipelines.session import Acceleration as Acceleration

__version__ = "0.1.0"

# Only these import diffusers, so they are looked up on first use and `import skipcast` stays fast.
_LAZY = {
    "Acceleration": "skipcast.pipelines.session",
    "PlanScheduler": "skipcast.pipelines.plan_scheduler",
    "SchedulerMixin": "skipcast.pipelines.plan_scheduler",  # diffusers asks for it when it loads a saved PlanScheduler
    "accelerate": "skipcast.pipelines.accelerate",
    "load_reference": "skipcast.models.load",
    "record": "skipcast.pipelines.recording.record",
    "shipped_plan": "skipcast.models.shipped",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'skipcast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
