"""What rules that bend a linear forecast share: its move away from the newest evaluation."""

from __future__ import annotations

import numpy as np

from skipcast.forecasters.base import LinearForecaster
from skipcast.grid import Vector
from skipcast.history import History, Point


def move_weights(forecaster: LinearForecaster, history: History, point: Point) -> Vector:
    """Weights on all remembered values that combine to the forecast less the newest evaluation, (K,).

    The history may reach further back than the forecaster's own window. The small move is summed, never the difference
    of two large values, so that half types lose nothing.
    """
    own = forecaster.weights(history.nodes(forecaster.since)[-forecaster.window :], point.tau)
    weights = np.zeros(len(history))
    weights[-len(own) :] = own
    weights[-1] -= 1
    return weights
