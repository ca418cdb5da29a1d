"""TimeGrid: its two constructors by hand, and what it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from skipcast import TimeGrid


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


GOOD = {"timestep": [900.0, 100.0], "alpha": [0.1, 0.9], "sigma": [0.9, 0.1]}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("value", [[], 0.5, [[0.9, 0.1]], [0.9, np.nan], [np.inf, 0.1]], ids=str)
def test_each_array_must_be_a_finite_vector(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"TimeGrid\({name}=\.\.\.\) must be a non-empty, finite vector"):
        TimeGrid(**{**GOOD, name: value})


@pytest.mark.parametrize("name", ["alpha", "sigma"])
def test_lengths_must_agree(name: str) -> None:
    with pytest.raises(ValueError, match=rf"TimeGrid\({name}=\.\.\.\) has 3 entries, .* has 2; give one per step"):
        TimeGrid(**{**GOOD, name: [0.9, 0.5, 0.1]})


@pytest.mark.parametrize("sigma", [[0.1, 0.9], [0.5, 0.5]], ids=str)
def test_sigma_must_fall(sigma: list[float]) -> None:
    with pytest.raises(ValueError, match=r"TimeGrid\(sigma=\.\.\.\) must fall strictly .*, noisy to clean"):
        TimeGrid(**{**GOOD, "sigma": sigma})


def test_shifted_refuses_what_makes_no_grid() -> None:
    with pytest.raises(ValueError, match=r"TimeGrid\.shifted\(steps=\.\.\.\) must be at least 1, got 0"):
        TimeGrid.shifted(0)
    for shift in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match=r"TimeGrid\.shifted\(shift=\.\.\.\) must be positive, got"):
            TimeGrid.shifted(4, shift)
