"""What a forecaster is: weights on remembered evaluations, computed before any tensor is touched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from driftcast.coordinates import PhaseMap
from driftcast.grid import Vector
from driftcast.history import History


class Forecaster(ABC):
    """Forecasts a value at tau from the history of a run."""

    @property
    @abstractmethod
    def window(self) -> int:
        """How many evaluations it remembers at most."""

    @property
    def since(self) -> int:
        """Evaluations before this step are left out as soon as a later one is remembered."""
        return 0

    @abstractmethod
    def forecast(self, history: History, tau: float) -> Tensor:
        """The forecast value, of the shape and dtype of the remembered ones."""


class LinearForecaster(Forecaster):
    """A forecaster whose weights depend on the nodes alone, never on values: sum_k w_k y_k."""

    @abstractmethod
    def weights(self, nodes: Vector, tau: float) -> Vector:
        """Weights of K distinct nodes, oldest first, for any 1 <= K <= window: (K,) float64."""

    def forecast(self, history: History, tau: float) -> Tensor:
        return history.combine(self.weights(history.nodes(self.since), tau))


@dataclass(frozen=True)
class Mapped(LinearForecaster):
    """A linear forecaster that wears a phase map: weights(map(nodes, tau)).

    Degree of exactness: that of `inner` where the map is affine on the window, else 0. Reference: ResilPhase,
    arXiv:2606.26769.
    """

    inner: LinearForecaster
    phase: PhaseMap

    @property
    def window(self) -> int:
        return self.inner.window

    @property
    def since(self) -> int:
        return self.inner.since

    def weights(self, nodes: Vector, tau: float) -> Vector:
        return self.inner.weights(*self.phase(nodes, tau))
