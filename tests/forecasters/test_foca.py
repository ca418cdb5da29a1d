"""FoCa against weights worked out by hand, its closed form and a transcription of its equations (arXiv:2508.16211)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from research.fidelity.decisions import counter
from research.fidelity.forecasts import foca
from skipcast import Method, Point, Run, tableau
from skipcast.controllers import Periodic
from skipcast.coordinates import Coordinate, Sigma, StepIndex
from skipcast.forecasters import FoCa, TaylorSeer
from support.cases import GRID, SCHEDULE, random, run_of


@pytest.mark.parametrize(
    "step, expected, error",
    [
        (3, [0, 0, 2, -1], -2),
        (5, [0, 0, 4, -3], -12),
        (7, [0, 0, 6, -5], -30),
        (9, [0, 1.5833, -3.0833, 2.5], 10.5),
        (10, [0, 1.9583, -4.7083, 3.75], 10.25),
        (13, [0, 2.6406, -6.4844, 4.8438], -21.094),
        (15, [1.5833, -1.4036, 3.2422, -2.4219], 6.047),
        (19, [2.6406, -3.2300, 6.2817, -4.6924], -29.722),
    ],
)
def test_weights_with_the_backward_difference(step: int, expected: list[float], error: float) -> None:
    """On F(14), F(8), F(2), F(1), and the error on t^2."""
    row = tableau(Method(FoCa(), SCHEDULE), GRID)[step]
    assert row[[14, 8, 2, 1]].tolist() == pytest.approx(expected, abs=5.1e-5)
    assert row @ np.arange(50.0) ** 2 - step**2 == pytest.approx(error, abs=5.1e-4)


@pytest.mark.parametrize("step, expected", [(3, [0, 2.25, -1.5, 0.25]), (9, [1.8333, -5.2181, 4.7695, -0.3848])])
def test_weights_with_bdf2(step: int, expected: list[float]) -> None:
    """On F(8), F(2), F(1), F(0)."""
    row = tableau(Method(FoCa("bdf2"), SCHEDULE), GRID)[step]
    assert row[[8, 2, 1, 0]].tolist() == pytest.approx(expected, abs=5.1e-5)


def test_how_far_errors_grow() -> None:
    """From window to window, since each hands 31/32 of its jump to the next."""
    growth = np.abs(tableau(Method(FoCa(), SCHEDULE), GRID)).sum(axis=1)
    assert growth[[7, 13, 19]].tolist() == pytest.approx([11, 13.97, 16.85], abs=0.01)
    assert (np.diff(growth[[13, 19, 25, 31, 37, 43, 49]]) > 1).all()


@pytest.mark.parametrize("warmup, interval", [(3, 6), (3, 5), (4, 3), (1, 5), (2, 20), (3, 1)])
@pytest.mark.parametrize("slope", ["difference", "bdf2"])
def test_a_run_is_the_published_recursion(slope: str, warmup: int, interval: int) -> None:
    found = run_of(Method(FoCa(slope), Periodic(warmup, interval)), random(8))
    expected = foca(random(8), slope, counter(50, warmup, interval))
    assert (np.abs(found - expected) <= 1e-10 * np.maximum(1, np.abs(expected).max(axis=(1, 2), keepdims=True))).all()


@pytest.mark.parametrize("slope", ["difference", "bdf2"])
@pytest.mark.parametrize("coordinate", [StepIndex(), Sigma()], ids=str)
def test_refreshed_by_evaluations_alone_it_is_taylorseer(slope: str, coordinate: Coordinate) -> None:
    found, line = (
        tableau(Method(rule, SCHEDULE, coordinate), GRID) for rule in (FoCa(slope, refresh=True), TaylorSeer(1))
    )
    assert np.abs(found - line).max() < 1e-12


def test_weights_by_hand_at_uneven_nodes() -> None:
    """Evaluated at 0 and 3, forecast at 5: 1 + 2/2 (1/2) on 5, 2/2 (1/3 - 1/2) on 3, 2/2 (-1/3) on 0."""
    found = FoCa().weights(np.array([0.0, 3.0, 5.0]), np.array([True, True, False]), Point(3, np.array([0.0, 3, 5, 7])))
    assert found.tolist() == pytest.approx([-1 / 3, 1 / 3 - 1 / 2, 3 / 2], abs=1e-14)


@pytest.mark.parametrize("slope, kept", [("difference", 4), ("bdf2", 5)])
def test_memory_does_not_grow_with_the_gap(slope: str, kept: int) -> None:
    """Two evaluations and the newest two or three values, counted twice where they coincide."""
    run = Run(Method(FoCa(slope), Periodic(3, 12)), GRID)
    value, held = torch.zeros(4, 5), []
    for _ in range(50):
        run.advance(value, lambda: value)
        held.append(run.bytes() // (4 * 5 * 4))
    assert max(held) == kept


def test_what_it_needs() -> None:
    assert (FoCa().window, FoCa("bdf2").window, FoCa().min_evaluations) == (2, 3, 2)
    assert FoCa().recursive
    assert FoCa().linear
