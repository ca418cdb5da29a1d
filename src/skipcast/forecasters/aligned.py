"""A forecast along the last two evaluations, as far as the first block has gone along its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from skipcast.forecasters.base import Forecaster
from skipcast.history import History, Point


@dataclass(frozen=True)
class Aligned(Forecaster):
    """The older of two values and so much of the way to the newer one as the first block has gone from then to now.

        forecast = R_1 + gain (R_0 - R_1),   gain = mean |p - p_1| / mean |p_0 - p_1|, within [1, limit]

    R_0 and R_1 are the two newest evaluated values, of which the residual of the block stack is published, (B, L, D);
    p, p_0 and p_1 are what the first block adds to the image tokens now and at those steps. With one value, that value.
    The gain is each item's own, where the authors take one for the batch; it is 1 where it is no number. The released
    probe may be one to five blocks deep; this is the published default of one.

    Reference: DiCache, arXiv:2508.17356 ("dynamic cache trajectory alignment"). Checked against:
    Bujiazi/DiCache@dd7f0de FLUX/run_flux_dicache.py, HunyuanVideo/run_hunyuanvideo_dicache.py,
    WAN2.1/run_wan_dicache.py.

    Args:
        limit: largest gain, at least 1: 1.5 for FLUX and HunyuanVideo, 2 for Wan; 1 is reuse.
    """

    probe = "around"

    limit: float = 1.5

    def __post_init__(self) -> None:
        if not self.limit >= 1:
            raise ValueError(
                f"Aligned(limit=...) must be at least 1, which is reuse, got {self.limit}; 1.5 is published."
            )

    @property
    def window(self) -> int:
        return 2

    def memory(self, evaluations: int) -> int:
        return 2 * min(self.window, evaluations)

    def noted(self, probe: Tensor) -> Tensor:
        dtype = torch.promote_types(probe.dtype, torch.float32)
        return probe[1].to(dtype) - probe[0].to(dtype)

    def forecast(self, history: History, point: Point) -> Tensor:
        newest = history[-1]
        if len(history) == 1:
            return newest.value
        older = history[-2]
        if point.probe is None or newest.noted is None or older.noted is None:
            raise RuntimeError(
                f"{self!r} looks at the probe {self.probe!r}, but this run was shown none; hand it to "
                "wants_evaluation(probe), or run where the network can show it."
            )
        gone = _size(self.noted(point.probe) - older.noted) / _size(newest.noted - older.noted)
        gain = gone.nan_to_num(1.0).clamp(1.0, self.limit)
        dtype = torch.promote_types(newest.value.dtype, torch.float32)
        first, second = older.value.to(dtype), newest.value.to(dtype)
        gain = gain.to(dtype).reshape(-1, *(1,) * (first.ndim - 1))
        return (first + gain * (second - first)).to(newest.value.dtype)


def _size(a: Tensor) -> Tensor:
    """mean |a| of each item, (B,)."""
    return a.abs().flatten(1).mean(1)
