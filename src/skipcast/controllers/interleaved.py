"""FSampler's controllers: single steps between several evaluations, or steps on which two forecasts agree."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch import Tensor

from skipcast.controllers.base import (
    Controller,
    StaticController,
    Steps,
    closest,
    refuse_below,
    refuse_both,
    refuse_more,
    refuse_negative,
    refuse_shorter,
)
from skipcast.grid import Vector
from skipcast.history import RunState


@dataclass(frozen=True)
class Interleaved(StaticController):
    """After `calls` evaluations one step is forecast, between the first and the last steps, which are all evaluated.

    With a = max(first, history), step i is forecast where a <= i < T - tail and (i - a) mod (calls + 1) = calls.
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


@dataclass(frozen=True)
class DualOrder(Controller):
    """Forecasts where two differences of the noise part, of orders 3 and 2, lead Euler's method to about one sample.

        x_n = x + (sigma_next - sigma) / sigma e_n,  e_3 = 3 e_0 - 3 e_1 + e_2,  e_2 = 2 e_0 - e_1,  e = sigma F
        forecast where rms(x_3 - x_2) <= tolerance max(rms(x_3), 1e-6)

    and neither among the first nor the last steps, nor at every `anchor`-th from the first one on, nor after `most`
    forecasts in a row. sigma behind the last step is 0. It is a rule for the output, a velocity, in `Sigma`; the
    released code has others of its kind for samplers that are not Euler's. One decision for the whole batch and all
    guidance branches, which follow the first. Reference: FSampler, arXiv:2511.09180, mode "adaptive" of
    https://github.com/obisin/ComfyUI-FSampler, checked against commit 128c7ff, `sampling/skip.py`, function
    `decide_skip_adaptive`.

    Args:
        tolerance: at least 0; 0 forecasts only where both agree. Released: 0.1.
        first: evaluations at the start, at least 1; three are made in any case.
        tail: evaluations at the end.
        anchor: steps between forced evaluations; 0 for none.
        most: forecasts in a row.
    """

    probe = "input"
    shared = True
    remembers = 3

    tolerance: float = 0.1
    first: int = 2
    tail: int = 3
    anchor: int = 4
    most: int = 4

    def __post_init__(self) -> None:
        refuse_negative(self, "tolerance", "0 forecasts only where both forecasts agree")
        refuse_below(self, "first", 1, "step 0 is always evaluated")
        refuse_below(self, "tail", 0, "0 protects no step at the end")
        refuse_below(self, "anchor", 0, "0 forces none")
        refuse_below(self, "most", 1, "1 forecasts no two steps in a row")

    def check(self, steps: int) -> None:
        refuse_shorter(steps, self.first + self.tail, "first or tail")

    def evaluate(self, run: RunState) -> bool:
        if run.step < self.first or run.step >= run.steps - self.tail or len(run.history) < 3:
            return True
        if run.since_evaluation > self.most or (self.anchor and (run.step - self.first) % self.anchor == 0):
            return True
        if run.probe is None:
            raise ValueError(f"{self!r} looks at the network's input, which this run was not shown.")
        sigma, after = _levels(self, run)
        levels = run.history.nodes()[-3:]
        higher = run.history.combine(np.array([1.0, -3.0, 3.0]) * levels / sigma).float()
        apart = run.history.combine(np.array([1.0, -2.0, 1.0]) * levels / sigma).float()  # of orders 3 and 2
        error = _rms((after - sigma) * apart)
        size = _rms(run.probe.float() + (after - sigma) * higher)
        return not error <= self.tolerance * max(size, 1e-6)  # also where one of them is no number


def _levels(controller: Controller, run: RunState) -> tuple[float, float]:
    """sigma of this step and behind it."""
    levels: Vector = run.taus
    if not (np.diff(levels) < 0).all():
        raise ValueError(f"{controller!r} is a rule in sigma; choose coordinate=sigma.")
    return float(levels[run.step]), float(levels[run.step + 1]) if run.step + 1 < run.steps else 0.0


def _rms(tensor: Tensor) -> float:
    return float(tensor.square().mean().sqrt())
