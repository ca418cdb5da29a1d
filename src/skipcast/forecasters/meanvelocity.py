"""MeanCache: the trend between a velocity and the mean velocity since then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipcast.coordinates import Coordinate, Sigma
from skipcast.forecasters.base import RecursiveForecaster
from skipcast.grid import Vector
from skipcast.history import Point


@dataclass(frozen=True)
class MeanVelocity(RecursiveForecaster):
    """The newest velocity, continued by the trend from the one m steps ago to the mean of all since then.

    v = v_{s-1} + J (sigma_{s+1} - sigma_s), J = (u - v_r) / (sigma_s - sigma_r), u = (z_s - z_r) / (sigma_s - sigma_r),
    r = s - m, velocities evaluated or forecast. Euler's method moves the latents by z_{i+1} - z_i = v_i (sigma_{i+1} -
    sigma_i), so u is a weighted mean of velocities and no latent is kept; with another sampler this is an
    approximation. Sigma after the last step is 0. The target is the output, a velocity. For v linear in sigma J is half
    the slope, less the Euler error: (m - 1) / 2m of it on even levels. m = 1 is reuse. Degree of exactness: 0.
    Reference: MeanCache, arXiv:2601.19961; the released code caches the velocity after guidance.

    Args:
        span: m, capped by what is remembered; or pairs (step, m), each holding from that step until the next pair's.
            The released sets give m per edge, by the evaluation that begins it, and return to 1 behind it.
    """

    span: int | tuple[tuple[int, int], ...] = 2

    def __post_init__(self) -> None:
        pairs = ((0, self.span),) if isinstance(self.span, int) else tuple((step, m) for step, m in self.span)
        if not isinstance(self.span, int):
            object.__setattr__(self, "span", pairs)
        steps = [step for step, _ in pairs]
        if not steps or steps[0] != 0 or any(b <= a for a, b in zip(steps, steps[1:], strict=False)):
            raise ValueError(f"MeanVelocity(span=...) must be pairs whose steps ascend from 0, got {self.span}.")
        if any(m < 1 for _, m in pairs):
            raise ValueError(f"MeanVelocity(span=...) must be at least 1 everywhere, got {self.span}; 1 is reuse.")

    def _at(self, step: int) -> int:
        """m at a step."""
        if isinstance(self.span, int):
            return self.span
        return [m for first, m in self.span if first <= step][-1]

    @property
    def window(self) -> int:
        return self.span if isinstance(self.span, int) else max(m for _, m in self.span)

    @property
    def least(self) -> int:
        return min(self.window, 2)  # forecasts from one evaluation repeat it, and their trend is 0

    @property
    def coordinates(self) -> tuple[type[Coordinate], ...]:
        return (Sigma,)

    def weights(self, nodes: Vector, evaluated: NDArray[np.bool_], point: Point) -> Vector:
        span = min(self._at(point.step), len(nodes))
        levels = np.append(nodes[-span:], point.tau)  # sigma_r ... sigma_s
        way = levels[-1] - levels[0]
        after = point.taus[point.step + 1] if point.step + 1 < point.steps else 0.0
        trend = np.diff(levels) / way  # u
        trend[0] -= 1.0  # u - v_r
        weights = np.zeros(len(nodes))
        weights[-1] = 1.0
        weights[-span:] += trend / way * (after - point.tau)
        return weights
