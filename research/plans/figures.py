"""Figures of many images: fidelity, ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from skipcast.bench.statistics import statistics
from skipcast.grid import Vector


def fidelity(psnr: ArrayLike) -> dict[str, Any]:
    """Mean, mean of the worst twentieth (at least one), and worst PSNR of images, in dB.

    As everywhere, identical images, whose PSNR is infinite, are left out of means and counted.

    Raises:
        ValueError: no image.
    """
    values = np.asarray(psnr, dtype=np.float64)
    if not len(values):
        raise ValueError("fidelity(psnr=...) needs at least one image.")
    found = statistics(values, range(len(values)), higher_is_better=True, resamples=1)
    return {
        "mean": round(found.mean, 3),
        "worst5": round(found.worst5, 3),
        "worst": round(float(values.min()), 3),
        "images": len(values),
        "identical": found.identical,
    }


def ranks(values: Sequence[float] | Vector) -> Vector:
    """Ranks from 0, ties shared."""
    numbers = np.asarray(values, dtype=np.float64)
    _, place, count = np.unique(numbers, return_inverse=True, return_counts=True)
    first = np.cumsum(count) - count
    shared: Vector = (first + (count - 1) / 2)[place]
    return shared


def correlation(a: Sequence[float] | Vector, b: Sequence[float] | Vector) -> float | None:
    """Spearman's rank correlation; None where one side is constant."""
    x, y = ranks(a), ranks(b)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])
