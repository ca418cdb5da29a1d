"""Forecasters made of others: blends, and moves shrunk by how much forecasts disagree."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skipcast.coordinates import Coordinate
from skipcast.forecasters.base import Forecaster, LinearForecaster, move_weights
from skipcast.forecasters.polynomial import TaylorSeer
from skipcast.grid import Vector
from skipcast.history import History, Point


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
        if self.first.start != self.second.start:
            raise ValueError(
                f"Blend(first=..., second=...) must start at one step, got {self.first!r} from step "
                f"{self.first.start} and {self.second!r} from step {self.second.start}; give both the same start."
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
    def start(self) -> int:
        return self.first.start

    @property
    def min_evaluations(self) -> int:
        return max(self.first.min_evaluations, self.second.min_evaluations)

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


@dataclass(frozen=True)
class Shrunk(Forecaster):
    """RACER: the forecast h of `base`, drawn towards the newest evaluation a by age and by the risk of the step.

        r     = |h - g| / |h|, where g is the forecast of `local`
        kappa = exp(-0.3 max(k - 1, 0)) sigmoid(4 (threshold - r)), k steps after the newest evaluation
        y     = a + kappa (h - a)

    Even two forecasters that agree are shrunk: at the published thresholds kappa stays below 0.84. The published norms
    run over the tensor, here over each item of the batch, (B, ...). Reference: arXiv:2608.01740, as read from the text:
    its code (github.com/LiZaiyuan0619/RACER) was not available, and its rule for refreshing early is left out.

    Args:
        base: any linear forecaster; Spectrum in the paper.
        local: another one, which looks at the newest evaluations; Taylor in the paper.
        threshold: theta, the risk at which the sigmoid halves; 0.15, 0.25 and 0.40 are published.
    """

    base: LinearForecaster
    local: LinearForecaster = TaylorSeer(1)
    threshold: float = 0.25

    def __post_init__(self) -> None:
        if self.base.coordinates and self.local.coordinates and not self.coordinates:
            raise ValueError(
                f"Shrunk(base=..., local=...) must share a coordinate, got {self.base!r} and {self.local!r}, which are "
                "rules in different ones; TaylorSeer(1) is a local rule in any."
            )
        if not (self.threshold >= 0 and math.isfinite(self.threshold)):
            raise ValueError(
                f"Shrunk(threshold=...) must be >= 0 and finite, got {self.threshold}; 0.25 is in the published range."
            )

    @property
    def window(self) -> int:
        return max(self.base.window, self.local.window)

    @property
    def min_evaluations(self) -> int:
        return max(self.base.min_evaluations, self.local.min_evaluations)

    @property
    def coordinates(self) -> tuple[type[Coordinate], ...]:
        base, local = self.base.coordinates, self.local.coordinates
        return tuple(kind for kind in base if kind in local) if base and local else base or local

    def forecast(self, history: History, point: Point) -> Tensor:
        a = history[-1].value
        wide = torch.promote_types(a.dtype, torch.float32)
        base, local = move_weights(self.base, history, point), move_weights(self.local, history, point)
        move = history.combine(base).to(wide)
        disagreement = history.combine(base - local).to(wide)
        kappa = self._kappa(_norms(disagreement), _norms(a.to(wide) + move), point.step - history[-1].step)
        return (a.to(wide) + kappa * move).to(a.dtype)

    def _kappa(self, apart: Tensor, size: Tensor, k: int) -> Tensor:
        risk = apart / size.clamp(min=torch.finfo(size.dtype).tiny)
        kappa: Tensor = math.exp(-0.3 * max(k - 1, 0)) * torch.sigmoid(4 * (self.threshold - risk))
        return kappa


def _norms(tensor: Tensor) -> Tensor:
    """The norm of each item, (B, 1, ...)."""
    norms: Tensor = torch.linalg.vector_norm(tensor.reshape(len(tensor), -1), dim=1)
    return norms.reshape(-1, *[1] * (tensor.ndim - 1))
