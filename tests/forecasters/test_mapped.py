"""Forecasters in a mapped time, against the numbers of ResilPhase (arXiv:2606.26769)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from skipcast.coordinates import Balanced, Chebyshev, PhaseMap
from skipcast.forecasters import Lagrange, LinearForecaster, Mapped, TaylorSeer
from support.cases import newest_first


@pytest.mark.parametrize(
    "nodes, tau, phase, expected",
    [
        ([2, 8], 11, Balanced(), [-0.2997, 1.2997]),
        ([2, 8], 11, Chebyshev(), [-0.5, 1.5]),
        ([2, 8, 14], 17, Balanced(), [0.2398, -0.8337, 1.5939]),
        ([2, 8, 14], 17, Chebyshev(), [0.375, -1.25, 1.875]),
        ([1, 2, 8], 11, Balanced(), [2.2255, -2.9199, 1.6944]),
        ([1, 2, 8], 11, Chebyshev(), [0.375, -1.25, 1.875]),
        ([2, 6, 10], 13, Balanced(), [0.3643, -1.2178, 1.8535]),
        ([0, 4, 8, 12], 15, Balanced(), [-0.3470, 1.3139, -2.2736, 2.3067]),
        ([0, 4, 8, 12], 15, Chebyshev(), [-0.5038, 1.6008, -2.8945, 2.7975]),
        ([0, 1, 5, 9, 13], 16, Chebyshev(), [0.3796, -1.1930, 2.1831, -3.3991, 3.0295]),
        ([1, 5, 9, 13, 17], 20, Balanced(), [0.3321, -1.4521, 2.9390, -3.5544, 2.7353]),
    ],
    ids=str,
)
def test_published_weights(nodes: list[float], tau: float, phase: PhaseMap, expected: list[float]) -> None:
    """Oldest first, and the same when the steps are counted downwards."""
    forecaster = Mapped(Lagrange(len(nodes) - 1), phase)
    assert newest_first(forecaster, nodes, tau)[::-1] == pytest.approx(expected, abs=5e-5)
    assert newest_first(forecaster, [49 - node for node in nodes], 49 - tau)[::-1] == pytest.approx(expected, abs=5e-5)


GAINS = {
    0.1: [0.198, 0.393, 0.586, 0.776, 0.961, 4.517],
    0.3: [0.181, 0.346, 0.493, 0.620, 0.729, 1.216],
    0.55: [0.146, 0.257, 0.336, 0.391, 0.428, 0.499],
    1.0: [0.081, 0.122, 0.141, 0.149, 0.153, 0.157],
    2.0: [0.015, 0.018, 0.019, 0.019, 0.019, 0.019],
}


@pytest.mark.parametrize("alpha", GAINS)
def test_gain_of_a_balanced_line(alpha: float) -> None:
    """D_0 + g (D_0 - D_1): u = 0.2 ... 1 and far away, from the table and from the closed form."""
    forecaster = Mapped(Lagrange(1), Balanced(alpha))
    for u, gain in zip((0.2, 0.4, 0.6, 0.8, 1.0, 1e4), GAINS[alpha], strict=True):
        closed = (math.tanh(alpha * (1 + 2 * u)) - math.tanh(alpha)) / (2 * math.tanh(alpha))
        assert closed == pytest.approx(gain, abs=5.1e-4)
        assert newest_first(forecaster, [2, 7], 7 + 5 * u) == pytest.approx([1 + closed, -closed], abs=1e-12)


# sum |w| at the last forecast step of an even history; intervals 4, 5, 6.
AMPLIFICATION = [
    (2, None, [5.12, 5.48, 5.72]),
    (2, Chebyshev(), [5.12, 5.48, 5.72]),
    (2, Balanced(), [3.44, 3.58, 3.67]),
    (3, None, [9.94, 10.86, 11.49]),
    (3, Chebyshev(), [7.80, 8.47, 8.94]),
    (3, Balanced(), [6.24, 6.65, 6.92]),
    (4, None, [18.96, 21.07, 22.56]),
    (4, Chebyshev(), [10.18, 11.17, 11.87]),
    (4, Balanced(), [11.01, 11.94, 12.58]),
]


@pytest.mark.parametrize("order, phase, expected", AMPLIFICATION, ids=str)
def test_amplification(order: int, phase: PhaseMap | None, expected: list[float]) -> None:
    forecaster: LinearForecaster = Lagrange(order) if phase is None else Mapped(Lagrange(order), phase)
    for interval, total in zip((4, 5, 6), expected, strict=True):
        nodes = [interval * j for j in range(order + 1)]
        found = np.abs(newest_first(forecaster, nodes, nodes[-1] + interval - 1)).sum()
        assert found == pytest.approx(total, abs=5.1e-3)


def test_amplification_of_the_first_uneven_window() -> None:
    assert np.abs(newest_first(Mapped(Lagrange(2), Balanced()), [1, 2, 8], 11)).sum() == pytest.approx(6.8, abs=0.05)


@pytest.mark.parametrize("order", [1, 2])
def test_chebyshev_changes_nothing_up_to_three_even_nodes(order: int) -> None:
    nodes = [6.0 * j for j in range(order + 1)]
    for tau in range(6 * order + 1, 6 * order + 6):
        mapped = newest_first(Mapped(Lagrange(order), Chebyshev()), nodes, tau)
        assert mapped == pytest.approx(newest_first(Lagrange(order), nodes, tau), abs=1e-12)


@pytest.mark.parametrize("alpha, limit", [(1e-4, [1.875, -1.25, 0.375]), (10.0, [1, 0, 0])])
def test_limits_of_alpha(alpha: float, limit: list[float]) -> None:
    """Towards 0 the plain rule, towards infinity reuse."""
    assert newest_first(Mapped(Lagrange(2), Balanced(alpha)), [2, 8, 14], 17) == pytest.approx(limit, abs=1e-6)


def test_mapped_taylorseer_is_taylorseer_at_the_mapped_nodes() -> None:
    nodes, tau = Balanced()(np.array([1.0, 2.0, 8.0]), 11.0)
    worn = Mapped(TaylorSeer(2, start=1), Balanced())
    assert newest_first(worn, [1, 2, 8], 11) == newest_first(TaylorSeer(2), nodes, tau)
    assert (worn.window, worn.start) == (3, 1)
