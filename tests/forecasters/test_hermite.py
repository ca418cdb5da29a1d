"""HiCache against its numbers and a transcription of its recursion (arXiv:2508.16984)."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from research.fidelity.decisions import counter
from research.fidelity.forecasts import hermite, series
from research.fidelity.sequences import alone
from skipcast import Method
from skipcast.controllers import Periodic
from skipcast.forecasters import HiCache
from support.cases import newest_first, random, run_of


@pytest.mark.parametrize(
    "scale, nodes, tau, expected",
    [
        (0.5, [1, 2, 9], 12, [1.2321, -0.3571, 0.1250]),
        (0.5, [2, 9, 16], 19, [1.2321, -0.2500, 0.0179]),
        (0.5, [2, 9, 16], 22, [1.5153, -0.6020, 0.0867]),
        (0.71, [2, 9, 16], 19, [1.5151, -0.5982, 0.0831]),
        (0.71, [2, 9, 16], 22, [2.2273, -1.5904, 0.3631]),
    ],
)
def test_published_weights(scale: float, nodes: list[float], tau: float, expected: list[float]) -> None:
    assert newest_first(HiCache(2, scale), nodes, tau) == pytest.approx(expected, abs=5.1e-5)


def test_it_is_not_scale_free() -> None:
    """The same window in half steps has another forecast, so no other coordinate is taken."""
    assert newest_first(HiCache(), [1, 4.5, 8], 9.5) != pytest.approx(newest_first(HiCache(), [2, 9, 16], 19), abs=1e-2)


@pytest.mark.parametrize("warmup, interval", [(3, 7), (3, 4), (4, 8), (1, 5)])
@pytest.mark.parametrize("order, scale", [(1, 0.3), (2, 0.5), (3, 0.71)])
def test_a_run_is_the_published_recursion(order: int, scale: float, warmup: int, interval: int) -> None:
    found = run_of(Method(HiCache(order, scale, start=max(warmup - 2, 0)), Periodic(warmup, interval)), random(5))
    expected = alone(series(partial(hermite, scale, order), warmup), random(5), counter(50, warmup, interval))
    assert np.abs(found - expected).max() < 1e-10


def test_what_it_needs() -> None:
    assert (HiCache(3).window, HiCache(3).min_evaluations, HiCache(3, start=2).start) == (4, 4, 2)
