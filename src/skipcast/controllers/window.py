"""A part of the run outside which every step is evaluated, around any controller."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor

from skipcast.controllers.base import Controller, StaticController, Steps, closest, refuse_more
from skipcast.history import RunState


def windowed(controller: Controller, start: float = 0.0, end: float = 1.0) -> Controller:
    """The controller restricted to a window of the run: `WindowedSteps` or `Windowed`, or itself for the whole run.

    Args:
        controller: what decides within the window.
        start: share of the run, in [0, 1), before which every step is evaluated.
        end: share of the run, in (start, 1], from which on every step is evaluated.

    Raises:
        ValueError: the window is empty or reaches beyond the run.
    """
    if (start, end) == (0.0, 1.0):
        return controller
    return (WindowedSteps if isinstance(controller, StaticController) else Windowed)(controller, start, end)  # type: ignore[arg-type]


def _refuse_no_window(controller: Controller, start: float, end: float) -> None:
    kind = type(controller).__name__
    if not 0 <= start < 1:
        raise ValueError(f"{kind}(start=...) must be a share of the run in [0, 1), got {start}; 0 is its beginning.")
    if not start < end <= 1:
        raise ValueError(f"{kind}(end=...) must be a share of the run above start={start} up to 1, got {end}.")


def _inside(step: int, steps: int, start: float, end: float) -> bool:
    """Whether start <= step / steps < end, with a margin for rounding: 0.29 * 100 is below 29 in floating point."""
    return start * steps - 1e-9 <= step < end * steps - 1e-9


def _refuse_none_inside(steps: int, start: float, end: float) -> None:
    if not any(_inside(step, steps, start, end) for step in range(1, steps)):
        raise ValueError(
            f"start={start} and end={end} leave no step of num_inference_steps={steps} that may be forecast; widen "
            "the window, or run without a method."
        )


@dataclass(frozen=True)
class WindowedSteps(StaticController):
    """Fixed steps, and every step outside a window of the run: those with step / N < start or step / N >= end.

    Where the fixed steps are chosen for a number of evaluations, that number includes the steps outside the window, and
    the choice whose union with them comes closest is taken.

    Args:
        fixed: the steps to evaluate within the window.
        start: share of the run, in [0, 1), before which every step is evaluated.
        end: share of the run, in (start, 1], from which on every step is evaluated.
    """

    fixed: StaticController
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        _refuse_no_window(self, self.start, self.end)

    @property
    def fitted_on(self) -> str | None:
        return self.fixed.fitted_on

    @property
    def planned(self) -> int | None:
        return getattr(self.fixed, "evaluations", None)

    @lru_cache(maxsize=64)  # noqa: B019  (instances are small, frozen and few)
    def evaluated(self, steps: int) -> Steps:
        _refuse_none_inside(steps, self.start, self.end)
        outside = {step for step in range(steps) if not _inside(step, steps, self.start, self.end)}
        count = self.planned
        if count is None:
            return tuple(sorted(outside.union(self.fixed.evaluated(steps))))
        refuse_more(count, steps)
        if len(outside) > count:
            raise ValueError(
                f"evaluations={count} is fewer than the {len(outside)} of {steps} steps outside start={self.start} and "
                f"end={self.end}, which are all evaluated; ask for more or widen the window."
            )
        candidates = [self.fixed.evaluated(steps)]
        for fewer in range(count - 1, 0, -1):
            try:
                candidates.append(dataclasses.replace(self.fixed, evaluations=fewer).evaluated(steps))  # type: ignore[type-var]
            except ValueError:  # below what is evaluated in any case, such as the warm-up
                break
        return closest((tuple(sorted(outside.union(chosen))) for chosen in candidates), count)


@dataclass(frozen=True)
class Windowed(Controller):
    """A controller that decides by values, and every step outside a window: step / N < start or step / N >= end.

    The controller follows the run outside the window too, as it does at steps that it is made to evaluate by itself.

    Args:
        controller: what decides within the window.
        start: share of the run, in [0, 1), before which every step is evaluated.
        end: share of the run, in (start, 1], from which on every step is evaluated.
    """

    controller: Controller
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.controller, StaticController):
            raise ValueError(
                f"Windowed(controller=...) must be a controller that decides by values, got {self.controller!r}; "
                "WindowedSteps takes those of fixed steps."
            )
        _refuse_no_window(self, self.start, self.end)
        for name in ("shared", "remembers", "verifies", "probe", "polynomial"):
            object.__setattr__(self, name, getattr(self.controller, name))

    @property
    def fitted_on(self) -> str | None:
        return self.controller.fitted_on

    def check(self, steps: int) -> None:
        _refuse_none_inside(steps, self.start, self.end)
        self.controller.check(steps)

    def begin(self) -> Any:
        return self.controller.begin()

    def evaluate(self, run: RunState) -> bool:
        run.imposed = not _inside(run.step, run.steps, self.start, self.end)
        return self.controller.evaluate(run) or run.imposed

    def observed(self, run: RunState, x: Tensor, y: Tensor) -> None:
        self.controller.observed(run, x, y)
