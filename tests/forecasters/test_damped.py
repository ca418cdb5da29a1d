"""Damped differences against their released formulas."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from research.fidelity.forecasts import damped, series
from research.fidelity.sequences import GRIDS, largest_difference
from skipcast import IncompatibleParts, Method, TimeGrid, method
from skipcast.controllers import Periodic
from skipcast.coordinates import Sigma
from skipcast.forecasters import ScaledTaylor, TaylorSeer


@pytest.mark.parametrize("grid", GRIDS, ids=len)
@pytest.mark.parametrize("order, scale, warmup, interval", [(2, 0.5, 3, 6), (1, 0.6, 3, 5), (3, 0.7, 1, 7)])
def test_taylor_scaled_is_the_released_formula(
    grid: TimeGrid, order: int, scale: float, warmup: int, interval: int
) -> None:
    built = method(f"hicache-taylor:order={order},scale={scale},warmup={warmup},interval={interval},target=output")
    assert built == Method(ScaledTaylor(order, scale, start=max(warmup - 2, 0)), Periodic(warmup, interval))
    for seed in range(3):
        assert largest_difference(built, series(partial(damped, scale, order), warmup), grid, seed) < 1e-10


def test_a_quarter_of_the_distance_at_the_released_scale() -> None:
    nodes = np.array([2.0, 8.0, 14.0])
    assert ScaledTaylor().weights(nodes, 18.0).tolist() == TaylorSeer(2).weights(nodes, 15.0).tolist()
    assert ScaledTaylor(1).weights(nodes[1:], 18.0) == pytest.approx([-1 / 6, 7 / 6], abs=1e-14)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"ScaledTaylor\(order=...\) must be >= 0, got -1"):
        ScaledTaylor(-1)
    with pytest.raises(ValueError, match=r"ScaledTaylor\(scale=...\) must be positive and finite, got 0"):
        ScaledTaylor(1, 0)
    with pytest.raises(IncompatibleParts, match=r"is a rule in StepIndex\(\), not in Sigma\(\)"):
        Method(ScaledTaylor(), coordinate=Sigma())
