"""What a forecaster is: weights on remembered values, computed before any tensor is touched.

Three tiers: `LinearForecaster` (weights from the nodes of evaluations), `RecursiveForecaster` (its own forecasts are
nodes too), and rules that look at values, which implement `forecast` themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from skipcast.checks import Checked
from skipcast.coordinates import Coordinate, PhaseMap
from skipcast.grid import Vector
from skipcast.history import History, Point


class Forecaster(Checked, ABC):
    """Forecasts a value at a point of a run from its history."""

    #: Whether its weights depend on steps alone, so that a tableau exists.
    linear: ClassVar[bool] = False
    #: Whether its own forecasts are remembered among the evaluations.
    recursive: ClassVar[bool] = False
    #: What a run must be shown before each forecast, as for controllers; `point.probe` holds it.
    probe: ClassVar[Literal["none", "around"]] = "none"

    @property
    @abstractmethod
    def window(self) -> int:
        """How many values it remembers at most."""

    @property
    def start(self) -> int:
        """Values before this step are left out as soon as a later one is remembered."""
        return 0

    @property
    def min_evaluations(self) -> int:
        """Evaluations of a run below which the forecaster never becomes what it is called; such a run is refused."""
        return 1

    @property
    def coordinates(self) -> tuple[type[Coordinate], ...]:
        """The coordinates that its formula is meant for; empty for any."""
        return ()

    def memory(self, evaluations: int) -> int:
        """Tensors that it keeps at most in a run of so many evaluations."""
        return self.window if self.recursive else min(self.window, evaluations)

    @abstractmethod
    def forecast(self, history: History, point: Point) -> Tensor:
        """The forecast value, of the shape and dtype of the remembered ones."""

    def noted(self, probe: Tensor) -> Tensor | None:
        """What is remembered of the probe beside an evaluated value."""
        return None

    def correct(self, history: History, point: Point, value: Tensor) -> Tensor:
        """What is made of an evaluated value before it is used and remembered; `history` does not hold it yet."""
        return value


class LinearForecaster(Forecaster):
    """A forecaster whose weights depend on the nodes alone, never on values: sum_k w_k y_k."""

    linear = True

    @abstractmethod
    def weights(self, nodes: Vector, tau: float) -> Vector:
        """Weights of K distinct nodes, oldest first, for any 1 <= K <= window: (K,) float64."""

    def forecast(self, history: History, point: Point) -> Tensor:
        return history.combine(self.weights(history.nodes(self.start), point.tau))


class RecursiveForecaster(Forecaster):
    """A forecaster with fixed weights on evaluations and on its own earlier forecasts."""

    linear = True
    recursive = True

    @abstractmethod
    def weights(self, nodes: Vector, evaluated: NDArray[np.bool_], point: Point) -> Vector:
        """Weights of K remembered values, oldest first, some of them forecasts: (K,) float64."""

    def forecast(self, history: History, point: Point) -> Tensor:
        return history.combine(self.weights(history.nodes(), history.evaluated(), point))


class Around(Forecaster):
    """A forecaster that changes what another, linear one makes of the same history."""

    inner: LinearForecaster

    @property
    def window(self) -> int:
        return self.inner.window

    @property
    def start(self) -> int:
        return self.inner.start

    @property
    def min_evaluations(self) -> int:
        return self.inner.min_evaluations

    @property
    def coordinates(self) -> tuple[type[Coordinate], ...]:
        return self.inner.coordinates

    def correct(self, history: History, point: Point, value: Tensor) -> Tensor:
        return self.inner.correct(history, point, value)


@dataclass(frozen=True)
class Mapped(Around, LinearForecaster):
    """A linear forecaster that wears a phase map: weights(map(nodes, tau)).

    Degree of exactness: that of `inner` where the map is affine on the window, else 0. Reference: ResilPhase,
    arXiv:2606.26769.
    """

    inner: LinearForecaster
    phase: PhaseMap

    def weights(self, nodes: Vector, tau: float) -> Vector:
        return self.inner.weights(*self.phase(nodes, tau))


def move_weights(forecaster: LinearForecaster, history: History, point: Point) -> Vector:
    """Weights on all remembered values that combine to the forecast less the newest evaluation, (K,).

    The history may reach further back than the forecaster's own window. The small move is summed, never the difference
    of two large values, so that half types lose nothing.
    """
    own = forecaster.weights(history.nodes(forecaster.start)[-forecaster.window :], point.tau)
    weights = np.zeros(len(history))
    weights[-len(own) :] = own
    weights[-1] -= 1
    return weights
