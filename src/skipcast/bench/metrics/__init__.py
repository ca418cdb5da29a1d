"""How far accelerated images, latents and videos are from those of another run, and how well they follow a prompt.

Without weights: `psnr`, `ssim`, `ms_ssim`, `relative_l2` and `flicker`; with the judge of a reference model `adherence`
and `paired_frechet`. `skipcast.bench.metrics.learned` holds LPIPS, CLIP score and FID, which read weights from a path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor

from skipcast.bench.metrics.images import flicker as flicker
from skipcast.bench.metrics.images import ms_ssim as ms_ssim
from skipcast.bench.metrics.images import per_frame as per_frame
from skipcast.bench.metrics.images import psnr as psnr
from skipcast.bench.metrics.images import relative_l2 as relative_l2
from skipcast.bench.metrics.images import ssim as ssim
from skipcast.bench.metrics.judged import adherence as adherence
from skipcast.bench.metrics.judged import frechet as frechet
from skipcast.bench.metrics.judged import paired_frechet as paired_frechet
from skipcast.bench.metrics.judged import verdicts as verdicts


class Metric(NamedTuple):
    """A function of two batches (a, b) to (B,) float64, the direction in which it improves, and what a and b are."""

    function: Callable[[Tensor, Tensor], Tensor]
    higher_is_better: bool
    takes: Literal["images", "videos", "anything"]


METRICS = {
    "psnr": Metric(psnr, True, "images"),
    "ssim": Metric(ssim, True, "images"),
    "ms_ssim": Metric(ms_ssim, True, "images"),  # of 176 pixels a side or more
    "relative_l2": Metric(relative_l2, False, "anything"),
    "flicker": Metric(flicker, False, "videos"),
}
