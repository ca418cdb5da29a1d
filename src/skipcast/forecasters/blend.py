"""Two forecasts mixed in fixed shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipcast.coordinates import Coordinate
from skipcast.forecasters.base import LinearForecaster
from skipcast.grid import Vector


@dataclass(frozen=True)
class Blend(LinearForecaster):
    """(1 - share) first + share second; each of the two sees its own newest evaluations.

    Degree of exactness: at least the smaller of the two. Reference: Spectrum, arXiv:2603.01623, whose code mixes the
    line through the two newest evaluations with the ridge fit, `Blend(Lagrange(1), ChebyshevRidge(), 0.5)`; in its text
    the share of the fit is 1.
    """

    first: LinearForecaster
    second: LinearForecaster
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"Blend(share=...) must lie in [0, 1], got {self.share}; 0 is `first` alone, 1 `second`.")
        if self.first.since != self.second.since:
            raise ValueError(
                f"Blend(first=..., second=...) must start at one step, got {self.first!r} from step "
                f"{self.first.since} and {self.second!r} from step {self.second.since}; give both the same start."
            )
        if self.first.coordinates and self.second.coordinates and not self.coordinates:
            raise ValueError(
                f"Blend(first=..., second=...) must share a coordinate, got {self.first!r} and {self.second!r}, which "
                "are rules in different ones; blend rules that hold in one coordinate."
            )

    @property
    def window(self) -> int:
        return max(self.first.window, self.second.window)

    @property
    def since(self) -> int:
        return self.first.since

    @property
    def least(self) -> int:
        return max(self.first.least, self.second.least)

    @property
    def coordinates(self) -> tuple[type[Coordinate], ...]:
        first, second = self.first.coordinates, self.second.coordinates
        return tuple(kind for kind in first if kind in second) if first and second else first or second

    def weights(self, nodes: Vector, tau: float) -> Vector:
        weights = np.zeros(len(nodes))
        for part, share in ((self.first, 1 - self.share), (self.second, self.share)):
            row = part.weights(nodes[-part.window :], tau)
            weights[-len(row) :] += share * row
        return weights
