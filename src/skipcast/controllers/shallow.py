"""Controllers that let the first block tell how far the others have moved: DiCache and the confidence-gated Taylor."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from skipcast.controllers.adaptive import _below, _distance, _share, _shown, _size
from skipcast.controllers.base import Controller, forced, refuse_below, refuse_negative, refuse_shorter
from skipcast.history import RunState


@dataclass
class _Around:
    """What has added up since the newest evaluation, and the tokens around the first block at the step before."""

    total: float = 0.0
    before: Tensor | None = None


@dataclass(frozen=True)
class ShallowChange(Controller):
    """Evaluates once the changes of the first block's output since the newest evaluation add up to a threshold.

        dy = mean |y - y_before| / mean |y_before|,   dx the same of x;   y_before, x_before of the step before
        total += dy, or |dy - dx|;   forecast where total < threshold;   at an evaluation total = 0

    x are the image tokens before and y those behind the first block, which runs at every step. Reference: DiCache,
    arXiv:2508.17356 ("online probe profiling"), with `Aligned` as its forecaster. The released probe may be one to five
    blocks deep; this is the published default of one. The paper's |dy - dx| is the alternative branch of the FLUX
    script, with a threshold of 0.08 and no retention. One decision for the whole batch; one for each guidance branch.

    Checked against: Bujiazi/DiCache@dd7f0de FLUX/run_flux_dicache.py, HunyuanVideo/run_hunyuanvideo_dicache.py,
    WAN2.1/run_wan_dicache.py (Wan counts the evaluated start in network calls, two a step, which is the same where
    retention N is whole).

    Args:
        threshold: at least 0; 0 evaluates every step. Released: 0.4 for FLUX, 0.1 for HunyuanVideo, 0.08 for Wan.
        measure: "output" adds dy, "difference" |dy - dx|.
        retention: share of the run, in [0, 1], that is evaluated at its start: its whole part, at least one step.
        beyond: further steps that are evaluated after that share; 1 for FLUX.
        last: also evaluate the last step, as for FLUX.
    """

    probe = "around"

    threshold: float
    measure: Literal["output", "difference"] = "output"
    retention: float = 0.2
    beyond: int = 1
    last: bool = True

    def __post_init__(self) -> None:
        refuse_negative(self, "threshold", "0 evaluates every step")
        if not 0 <= self.retention <= 1:
            raise ValueError(
                f"ShallowChange(retention=...) must be a share of the run in [0, 1], got {self.retention}; DiCache has "
                "0.2."
            )
        refuse_below(self, "beyond", 0, "0 adds none")

    def check(self, steps: int) -> None:
        """Any run will do."""

    def begin(self) -> _Around:
        return _Around()

    def evaluate(self, run: RunState) -> bool:
        state, now = run.state, _shown(self, run)
        change = math.nan if state.before is None else self._change(now, state.before)
        state.before = now
        if forced(run, int(self.retention * run.steps) + self.beyond, self.last):
            state.total = 0.0
            return True
        state.total += change
        if _below(state.total, self.threshold):
            return False
        state.total = 0.0
        return True

    def _change(self, now: Tensor, before: Tensor) -> float:
        dx, dy = (_share(_distance(now[i], before[i]), _size(before[i])) for i in (0, 1))
        return dy if self.measure == "output" else abs(dy - dx)

    def observed(self, run: RunState, x: Tensor, y: Tensor) -> None:
        if run.state.before is None and run.probe is not None:  # the first evaluation comes unasked
            run.state.before = _shown(self, run)


@dataclass
class _Derivatives:
    """The first block's output at the newest noted step, and its difference quotients of higher order."""

    step: int = 0
    values: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class ConfidenceGate(Controller):
    """Forecasts where a Taylor forecast of the first block's output, which is known, would have been right.

        P = sum_i D_i k^i / i!,   D_0 = h_noted,   D_{i+1} = (D_i - D_i of the noted step before) / gap,   i < order
        forecast where mean |P - h| / mean |h| < threshold;   else evaluate, and note h

    h are the image tokens behind the first block, which runs at every step, and k the steps since the newest noted one.
    Reference: confidence-gated Taylor, arXiv:2508.02240, with `TaylorSeer` on the last hidden feature. All guidance
    branches follow the first one, as on Wan. One decision for the whole batch.

    Checked against: liuxiao-guan/CG-Taylor-DiT@c60a715 models.py and taylor_utils/__init__.py; for FLUX
    liuxiao-guan/paddle_speed@4bb0c47 .../forwards/flux_taylor_firstblock_predicterror_forward.py; settings of the
    families from PaddlePaddle/PaddleMIX@7595156 ppdiffusers/examples/Fast-Diffusers/Training-Free/CG-Taylor. There the
    test of the decision was rewritten to `is False`, which no tensor is, so that h is never noted again after the
    warm-up and FLUX never forecasts; the rule before that change is followed here.

    Args:
        threshold: relative error that passes, at least 0. Released: 0.03 and 0.13 for FLUX, 0.08 for HunyuanVideo, 0.36
            for Wan, 0.008 for DiT.
        order: of the first block's forecast: 1 for FLUX, 2 for HunyuanVideo, 3 for Wan and DiT.
        first: steps evaluated at the start: 5 for FLUX, 6 for HunyuanVideo and Wan, 3 for DiT.
        since: first step whose h is noted: 5 for FLUX, which therefore evaluates step 5 as well; 0 for the others.
        last: also evaluate the last step.
    """

    probe = "around"
    shared = True

    threshold: float
    order: int = 1
    first: int = 5
    since: int = 5
    last: bool = True

    def __post_init__(self) -> None:
        refuse_negative(self, "threshold", "0 evaluates every step")
        refuse_below(self, "order", 0, "0 compares with the noted output itself")
        refuse_below(self, "first", 1, "step 0 is always evaluated")
        refuse_below(self, "since", 0, "0 notes from the first step on")

    def check(self, steps: int) -> None:
        refuse_shorter(steps, self.first, "first")

    def begin(self) -> _Derivatives:
        return _Derivatives()

    def evaluate(self, run: RunState) -> bool:
        state, now = run.state, self._behind(run)
        passes = run.step >= self.first and _below(self._error(state, run.step, now), self.threshold)
        if not passes and run.step >= self.since:
            self._note(state, run.step, now)
        return forced(run, self.first, self.last) or not passes

    def observed(self, run: RunState, x: Tensor, y: Tensor) -> None:
        if not run.state.values and run.probe is not None and run.step >= self.since:  # the first one comes unasked
            self._note(run.state, run.step, self._behind(run))

    def _behind(self, run: RunState) -> Tensor:
        """h, in at least float32."""
        h = _shown(self, run)[1]
        return h.to(torch.promote_types(h.dtype, torch.float32))

    def _error(self, state: _Derivatives, step: int, now: Tensor) -> float:
        if not state.values:
            return math.nan
        k = step - state.step
        forecast = sum(value * (k**i / math.factorial(i)) for i, value in enumerate(state.values))
        assert isinstance(forecast, Tensor)
        return _share(_distance(forecast, now), _size(now))

    def _note(self, state: _Derivatives, step: int, now: Tensor) -> None:
        values = [now]
        for older in state.values[: self.order]:
            values.append((values[-1] - older) / (step - state.step))
        state.step, state.values = step, values
