"""Exponential averages over evaluations (SVD-Cache, arXiv:2601.07396)."""

from __future__ import annotations

import numpy as np
import pytest

from skipcast.forecasters import Lagrange, Smoothed

NODES = np.array([0.0, 1.0, 2.0, 8.0, 14.5])
VALUES = np.array([3.0, -1.0, 2.5, 4.0, 0.5])


@pytest.mark.parametrize("decay, expected", [(0.9, 2.2), (0.1, 3.8)])
def test_two_values(decay: float, expected: float) -> None:
    assert Smoothed(decay).weights(np.array([0.0, 1.0]), 2.0) @ [2.0, 4.0] == pytest.approx(expected)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 1.0])
def test_weights_are_the_recursion(decay: float) -> None:
    average, slope = VALUES[0], (VALUES[1] - VALUES[0]) / (NODES[1] - NODES[0])
    for j in range(1, 5):
        average = decay * average + (1 - decay) * VALUES[j]
        slope = decay * slope + (1 - decay) * (VALUES[j] - VALUES[j - 1]) / (NODES[j] - NODES[j - 1])
    assert Smoothed(decay).weights(NODES, 17.0) @ VALUES == pytest.approx(average, abs=1e-12)
    moved = VALUES[-1] + 2.5 * slope
    assert Smoothed(decay, slope=True).weights(NODES, 17.0) @ VALUES == pytest.approx(moved, abs=1e-12)


@pytest.mark.parametrize("count", range(1, 6))
def test_without_memory_it_is_reuse_or_the_newest_line(count: int) -> None:
    nodes = NODES[-count:]
    assert Smoothed(0).weights(nodes, 17.0).tolist() == np.eye(count)[-1].tolist()
    line = Lagrange(1).weights(nodes[-2:], 17.0)
    assert Smoothed(0, slope=True).weights(nodes, 17.0)[-2:] == pytest.approx(line, abs=1e-12)


def test_slopes_do_not_depend_on_the_direction_or_unit_of_time() -> None:
    found = Smoothed(0.9, slope=True).weights(1 - 0.02 * NODES, 1 - 0.02 * 17.0)
    assert found == pytest.approx(Smoothed(0.9, slope=True).weights(NODES, 17.0), abs=1e-12)


def test_a_window_forgets_little() -> None:
    assert Smoothed().window == 32
    assert Smoothed().weights(np.arange(32.0), 33.0)[0] == pytest.approx(0.038, abs=5e-4)
    assert (Smoothed().min_evaluations, Smoothed(slope=True).min_evaluations) == (1, 2)
