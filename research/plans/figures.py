"""Figures of many pictures: fidelity, ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from skipcast.grid import Vector

#: Identical pictures count as so many dB in a mean.
CAP = 100.0


def fidelity(psnr: ArrayLike) -> dict[str, Any]:
    """Mean, mean of the worst twentieth (at least one), and worst PSNR of pictures, in dB.

    Raises:
        ValueError: no picture.
    """
    rising = np.sort(np.minimum(np.asarray(psnr, dtype=np.float64), CAP))
    if not len(rising):
        raise ValueError("fidelity(psnr=...) needs at least one picture.")
    worst = rising[: max(1, round(len(rising) / 20))]
    return {
        "mean": round(float(rising.mean()), 3),
        "worst5": round(float(worst.mean()), 3),
        "worst": round(float(rising[0]), 3),
        "pictures": len(rising),
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
