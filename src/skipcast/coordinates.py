"""Coordinates (grid -> tau per step) and phase maps (which act on the window of nodes of one forecast)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from skipcast.checks import Checked, guarded
from skipcast.grid import TimeGrid, Vector


class Coordinate(Checked, ABC):
    """A strictly monotone number per step, in which nodes and the wanted point are measured."""

    @abstractmethod
    def values(self, grid: TimeGrid) -> Vector:
        """Tau of every step: (N,) float64, before any check."""

    @guarded()
    def __call__(self, grid: TimeGrid) -> Vector:
        """Tau of every step, (N,), checked: finite and strictly monotone.

        Raises:
            ValueError: names the coordinate and the first step that fails.
        """
        tau = self.values(grid)
        if not np.isfinite(tau).all():
            step = int(np.flatnonzero(~np.isfinite(tau))[0])
            raise ValueError(
                f"{self!r} is {tau[step]} at step {step} (alpha {grid.alpha[step]:g}, sigma {grid.sigma[step]:g}); "
                "use Angle(), which stays finite at pure noise and at the clean sample."
            )
        moves = np.sign(np.diff(tau))
        if len(moves) and (moves[0] == 0 or (moves != moves[0]).any()):
            step = int(np.flatnonzero(moves != moves[0])[0]) if moves[0] else 0
            raise ValueError(f"{self!r} is not strictly monotone between steps {step} and {step + 1} of this grid.")
        return tau


@dataclass(frozen=True)
class StepIndex(Coordinate):
    """0, 1, 2, ...: the time of most published forecasters."""

    def values(self, grid: TimeGrid) -> Vector:
        return np.arange(len(grid), dtype=np.float64)


@dataclass(frozen=True)
class Sigma(Coordinate):
    """The noise level sigma."""

    def values(self, grid: TimeGrid) -> Vector:
        return grid.sigma.copy()


@dataclass(frozen=True)
class HalfLogSNR(Coordinate):
    """log(alpha / sigma), the time of DPM-Solver; infinite at pure noise."""

    def values(self, grid: TimeGrid) -> Vector:
        with np.errstate(divide="ignore"):
            return np.log(grid.alpha) - np.log(grid.sigma)


@dataclass(frozen=True)
class Angle(Coordinate):
    """atan2(sigma, alpha), in radians: finite from pure noise (pi/2) to the clean sample (0)."""

    def values(self, grid: TimeGrid) -> Vector:
        return np.arctan2(grid.sigma, grid.alpha)


class PhaseMap(Checked, ABC):
    """A change of variable that depends on the window of nodes: (nodes, tau) -> (nodes', tau')."""

    @abstractmethod
    def __call__(self, nodes: Vector, tau: float) -> tuple[Vector, float]:
        """Map K nodes, oldest first, and the wanted point alike; distinct nodes stay distinct."""


@dataclass(frozen=True)
class Balanced(PhaseMap):
    """s(t) = tanh(alpha (t - mean) / max_j |t_j - mean|): saturating, so that extrapolation is damped.

    Reference: ResilPhase, arXiv:2606.26769.
    """

    alpha: float = 0.55

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 10:  # beyond, tanh makes distinct nodes coincide in float64
            problem = "positive" if not self.alpha > 0 else "at most 10"
            raise ValueError(
                f"Balanced(alpha=...) must be {problem}, got {self.alpha}; towards 0 it is no map, at 10 it is reuse."
            )

    def __call__(self, nodes: Vector, tau: float) -> tuple[Vector, float]:
        centre = nodes.mean()
        reach = np.abs(nodes - centre).max()
        if reach == 0:  # a single node, or all alike: nothing to scale by
            return np.zeros_like(nodes), 0.0
        mapped = np.tanh(self.alpha * (np.append(nodes, tau) - centre) / reach)
        return mapped[:-1], float(mapped[-1])


@dataclass(frozen=True)
class Chebyshev(PhaseMap):
    """Nodes become cos((2i + 1) pi / 2K) by rank; beyond them the line through the two newest pairs continues.

    On evenly spaced nodes it changes nothing for K <= 3. Reference: ResilPhase, arXiv:2606.26769.
    """

    def __call__(self, nodes: Vector, tau: float) -> tuple[Vector, float]:
        count = len(nodes)
        mapped = np.cos((2 * np.arange(count) + 1) * np.pi / (2 * count))
        if count == 1:
            return mapped, float(mapped[0])
        slope = (mapped[-1] - mapped[-2]) / (nodes[-1] - nodes[-2])
        return mapped, float(mapped[-1] + slope * (tau - nodes[-1]))
