"""Controllers that decide by values: of a probe before the step, or of what a run remembers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from skipcast.controllers.base import (
    Controller,
    Probe,
    StaticController,
    forced,
    refuse_below,
    refuse_negative,
    refuse_shorter,
)
from skipcast.controllers.fixed import Multiples
from skipcast.history import RunState
from skipcast.stability import one_plus_cosine, stability_score

# Rules on a probe: evaluate once what can be seen before the decision has changed enough.

#: TeaCache's polynomial for FLUX, highest power first.
TEACACHE_FLUX = (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861)


@dataclass(frozen=True)
class ChangePolynomial:
    """A published polynomial of TeaCache, with what it is a polynomial of and the steps that are forced with it.

    Args:
        coefficients: highest power first.
        family: of the networks that it was fitted on.
        probe: what changes.
        first: steps evaluated at the start.
        share: share of the run evaluated at its start.
        last: also evaluate the last step.
    """

    coefficients: tuple[float, ...]
    family: str
    probe: Probe = "modulated"
    first: int = 1
    share: float = 0.0
    last: bool = True


def _wan(probe: Probe, *coefficients: float) -> ChangePolynomial:
    """Of Wan 2.1: with the retention steps of the release where the projected embedding is looked at."""
    retained = probe == "block time"
    return ChangePolynomial(coefficients, "wan", probe, 5 if retained else 1, last=not retained)


def _cogvideox(*coefficients: float) -> ChangePolynomial:
    return ChangePolynomial(coefficients, "cogvideox", "block time")


#: Its published polynomials by name. Checked against: ali-vilab/TeaCache@7c10efc, the script of each family.
TEACACHE: dict[str, ChangePolynomial] = {
    "flux": ChangePolynomial(TEACACHE_FLUX, "flux"),
    "hunyuan-video": ChangePolynomial((733.226126, -401.131952, 67.5869174, -3.149878, 0.0961237896), "hunyuan-video"),
    "mochi": ChangePolynomial((-3512.41319, 811.675948, -60.9400215, 2.42429681, 0.00305291719), "mochi"),
    "lumina2": ChangePolynomial((393.76566581, -603.50993606, 209.10239044, -23.00726601, 0.86377344), "lumina2"),
    "ltx-video": ChangePolynomial((21.4700694, -12.8016453, 2.31279151, 0.792487521, 0.00969274326), "ltx-video"),
    "hidream": ChangePolynomial(
        (-31360.5009, -712.425503, 49.1363285, 8.2651549, 0.108053901), "hidream", "time", share=0.1, last=False
    ),
    "wan-t2v-1.3b": _wan("time", 2396.76752, -1311.10545, 201.331979, -8.29855975, 0.137887774),
    "wan-t2v-14b": _wan("time", -5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404),
    "wan-i2v-480p": _wan("time", -302.33167, 223.948934, -52.546397, 5.8734844, -0.201973289),
    "wan-i2v-720p": _wan("time", -114.36346466, 65.26524496, -18.82220707, 4.91518089, -0.23412683),
    "wan-t2v-1.3b-retained": _wan("block time", -52186.2437, 9230.41404, -528.275948, 13.6987616, -0.0499875664),
    "wan-t2v-14b-retained": _wan("block time", -303318.725, 49053.7029, -2655.30556, 58.7365115, -0.315583525),
    "wan-i2v-480p-retained": _wan("block time", 257151.496, -35422.9917, 1402.86849, -13.5890334, 0.132517977),
    "wan-i2v-720p-retained": _wan("block time", 8107.0546, 2133.93892, -372.934672, 16.6203073, -0.0417769401),
    "cogvideox-2b": _cogvideox(-31.0658903, 25.4732368, -5.92380459, 1.75769064, -0.00361568434),
    "cogvideox-5b": _cogvideox(-1538.80483, 843.202495, -134.363087, 7.97131516, -0.0523162339),
    "cogvideox1.5-5b": _cogvideox(250.210439, -165.061612, 35.7804877, -0.781551492, 0.0358559703),
    "cogvideox1.5-5b-i2v": _cogvideox(122.842302, -104.088754, 26.2981677, -0.306009921, 0.037121322),
}


def _shown(controller: Controller, run: RunState) -> Tensor:
    """A copy of the probe: what showed it may overwrite it."""
    if run.probe is None:
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
    thresholds 0.25, 0.4, 0.6, 0.8 with the polynomial `TEACACHE_FLUX`. On Wan, CogVideoX and HiDream it looks at
    embeddings of the time, which depend on the step alone, so that every sample has the same evaluated steps. One
    decision for the whole batch, which one network call serves; one for each guidance branch.

    Args:
        threshold: at least 0; 0 evaluates every step.
        probe: what h is.
        polynomial: coefficients, highest power first; the change itself when left out.
        first: steps evaluated at the start; the released retain mode has 5.
        last: also evaluate the last step.
        share: share of the run, in [0, 1], that is evaluated at its start; released for HiDream: 0.1.
    """

    threshold: float
    probe: Probe = "modulated"
    polynomial: tuple[float, ...] = (1.0, 0.0)
    first: int = 1
    last: bool = True
    share: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "polynomial", tuple(self.polynomial))
        refuse_negative(self, "threshold", "0 evaluates every step")
        if self.probe not in ("modulated", "block", "input", "time", "block time"):
            raise ValueError(
                "AccumulatedChange(probe=...) must be 'modulated', 'block', 'input', 'time' or 'block time', got "
                f"{self.probe!r}."
            )
        if not 0 <= self.share <= 1:
            raise ValueError(f"AccumulatedChange(share=...) must be a share of the run in [0, 1], got {self.share}.")
        if not self.polynomial:
            raise ValueError("AccumulatedChange(polynomial=...) is empty; (1.0, 0.0) is the change itself.")
        refuse_below(self, "first", 1, "step 0 is always evaluated")

    def check(self, steps: int) -> None:
        refuse_shorter(steps, self.first, "first")

    def begin(self) -> _Accumulated:
        return _Accumulated()

    def evaluate(self, run: RunState) -> bool:
        state, now = run.state, _shown(self, run)
        if state.before is None:  # the first evaluation came unasked, without a probe
            state.total = math.nan
        else:
            change = _share(_distance(now, state.before), _size(state.before))
            state.total += self._polynomial(change)
        state.before = now
        kept = forced(run, self.first, self.last) or run.step < self.share * run.steps
        if not kept and _below(state.total, self.threshold):
            return False
        state.total = 0.0
        return True

    def _polynomial(self, x: float) -> float:
        value = 0.0
        for coefficient in self.polynomial:
            value = value * x + coefficient
        return value

    def observed(self, run: RunState, x: Tensor, y: Tensor) -> None:
        if run.state.before is None and run.probe is not None:
            run.state.before = _shown(self, run)


@dataclass
class _Newest:
    """The probe at the newest evaluation."""

    probe: Tensor | None = None


@dataclass(frozen=True)
class FirstBlockChange(Controller):
    """Evaluates where the first block's residual has moved from that of the newest evaluation.

        forecast where mean |r - r_evaluated| / mean |r_evaluated| < threshold; nothing adds up

    Reference: FBCache (chengzeyi/ParaAttention); `warmup` and `max_forecasts` are DBCache's (vipshop/cache-dit), which
    goes up to a threshold of 0.8 with 8 and 8 on FLUX and may also forecast within the warm-up; that is left out. One
    decision for the whole batch, which one network call serves; one for each guidance branch.

    Args:
        threshold: at least 0; 0 evaluates every step.
        max_forecasts: forecasts in a row at most; any number when left out.
        warmup: evaluations at the start.
    """

    probe = "block"

    threshold: float
    max_forecasts: int | None = None
    warmup: int = 1

    def __post_init__(self) -> None:
        refuse_negative(self, "threshold", "0 evaluates every step")
        refuse_below(self, "max_forecasts", 1, "leave it out for any number")
        refuse_below(self, "warmup", 1, "step 0 is always evaluated")

    def check(self, steps: int) -> None:
        refuse_shorter(steps, self.warmup)

    def begin(self) -> _Newest:
        return _Newest()

    def evaluate(self, run: RunState) -> bool:
        now, newest = _shown(self, run), run.state.probe
        if newest is None or forced(run, self.warmup, False):
            return True
        if self.max_forecasts is not None and run.since_evaluation > self.max_forecasts:
            return True
        return not _below(_share(_distance(now, newest), _size(newest)), self.threshold)

    def observed(self, run: RunState, x: Tensor, y: Tensor) -> None:
        if run.probe is not None:
            run.state.probe = _shown(self, run)


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

    probe = "input"
    shared = True

    threshold: float
    first: int = 5
    last: bool = True

    def __post_init__(self) -> None:
        refuse_negative(self, "threshold", "0 evaluates every step")
        refuse_below(self, "first", 2, "the ratio is that of two evaluations")

    def check(self, steps: int) -> None:
        refuse_shorter(steps, self.first, "first")

    def begin(self) -> _InAndOut:
        return _InAndOut()

    def evaluate(self, run: RunState) -> bool:
        state, now = run.state, _shown(self, run)
        if state.ratio is None or state.before is None:
            state.total = math.nan
        else:
            state.total += state.ratio * _share(_distance(now, state.before), _size(state.output))
        state.before = now
        if not forced(run, self.first, self.last) and _below(state.total, self.threshold):
            return False
        state.total = 0.0
        return True

    def observed(self, run: RunState, x: Tensor, y: Tensor) -> None:
        if run.probe is None:  # a branch that follows needs none
            return
        state, now = run.state, _shown(self, run)
        if state.input is not None:
            state.ratio = _share(_distance(y, state.output), _distance(now, state.input))
        state.before = state.input = now
        state.output = y.detach().clone()


# Rules on what a run remembers: how its values move, and how wrong its forecasts have been.


@dataclass(frozen=True)
class Stability(Controller):
    """Forecasts between fixed steps where the three newest remembered values lie on a straight enough path.

        "code":   forecast iff |u - u'| / 2 < threshold, and in any case with fewer than five values
        "paper":  forecast iff 1 + cos(angle) >= threshold, and in no case with fewer than three values

    u and u' are the unit vectors of the moves R_0 - R_1 and R_1 - R_2, R_0 the newest. A recursive forecaster, as
    TC-Pade's are, remembers its forecasts too; a window of three or four replaces the five. Reference: TC-Pade,
    arXiv:2603.02943. The released 1.4 always passes, so only the fixed steps are evaluated; 0.6 acts. The paper prints
    "skip if |u - u'| / 2 >= theta", which its thetas 1.3, 1.0 and 0.7 cannot mean; its reading here, `Stability(
    Multiples(1, 4, last=False), 1.0, "paper")`, is a reconstruction. One decision for the whole batch, which one
    network call serves; one for each guidance branch.

    Args:
        fixed: the steps that are always evaluated.
        threshold: at least 0; "code": up to 1 acts, smaller evaluates more. "paper": up to 2, larger evaluates more.
        reading: the released code's test or the paper's.
    """

    remembers = 3

    fixed: StaticController = Multiples()
    threshold: float = 1.4
    reading: Literal["code", "paper"] = "code"

    def __post_init__(self) -> None:
        reason = "in the released code's test above 1 all pass" if self.reading == "code" else "0 lets all pass"
        refuse_negative(self, "threshold", reason)

    def check(self, steps: int) -> None:
        self.fixed.check(steps)

    def evaluate(self, run: RunState) -> bool:
        window, stored = run.history.window, len(run.history)
        if run.step in self.fixed.evaluated(run.steps):
            return True
        if stored < 3:
            return self.reading == "paper"
        newest = run.history[-1].value, run.history[-2].value, run.history[-3].value
        if self.reading == "paper":
            return not one_plus_cosine(*newest) >= self.threshold
        return stored >= min(5, window) and not stability_score(*newest) < self.threshold


@dataclass
class _Horizon:
    """The newest evaluated value, its step, and how far its change lets one forecast."""

    value: Tensor | None = None
    step: int = 0
    steps: int = 1


@dataclass(frozen=True)
class DynamicHorizon(Controller):
    """Forecasts for J steps, fewer the faster the evaluated values change.

        delta = |F_0 - F_1|_1 / (g |F_0|_1)
        J = floor( tolerance / (delta + 1e-12)^(1 / (order + 1)) ), 1 <= J <= max_forecasts

    F_0 and F_1 are the two newest evaluated values, g steps apart; a step is evaluated once more than J have passed
    since the newest evaluation. Reference: PrediT, arXiv:2602.18093, which has the form of J and its range from 1 to 8;
    delta, the tolerance and the warm-up are a reconstruction, for want of code. One decision for the whole batch, which
    one network call serves; one for each guidance branch.

    Args:
        tolerance: tau, above 0; larger forecasts more.
        order: that of the forecaster.
        max_forecasts: forecasts in a row at most.
        warmup: evaluations at the start; at least 2, for a change.
        last: also evaluate the last step.
    """

    tolerance: float
    order: int = 2
    max_forecasts: int = 8
    warmup: int = 3
    last: bool = True

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise ValueError(f"DynamicHorizon(tolerance=...) must be positive, got {self.tolerance}; try 0.5.")
        refuse_below(self, "order", 0, "0 is reuse")
        refuse_below(self, "max_forecasts", 1, "1 evaluates every second step")
        refuse_below(self, "warmup", 2, "the change is that of two evaluations")

    def check(self, steps: int) -> None:
        refuse_shorter(steps, self.warmup)

    def begin(self) -> _Horizon:
        return _Horizon()

    def horizon(self, delta: float) -> int:
        """J for a relative change per step."""
        if not delta < math.inf:  # also what is no number
            return 1
        reach = self.tolerance / math.pow(delta + 1e-12, 1 / (self.order + 1))
        return max(1, math.floor(min(reach, self.max_forecasts)))

    def evaluate(self, run: RunState) -> bool:
        return forced(run, self.warmup, self.last) or run.since_evaluation > run.state.steps

    def observed(self, run: RunState, x: Tensor, y: Tensor) -> None:
        state, newest = run.state, run.history[-1]
        if state.value is not None:
            value = newest.value.float()
            change, size = float((value - state.value.float()).abs().sum()), float(value.abs().sum())
            delta = change / size / (newest.step - state.step) if size else math.inf
            state.steps = self.horizon(delta)
        state.value, state.step = newest.value, newest.step


@dataclass(frozen=True)
class ErrorBound(Controller):
    """Evaluates where the forecast's error, as the newest one was in hindsight, would exceed a tolerance.

        bound = e (k / g)^(order + 1)

    e is the relative error of the forecast that the newest evaluation made unnecessary (`StepRecord.forecast_error`), g
    the steps since the evaluation before it, over which that forecast reached, and k the steps since the newest one. It
    supposes that the error grows as the forecaster's order says and its constant stays. Source: this library; the runs
    must measure forecast errors, as they do by default. One decision for the whole batch, which one network call
    serves; one for each guidance branch.

    Args:
        tolerance: relative error, at least 0; smaller evaluates more.
        order: degree of exactness of the forecaster.
        warmup: evaluations at the start; at least 2, for a forecast to look back on.
        last: also evaluate the last step.
    """

    tolerance: float
    order: int = 1
    warmup: int = 3
    last: bool = False

    def __post_init__(self) -> None:
        refuse_negative(self, "tolerance", "it is a relative error, such as 0.05")
        refuse_below(self, "order", 0, "0 is reuse")
        refuse_below(self, "warmup", 2, "the first evaluation has no forecast to look back on")

    def check(self, steps: int) -> None:
        refuse_shorter(steps, self.warmup)

    def begin(self) -> dict[int, float]:
        return {}  # step -> e; read once, because reading waits for the device

    def evaluate(self, run: RunState) -> bool:
        if forced(run, self.warmup, self.last):
            return True
        before, newest = [record for record in run.trace if record.evaluated][-2:]
        if newest.forecast_error is None:
            raise RuntimeError(
                f"{self!r} looks at forecast errors, but this run measures none; use Run(..., forecast_error=True)."
            )
        if newest.step not in run.state:
            run.state[newest.step] = float(newest.forecast_error)
        reach = run.since_evaluation / (newest.step - before.step)
        return not run.state[newest.step] * reach ** (self.order + 1) <= self.tolerance


@dataclass(frozen=True)
class Verified(Controller):
    """Evaluates the step after a forecast whose verification failed: one whose measured error exceeds a threshold.

        error = mean |y - forecast| / (|y| + 1e-10) of the newest forecast, measured by the target (`RunState.verified`)
        threshold = max( base decay^(s / T), floor ), s the step to be decided, T the steps of the run

    The step after an evaluation is always forecast, the warm-up included: `first=3` evaluates steps 0 and 2. The first
    `min_forecasts` forecasts are not verified, and the verdict on a forecast tells of the step after it, so gaps are of
    at least `min_forecasts + 2` steps. Reference: SpeCa, arXiv:2509.11628, as released. The defaults are its values for
    FLUX; HunyuanVideo's are 1, 0.1, 0.1, 4, 12 and 1. The paper rejects the forecast that failed; the code, followed
    here, keeps it. One decision for the whole batch, which one network call serves; one for each guidance branch.

    Args:
        base: threshold at the first step, above 0.
        decay: what it falls to over the run, as a share, in (0, 1].
        floor: what it never falls below.
        min_forecasts: forecasts after an evaluation that pass unverified.
        max_forecasts: forecasts in a row at most.
        first: length of the warm-up, in which every second step is evaluated.
    """

    verifies = True

    base: float = 7.0
    decay: float = 0.3
    floor: float = 0.1
    min_forecasts: int = 2
    max_forecasts: int = 8
    first: int = 3

    def __post_init__(self) -> None:
        if not self.base > 0:
            raise ValueError(f"Verified(base=...) must be positive, got {self.base}; SpeCa's for FLUX is 7.")
        if not 0 < self.decay <= 1:
            raise ValueError(f"Verified(decay=...) must lie in (0, 1], got {self.decay}; 1 keeps the threshold.")
        refuse_negative(self, "floor", "0 lets the threshold fall freely")
        refuse_below(self, "min_forecasts", 1, "the step after an evaluation is always forecast")
        refuse_below(self, "max_forecasts", self.min_forecasts, "it may not be less than min_forecasts")
        refuse_below(self, "first", 1, "step 0 is always evaluated")

    def check(self, steps: int) -> None:
        refuse_shorter(steps, self.first, "first")

    def threshold(self, step: int, steps: int) -> float:
        """The largest error that passes at a step."""
        return max(self.base * math.pow(self.decay, step / steps), self.floor)

    def measures(self, run: RunState) -> bool:
        """Whether the forecast of this step is to be verified."""
        return run.since_evaluation > self.min_forecasts

    def evaluate(self, run: RunState) -> bool:
        forecasts = run.since_evaluation - 1
        if forecasts == 0:
            return False
        if run.step < self.first or forecasts >= self.max_forecasts:
            return True
        if forecasts <= self.min_forecasts:
            return False
        if run.verified is None:
            raise RuntimeError(f"{self!r} looks at verified forecasts, but this run's target has measured none.")
        return not float(run.verified) <= self.threshold(run.step, run.steps)
