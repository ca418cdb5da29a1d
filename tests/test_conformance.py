"""What every forecaster promises: one row of `ALL_FORECASTERS` or `ALL_RECURSIVE` each, and one test per promise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from skipcast import History, Point, Run, degree_of_exactness, tableau
from skipcast.coordinates import Coordinate
from support.cases import ALL_COORDINATES, ALL_FORECASTERS, ALL_RECURSIVE, GRID, SCHEDULE, Case, drive, named

weighing = pytest.mark.parametrize("case", **named(ALL_FORECASTERS))
running = pytest.mark.parametrize("case", **named([*ALL_FORECASTERS, *ALL_RECURSIVE]))
recursive = pytest.mark.parametrize("case", **named(ALL_RECURSIVE))

#: Uneven as after a warm-up, oldest first; a forecaster takes the newest of them.
NODES = np.array([0.0, 1.0, 2.0, 8.0, 14.5])
TAUS = [15.0, 17.25, 20.0]


def windows(case: Case) -> list[np.ndarray]:
    return [NODES[-count:] for count in range(1, min(case.forecaster.window, len(NODES)) + 1)]


@running
@pytest.mark.parametrize("coordinate", **named(ALL_COORDINATES))
def test_degree_is_as_declared(case: Case, coordinate: Coordinate) -> None:
    if case.fits(coordinate):
        assert degree_of_exactness(case.method(coordinate), GRID) == case.degree


@running
def test_constants_are_kept_at_every_step(case: Case) -> None:
    """And a forecaster of degree -1 loses some, at every forecast."""
    table = tableau(case.method(), GRID)
    kept = np.abs(table.sum(axis=1) - 1) <= 1e-13 * np.abs(table).sum(axis=1)
    assert kept.tolist() == [case.keeps_constants or step in SCHEDULE.evaluated(50) for step in range(50)]


@running
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_a_run_keeps_dtype_and_shape(case: Case, dtype: torch.dtype) -> None:
    found = drive(case.method(), GRID, torch.randn(50, 2, 3, 4, 4).to(dtype))
    assert (found.dtype, found.shape) == (dtype, (50, 2, 3, 4, 4))


@running
def test_items_of_a_batch_are_independent(case: Case) -> None:
    values = torch.randn(50, 3, 2, 5)
    together = drive(case.method(), GRID, values)
    alone = [drive(case.method(), GRID, values[:, i : i + 1]) for i in range(3)]
    assert torch.equal(together, torch.cat(alone, dim=1))


@running
def test_a_shadow_changes_nothing(case: Case) -> None:
    """Forecasts at evaluated steps, made to be compared only, leave no trace in those that count."""
    values = torch.randn(50, 4, dtype=torch.float64)
    run = Run(case.method(), GRID, forecast_error=False)
    found = torch.stack([run.advance(value, lambda value=value: value) for value in values])
    assert torch.equal(found, drive(case.method(), GRID, values))


@recursive
def test_recursive_rules_are_exact_on_lines_or_are_not(case: Case) -> None:
    """From the second evaluation on, at every step."""
    method = case.method()
    line = torch.from_numpy(3 * method.coordinate(GRID)[:, None] - 2)
    error = (drive(method, GRID, line) - line).abs()[2:].max() / line.abs().max()
    assert error < 1e-10 if case.degree >= 1 else error > 1e-3


@weighing
def test_any_number_of_nodes_up_to_the_window_works(case: Case) -> None:
    for nodes in windows(case):
        for tau in TAUS:
            weights = case.forecaster.weights(nodes, tau)
            assert weights.shape == nodes.shape
            assert weights.dtype == np.float64
            assert np.isfinite(weights).all()
            assert (weights.sum() == pytest.approx(1.0, abs=1e-12)) == case.keeps_constants


@weighing
def test_the_newest_node_is_passed_through(case: Case) -> None:
    """And a forecaster that does not declare it misses it."""
    missed = [
        np.abs(case.forecaster.weights(nodes, nodes[-1]) - np.eye(len(nodes))[-1]).max() for nodes in windows(case)
    ]
    assert (max(missed) < 1e-12) == case.newest


@weighing
def test_interpolating_means_all_nodes(case: Case) -> None:
    """And a forecaster that does not declare it misses some node."""
    nodes = windows(case)[-1]
    found = np.array([case.forecaster.weights(nodes, float(node)) for node in nodes])
    assert np.allclose(found, np.eye(len(nodes)), rtol=0, atol=1e-12) == case.interpolating


@weighing
@pytest.mark.parametrize("scale, shift", [(1, 1000), (-1, 49), (0.02, 0), (1000, -3), (-0.001, 1)])
def test_shift_and_scale_of_tau_change_nothing(case: Case, scale: float, shift: float) -> None:
    """Or do, where the forecaster does not declare that they don't."""
    declared = {"affine": True, "distance": abs(scale) == 1, "none": False}[case.invariance]
    agrees = []
    for nodes, tau in itertools.product(windows(case), TAUS):
        expected = case.forecaster.weights(nodes, tau)
        found = case.forecaster.weights(scale * nodes + shift, scale * tau + shift)
        agrees.append(np.allclose(found, expected, rtol=1e-9, atol=1e-9))
    assert all(agrees) == declared


@weighing
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_a_forecast_is_the_weighted_sum(case: Case, dtype: torch.dtype) -> None:
    """Summed in at least float32 and rounded once."""
    history = History(case.forecaster.window)
    values = [torch.randn(2, 3, 4, 4).to(dtype) for _ in windows(case)]
    for step, value in enumerate(values, start=5):
        history.push(step, float(step), value)
    point = Point(5 + len(values), np.arange(50.0))
    found = case.forecaster.forecast(history, point)
    assert found.dtype == dtype
    assert found.shape == (2, 3, 4, 4)
    weights = case.forecaster.weights(history.nodes(), point.tau)
    exact = sum(w * value.double() for w, value in zip(weights, values, strict=True))
    terms = sum(abs(w) * value.double().abs() for w, value in zip(weights, values, strict=True)).max()
    summing = float(terms) * len(weights) * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    assert ((found.double() - exact).abs() <= torch.finfo(dtype).eps / 2 * exact.abs() + summing).all()
