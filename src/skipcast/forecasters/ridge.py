"""Spectrum's Chebyshev ridge, as weights that no value enters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial.chebyshev import chebvander

from skipcast.coordinates import Coordinate, StepIndex
from skipcast.forecasters.base import LinearForecaster
from skipcast.grid import Vector


@dataclass(frozen=True)
class ChebyshevRidge(LinearForecaster):
    """A polynomial fitted by ridge regression to all evaluations so far, in the Chebyshev basis of a fixed horizon.

    a = phi(x*)^T (Phi^T Phi + ridge I)^-1 Phi^T with x = (s - horizon / 2) 2 / horizon, phi = (T_0 ... T_degree) and a
    row of Phi per evaluation. The penalty falls on T_0 too, so that sum a < 1: a constant comes back smaller, which a
    norm behind the target cancels and nothing else does. Degree of exactness: -1; 0 with `free_constant`. Reference:
    Spectrum, arXiv:2603.01623, whose text measures time as a share of the run; the released code counts steps and keeps
    a horizon of 50 for runs of any length, as here. As released it is half of a `Blend`, whose other half is a line.

    Args:
        degree: highest Chebyshev polynomial.
        ridge: penalty, positive; fewer evaluations than coefficients need it.
        horizon: steps that x in [-1, 1] spans.
        free_constant: leave T_0 unpenalised, so that the weights sum to 1; for targets that no scale-cancelling norm
            follows, such as the output or a residual. Not in the paper.
    """

    degree: int = 4
    ridge: float = 0.1
    horizon: float = 50
    free_constant: bool = False

    def __post_init__(self) -> None:
        if self.degree < 0:
            raise ValueError(f"ChebyshevRidge(degree=...) must be >= 0, got {self.degree}; the paper takes 4.")
        if not self.ridge > 0:
            raise ValueError(
                f"ChebyshevRidge(ridge=...) must be positive, got {self.ridge}; without a penalty few evaluations do "
                "not determine the fit. The paper takes 0.1."
            )
        if not self.horizon > 0:
            raise ValueError(f"ChebyshevRidge(horizon=...) must be positive, got {self.horizon}; the code takes 50.")

    @property
    def window(self) -> int:
        return 100  # the released cap, beyond the evaluations of any run that is worth accelerating

    @property
    def coordinates(self) -> tuple[type[Coordinate], ...]:
        return (StepIndex,)

    def weights(self, nodes: Vector, tau: float) -> Vector:
        phi = chebvander((np.append(nodes, tau) - self.horizon / 2) * 2 / self.horizon, self.degree)
        fitted, wanted = phi[:-1], phi[-1]  # (K, degree + 1) and (degree + 1,)
        penalty = np.full(self.degree + 1, self.ridge)
        if self.free_constant:
            penalty[0] = 0.0
        weights = fitted @ np.linalg.solve(fitted.T @ fitted + np.diag(penalty), wanted)
        return np.asarray(weights, dtype=np.float64)
