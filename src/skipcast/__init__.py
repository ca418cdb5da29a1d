"""skipcast: evaluate a diffusion model at a few sampler steps, forecast it at the rest, and measure what that costs.

A method is four parts, which lie in `forecasters`, `controllers`, `coordinates` and `targets`:

    ResilPhase   Method(Mapped(Lagrange(1), Balanced(0.55)), Periodic(3, 6), StepIndex(), GlobalDrift())
    TaylorSeer   Method(TaylorSeer(1, start=1),              Periodic(3, 6), StepIndex(), Output())
    FORA         Method(Reuse(),                             Periodic(1, 6), StepIndex(), Output())
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from skipcast import controllers, coordinates, forecasters, guidance, targets
from skipcast.grid import TimeGrid
from skipcast.history import History, Point
from skipcast.methods.compiled import compile_plan
from skipcast.methods.names import method
from skipcast.parts import IncompatibleParts, Method
from skipcast.plans.adaptive import AdaptivePlan
from skipcast.plans.plan import Plan
from skipcast.plans.profile import Profile
from skipcast.run import Run
from skipcast.samplers import Sampler
from skipcast.tableaux import amplification, degree_of_exactness, evaluated_steps, tableau
from skipcast.targets import Output
from skipcast.wrapped import wrap

if TYPE_CHECKING:
    from skipcast.models.load import load_reference
    from skipcast.models.shipped import shipped_plan
    from skipcast.pipelines.accelerate import accelerate, disable, enable
    from skipcast.pipelines.calibration import calibration_calls, replay
    from skipcast.pipelines.chords import chords
    from skipcast.pipelines.denoiser import record, sample
    from skipcast.pipelines.magnitudes import magnitude_curve
    from skipcast.pipelines.plan_scheduler import PlanScheduler
    from skipcast.pipelines.summary import Acceleration
    from skipcast.pipelines.tuning import tune

__all__ = [
    "Acceleration", "AdaptivePlan", "History", "IncompatibleParts", "Method", "Output", "Plan", "PlanScheduler",
    "Point", "Profile", "Run", "Sampler", "TimeGrid", "accelerate", "amplification", "calibration_calls", "chords",
    "compile_plan", "controllers", "coordinates", "degree_of_exactness", "disable", "enable", "evaluated_steps",
    "forecasters", "guidance", "load_reference", "magnitude_curve", "method", "record", "replay", "sample",
    "shipped_plan", "tableau", "targets", "tune", "wrap",
]  # fmt: skip

# Most of these import diffusers, so they are looked up on first use and `import skipcast` stays fast.
_LAZY = {
    "Acceleration": "skipcast.pipelines.summary",
    "PlanScheduler": "skipcast.pipelines.plan_scheduler",
    "SchedulerMixin": "skipcast.pipelines.plan_scheduler",  # diffusers asks for it when it loads a saved PlanScheduler
    "accelerate": "skipcast.pipelines.accelerate",
    "calibration_calls": "skipcast.pipelines.calibration",
    "chords": "skipcast.pipelines.chords",
    "disable": "skipcast.pipelines.accelerate",
    "enable": "skipcast.pipelines.accelerate",
    "load_reference": "skipcast.models.load",
    "magnitude_curve": "skipcast.pipelines.magnitudes",
    "record": "skipcast.pipelines.denoiser",
    "replay": "skipcast.pipelines.calibration",
    "sample": "skipcast.pipelines.denoiser",
    "shipped_plan": "skipcast.models.shipped",
    "tune": "skipcast.pipelines.tuning",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        try:
            return getattr(importlib.import_module(_LAZY[name]), name)
        except ModuleNotFoundError as error:
            if error.name != "diffusers":
                raise
            needed = f'skipcast.{name} works on pipelines of diffusers; run: pip install "skipcast[diffusers]"'
            raise ImportError(needed) from error
    if name == "__version__":
        return importlib.metadata.version("skipcast")
    raise AttributeError(f"module 'skipcast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
