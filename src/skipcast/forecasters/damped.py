"""TaylorSeer with every difference damped: HiCache's control."""

from __future__ import annotations

import math
from dataclasses import dataclass

from skipcast.coordinates import StepIndex
from skipcast.forecasters.base import LinearForecaster
from skipcast.forecasters.polynomial import TaylorSeer
from skipcast.grid import Vector


@dataclass(frozen=True)
class ScaledTaylor(LinearForecaster):
    """TaylorSeer's series with the i-th difference damped by scale^2i: a forecast for the distance scale^2 k.

    F = sum_i D_i scale^(2i) k^i / i!, with D_i and k as in `TaylorSeer`; it is what HiCache's two scalings do to plain
    powers, and the authors' control for what the Hermite polynomials add. Degree of exactness: 0; at scale 1 it is
    `TaylorSeer`. k is in raw steps. Reference: HiCache, arXiv:2508.16984, mode `Taylor-Scaled` of the authors' code,
    checked against its copy in yiming-l21/RA-CFGCache at commit 76359ee, function `_taylor_scaled_prediction_formula`.

    Args:
        order: highest difference, in evaluations beyond the newest.
        scale: 0.5 as released.
        start: step of the first evaluation that may enter a difference, as in `TaylorSeer`.
    """

    coordinates = (StepIndex,)

    order: int = 2
    scale: float = 0.5
    start: int = 0

    def __post_init__(self) -> None:
        if self.order < 0:
            raise ValueError(f"ScaledTaylor(order=...) must be >= 0, got {self.order}; the code takes 2.")
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise ValueError(
                f"ScaledTaylor(scale=...) must be positive and finite, got {self.scale}; the code takes 0.5."
            )

    @property
    def window(self) -> int:
        return self.order + 1

    @property
    def min_evaluations(self) -> int:
        return self.order + 1

    def weights(self, nodes: Vector, tau: float) -> Vector:
        shortened = nodes[-1] + self.scale**2 * (tau - float(nodes[-1]))
        return TaylorSeer(self.order).weights(nodes, shortened)
