"""Controllers: evaluate the network at this step, or forecast?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from driftcast.run import Run


class Controller(ABC):
    """Decides step by step; reads the run, never changes it."""

    @abstractmethod
    def check(self, steps: int) -> None:
        """Refuse a run of `steps` steps that this controller cannot govern, before anything is evaluated."""

    @abstractmethod
    def evaluate(self, run: Run) -> bool:
        """True: evaluate the network at `run.step`."""


class StaticController(Controller):
    """A controller whose decisions are known before the run, from the number of steps alone."""

    @abstractmethod
    def evaluated(self, steps: int) -> tuple[int, ...]:
        """The evaluated steps of a run of `steps` steps, ascending, the first one 0.

        Raises:
            ValueError: the run is too short.
        """

    def check(self, steps: int) -> None:
        self.evaluated(steps)

    def evaluate(self, run: Run) -> bool:
        return run.step in self.evaluated(len(run.grid))


@dataclass(frozen=True)
class FixedSteps(StaticController):
    """Exactly the steps given, of a run of any length that contains them."""

    steps: tuple[int, ...]

    def __post_init__(self) -> None:
        steps = tuple(self.steps)
        object.__setattr__(self, "steps", steps)
        if not steps or steps[0] != 0 or any(b <= a for a, b in zip(steps, steps[1:], strict=False)):
            raise ValueError(
                f"FixedSteps(steps=...) must ascend from 0, got {steps}; step 0 has nothing to forecast from."
            )

    def evaluated(self, steps: int) -> tuple[int, ...]:
        if self.steps[-1] >= steps:
            raise ValueError(
                f"FixedSteps evaluates step {self.steps[-1]}, but the run has only steps 0 to {steps - 1}; "
                f"run at least {self.steps[-1] + 1} steps or leave the later ones out."
            )
        return self.steps


PUBLISHED_INTERVAL = 6


@dataclass(frozen=True)
class Periodic(StaticController):
    """The first `warmup` steps, then every `interval`-th: {0 .. w-1} and {w-1+N, w-1+2N, ...}.

    This is the counter rule that TaylorSeer, ResilPhase and others release (arXiv:2503.06923, arXiv:2606.26769).

    Args:
        warmup: evaluations at the start, at least 1.
        interval: steps between evaluations afterwards; 1 evaluates every step. 6 when neither this nor `evaluations`
            is given, as published for FLUX.
        evaluations: instead of an interval, the count to come closest to; of equally close counts the smaller one, of
            equal counts the shorter interval.
        last: also evaluate the last step.
    """

    warmup: int = 3
    interval: int | None = None
    evaluations: int | None = None
    last: bool = False

    def __post_init__(self) -> None:
        if self.warmup < 1:
            raise ValueError(f"Periodic(warmup=...) must be at least 1, got {self.warmup}; step 0 is always evaluated.")
        if self.interval is None and self.evaluations is None:
            object.__setattr__(self, "interval", PUBLISHED_INTERVAL)
        if self.interval is not None and self.evaluations is not None:
            raise ValueError(
                f"Periodic takes interval=... or evaluations=..., not both; got {self.interval} and {self.evaluations}."
            )
        if self.interval is not None and self.interval < 1:
            raise ValueError(f"Periodic(interval=...) must be at least 1, got {self.interval}; 1 evaluates every step.")
        if self.evaluations is not None and self.evaluations < self.warmup + self.last:
            raise ValueError(
                f"Periodic(evaluations=...) must be at least {self.warmup + self.last} (warm-up of {self.warmup}"
                f"{' and the last step' if self.last else ''}), got {self.evaluations}; lower warmup or ask for more."
            )

    def _every(self, interval: int, steps: int) -> tuple[int, ...]:
        chosen = {*range(self.warmup), *range(self.warmup - 1, steps, interval)}
        return tuple(sorted(chosen | {steps - 1} if self.last else chosen))

    @lru_cache(maxsize=64)  # noqa: B019  (instances are small, frozen and few)
    def evaluated(self, steps: int) -> tuple[int, ...]:
        if steps < self.warmup:
            raise ValueError(
                f"num_inference_steps={steps} is fewer than the warm-up of {self.warmup} evaluations; "
                f"run at least {self.warmup} steps or lower warmup."
            )
        if self.evaluations is None:
            return self._every(self.interval or PUBLISHED_INTERVAL, steps)
        if self.evaluations > steps:
            raise ValueError(
                f"evaluations={self.evaluations} is more than num_inference_steps={steps}; ask for at most {steps}."
            )
        wanted = self.evaluations
        every = [self._every(n, steps) for n in range(1, steps + 1)]
        return min(every, key=lambda found: (abs(len(found) - wanted), len(found)))
