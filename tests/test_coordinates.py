"""Grids and coordinates by hand and their checks; phase maps against the numbers of ResilPhase (arXiv:2606.26769)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from skipcast import TimeGrid
from skipcast.coordinates import Angle, Balanced, Chebyshev, Coordinate, HalfLogSNR, PhaseMap, Sigma, StepIndex
from support.cases import ALL_COORDINATES, GRIDS, named

HALVES = TimeGrid.flow([0.8, 0.5, 0.2])


def test_flow_by_hand() -> None:
    grid = TimeGrid.flow([1.0, 0.75, 0.25])
    assert len(grid) == 3
    assert grid.alpha.tolist() == [0.0, 0.25, 0.75]
    assert grid.timestep.tolist() == [1000.0, 750.0, 250.0]
    assert TimeGrid.flow([0.5], scale=1.0).timestep.tolist() == [0.5]


def test_shifted_by_hand() -> None:
    """s = 1, 3/4, 1/2, 1/4 becomes 3 s / (1 + 2 s)."""
    assert TimeGrid.shifted(4, 3.0).sigma.tolist() == pytest.approx([1.0, 0.9, 0.75, 0.5], abs=1e-15)
    assert TimeGrid.shifted(4).sigma.tolist() == [1.0, 0.75, 0.5, 0.25]
    assert TimeGrid.shifted(1, 3.0).sigma.tolist() == [1.0]


def test_a_grid_is_a_frozen_float64_copy() -> None:
    sigma = np.array([0.9, 0.1])
    grid = TimeGrid(timestep=[900, 100], alpha=np.array([0.1, 0.9], dtype=np.float32), sigma=sigma)
    sigma[0] = 0.0
    assert grid.sigma.tolist() == [0.9, 0.1]
    assert {grid.timestep.dtype, grid.alpha.dtype, grid.sigma.dtype} == {np.dtype(np.float64)}
    with pytest.raises(ValueError, match="read-only"):
        grid.sigma[0] = 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        grid.sigma = sigma


@pytest.mark.parametrize(
    "coordinate, expected",
    [
        (StepIndex(), [0.0, 1.0, 2.0]),
        (Sigma(), [0.8, 0.5, 0.2]),
        (HalfLogSNR(), [-math.log(4), 0.0, math.log(4)]),
        (Angle(), [math.atan(4), math.pi / 4, math.atan(1 / 4)]),
    ],
    ids=str,
)
def test_coordinate_by_hand(coordinate: Coordinate, expected: list[float]) -> None:
    assert coordinate(HALVES).tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("coordinate", **named(ALL_COORDINATES))
def test_coordinate_is_finite_and_strictly_monotone(coordinate: Coordinate, grid: TimeGrid) -> None:
    tau = coordinate(grid)
    assert (tau.shape, tau.dtype) == ((50,), np.float64)
    moves = np.diff(tau)
    assert (moves > 0).all() or (moves < 0).all()
    tau[0] = 7.0  # is a copy
    assert grid.sigma[0] != 7.0


@pytest.mark.parametrize("sigma, step, value", [([1.0, 0.5], 0, "-inf"), ([0.5, 0.0], 1, "inf")])
def test_an_infinite_coordinate_names_itself_the_step_and_the_cure(sigma: list[float], step: int, value: str) -> None:
    with pytest.raises(ValueError, match=rf"^HalfLogSNR\(\) is {value} at step {step} .*use Angle\(\)"):
        HalfLogSNR()(TimeGrid.flow(sigma))
    assert np.isfinite(Angle()(TimeGrid.flow(sigma))).all()


@pytest.mark.parametrize("alpha, step", [([0.1, 0.4, 0.1], 1), ([0.4, 0.3, 0.4], 0), ([0.4, 0.3, 0.2], 0)])
def test_a_coordinate_that_turns_back_or_stands_still_names_the_steps(alpha: list[float], step: int) -> None:
    grid = TimeGrid(timestep=[3, 2, 1], alpha=alpha, sigma=[0.4, 0.3, 0.2])
    message = rf"^HalfLogSNR\(\) is not strictly monotone between steps {step} and {step + 1} of this grid"
    with pytest.raises(ValueError, match=message):
        HalfLogSNR()(grid)


@pytest.mark.parametrize(
    "phase, nodes, tau, mapped, wanted",
    [
        (Balanced(), [2, 8], 11, [-0.5005, 0.5005], 0.8005),
        (Balanced(), [2, 8, 14], 17, [-0.5005, 0, 0.5005], 0.6778),
        (Balanced(), [1, 2, 8], 11, [-0.3261, -0.2084, 0.5005], 0.7310),
        (Balanced(), [2, 6, 10], 13, [-0.5005, 0, 0.5005], 0.7454),
        (Balanced(), [0, 4, 8, 12], 15, [-0.5005, -0.1813, 0.1813, 0.5005], 0.6778),
        (Balanced(), [1, 5, 9, 13, 17], 20, [-0.5005, -0.2683, 0, 0.2683, 0.5005], 0.6389),
        (Chebyshev(), [2, 8], 11, [0.7071, -0.7071], -1.4142),
        (Chebyshev(), [2, 8, 14], 17, [0.8660, 0, -0.8660], -1.2990),
        (Chebyshev(), [0, 4, 8, 12], 15, [0.9239, 0.3827, -0.3827, -0.9239], -1.3298),
        (Chebyshev(), [0, 1, 5, 9, 13], 16, [0.9511, 0.5878, 0, -0.5878, -0.9511], -1.2235),
    ],
    ids=str,
)
def test_phase_map_as_published(
    phase: PhaseMap, nodes: list[int], tau: int, mapped: list[float], wanted: float
) -> None:
    found, target = phase(np.array(nodes, dtype=float), float(tau))
    assert found.tolist() == pytest.approx(mapped, abs=5e-5)
    assert target == pytest.approx(wanted, abs=5e-5)


def test_balanced_inverts_as_published() -> None:
    """t = mean + d_max / alpha artanh(s)."""
    nodes = np.array([1.0, 2.0, 8.0])
    mapped, wanted = Balanced(0.3)(nodes, 11.0)
    back = 11 / 3 + (13 / 3) / 0.3 * np.arctanh(np.append(mapped, wanted))
    assert back.tolist() == pytest.approx([1, 2, 8, 11], abs=1e-12)


@pytest.mark.parametrize("phase", [Balanced(), Chebyshev()], ids=str)
def test_a_single_node_coincides_with_the_wanted_point(phase: PhaseMap) -> None:
    mapped, wanted = phase(np.array([4.0]), 9.0)
    assert mapped.tolist() == [wanted]
