"""What every forecaster promises: one row of `ALL_FORECASTERS` each, and one test per promise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from cases import ALL_COORDINATES, ALL_FORECASTERS, GRID, SCHEDULE, Case, drive, named
from driftcast import Coordinate, History, Method, degree_of_exactness, tableau

pytestmark = pytest.mark.parametrize("case", **named(ALL_FORECASTERS))

#: Uneven as after a warm-up, oldest first; a forecaster takes the newest of them.
NODES = np.array([0.0, 1.0, 2.0, 8.0, 14.5])
TAUS = [15.0, 17.25, 20.0]


def windows(case: Case) -> list[np.ndarray]:
    return [NODES[-count:] for count in range(1, case.forecaster.window + 1)]


@pytest.mark.parametrize("coordinate", **named(ALL_COORDINATES))
def test_degree_is_as_declared(case: Case, coordinate: Coordinate) -> None:
    assert degree_of_exactness(Method(case.forecaster, SCHEDULE, coordinate), GRID) == case.degree


def test_constants_are_kept_at_every_step(case: Case) -> None:
    assert tableau(Method(case.forecaster, SCHEDULE), GRID).sum(axis=1).tolist() == pytest.approx([1.0] * 50, abs=1e-11)


def test_any_number_of_nodes_up_to_the_window_works(case: Case) -> None:
    for nodes in windows(case):
        for tau in TAUS:
            weights = case.forecaster.weights(nodes, tau)
            assert weights.shape == nodes.shape
            assert weights.dtype == np.float64
            assert np.isfinite(weights).all()
            assert weights.sum() == pytest.approx(1.0, abs=1e-12)


def test_the_newest_node_is_passed_through(case: Case) -> None:
    for nodes in windows(case):
        expected = np.eye(len(nodes))[-1]
        assert case.forecaster.weights(nodes, float(nodes[-1])) == pytest.approx(expected, abs=1e-12)


def test_interpolating_means_all_nodes(case: Case) -> None:
    """And a forecaster that does not declare it misses some node."""
    nodes = windows(case)[-1]
    found = np.array([case.forecaster.weights(nodes, float(node)) for node in nodes])
    assert np.allclose(found, np.eye(len(nodes)), rtol=0, atol=1e-12) == case.interpolating


def test_shift_and_scale_of_tau_change_nothing(case: Case) -> None:
    for scale, shift in [(1, 1000), (0.02, 0), (1000, -3), (-1, 49), (-0.001, 1)]:
        for nodes, tau in itertools.product(windows(case), TAUS):
            expected = case.forecaster.weights(nodes, tau)
            found = case.forecaster.weights(scale * nodes + shift, scale * tau + shift)
            assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_dtype_and_shape_are_kept(case: Case, dtype: torch.dtype) -> None:
    """And the value is the weighted sum, summed in at least float32 and rounded once."""
    history = History(case.forecaster.window)
    values = [torch.randn(2, 3, 4, 4).to(dtype) for _ in range(case.forecaster.window)]
    for step, value in enumerate(values, start=5):
        history.push(step, float(step), value)
    tau = history.nodes()[-1] + 1
    found = case.forecaster.forecast(history, tau)
    assert found.dtype == dtype
    assert found.shape == (2, 3, 4, 4)
    weights = case.forecaster.weights(history.nodes(), tau)
    exact = sum(w * value.double() for w, value in zip(weights, values, strict=True))
    terms = sum(abs(w) * value.double().abs() for w, value in zip(weights, values, strict=True)).max()
    summing = float(terms) * len(weights) * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    assert ((found.double() - exact).abs() <= torch.finfo(dtype).eps / 2 * exact.abs() + summing).all()


def test_items_of_a_batch_are_independent(case: Case) -> None:
    method, values = Method(case.forecaster, SCHEDULE), torch.randn(50, 3, 2, 5)
    together = drive(method, GRID, values)
    alone = [drive(method, GRID, values[:, i : i + 1]) for i in range(3)]
    assert torch.equal(together, torch.cat(alone, dim=1))
