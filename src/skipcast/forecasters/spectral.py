"""Polynomials in other bases: Chebyshev ridge regression, scaled Hermite differences, smoothed differences."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.chebyshev import chebvander
from numpy.polynomial.hermite import hermvander

from skipcast.coordinates import StepIndex
from skipcast.forecasters.base import LinearForecaster
from skipcast.forecasters.polynomial import difference_quotients
from skipcast.grid import Vector

# Spectrum: a Chebyshev ridge, as weights that no value enters.


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

    window = 100  # the released cap, beyond the evaluations of any run that is worth accelerating
    coordinates = (StepIndex,)

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

    def weights(self, nodes: Vector, tau: float) -> Vector:
        phi = chebvander((np.append(nodes, tau) - self.horizon / 2) * 2 / self.horizon, self.degree)
        fitted, wanted = phi[:-1], phi[-1]  # (K, degree + 1) and (degree + 1,)
        penalty = np.full(self.degree + 1, self.ridge)
        if self.free_constant:
            penalty[0] = 0.0
        weights = fitted @ np.linalg.solve(fitted.T @ fitted + np.diag(penalty), wanted)
        return np.asarray(weights, dtype=np.float64)


# HiCache: TaylorSeer's difference quotients under scaled Hermite polynomials.


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

    coordinates = (StepIndex,)

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
    def min_evaluations(self) -> int:
        return self.order + 1

    def weights(self, nodes: Vector, tau: float) -> Vector:
        hermite = hermvander(self.scale * (tau - nodes[-1]), len(nodes) - 1)  # H_0 ... H_{K-1}
        terms = [self.scale**i * h / math.factorial(i) for i, h in enumerate(np.ravel(hermite))]
        weights: Vector = np.array(terms) @ difference_quotients(nodes)
        return weights


# Exponential averages over evaluations: SVD-Cache's rule inside its subspace.


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

    SVD-Cache prints the average with decay 0.9 on the old value (eq. 11, "ema"), which forecasts nothing and lags by
    about nine evaluations; decay 0.1 ("ema-swapped") and `slope` ("ema-slope") are readings that would do better. The
    average starts anew from the oldest value remembered, whose share under a decay of 0.9 is then 0.038. Any shape.
    Reference: SVD-Cache, arXiv:2601.07396.

    Args:
        decay: what the old average keeps, in [0, 1]; 0 is reuse, with `slope` the line through the two newest.
        slope: average slopes instead of values.
    """

    window = 32

    decay: float = 0.9
    slope: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1:
            raise ValueError(f"Smoothed(decay=...) must lie in [0, 1], got {self.decay}; the published one is 0.9.")

    @property
    def min_evaluations(self) -> int:
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
