"""Videos: picture metrics frame by frame, and flicker, which no single frame shows."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from skipcast.bench.metrics.checks import videos
from skipcast.bench.metrics.latents import relative_l2


def per_frame(function: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """A metric of pictures on every frame: videos (B, F, 3, H, W) in [0, 1] to (B, F) float64.

    Raises:
        ValueError: other videos.
    """
    a, b = videos(a, b)
    return function(a.flatten(0, 1), b.flatten(0, 1)).view(a.shape[:2])


def flicker(a: Tensor, b: Tensor) -> Tensor:
    """Temporal flicker: how far the frame-to-frame changes of `a` are from those of `b`, relative to the latter.

    With D(x)_f = x_(f+1) - x_f for f = 1 ... F - 1, all pixels and channels: ||D(a) - D(b)|| / ||D(b)||, the 2-norm
    over everything but the batch. 0 where all changes agree, so an error that is the same in every frame has none; inf
    where `b` stands still and `a` does not. An error e that changes its sign with every frame counts twice.

    Float videos (B, F, 3, H, W) in [0, 1], of two frames or more, to (B,) float64; ValueError for others.
    """
    a, b = videos(a, b)
    if a.shape[1] < 2:
        raise ValueError(f"a and b must have at least two frames for flicker, got {tuple(a.shape)}; use psnr instead.")
    return relative_l2(a.diff(dim=1), b.diff(dim=1))
