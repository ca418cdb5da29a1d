"""What a controller is: one that decides step by step, and one whose decisions are known before the run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from torch import Tensor

from skipcast.checks import Checked
from skipcast.history import RunState

#: What a run must be shown before the decision: nothing, the network's input sample, the first block's modulated
#: input, the residual that the first block adds to the image tokens, those tokens before and behind the first block,
#: stacked: (2, B, tokens, width), the embedding of the timestep alone, or what the first block is given for the time.
Probe = Literal["none", "input", "modulated", "block", "around", "time", "block time"]

#: Steps that are evaluated, ascending from 0.
Steps = tuple[int, ...]


class Controller(Checked, ABC):
    """Decides step by step; what it state about one run lies in `run.state`, which `begin` makes."""

    #: Whether all guidance branches follow the decision of the first one.
    shared: ClassVar[bool] = False
    #: Whether it only stands for the decision of another run.
    follows: ClassVar[bool] = False
    #: How many remembered values it looks at; a shorter window is refused.
    remembers: ClassVar[int] = 0
    #: Whether it looks at `run.verified`, which only some targets measure.
    verifies: ClassVar[bool] = False
    #: What it looks at; `run.probe` holds it when `evaluate` is called.
    probe: Probe = "none"
    #: Whether it looks at `run.places`, the sizes of the grid that tokens lie on.
    wants_places: ClassVar[bool] = False
    #: Coefficients that rescale what it looks at, fitted on one network; highest power first.
    polynomial: tuple[float, ...] | None = None

    @property
    def fitted_on(self) -> str | None:
        """Beginning of the class name of the one transformer that its numbers were measured on, where there is one."""
        return None

    @property
    def planned(self) -> int | None:
        """The number of evaluations where it is known whatever the run's length."""
        return None

    @abstractmethod
    def check(self, steps: int) -> None:
        """Refuse a run of `steps` steps that this controller cannot govern, before anything is evaluated."""

    def begin(self) -> Any:
        """Fresh state for one run."""
        return None

    @abstractmethod
    def evaluate(self, run: RunState) -> bool:
        """True: evaluate the network at `run.step`. Called once a step, from the second step on."""

    def measures(self, run: RunState) -> bool:
        """Whether it will look at how wrong the forecast of `run.step` is; asked of those that verify."""
        return self.verifies

    def observed(self, run: RunState, x: Tensor, y: Tensor) -> None:
        """An evaluation was made at `run.step`; the history holds it already."""


class StaticController(Controller):
    """A controller whose decisions are known before the run, from the number of steps alone."""

    @abstractmethod
    def evaluated(self, steps: int) -> Steps:
        """The evaluated steps of a run of `steps` steps, ascending, the first one 0.

        Raises:
            ValueError: the run is too short.
        """

    def check(self, steps: int) -> None:
        self.evaluated(steps)

    def evaluate(self, run: RunState) -> bool:
        return run.step in self.evaluated(run.steps)


def closest(candidates: Iterable[Steps], evaluations: int) -> Steps:
    """The candidate whose count comes closest; of equally close counts the smaller one, of equal counts the first."""
    return min(candidates, key=lambda found: (abs(len(found) - evaluations), len(found)))


def forced(run: RunState, first: int, last: bool) -> bool:
    """Whether this is one of the first `first` steps or, on request, the last one, or evaluated in any case."""
    return run.imposed or run.step < first or (last and run.step == run.steps - 1)


def refuse_both(controller: Controller, option: str, value: float | None, evaluations: int | None) -> None:
    """`evaluations` stands instead of what it would determine."""
    if value is not None and evaluations is not None:
        raise ValueError(
            f"{type(controller).__name__} takes {option}=... or evaluations=..., not both; "
            f"got {value} and {evaluations}."
        )


def refuse_below(controller: Controller, option: str, least: int, reason: str) -> None:
    """A whole-number option may not be below `least`."""
    value = getattr(controller, option)
    if value is not None and value < least:
        raise ValueError(f"{type(controller).__name__}({option}=...) must be at least {least}, got {value}; {reason}.")


def refuse_negative(controller: Controller, option: str, reason: str) -> None:
    """A real option may not be negative, nor no number at all."""
    value = getattr(controller, option)
    if not value >= 0:
        raise ValueError(f"{type(controller).__name__}({option}=...) must be >= 0, got {value}; {reason}.")


def refuse_shorter(steps: int, warmup: int, option: str = "warmup") -> None:
    """A run may not end before the warm-up does."""
    if steps < warmup:
        raise ValueError(
            f"num_inference_steps={steps} is fewer than the warm-up of {warmup} evaluations; "
            f"run at least {warmup} steps or lower {option}."
        )


def refuse_more(evaluations: int, steps: int) -> None:
    """No run evaluates more often than it has steps."""
    if evaluations > steps:
        raise ValueError(
            f"evaluations={evaluations} is more than num_inference_steps={steps}; ask for at most {steps}."
        )
