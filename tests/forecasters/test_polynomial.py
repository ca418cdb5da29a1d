"""Reuse, Lagrange and TaylorSeer against weights worked out by hand (listed newest first, as papers do)."""

from __future__ import annotations

import numpy as np
import pytest

from skipcast.forecasters import Lagrange, LinearForecaster, Reuse, TaylorSeer


def newest_first(forecaster: LinearForecaster, nodes: list[float], tau: float) -> list[float]:
    return forecaster.weights(np.array(nodes, dtype=float), float(tau))[::-1].tolist()


@pytest.mark.parametrize(
    "order, nodes, tau, expected",
    [
        (1, [1, 2], 5, [4, -3]),
        (1, [2, 8], 11, [1.5, -0.5]),
        (2, [1, 2, 8], 11, [1.625, -1.375, 0.75]),
        (2, [2, 8, 14], 17, [1.625, -0.75, 0.125]),
        (2, [2, 8, 14], 19, [2.1806, -1.5278, 0.3472]),
        (1, [8, 14], 19, [1.8333, -0.8333]),
        (2, [2, 4, 9], 12, [1.78, -1.23, 0.45]),
        (3, [1, 2, 4, 9], 12, [1.816, -1.581, 1.215, -0.45]),
        (3, [2, 7, 12, 17], 20, [1.816, -1.068, 0.288, -0.036]),
        (4, [0, 1], 4, [4, -3]),
        (4, [0, 1, 5], 8, [2.0313, -2.1563, 1.125]),
        (4, [0, 1, 5, 9], 12, [2.1016, -1.5234, 0.7031, -0.2813]),
        (4, [0, 1, 5, 9, 13], 16, [2.1147, -1.5762, 0.5713, -0.1626, 0.0527]),
        (4, [1, 5, 9, 13, 17], 20, [2.1147, -1.5762, 0.5713, -0.1230, 0.0132]),
        (1, [0], 3, [1]),
        (1, [0, 5], 7, [1.4, -0.4]),
        (2, [0, 6, 12], 18, [2.5, -2, 0.5]),  # order 2 is Adams-Bashforth 2 on backward slopes, at any gaps
        (2, [5, 9, 15], 18, [1.625, -0.8125, 0.1875]),
    ],
)
def test_taylorseer(order: int, nodes: list[float], tau: float, expected: list[float]) -> None:
    assert newest_first(TaylorSeer(order), nodes, tau) == pytest.approx(expected, abs=5.1e-5)


@pytest.mark.parametrize(
    "order, nodes, tau, expected",
    [
        (1, [1, 2], 5, [4, -3]),
        (1, [2, 8], 11, [1.5, -0.5]),
        (2, [2, 8, 14], 17, [1.875, -1.25, 0.375]),
        (2, [1, 2, 8], 11, [2.1429, -5.0, 3.8571]),
        (3, [0, 1, 2, 3], 4, [4, -6, 4, -1]),
        (3, [7], 9, [1]),
    ],
)
def test_lagrange(order: int, nodes: list[float], tau: float, expected: list[float]) -> None:
    assert newest_first(Lagrange(order), nodes, tau) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("gap", [1.0, 6.0])
@pytest.mark.parametrize("u", [0.2, 0.5, 1.0, 1.5])
def test_closed_forms_at_equal_gaps(gap: float, u: float) -> None:
    nodes, tau = [0.0, gap, 2 * gap], (2 + u) * gap
    quadratic = [1 + 1.5 * u + u**2 / 2, -2 * u - u**2, u / 2 + u**2 / 2]
    taylor = [1 + u + u**2 / 2, -u - u**2, u**2 / 2]
    assert newest_first(Lagrange(2), nodes, tau) == pytest.approx(quadratic, abs=1e-12)
    assert newest_first(TaylorSeer(2), nodes, tau) == pytest.approx(taylor, abs=1e-12)
    assert newest_first(TaylorSeer(1), nodes[1:], tau) == pytest.approx([1 + u, -u], abs=1e-12)


def test_taylorseer_at_unequal_gaps() -> None:
    """(1 + u + u^2/2, -u - u^2/2 (1 + r), u^2/2 r) with u = k / g_1 and r = g_1 / g_2, here 3/5 and 5/2."""
    assert newest_first(TaylorSeer(2), [0, 2, 7], 10) == pytest.approx([1.78, -0.6 - 0.18 * 3.5, 0.45], abs=1e-14)


@pytest.mark.parametrize("order, errors", [(1, [-2, -6, -12]), (2, [-1, -2, -3])])
def test_taylorseer_misses_a_parabola(order: int, errors: list[int]) -> None:
    nodes = np.arange(4.0)[-order - 1 :]
    found = [float(TaylorSeer(order).weights(nodes, 3.0 + k) @ nodes**2) - (3 + k) ** 2 for k in (1, 2, 3)]
    assert found == pytest.approx(errors, abs=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_taylorseer_is_exact_on_lines_at_any_gaps(order: int) -> None:
    nodes = np.array([0.3, 1.0, 2.5, 9.0, 9.75])[-order - 1 :]
    assert float(TaylorSeer(order).weights(nodes, 12.0) @ (3 * nodes - 2)) == pytest.approx(34.0, abs=1e-12)


def test_reuse_looks_at_the_newest_alone() -> None:
    assert newest_first(Reuse(), [0, 3], 50) == [1, 0]
    assert Reuse().window == 1


@pytest.mark.parametrize("order", [0, 1, 4])
def test_windows_hold_one_more_than_the_order(order: int) -> None:
    assert Lagrange(order).window == TaylorSeer(order).window == order + 1


def test_where_derivatives_start() -> None:
    assert (Reuse().start, Lagrange(2).start, TaylorSeer(2).start, TaylorSeer(2, start=1).start) == (0, 0, 0, 1)


def test_lagrange_stays_accurate_next_to_a_node() -> None:
    """The barycentric form does not cancel: w = (eps (1 + eps) / 2, 1 - eps^2, -eps (1 - eps) / 2), newest first."""
    eps = 2.0**-30
    expected = [eps * (1 + eps) / 2, 1 - eps**2, -eps * (1 - eps) / 2]
    assert newest_first(Lagrange(2), [-1, 0, 1], eps) == pytest.approx(expected, rel=1e-14)
