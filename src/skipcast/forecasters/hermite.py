"""HiCache: TaylorSeer's difference quotients under scaled Hermite polynomials."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.hermite import hermvander

from skipcast.coordinates import Coordinate, StepIndex
from skipcast.forecasters.base import LinearForecaster
from skipcast.forecasters.polynomial import difference_quotients
from skipcast.grid import Vector


@dataclass(frozen=True)
class HiCache(LinearForecaster):
    """Scaled Hermite polynomials in the place of TaylorSeer's powers, which at a small scale shrink every difference.

    forecast = sum_i D_i / i! scale^i H_i(scale k), with D_i as in `TaylorSeer`, k steps since the newest evaluation and
    the physicists' H_i: the slope counts 2 scale^2 times. Degree of exactness: 0; 1 at scale = sqrt(1/2), where the
    slope counts once. k is in raw steps, so no other coordinate will do. Reference: HiCache, arXiv:2508.16984, which
    writes H_i(-k) for descending time; with ascending steps the sign is +k.

    Args:
        order: highest difference, in evaluations beyond the newest.
        scale: 0.5 is published for FLUX.1-dev, 0.3 for FLUX.1-schnell; FreqCa takes 0.71.
        start: step of the first evaluation that may enter a difference, as in `TaylorSeer`.
    """

    order: int = 2
    scale: float = 0.5
    start: int = 0

    def __post_init__(self) -> None:
        if self.order < 0:
            raise ValueError(f"HiCache(order=...) must be >= 0, got {self.order}; the paper takes 2.")
        if not self.scale > 0:
            raise ValueError(f"HiCache(scale=...) must be positive, got {self.scale}; the paper takes 0.5.")

    @property
    def window(self) -> int:
        return self.order + 1

    @property
    def since(self) -> int:
        return self.start

    @property
    def least(self) -> int:
        return self.order + 1

    @property
    def coordinates(self) -> tuple[type[Coordinate], ...]:
        return (StepIndex,)

    def weights(self, nodes: Vector, tau: float) -> Vector:
        hermite = hermvander(self.scale * (tau - nodes[-1]), len(nodes) - 1)  # H_0 ... H_{K-1}
        terms = [self.scale**i * h / math.factorial(i) for i, h in enumerate(np.ravel(hermite))]
        weights: Vector = np.array(terms) @ difference_quotients(nodes)
        return weights
