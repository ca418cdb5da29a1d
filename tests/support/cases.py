"""Tables that the tests share, and toys whose answers are known; a new part is tested by adding its row here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

import skipcast as sc
from skipcast import Method, Output, Run, TimeGrid
from skipcast.controllers import Periodic
from skipcast.coordinates import Angle, Balanced, Chebyshev, Coordinate, HalfLogSNR, Sigma, StepIndex
from skipcast.forecasters import (
    L2P,
    ABCache,
    AdamsBashforth,
    Blend,
    Brace,
    ChebyshevRidge,
    FoCa,
    Forecaster,
    HaarDetails,
    HiCache,
    HighBand,
    Lagrange,
    LinearForecaster,
    Mapped,
    MeanVelocity,
    PadeCode,
    PadeLiteral,
    PadePaper,
    Principal,
    RecursiveForecaster,
    Reuse,
    ScaledTaylor,
    Shrunk,
    Smoothed,
    TaylorSeer,
    Within,
)
from skipcast.targets import GlobalDrift, LastHidden

#: Changes of tau = scale tau + shift that leave weights alone: all, those that keep distances, or none.
Invariance = Literal["affine", "distance", "none"]


@dataclass(frozen=True)
class Case:
    """A forecaster with what is promised of it.

    Args:
        degree: of exactness; -1 where not even constants are kept.
        interpolating: passes through all its nodes.
        newest: passes through the newest node.
        invariance: changes of tau that leave the weights alone.
    """

    forecaster: LinearForecaster | RecursiveForecaster
    degree: int
    interpolating: bool = False
    newest: bool = True
    invariance: Invariance = "affine"

    def __str__(self) -> str:
        return repr(self.forecaster)

    @property
    def keeps_constants(self) -> bool:
        return self.degree >= 0

    def fits(self, coordinate: Coordinate) -> bool:
        """Whether the forecaster's formula is meant for it."""
        return not self.forecaster.coordinates or isinstance(coordinate, self.forecaster.coordinates)

    def method(self, coordinate: Coordinate | None = None) -> Method:
        """With `SCHEDULE`, in the coordinate given or the first one that fits."""
        return Method(self.forecaster, SCHEDULE, coordinate or next(filter(self.fits, ALL_COORDINATES)))


ALL_FORECASTERS = [
    Case(Reuse(), 0, interpolating=True),
    *(Case(Lagrange(order), order, interpolating=True) for order in range(5)),
    Case(TaylorSeer(0), 0, interpolating=True),
    Case(TaylorSeer(1), 1, interpolating=True),
    Case(TaylorSeer(1, start=1), 1, interpolating=True),
    *(Case(TaylorSeer(order), 1) for order in (2, 3, 4)),
    Case(TaylorSeer(2, start=1), 1),
    *(Case(Mapped(Lagrange(order), Balanced()), 0, interpolating=True) for order in (1, 2, 3, 4)),
    Case(Mapped(Lagrange(1), Chebyshev()), 1, interpolating=True),
    *(Case(Mapped(Lagrange(order), Chebyshev()), 0) for order in (2, 3, 4)),
    Case(Mapped(TaylorSeer(1), Balanced()), 0, interpolating=True),
    Case(ChebyshevRidge(), -1, newest=False, invariance="none"),
    Case(ChebyshevRidge(2, 1.0, 30), -1, newest=False, invariance="none"),
    Case(ChebyshevRidge(free_constant=True), 0, newest=False, invariance="none"),
    Case(Blend(Lagrange(1), ChebyshevRidge(), 0.5), -1, newest=False, invariance="none"),
    Case(Blend(Lagrange(1), ChebyshevRidge(free_constant=True), 0.3), 0, newest=False, invariance="none"),
    Case(Blend(Reuse(), Lagrange(1), 0.5), 0),
    Case(Blend(Lagrange(1), Lagrange(3), 0.25), 1),
    Case(HiCache(), 0, newest=False, invariance="distance"),
    Case(HiCache(3, 0.71, start=1), 0, newest=False, invariance="distance"),
    Case(HiCache(1), 0),
    Case(HiCache(2, 0.5**0.5), 1, newest=False, invariance="distance"),
    Case(Smoothed(), 0, newest=False),
    Case(Smoothed(slope=True), 1),
    Case(AdamsBashforth(1), 1, interpolating=True),
    *(Case(AdamsBashforth(order), 1) for order in (2, 3, 4)),
    *(Case(ABCache(terms), 0, newest=False) for terms in (2, 4)),
    *(Case(Brace(*options), 0, interpolating=True) for options in ((0.7, 2), (0.8, 3), (0.7, 4))),
    Case(Brace(0.5, 4), 1, interpolating=True),
    Case(ScaledTaylor(), 0, invariance="affine"),
    Case(ScaledTaylor(1, 0.8), 0),
    Case(ScaledTaylor(3, 1.0), 1),
]

#: Those that remember their own forecasts; the promises are about whole runs.
ALL_RECURSIVE = [
    *(Case(FoCa(slope, refresh=refresh), 1) for slope in ("difference", "bdf2") for refresh in (False, True)),
    Case(MeanVelocity(1), 0),
    Case(MeanVelocity(2), 0),
    Case(MeanVelocity(((0, 1), (8, 4), (20, 2))), 0),
    Case(L2P.of(np.eye(50, k=-1)), 0),
    Case(L2P.of(0.9 * np.eye(50, k=-1)), -1),
]

ALL_TARGETS = [Output(), GlobalDrift(), LastHidden()]
ALL_COORDINATES = [StepIndex(), Sigma(), HalfLogSNR(), Angle()]
SCHEDULE = Periodic(3, 6)

#: Those that correct evaluations by the ones before.
ALL_CORRECTED = [Case(AdamsBashforth(order, corrector), 1) for order, corrector in ((1, 2), (2, 2), (2, 3), (3, 4))]

#: Those that look at the values they weigh.
SUBSPACES = [
    HighBand(),
    HighBand(0.5),
    HighBand(0.5, "fft"),
    HaarDetails(),
    Principal(),
    Principal(0.5),
    Principal(1.0, 2),
]
PADE = [
    *(PadeCode(), PadeCode(4, 0.3, 20), PadePaper(), PadePaper(scale="one")),
    *(PadeLiteral(), PadeLiteral(newest_first=True)),
]
ALL_BY_VALUE: list[Forecaster] = [*PADE, Shrunk(Lagrange(2)), *(Within(Lagrange(1), space) for space in SUBSPACES)]


def built(expression: str) -> Any:
    """What an expression of the public parts makes."""
    names: dict[str, Any] = {}
    for package in (sc, sc.controllers, sc.coordinates, sc.forecasters, sc.targets):
        names.update(vars(package))
    return eval(expression, names)


def named(rows: list[Any]) -> dict[str, Any]:
    """Keyword arguments of `parametrize`: the rows, and their text as test ids."""
    return {"argvalues": rows, "ids": [str(row) for row in rows]}


def _shifted(sigma: np.ndarray, shift: float) -> np.ndarray:
    return shift * sigma / (1 + (shift - 1) * sigma)


#: 50 steps each, on which every coordinate is finite: flow, flow shifted to high noise, variance preserving.
GRIDS = {
    "flow": TimeGrid.flow(np.linspace(0.99, 0.01, 50)),
    "shifted": TimeGrid.flow(_shifted(np.linspace(0.99, 0.01, 50), 3.0)),
    "preserving": TimeGrid(
        timestep=np.arange(999, -1, -20),
        alpha=np.cos(np.linspace(1.55, 0.02, 50)),
        sigma=np.sin(np.linspace(1.55, 0.02, 50)),
    ),
}
GRID = GRIDS["shifted"]


@dataclass(frozen=True)
class GaussianFlow:
    """The rectified flow x_s = (1 - s) x + s e of data x ~ N(mean, std^2) and noise e ~ N(0, 1), in closed form.

    x_s is normal with mean (1 - s) mean and variance V(s) = (1 - s)^2 std^2 + s^2, and Cov(e - x, x_s) =
    s - (1 - s) std^2. So the velocity E[e - x | x_s] is -mean + Cov / V (x_s - (1 - s) mean), and dx/ds = velocity is
    solved by keeping the standard score: x(s) = (1 - s) mean + sqrt(V(s)) e.
    """

    mean: float = 0.7
    std: float = 0.8

    def variance(self, s: Any) -> Any:
        return (1 - s) ** 2 * self.std**2 + s**2

    def velocity(self, x: Any, s: Any) -> Any:
        slope = (s - (1 - s) * self.std**2) / self.variance(s)
        return -self.mean + slope * (x - (1 - s) * self.mean)

    def solution(self, noise: Any, s: Any) -> Any:
        """The point at level s of the trajectory that starts from `noise` at level 1."""
        return (1 - s) * self.mean + self.variance(s) ** 0.5 * noise


def drive(method: Method, grid: TimeGrid, values: Tensor, inputs: Tensor | None = None) -> Tensor:
    """The y of every step of a run whose network would return `values`, given `inputs`: (N, ...)."""
    run = Run(method, grid)
    inputs = torch.zeros_like(values) if inputs is None else inputs
    return torch.stack([run.advance(x, lambda y=y: y) for x, y in zip(inputs, values, strict=True)])


def run_of(method: Method, outputs: np.ndarray, inputs: np.ndarray | None = None, grid: TimeGrid = GRID) -> np.ndarray:
    """`drive` on arrays."""
    given = None if inputs is None else torch.from_numpy(inputs)
    return drive(method, grid, torch.from_numpy(outputs), given).numpy()


def random(seed: int) -> np.ndarray:
    """Outputs of 50 steps for two items."""
    return np.random.default_rng(seed).standard_normal((50, 2, 3))


def newest_first(forecaster: LinearForecaster, nodes: Any, tau: float) -> list[float]:
    """Weights on values at the nodes, as papers list them."""
    return forecaster.weights(np.array(nodes, dtype=float), float(tau))[::-1].tolist()


def slope(sizes: Any, errors: Any) -> float:
    """The exponent p of errors ~ sizes^p, by least squares in the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])
