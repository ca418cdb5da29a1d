"""Blends: the shares, the windows of the two parts, and what does not mix."""

from __future__ import annotations

import numpy as np
import pytest

from skipcast.coordinates import StepIndex
from skipcast.forecasters import Blend, ChebyshevRidge, HiCache, Lagrange, LinearForecaster, Reuse, TaylorSeer
from support.cases import newest_first

NODES = np.array([0.0, 1.0, 2.0, 8.0])


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_each_part_sees_its_own_newest_evaluations(share: float) -> None:
    line, cubic = newest_first(Lagrange(1), NODES[-2:], 11), newest_first(Lagrange(3), NODES, 11)
    expected = (1 - share) * np.array([*line, 0, 0]) + share * np.array(cubic)
    assert newest_first(Blend(Lagrange(1), Lagrange(3), share), NODES, 11) == pytest.approx(
        expected.tolist(), abs=1e-14
    )


@pytest.mark.parametrize(
    "blend, same",
    [
        (Blend(Reuse(), TaylorSeer(2), 0.2), Blend(TaylorSeer(2), Reuse(), 0.8)),
        # HiCache of order 1 at its published scale is the middle between reuse and a line.
        (Blend(Reuse(), Lagrange(1), 0.5), HiCache(1)),
    ],
    ids=str,
)
def test_equal_blends(blend: Blend, same: LinearForecaster) -> None:
    nodes = NODES[-blend.window :]
    assert newest_first(blend, nodes, 11) == pytest.approx(newest_first(same, nodes, 11), abs=1e-14)


def test_it_needs_and_remembers_what_either_does() -> None:
    blend = Blend(TaylorSeer(2, start=1), HiCache(3, start=1))
    assert (blend.window, blend.min_evaluations, blend.start, blend.coordinates) == (4, 4, 1, (StepIndex,))
    assert Blend(Lagrange(1), ChebyshevRidge()).window == ChebyshevRidge().window
    assert Blend(Reuse(), Lagrange(1)).coordinates == ()
