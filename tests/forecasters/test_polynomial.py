"""Reuse, Lagrange and TaylorSeer against weights worked out by hand (listed newest first, as papers do)."""

from __future__ import annotations

import pytest

from skipcast.forecasters import Lagrange, LinearForecaster, Reuse, TaylorSeer
from support.cases import newest_first


@pytest.mark.parametrize(
    "forecaster, nodes, tau, expected",
    [  # those of TaylorSeer's released schedules are in ../test_tableau.py
        (Reuse(), [0, 3], 50, [1, 0]),
        (TaylorSeer(2), [2, 4, 9], 12, [1.78, -1.23, 0.45]),
        (TaylorSeer(3), [1, 2, 4, 9], 12, [1.816, -1.581, 1.215, -0.45]),
        (TaylorSeer(1), [0], 3, [1]),
        (Lagrange(1), [1, 2], 5, [4, -3]),
        (Lagrange(1), [2, 8], 11, [1.5, -0.5]),
        (Lagrange(2), [2, 8, 14], 17, [1.875, -1.25, 0.375]),
        (Lagrange(2), [1, 2, 8], 11, [2.1429, -5.0, 3.8571]),
        (Lagrange(3), [0, 1, 2, 3], 4, [4, -6, 4, -1]),
        (Lagrange(3), [7], 9, [1]),
    ],
    ids=str,
)
def test_published_weights(forecaster: LinearForecaster, nodes: list[float], tau: float, expected: list[float]) -> None:
    assert newest_first(forecaster, nodes, tau) == pytest.approx(expected, abs=5.1e-5)


def test_windows_hold_one_more_than_the_order_and_where_derivatives_start() -> None:
    assert Reuse().window == 1
    for order in (0, 1, 4):
        assert Lagrange(order).window == TaylorSeer(order).window == order + 1
    assert (Reuse().start, Lagrange(2).start, TaylorSeer(2).start, TaylorSeer(2, start=1).start) == (0, 0, 0, 1)


def test_lagrange_stays_accurate_next_to_a_node() -> None:
    """The barycentric form does not cancel: w = (eps (1 + eps) / 2, 1 - eps^2, -eps (1 - eps) / 2), newest first."""
    eps = 2.0**-30
    expected = [eps * (1 + eps) / 2, 1 - eps**2, -eps * (1 - eps) / 2]
    assert newest_first(Lagrange(2), [-1, 0, 1], eps) == pytest.approx(expected, rel=1e-14)
