"""Exponential averages over evaluations: SVD-Cache's rule inside its subspace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipcast.forecasters.base import LinearForecaster
from skipcast.grid import Vector


def _average(count: int, decay: float) -> Vector:
    """Weights of e_j = decay e_{j-1} + (1 - decay) y_j, e_0 = y_0, on `count` values, oldest first."""
    weights: Vector = (1 - decay) * decay ** np.arange(count - 1, -1, -1, dtype=np.float64)
    weights[0] = decay ** (count - 1)
    return weights


@dataclass(frozen=True)
class Smoothed(LinearForecaster):
    """An exponential average over evaluations, e_j = decay e_{j-1} + (1 - decay) F_j with e_0 = F_0.

    With `slope` it is the slopes (F_j - F_{j-1}) / (t_j - t_{j-1}) that are averaged, and the newest evaluation moves
    along: F_j + (tau - t_j) e_j. Degree of exactness: 0, with `slope` 1.

    SVD-Cache prints the average with decay 0.9 on the old value ("ema"), which forecasts nothing and lags by about nine
    evaluations; decay 0.1 ("ema-swapped") and `slope` ("ema-slope") are readings that would do better. The average
    starts anew from the oldest value remembered, whose share under a decay of 0.9 is then 0.038. Any shape. Reference:
    SVD-Cache, arXiv:2601.07396.

    Args:
        decay: what the old average keeps, in [0, 1]; 0 is reuse, with `slope` the line through the two newest.
        slope: average slopes instead of values.
    """

    decay: float = 0.9
    slope: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1:
            raise ValueError(f"Smoothed(decay=...) must lie in [0, 1], got {self.decay}; the published one is 0.9.")

    @property
    def window(self) -> int:
        return 32

    @property
    def least(self) -> int:
        return 2 if self.slope else 1

    def weights(self, nodes: Vector, tau: float) -> Vector:
        if not self.slope:
            return _average(len(nodes), self.decay)
        weights: Vector = np.eye(len(nodes))[-1]
        if len(nodes) > 1:
            quotient = (tau - nodes[-1]) * _average(len(nodes) - 1, self.decay) / np.diff(nodes)
            weights[1:] += quotient
            weights[:-1] -= quotient
        return weights
