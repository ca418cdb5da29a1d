"""Exponential averages over evaluations (SVD-Cache, arXiv:2601.07396)."""

from __future__ import annotations

import numpy as np
import pytest

from skipcast.forecasters import Smoothed

NODES = np.array([0.0, 1.0, 2.0, 8.0, 14.5])
VALUES = np.array([3.0, -1.0, 2.5, 4.0, 0.5])


@pytest.mark.parametrize("decay, expected", [(0.9, 2.2), (0.1, 3.8)])
def test_two_values(decay: float, expected: float) -> None:
    assert Smoothed(decay).weights(np.array([0.0, 1.0]), 2.0) @ [2.0, 4.0] == pytest.approx(expected)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("count", range(1, 6))
def test_weights_are_the_recursion(decay: float, count: int) -> None:
    """Without memory that is reuse or the newest line."""
    nodes, values = NODES[-count:], VALUES[-count:]
    moves = np.diff(values) / np.diff(nodes)
    average, slope = values[0], moves[0] if count > 1 else 0.0
    for j in range(1, count):
        average = decay * average + (1 - decay) * values[j]
        slope = decay * slope + (1 - decay) * moves[j - 1]
    assert Smoothed(decay).weights(nodes, 17.0) @ values == pytest.approx(average, abs=1e-12)
    moved = values[-1] + 2.5 * slope
    assert Smoothed(decay, slope=True).weights(nodes, 17.0) @ values == pytest.approx(moved, abs=1e-12)


def test_a_window_forgets_little() -> None:
    assert Smoothed().window == 32
    assert Smoothed().weights(np.arange(32.0), 33.0)[0] == pytest.approx(0.038, abs=5e-4)
    assert (Smoothed().min_evaluations, Smoothed(slope=True).min_evaluations) == (1, 2)
