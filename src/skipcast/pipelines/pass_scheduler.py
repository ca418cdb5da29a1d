"""A plan of passes in a pipeline: its scheduler, which knows the pass of every step."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from skipcast.pipelines.passes import Passes
from skipcast.pipelines.plan_scheduler import Evaluated, PlanScheduler

_CURE = "run a plan of whole evaluations with sc.accelerate(pipe, plan), which can begin late and end early"


class _OfPasses(Evaluated):
    """The timesteps of all passes."""

    reason = f"begins or ends within a plan of passes: {_CURE}."

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        raise ValueError(
            "the pipeline copies its scheduler, and a copy would not know which pass of a guidance branch the network "
            f"makes: {_CURE}; or leave accelerate() before you copy the pipeline."
        )


class PassScheduler(PlanScheduler):
    """Every pass is a step of the pipeline, whose network `passes` answers; `accelerate` makes it."""

    runs_passes = True

    def cut(self, begin: int = 0, end: int | None = None) -> None:
        raise ValueError(f"cut(begin={begin}, end={end}) cannot be followed by a plan of passes: {_CURE}.")

    def bytes(self) -> int:
        return super().bytes() + self.passes.bytes()

    def _times(self) -> Tensor:
        return super()._times().as_subclass(Tensor).as_subclass(_OfPasses)

    def _begin(self, place: int) -> None:
        self.timesteps[place:]  # refused with the reason
        super()._begin(place)

    def _advance(self, y: Tensor, x: Tensor) -> Tensor:
        self.passes.done()
        return super()._advance(y, x)

    def _forget(self) -> None:
        super()._forget()
        self.passes = Passes(self._plan.branches, self._plan.passes)
