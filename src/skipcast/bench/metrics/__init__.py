"""How far accelerated pictures, latents and videos are from those of another run, and how well they follow a prompt.

Built in, without downloads: `psnr`, `ssim`, `ms_ssim`, `relative_l2`, `flicker`, and for reference models `adherence`
and `frechet` with the judge's features. `skipcast.bench.metrics.learned` has those that need weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor

from skipcast.bench.metrics.judged import adherence as adherence
from skipcast.bench.metrics.judged import frechet as frechet
from skipcast.bench.metrics.judged import paired_frechet as paired_frechet
from skipcast.bench.metrics.judged import verdicts as verdicts
from skipcast.bench.metrics.latents import relative_l2 as relative_l2
from skipcast.bench.metrics.pictures import ms_ssim as ms_ssim
from skipcast.bench.metrics.pictures import psnr as psnr
from skipcast.bench.metrics.pictures import ssim as ssim
from skipcast.bench.metrics.video import flicker as flicker
from skipcast.bench.metrics.video import per_frame as per_frame


class Metric(NamedTuple):
    """A function (a, b) of two batches, (B,) float64, the direction in which it improves, and what a and b are."""

    function: Callable[[Tensor, Tensor], Tensor]
    higher_is_better: bool
    takes: Literal["pictures", "videos", "anything"]


METRICS = {
    "psnr": Metric(psnr, True, "pictures"),
    "ssim": Metric(ssim, True, "pictures"),
    "ms_ssim": Metric(ms_ssim, True, "pictures"),  # of 176 pixels a side or more
    "relative_l2": Metric(relative_l2, False, "anything"),
    "flicker": Metric(flicker, False, "videos"),
}
