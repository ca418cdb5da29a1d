"""The tableau: its shape, its meaning, tables written by hand, and the order growth of the published methods."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from skipcast import (
    History,
    Method,
    Point,
    Run,
    TimeGrid,
    amplification,
    degree_of_exactness,
    tableau,
)
from skipcast.controllers import Controller, FixedSteps, Periodic
from skipcast.coordinates import Sigma
from skipcast.forecasters import Forecaster, Lagrange, Reuse, TaylorSeer
from skipcast.targets import GlobalDrift
from support.cases import ALL_FORECASTERS, ALL_RECURSIVE, GRID, SCHEDULE, Case, drive, named


def newest_first(method: Method, step: int, count: int) -> list[float]:
    """The weights of a step on the `count` newest evaluations before it; there must be no others."""
    row = tableau(method, GRID)[step]
    evaluated = [i for i in method.controller.evaluated(len(GRID)) if i <= step][::-1]
    assert not np.delete(row, evaluated[:count]).any()
    return row[evaluated[:count]].tolist()


def flux(order: int, interval: int) -> Method:
    return Method(TaylorSeer(order, start=1), Periodic(3, interval))


DIT = Method(TaylorSeer(4), Periodic(2, 4))


@pytest.mark.parametrize("case", **named([*ALL_FORECASTERS, *ALL_RECURSIVE]))
def test_rows_read_only_the_past_and_only_evaluations(case: Case) -> None:
    table = tableau(case.method(), GRID)
    evaluated = list(SCHEDULE.evaluated(50))
    assert table.shape == (50, 50)
    assert table.dtype == np.float64
    assert not np.triu(table, 1).any()
    assert not np.delete(table, evaluated, axis=1).any()
    assert np.array_equal(table[evaluated], np.eye(50)[evaluated])
    if not case.forecaster.recursive:
        assert (np.count_nonzero(table, axis=1) <= case.forecaster.window).all()


@pytest.mark.parametrize("case", **named([*ALL_FORECASTERS, *ALL_RECURSIVE]))
def test_the_tableau_is_the_run(case: Case) -> None:
    values = torch.randn(50, 4, dtype=torch.float64)
    table = torch.from_numpy(tableau(case.method(), GRID))
    missed = drive(case.method(), GRID, values) - table @ values
    assert (missed.abs() <= 1e-13 * (1 + table.abs() @ values.abs())).all()


def test_lagrange_table_by_hand() -> None:
    """Evaluated at 0, 2, 4: reuse of 0 at step 1, then lines."""
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [-0.5, 0, 1.5, 0, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, -0.5, 0, 1.5, 0],
    ]
    found = tableau(Method(Lagrange(1), Periodic(1, 2)), TimeGrid.shifted(6))
    assert np.abs(found - np.array(expected)).max() < 1e-15
    assert amplification(found).tolist() == pytest.approx([1, 1, 1, 2, 1, 2], abs=1e-15)


def test_reuse_table_by_hand() -> None:
    assert tableau(Method(Reuse(), FixedSteps((0, 1, 3))), TimeGrid.shifted(5)).tolist() == [
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 0],
    ]


def test_the_target_is_left_out() -> None:
    method = Method(Lagrange(1), SCHEDULE)
    drift = Method(Lagrange(1), SCHEDULE, target=GlobalDrift())
    assert np.array_equal(tableau(method, GRID), tableau(drift, GRID))


@pytest.mark.parametrize(
    "method, step, expected",
    [
        # TaylorSeer with warm-up 3 and derivatives from step 1 on (arXiv:2503.06923).
        *((flux(1, 6), step, w) for step, w in [(5, [4, -3]), (11, [1.5, -0.5]), (19, [1.8333, -0.8333])]),
        *((flux(order, 6), 5, [4, -3, 0]) for order in (2, 3)),
        (flux(2, 6), 11, [1.625, -1.375, 0.75]),
        (flux(2, 6), 17, [1.625, -0.75, 0.125]),
        (flux(2, 6), 19, [2.1806, -1.5278, 0.3472]),
        (flux(3, 5), 20, [1.816, -1.068, 0.288, -0.036]),
        # TaylorSeer on DiT: three steps after the newest evaluation.
        (DIT, 4, [4, -3]),
        (DIT, 8, [2.0313, -2.1563, 1.125]),
        (DIT, 12, [2.1016, -1.5234, 0.7031, -0.2813]),
        (DIT, 16, [2.1147, -1.5762, 0.5713, -0.1626, 0.0527]),
        (DIT, 20, [2.1147, -1.5762, 0.5713, -0.1230, 0.0132]),
        # With a warm-up of one it reuses its first window.
        *((Method(TaylorSeer(1), Periodic(1, 5)), step, [1.0]) for step in (1, 2, 3, 4)),
        (Method(TaylorSeer(1), Periodic(1, 5)), 7, [1.4, -0.4]),
    ],
    ids=str,
)
def test_taylorseer_as_released(method: Method, step: int, expected: list[float]) -> None:
    assert newest_first(method, step, len(expected)) == pytest.approx(expected, abs=5.1e-5)


@pytest.mark.parametrize(
    "steps, target, gain",
    [((0, 2, 7), 11, 0.92), ((0, 17, 22), 26, 0.95), ((0, 32, 37), 41, 1.02), ((0, 1, 2), 6, 4.30)],
)
def test_gain_of_a_line_in_sigma_on_the_flux_grid(steps: tuple[int, ...], target: int, gain: float) -> None:
    grid = TimeGrid.shifted(50, float(np.exp(1.15)))
    row = tableau(Method(Lagrange(1), FixedSteps(steps), Sigma()), grid)[target]
    assert row[steps[2]] == pytest.approx(1 + gain, abs=5e-3)
    assert row[steps[1]] == pytest.approx(-gain, abs=5e-3)


def exact_quadratic(nodes: tuple[int, ...], tau: int) -> list[Fraction]:
    return [
        Fraction(int(np.prod([tau - b for b in nodes if b != a])), int(np.prod([a - b for b in nodes if b != a])))
        for a in nodes
    ]


def test_lagrange_rows_in_exact_arithmetic() -> None:
    table = tableau(Method(Lagrange(2), SCHEDULE), GRID)
    for nodes in [(0, 1, 2), (1, 2, 8), (2, 8, 14), (8, 14, 20), (32, 38, 44)]:
        for step in range(nodes[-1] + 1, min(nodes[-1] + 6, 50)):
            expected = [float(w) for w in exact_quadratic(nodes, step)]
            assert table[step, list(nodes)].tolist() == pytest.approx(expected, rel=1e-13)


@dataclass(frozen=True)
class Shrunk(Reuse):
    def weights(self, nodes: np.ndarray, tau: float) -> np.ndarray:
        return 0.9 * np.eye(len(nodes))[-1]


def test_what_the_degree_counts() -> None:
    """With a start of 2, steps 0 and 1 are left out, so the first window is reuse and does not count."""
    assert degree_of_exactness(Method(TaylorSeer(1, start=2), SCHEDULE), GRID) == 1
    assert degree_of_exactness(Method(Lagrange(3), SCHEDULE), GRID, highest=2) == 2
    assert degree_of_exactness(Method(Shrunk(), SCHEDULE), GRID) == -1


@pytest.mark.parametrize("controller", [Periodic(1, 1), FixedSteps((0, 2, 49))], ids=str)
def test_degree_needs_forecasts_behind_a_full_history(controller: Controller) -> None:
    with pytest.raises(ValueError, match=r"forecast steps behind a full history; take a longer grid"):
        degree_of_exactness(Method(Lagrange(2), controller), GRID)


@dataclass(frozen=True)
class Limiter(Forecaster):
    @property
    def window(self) -> int:
        return 1

    def forecast(self, history: History, point: Point) -> Tensor:
        return history.combine(np.ones(1)).clamp(-1, 1)


@dataclass(frozen=True)
class WhenLarge(Controller):
    def check(self, steps: int) -> None: ...

    def evaluate(self, run: Run) -> bool:
        return bool(run.history.combine(np.ones(1)).norm() > 1)


@pytest.mark.parametrize("method", [Method(Limiter()), Method(Reuse(), WhenLarge())], ids=["forecaster", "controller"])
def test_methods_that_look_at_values_are_refused_by_name(method: Method) -> None:
    message = r"^(Limiter\(\) weighs|WhenLarge\(\) decides) by the values.*only a real run has"
    with pytest.raises(ValueError, match=message):
        tableau(method, GRID)
