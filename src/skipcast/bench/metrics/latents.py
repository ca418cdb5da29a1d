"""The relative L2 error, of latents or of anything else."""

from __future__ import annotations

import torch
from torch import Tensor

from skipcast.bench.metrics.checks import floats


def relative_l2(a: Tensor, b: Tensor) -> Tensor:
    """||a - b|| / ||b|| per item (0 where both are zero), for float tensors (B, ...) of any shape, to (B,) float64.

    ValueError for integers, shapes that differ or no batch dimension.
    """
    a, b = floats(a, b)
    if a.ndim == 0:
        raise ValueError("a and b must have a batch dimension first, got scalars; pass a[None] and b[None].")
    error, size = (torch.linalg.vector_norm(x.unsqueeze(-1).flatten(1), dim=1) for x in (a - b, b))
    return torch.where(error == 0, error, error / size)
