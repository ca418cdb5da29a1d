"""What stands beside forecasting and is no name of a method: where it is, what it does, and its source."""

from __future__ import annotations

from typing import NamedTuple


class Beside(NamedTuple):
    """One of them.

    Args:
        call: what to call.
        summary: what it does, in a line.
        paper: its source.
    """

    call: str
    summary: str
    paper: str


BESIDE = (
    Beside("skipcast.guidance.DPS", "guided by the gradient of the measurement's error", "arXiv:2209.14687"),
    Beside("skipcast.guidance.MCG", "the same, and a projection onto the measurement", "arXiv:2206.00941"),
    Beside("skipcast.guidance.Proximal", "a proximal step towards the measurement", "arXiv:2303.05754"),
    Beside("skipcast.guidance.DDS", "conjugate gradients towards the measurement", "arXiv:2303.05754"),
    Beside("skipcast.guidance.SVI", "the same on the frames of a video together", "arXiv:2409.02574"),
    Beside("skipcast.guidance.TrustSampling", "steps on the measurement within a trusted distance", "arXiv:2411.10932"),
    Beside("skipcast.chords", "one sample on several devices, coarse answers first", "arXiv:2507.15260"),
    Beside("skipcast.calibration_calls", "the calls of an accelerated run, to quantise on", "arXiv:2302.04304"),
    Beside("skipcast.pipelines.calibration.time_weighted", "channels balanced over time", "arXiv:2412.16700"),
    Beside("skipcast.tune", "the times that a sampler's steps are told", "arXiv:2310.09469"),
)
