"""Forecasts while the residual's magnitude, known beforehand, has changed little: MagCache's rule and its curves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from skipcast.checks import Checked
from skipcast.controllers.base import (
    StaticController,
    Steps,
    closest,
    refuse_below,
    refuse_both,
    refuse_more,
    refuse_negative,
)

#: Beginnings of the names of the transformers that the curves were measured on.
FLUX, HUNYUAN, WAN, QWEN = (
    "FluxTransformer2DModel",
    "HunyuanVideoTransformer3DModel",
    "WanTransformer3DModel",
    "QwenImageTransformer2DModel",
)


@dataclass(frozen=True)
class MagnitudeCurve(Checked):
    """Ratios of magnitudes of one network, with the settings that their authors run it with.

    Args:
        ratios: gamma of every step of the run they were measured on, the first one 1.
        network: beginning of the class name of the transformer; None for any.
        threshold: the error that may add up.
        max_forecasts: forecasts in a row at most.
        retention: share of the run that is evaluated at its start.
        always: places of the curve at which the authors evaluate in any case.
        nearest: the evaluated start is rounded to the nearest number of steps; otherwise to its whole part.
        calls: network calls per step among which that start is counted, 2 under guidance.
    """

    ratios: tuple[float, ...]
    network: str | None = None
    threshold: float = 0.06
    max_forecasts: int = 3
    retention: float = 0.2
    always: tuple[int, ...] = ()
    nearest: bool = False
    calls: int = 1


# fmt: off
#: MagCache's published curves, of the conditional branch, with their settings.
MAGNITUDES: dict[str, MagnitudeCurve] = {
    "flux": MagnitudeCurve(
        (1.0, 1.21094, 1.11719, 1.07812, 1.0625, 1.03906, 1.03125, 1.03906, 1.02344, 1.03125, 1.02344, 0.98047,
         1.01562, 1.00781, 1.0, 1.00781, 1.0, 1.00781, 1.0, 1.0, 0.99609, 0.99609, 0.98047, 0.98828, 0.96484, 0.95703,
         0.93359, 0.89062),
        FLUX, 0.24, 5, 0.1, always=(11,), nearest=True,
    ),
    "flux-kontext": MagnitudeCurve(
        (1.0, 1.19531, 1.07812, 1.02344, 1.03125, 1.00781, 1.02344, 1.01562, 1.01562, 1.0, 1.01562, 1.0, 1.00781, 1.0,
         1.00781, 1.0, 1.00781, 0.99609, 1.01562, 0.99219, 1.0, 0.99219, 0.98438, 0.99609, 0.96484, 0.96094, 0.9375,
         0.93359),
        FLUX, 0.05, 4, 0.2, always=(11,), nearest=True,
    ),
    "hunyuan-video-540p": MagnitudeCurve(
        (1.0, 1.06971, 1.29073, 1.11245, 1.09596, 1.05233, 1.01415, 1.05672, 1.00848, 1.03632, 1.02974, 1.00984,
         1.03028, 1.00681, 1.06614, 1.05022, 1.02592, 1.01776, 1.02985, 1.00726, 1.03727, 1.01502, 1.00992, 1.03371,
         0.9976, 1.02742, 1.0093, 1.01869, 1.00815, 1.01461, 1.01152, 1.03082, 1.0061, 1.02162, 1.01999, 0.99063,
         1.01186, 1.0217, 0.99947, 1.01711, 0.9904, 1.00258, 1.00878, 0.97039, 0.97686, 0.94315, 0.97728, 0.91154,
         0.86139, 0.76592),
        HUNYUAN, 0.24, 6, 0.2,
    ),
    "hunyuan-video-720p": MagnitudeCurve(
        (1.0, 1.0754, 1.27807, 1.11596, 1.09504, 1.05188, 1.00844, 1.05779, 1.00657, 1.04142, 1.03101, 1.00679,
         1.02556, 1.00908, 1.06949, 1.05438, 1.02214, 1.02321, 1.03019, 1.00779, 1.03381, 1.01886, 1.01161, 1.02968,
         1.00544, 1.02822, 1.00689, 1.02119, 1.0105, 1.01044, 1.01572, 1.02972, 1.0094, 1.02368, 1.0226, 0.98965,
         1.01588, 1.02146, 1.0018, 1.01687, 0.99436, 1.00283, 1.01139, 0.97122, 0.98251, 0.94513, 0.97656, 0.90943,
         0.85703, 0.75456),
        HUNYUAN, 0.24, 6, 0.2,
    ),
    "wan-t2v-1.3b": MagnitudeCurve(
        (1.0, 1.0124, 1.00166, 0.99791, 0.99682, 0.99634, 0.99567, 0.99416, 0.99578, 0.9957, 0.99511, 0.99535, 0.99552,
         0.99541, 0.9954, 0.99489, 0.99518, 0.99484, 0.99481, 0.99415, 0.99419, 0.99396, 0.99388, 0.99349, 0.99309,
         0.9927, 0.99228, 0.99171, 0.99137, 0.99068, 0.99005, 0.98944, 0.98849, 0.98758, 0.98644, 0.98504, 0.9836,
         0.98202, 0.97977, 0.97717, 0.9741, 0.97003, 0.96538, 0.9593, 0.95086, 0.94013, 0.92402, 0.90241, 0.86821,
         0.81838),
        WAN, 0.12, 4, 0.2, calls=2,
    ),
    "wan-t2v-14b": MagnitudeCurve(
        (1.0, 1.02504, 1.00025, 0.9985, 0.99779, 0.9966, 0.99482, 0.99467, 0.99664, 0.99434, 0.99533, 0.99468, 0.99438,
         0.99516, 0.99384, 0.99404, 0.99517, 0.99409, 0.99428, 0.99347, 0.99418, 0.99271, 0.99313, 0.99215, 0.99218,
         0.99216, 0.99163, 0.99138, 0.98982, 0.98996, 0.9887, 0.98772, 0.98767, 0.98573, 0.98501, 0.9838, 0.98177,
         0.98037, 0.97678, 0.97546, 0.97184, 0.96711, 0.96349, 0.95629, 0.94926, 0.93964, 0.92511, 0.90693, 0.8796,
         0.86111),
        WAN, 0.24, 6, 0.2, calls=2,
    ),
    "wan-i2v-480p": MagnitudeCurve(
        (1.0, 0.98783, 0.97559, 0.98311, 0.98202, 0.9888, 0.98762, 0.98957, 0.99052, 0.99383, 0.98857, 0.99065,
         0.98845, 0.99057, 0.98957, 0.98601, 0.98823, 0.98756, 0.98808, 0.98721, 0.98571, 0.98543, 0.98157, 0.98411,
         0.97952, 0.98149, 0.9774, 0.97825, 0.97355, 0.97085, 0.97056, 0.96588, 0.96113, 0.9567, 0.94961, 0.93973,
         0.93217, 0.91878, 0.90955, 0.92617),
        WAN, 0.24, 6, 0.2, calls=2,
    ),
    "wan-i2v-720p": MagnitudeCurve(
        (1.0, 0.99428, 0.98588, 0.98273, 0.99018, 0.98911, 0.98646, 0.99454, 0.9891, 0.99124, 0.99102, 0.99215,
         0.99515, 0.99576, 0.99068, 0.99097, 0.99166, 0.99041, 0.99201, 0.99101, 0.98599, 0.98845, 0.98848, 0.98862,
         0.98718, 0.98497, 0.98264, 0.98389, 0.97938, 0.97535, 0.97498, 0.973, 0.96827, 0.96261, 0.95335, 0.94649,
         0.93397, 0.91636, 0.89088, 0.8679),
        WAN, 0.24, 6, 0.2, calls=2,
    ),
    "wan-vace-1.3b": MagnitudeCurve(
        (1.0, 1.00129, 1.00056, 0.99776, 0.99726, 0.99725, 0.9958, 0.99703, 0.99863, 0.99735, 0.99714, 0.99697, 0.9969,
         0.99695, 0.99697, 0.99608, 0.99721, 0.99649, 0.99659, 0.99727, 0.99603, 0.99652, 0.99635, 0.9958, 0.99581,
         0.99573, 0.99531, 0.99505, 0.99481, 0.99426, 0.99403, 0.99357, 0.99302, 0.99243, 0.9916, 0.99085, 0.98985,
         0.98857, 0.98717, 0.98551, 0.98301, 0.9805, 0.97635, 0.97183, 0.96496, 0.95526, 0.94102, 0.91809, 0.87871,
         0.80141),
        "WanVACETransformer3DModel", 0.02, 3, 0.2, calls=2,
    ),
    "wan-ti2v-5b": MagnitudeCurve(
        (1.0, 0.99505, 0.99441, 0.99558, 0.99499, 0.99534, 0.99468, 0.99463, 0.9946, 0.99408, 0.9945, 0.99409, 0.99403,
         0.99382, 0.99349, 0.99377, 0.9933, 0.99303, 0.99217, 0.992, 0.99201, 0.99133, 0.99112, 0.99155, 0.98958,
         0.98959, 0.98838, 0.98826, 0.9883, 0.98711, 0.98562, 0.98511, 0.98414, 0.98284, 0.98104, 0.97981, 0.97849,
         0.97557, 0.97398, 0.97171, 0.96917, 0.96511, 0.96263, 0.95839, 0.95483, 0.94942, 0.9468, 0.94583, 0.94843,
         0.96949),
        WAN, 0.06, 2, 0.2, calls=2,
    ),
    "wan-ti2v-5b-image": MagnitudeCurve(
        (1.0, 0.99512, 0.99559, 0.99595, 0.99512, 0.99546, 0.99543, 0.99496, 0.99504, 0.99444, 0.99481, 0.99435,
         0.9943, 0.99411, 0.99373, 0.99413, 0.99363, 0.99335, 0.99244, 0.99229, 0.99239, 0.99163, 0.99149, 0.99191,
         0.9898, 0.9899, 0.98849, 0.98846, 0.98861, 0.9874, 0.98588, 0.98539, 0.98444, 0.9831, 0.98119, 0.98001,
         0.97862, 0.97555, 0.97392, 0.97152, 0.96871, 0.96435, 0.96129, 0.95639, 0.95176, 0.94446, 0.93972, 0.93575,
         0.93537, 0.96655),
        WAN, 0.06, 2, 0.2, calls=2,
    ),
    "qwen-image": MagnitudeCurve(
        (1.0, 1.64062, 1.45312, 1.1875, 1.17188, 1.05469, 1.21094, 1.10938, 1.11719, 1.13281, 1.11719, 1.07812,
         1.07031, 1.08594, 1.08594, 1.07812, 1.03906, 1.04688, 1.07812, 1.07031, 1.03125, 1.07812, 1.04688, 1.04688,
         1.04688, 1.03906, 1.01562, 1.03125, 1.02344, 1.02344, 1.02344, 1.03906, 1.0, 1.01562, 1.0, 0.99219, 1.00781,
         0.98047, 0.95703, 0.96875, 0.99219, 0.92578, 0.92578, 0.90625, 0.85938, 0.80469, 0.87891, 0.75, 0.60938,
         0.55078),
        QWEN, 0.06, 2, 0.2, calls=2,
    ),
    "qwen-image-edit": MagnitudeCurve(
        (1.0, 1.41406, 1.09375, 1.3125, 1.20312, 1.0625, 1.125, 1.14062, 1.17969, 1.09375, 1.10938, 1.10938, 1.07031,
         1.04688, 1.09375, 1.03906, 1.0625, 1.04688, 1.0625, 1.04688, 1.07031, 1.03125, 1.03906, 1.03906, 1.02344,
         1.01562, 1.03125, 1.00781, 1.01562, 1.00781, 1.01562, 1.0, 1.0, 0.98828, 0.98047, 0.98047, 0.97266, 0.92578,
         0.94922, 0.98438, 0.89844, 0.91797, 0.92188, 0.84375, 0.82812, 0.78516, 0.87891, 0.71094, 0.56641, 0.50781),
        QWEN, 0.06, 2, 0.2, calls=2,
    ),
}
# fmt: on


@dataclass(frozen=True)
class MagnitudeError(StaticController):
    """Forecasts while the magnitude of the residual, measured once for a network, has changed little.

        gamma_s = mean over tokens of |r_s| / |r_{s-1}|,  r the residual of the block stack, measured beforehand
        since the newest evaluation at step e:  error = sum_{s = e+1 .. now} | 1 - prod_{i = e+1 .. s} gamma_i |
        forecast where error <= threshold and now - e <= max_forecasts; the first round(retention N) steps evaluated

    Reference: MagCache, arXiv:2506.09045; the residual is reused as it is, not rescaled. A curve is read at other
    numbers of steps by the nearest place. As released, FLUX's steps nearest to place 11 of 27 are evaluated too, FLUX
    rounds the evaluated start where the others take its whole part, and an error of exactly the threshold passes. One
    set of steps for all guidance branches, that of the conditional one; the authors let the other branch of Wan and
    Qwen-Image follow a curve of its own, which gives the same steps at 20, 40 and 50 steps. Left out, for they need
    more than a curve: FramePack, OmniGen2 and the two experts of Wan2.2.

    Checked against: Zehong-Ma/MagCache@df81cb1 (the `magcache_*` scripts of FLUX, FLUX Kontext, HunyuanVideo, Wan2.1,
    Wan2.2 and Qwen-Image); huggingface/diffusers 0.42 src/diffusers/hooks/mag_cache.py.

    Args:
        curve: a name of `MAGNITUDES`, or the ratios themselves, as `skipcast.magnitude_curve` measures them.
        threshold: error that may add up, at least 0; the curve's own, or diffusers' 0.06, when neither this nor
            `evaluations` is given.
        max_forecasts: forecasts in a row at most; the curve's own, or diffusers' 3.
        retention: share of the run, in [0, 1], that is evaluated at its start; the curve's own, or diffusers' 0.2.
        evaluations: instead of a threshold, the count to come closest to, over thresholds in steps of 0.005 up to 1 and
            of 0.05 up to 10; of equally close counts the smaller one, of equal counts the published threshold and then
            the smallest. Where none comes down to the count and `max_forecasts` is left out, as few more forecasts in
            a row than published are allowed as will do.
    """

    curve: str | tuple[float, ...] = "flux"
    threshold: float | None = None
    max_forecasts: int | None = None
    retention: float | None = None
    evaluations: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.curve, str):
            object.__setattr__(self, "curve", tuple(map(float, self.curve)))
            if not self.curve or self.curve[0] != 1.0 or not all(ratio > 0 for ratio in self.curve):  # type: ignore[operator]
                raise ValueError(
                    "MagnitudeError(curve=...) must be positive ratios of which the first is 1, got "
                    f"{self.curve!r}; skipcast.magnitude_curve(pipe, ...) measures them."
                )
        elif self.curve not in MAGNITUDES:
            raise ValueError(
                f"MagnitudeError(curve=...) must be ratios or one of {', '.join(MAGNITUDES)}; got {self.curve!r}."
            )
        settings = self._published
        counted = self.evaluations is not None
        for name in ("retention",) if counted else ("retention", "threshold", "max_forecasts"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(settings, name))
        refuse_both(self, "threshold", self.threshold, self.evaluations)
        if self.threshold is not None:
            refuse_negative(self, "threshold", "0 forecasts only where the ratio is exactly 1")
        refuse_below(self, "max_forecasts", 1, "leave the method out to forecast nothing")
        if self.retention is None or not 0 <= self.retention <= 1:
            raise ValueError(
                f"MagnitudeError(retention=...) must be a share of the run in [0, 1], got {self.retention}; MagCache "
                "has 0.1 for FLUX and 0.2 for the others."
            )
        refuse_below(self, "evaluations", 1, "the first step is evaluated")

    @property
    def _published(self) -> MagnitudeCurve:
        """The curve with its settings; one of one's own has those of diffusers."""
        if isinstance(self.curve, str):
            return MAGNITUDES[self.curve]
        return MagnitudeCurve(self.curve, nearest=True)

    @property
    def fitted_on(self) -> str | None:
        return self._published.network

    @property
    def planned(self) -> int | None:
        return self.evaluations

    def _kept(self, steps: int) -> int:
        """Evaluations at the start, at least 1."""
        assert self.retention is not None
        curve = self._published
        if curve.nearest:
            return max(1, int(self.retention * steps + 0.5))
        return max(1, -(-int(self.retention * curve.calls * steps) // curve.calls))

    def _placed(self, threshold: float, most: int, steps: int) -> Steps:
        curve = self._published
        # As in the released code, halves go to the even place.
        scale = (len(curve.ratios) - 1) / (steps - 1) if steps > 1 else 0.0
        places = np.round(np.arange(steps) * scale).astype(int).tolist()
        kept, chosen = self._kept(steps), []
        ratio, error, run = 1.0, 0.0, 0
        for step, place in enumerate(places):
            if step >= kept:
                ratio *= curve.ratios[place]
                error += abs(1 - ratio)
                run += 1
                if error <= threshold and run <= most and place not in curve.always:
                    continue
                ratio, error, run = 1.0, 0.0, 0
            chosen.append(step)
        return tuple(chosen)

    @lru_cache(maxsize=64)  # noqa: B019  (instances are small, frozen and few)
    def evaluated(self, steps: int) -> Steps:
        published, count = self._published, self.evaluations
        if count is None:
            assert self.threshold is not None
            assert self.max_forecasts is not None
            return self._placed(self.threshold, self.max_forecasts, steps)
        refuse_more(count, steps)
        thresholds = (published.threshold, *(k / 200 for k in range(200)), *(k / 20 for k in range(20, 201)))
        if self.max_forecasts is not None:
            return closest((self._placed(threshold, self.max_forecasts, steps) for threshold in thresholds), count)
        fewest = self._placed(np.inf, steps, steps)
        if len(fewest) >= count:
            return fewest
        # Not fewer than the steps that remain need behind the evaluated start and each later evaluation.
        most = max(published.max_forecasts, -(-(steps - count) // (count - self._kept(steps) + 1)))
        while True:
            found = closest((self._placed(threshold, most, steps) for threshold in thresholds), count)
            if len(found) <= count or most >= steps:
                return found
            most += 1
