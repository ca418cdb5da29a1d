"""Fixed steps: as given, every so many, multiples of an interval, or evenly placed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from skipcast.controllers.base import (
    StaticController,
    Steps,
    closest,
    refuse_below,
    refuse_both,
    refuse_more,
    refuse_shorter,
)


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

    @property
    def planned(self) -> int | None:
        return len(self.steps)

    def evaluated(self, steps: int) -> Steps:
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
        refuse_below(self, "warmup", 1, "step 0 is always evaluated")
        if self.interval is None and self.evaluations is None:
            object.__setattr__(self, "interval", PUBLISHED_INTERVAL)
        refuse_both(self, "interval", self.interval, self.evaluations)
        refuse_below(self, "interval", 1, "1 evaluates every step")
        _refuse_few(self, "warmup", self.warmup, self.evaluations, self.last)

    @property
    def planned(self) -> int | None:
        return self.evaluations

    def _every(self, interval: int, steps: int) -> Steps:
        chosen = {*range(self.warmup), *range(self.warmup - 1, steps, interval)}
        return tuple(sorted(chosen | {steps - 1} if self.last else chosen))

    @lru_cache(maxsize=64)  # noqa: B019  (instances are small, frozen and few)
    def evaluated(self, steps: int) -> Steps:
        refuse_shorter(steps, self.warmup)
        if self.evaluations is None:
            return self._every(self.interval or PUBLISHED_INTERVAL, steps)
        refuse_more(self.evaluations, steps)
        return closest((self._every(interval, steps) for interval in range(1, steps + 1)), self.evaluations)


_RELEASED_INTERVAL = 8


@dataclass(frozen=True)
class Multiples(StaticController):
    """The first `first` steps, every multiple of `interval`, and the last step: {0 .. f-1}, {0, N, 2N, ...}, {T-1}.

    These are the steps that TC-Pade always evaluates (arXiv:2603.02943); its curvature test may add more, `Stability`.
    The released code is `Multiples(5, 8)`, of which the README's faster settings must be intervals of 10, 13 to 16
    and 17 to 24; the paper, which evaluates the first step of each interval of 4, is `Multiples(1, 4, last=False)`.

    Args:
        first: evaluations at the start, at least 1.
        interval: what evaluated steps are multiples of; 1 evaluates every step. 8 when neither this nor `evaluations`
            is given, as released.
        last: also evaluate the last step.
        evaluations: instead of an interval, the count to come closest to; of equally close counts the smaller one, of
            equal counts the released interval before others and then the shortest.
    """

    first: int = 5
    interval: int | None = None
    last: bool = True
    evaluations: int | None = None

    def __post_init__(self) -> None:
        refuse_below(self, "first", 1, "step 0 is always evaluated")
        if self.interval is None and self.evaluations is None:
            object.__setattr__(self, "interval", _RELEASED_INTERVAL)
        refuse_both(self, "interval", self.interval, self.evaluations)
        refuse_below(self, "interval", 1, "1 evaluates every step")
        _refuse_few(self, "first", self.first, self.evaluations, self.last)

    @property
    def planned(self) -> int | None:
        return self.evaluations

    def _of(self, interval: int, steps: int) -> Steps:
        chosen = {*range(self.first), *range(0, steps, interval)}
        return tuple(sorted(chosen | {steps - 1} if self.last else chosen))

    @lru_cache(maxsize=64)  # noqa: B019  (instances are small, frozen and few)
    def evaluated(self, steps: int) -> Steps:
        refuse_shorter(steps, self.first, "first")
        if self.evaluations is None:
            return self._of(self.interval or _RELEASED_INTERVAL, steps)
        refuse_more(self.evaluations, steps)
        intervals = (_RELEASED_INTERVAL, *range(1, steps + 1))
        return closest((self._of(interval, steps) for interval in intervals), self.evaluations)


def _refuse_few(controller: StaticController, option: str, first: int, evaluations: int | None, last: bool) -> None:
    """A count must cover what is evaluated in any case."""
    if evaluations is not None and evaluations < first + last:
        raise ValueError(
            f"{type(controller).__name__}(evaluations=...) must be at least {first + last} (warm-up of {first}"
            f"{' and the last step' if last else ''}), got {evaluations}; lower {option} or ask for more."
        )


@dataclass(frozen=True)
class Even(StaticController):
    """Evenly placed steps: floor(i T / n), or with the last one round(i (T - 1) / (n - 1)), i = 0 .. n-1.

    No method is published with it; it is the placement of a plain sampler of n steps, and so the control for others.

    Args:
        evaluations: n, met exactly.
        last: place the steps from the first to the last one, both evaluated.
    """

    evaluations: int
    last: bool = False

    def __post_init__(self) -> None:
        refuse_below(self, "evaluations", 1 + self.last, "the first step and, with last=True, the last are evaluated")

    @property
    def planned(self) -> int | None:
        return self.evaluations

    def evaluated(self, steps: int) -> Steps:
        refuse_more(self.evaluations, steps)
        n = self.evaluations
        if not self.last:
            return tuple(i * steps // n for i in range(n))
        return tuple((2 * i * (steps - 1) + n - 1) // (2 * (n - 1)) for i in range(n))  # halves go up
