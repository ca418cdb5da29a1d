"""A controller that forecasts single steps between several evaluations."""

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
class Interleaved(StaticController):
    """After `calls` evaluations one step is forecast, between the first and the last steps, which are all evaluated.

    With a = max(first, history), step i is forecast where first <= i < T - tail and (i - a) mod (calls + 1) = calls.
    Reference: FSampler, arXiv:2511.09180, modes hN/sK of https://github.com/obisin/ComfyUI-FSampler, checked against
    commit 128c7ff, `sampling/skip.py`, function `should_skip_model_call`; published are h2/s2 to s6, h3/s3 to s6 and
    h4/s4 to s6.

    Args:
        history: N, the evaluations that a forecast looks at.
        calls: K, evaluations before each forecast; N when neither this nor `evaluations` is given.
        first: evaluations at the start.
        tail: evaluations at the end.
        evaluations: instead of calls, the count to come closest to; of equally close counts the smaller one. Where
            single forecasts leave more than that, several follow each other, as only the released adaptive mode has it.
    """

    history: int = 2
    calls: int | None = None
    first: int = 2
    tail: int = 3
    evaluations: int | None = None

    def __post_init__(self) -> None:
        refuse_below(self, "history", 1, "a forecast needs an evaluation")
        if self.calls is None and self.evaluations is None:
            object.__setattr__(self, "calls", self.history)
        refuse_both(self, "calls", self.calls, self.evaluations)
        refuse_below(self, "calls", 1, "1 forecasts every second step")
        refuse_below(self, "first", 1, "step 0 is always evaluated")
        refuse_below(self, "tail", 0, "0 protects no step at the end")
        refuse_below(self, "evaluations", self.first + self.tail, "the first and the last steps are evaluated")

    @property
    def planned(self) -> int | None:
        return self.evaluations

    def _after(self, calls: int, forecasts: int, steps: int) -> Steps:
        """The steps evaluated where so many evaluations and so many forecasts take turns."""
        turns = range(max(self.first, self.history), steps - self.tail)
        skipped = {step for place, step in enumerate(turns) if place % (calls + forecasts) >= calls}
        return tuple(step for step in range(steps) if step not in skipped)

    @lru_cache(maxsize=64)  # noqa: B019  (instances are small, frozen and few)
    def evaluated(self, steps: int) -> Steps:
        refuse_shorter(steps, self.first + self.tail, "first or tail")
        if self.calls is not None:
            return self._after(self.calls, 1, steps)
        assert self.evaluations is not None
        refuse_more(self.evaluations, steps)
        turns = [(calls, 1) for calls in range(1, steps + 1)] + [(1, forecasts) for forecasts in range(2, steps + 1)]
        return closest((self._after(*turn, steps) for turn in turns), self.evaluations)
