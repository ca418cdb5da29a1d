"""Rules on a probe: evaluate once what can be seen before the decision has changed enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from skipcast.controllers.base import Controller, Probe, forced, refuse_below, refuse_negative, refuse_shorter

if TYPE_CHECKING:
    from skipcast.run import Run

#: TeaCache's polynomial for FLUX, highest power first.
TEACACHE_FLUX = (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861)


def _shown(run: Run) -> Tensor:
    """A copy of the probe: what showed it may overwrite it."""
    if run.probe is None:
        controller = run.method.controller
        raise RuntimeError(
            f"{controller!r} looks at the probe {controller.probe!r}, but this run was shown none; hand it to "
            "wants_evaluation(probe), or run where the network can show it."
        )
    return run.probe.detach().clone()


def _distance(a: Tensor, b: Tensor) -> float:
    """mean |a - b|."""
    return float((a.float() - b.float()).abs().mean())


def _size(a: Tensor) -> float:
    """mean |a|."""
    return float(a.float().abs().mean())


def _share(part: float, whole: float) -> float:
    """part / whole; no number where there is nothing to compare with, which no threshold lets pass."""
    return part / whole if whole else math.nan


def _below(total: float, threshold: float) -> bool:
    """Whether to go on forecasting; not once the total is no finite number."""
    return -math.inf < total < threshold


@dataclass
class _Accumulated:
    """What has added up since the newest evaluation, and the probe of the step before."""

    total: float = 0.0
    before: Tensor | None = None


@dataclass(frozen=True)
class AccumulatedChange(Controller):
    """Evaluates once the changes of the probe since the newest evaluation add up to a threshold.

        total += polynomial( mean |h - h_before| / mean |h_before| ) at every step, h_before of the step before
        evaluate where total >= threshold, and at the forced steps; then total = 0

    Reference: TeaCache, whose code probes FLUX's first modulated input, forces the first and the last step and has
    thresholds 0.25, 0.4, 0.6, 0.8 with the polynomial `TEACACHE_FLUX`. On Wan it measures the time embedding, which
    depends on the step alone and is no probe here. One decision for the whole batch, which one network call serves; one
    for each guidance branch.

    Args:
        threshold: at least 0; 0 evaluates every step.
        probe: what h is.
        polynomial: coefficients, highest power first; the change itself when left out.
        first: steps evaluated at the start; the released retain mode has 5.
        last: also evaluate the last step.
    """

    threshold: float
    probe: Probe = "modulated"  # type: ignore[assignment]
    polynomial: tuple[float, ...] = (1.0, 0.0)
    first: int = 1
    last: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "polynomial", tuple(self.polynomial))
        refuse_negative(self, "threshold", "0 evaluates every step")
        if self.probe not in ("modulated", "block", "input"):
            raise ValueError(
                f"AccumulatedChange(probe=...) must be 'modulated', 'block' or 'input', got {self.probe!r}."
            )
        if not self.polynomial:
            raise ValueError("AccumulatedChange(polynomial=...) is empty; (1.0, 0.0) is the change itself.")
        refuse_below(self, "first", 1, "step 0 is always evaluated")

    def check(self, steps: int) -> None:
        refuse_shorter(steps, self.first, "first")

    def begin(self) -> _Accumulated:
        return _Accumulated()

    def evaluate(self, run: Run) -> bool:
        notes, now = run.notes, _shown(run)
        if notes.before is None:  # the first evaluation came unasked, without a probe
            notes.total = math.nan
        else:
            change = _share(_distance(now, notes.before), _size(notes.before))
            notes.total += self._polynomial(change)
        notes.before = now
        if not forced(run, self.first, self.last) and _below(notes.total, self.threshold):
            return False
        notes.total = 0.0
        return True

    def _polynomial(self, x: float) -> float:
        value = 0.0
        for coefficient in self.polynomial:
            value = value * x + coefficient
        return value

    def observed(self, run: Run, x: Tensor, y: Tensor) -> None:
        if run.notes.before is None and run.probe is not None:
            run.notes.before = _shown(run)


@dataclass
class _Newest:
    """The probe at the newest evaluation."""

    probe: Tensor | None = None


@dataclass(frozen=True)
class FirstBlockChange(Controller):
    """Evaluates where the first block's residual has moved from that of the newest evaluation.

        forecast where mean |r - r_evaluated| / mean |r_evaluated| < threshold; nothing adds up

    Reference: FBCache (chengzeyi/ParaAttention); `warmup` and `most` are DBCache's (vipshop/cache-dit), which goes up
    to a threshold of 0.8 with 8 and 8 on FLUX and may also forecast within the warm-up; that is left out. One decision
    for the whole batch, which one network call serves; one for each guidance branch.

    Args:
        threshold: at least 0; 0 evaluates every step.
        most: forecasts in a row at most; any number when left out.
        warmup: evaluations at the start.
    """

    threshold: float
    most: int | None = None
    warmup: int = 1

    def __post_init__(self) -> None:
        refuse_negative(self, "threshold", "0 evaluates every step")
        refuse_below(self, "most", 1, "leave it out for any number")
        refuse_below(self, "warmup", 1, "step 0 is always evaluated")

    @property
    def probe(self) -> Probe:
        return "block"

    def check(self, steps: int) -> None:
        refuse_shorter(steps, self.warmup)

    def begin(self) -> _Newest:
        return _Newest()

    def evaluate(self, run: Run) -> bool:
        now, newest = _shown(run), run.notes.probe
        if newest is None or forced(run, self.warmup, False):
            return True
        if self.most is not None and run.since_evaluation > self.most:
            return True
        return not _below(_share(_distance(now, newest), _size(newest)), self.threshold)

    def observed(self, run: Run, x: Tensor, y: Tensor) -> None:
        if run.probe is not None:
            run.notes.probe = _shown(run)


@dataclass
class _InAndOut(_Accumulated):
    """Also the input and the output of the newest evaluation, and how fast the one follows the other."""

    input: Tensor | None = None
    output: Tensor | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class EasyRatio(Controller):
    """Evaluates once the output must have moved by a threshold, judged by how the input has moved.

        ratio  = mean |y_0 - y_1| / mean |x_0 - x_1|     of the two newest evaluations, x inputs, y outputs
        total += ratio mean |x - x_before| / mean |y_0|  at every step, x_before of the step before
        evaluate where total >= threshold, and at the forced steps; then total = 0

    Reference: EasyCache, arXiv:2507.02860. As released, all guidance branches follow the first one. One decision for
    the whole batch, which one network call serves.

    Args:
        threshold: at least 0; 0 evaluates every step. Released: 0.05 to 0.2 for Wan, 0.025 for HunyuanVideo.
        first: steps evaluated at the start; at least 2, for a ratio. Released: 10 for Wan, 5 for HunyuanVideo.
        last: also evaluate the last step.
    """

    threshold: float
    first: int = 5
    last: bool = True

    def __post_init__(self) -> None:
        refuse_negative(self, "threshold", "0 evaluates every step")
        refuse_below(self, "first", 2, "the ratio is that of two evaluations")

    @property
    def probe(self) -> Probe:
        return "input"

    @property
    def shared(self) -> bool:
        return True

    def check(self, steps: int) -> None:
        refuse_shorter(steps, self.first, "first")

    def begin(self) -> _InAndOut:
        return _InAndOut()

    def evaluate(self, run: Run) -> bool:
        notes, now = run.notes, _shown(run)
        if notes.ratio is None or notes.before is None:
            notes.total = math.nan
        else:
            notes.total += notes.ratio * _share(_distance(now, notes.before), _size(notes.output))
        notes.before = now
        if not forced(run, self.first, self.last) and _below(notes.total, self.threshold):
            return False
        notes.total = 0.0
        return True

    def observed(self, run: Run, x: Tensor, y: Tensor) -> None:
        if run.probe is None:  # a branch that follows needs none
            return
        notes, now = run.notes, _shown(run)
        if notes.input is not None:
            notes.ratio = _share(_distance(y, notes.output), _distance(now, notes.input))
        notes.before = notes.input = now
        notes.output = y.detach().clone()
