"""Blends: the shares, the windows of the two parts, and what does not mix."""

from __future__ import annotations

import numpy as np
import pytest

from skipcast.coordinates import StepIndex
from skipcast.forecasters import Blend, ChebyshevRidge, HiCache, Lagrange, Reuse, TaylorSeer

NODES = np.array([0.0, 1.0, 2.0, 8.0])


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_each_part_sees_its_own_newest_evaluations(share: float) -> None:
    found = Blend(Lagrange(1), Lagrange(3), share).weights(NODES, 11.0)
    line = np.append([0.0, 0.0], Lagrange(1).weights(NODES[-2:], 11.0))
    cubic = Lagrange(3).weights(NODES, 11.0)
    assert found.tolist() == pytest.approx(((1 - share) * line + share * cubic).tolist(), abs=1e-14)


def test_the_order_of_parts_is_the_share_the_other_way_round() -> None:
    found = Blend(Reuse(), TaylorSeer(2), 0.2).weights(NODES[-3:], 9.0)
    assert found.tolist() == pytest.approx(Blend(TaylorSeer(2), Reuse(), 0.8).weights(NODES[-3:], 9.0).tolist())


def test_half_of_a_slope() -> None:
    """HiCache of order 1 at its published scale is the middle between reuse and a line."""
    found = Blend(Reuse(), Lagrange(1), 0.5).weights(NODES[-2:], 11.0)
    assert found.tolist() == pytest.approx(HiCache(1).weights(NODES[-2:], 11.0).tolist(), abs=1e-14)


def test_it_needs_and_remembers_what_either_does() -> None:
    blend = Blend(TaylorSeer(2, start=1), HiCache(3, start=1))
    assert (blend.window, blend.min_evaluations, blend.start, blend.coordinates) == (4, 4, 1, (StepIndex,))
    assert Blend(Lagrange(1), ChebyshevRidge()).window == ChebyshevRidge().window
    assert Blend(Reuse(), Lagrange(1)).coordinates == ()
