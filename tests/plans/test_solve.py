"""The open loop against explicit tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skipcast.plans.open_loop import OpenLoop, forecasts, improve, placed, search
from support import toy

SETS = [(0, 3, 9, 14), (0, 1, 2, 3), (0,), (0, 5, 6, 18, 19)]


@pytest.fixture(scope="module")
def loop() -> OpenLoop:
    profile = toy.profile()
    return OpenLoop(profile.grams.mean(0), profile.states, ridge=0.0)


@pytest.mark.parametrize("steps", SETS)
def test_rows_are_the_least_squares_fit_of_the_tensors(loop: OpenLoop, steps: tuple[int, ...]) -> None:
    states, outputs = toy.trajectories(toy.noise(8))
    total = torch.zeros_like(states[:, 0])
    for n, row in enumerate(loop.rows(steps)):
        start, end = steps[n], (*steps[1:], toy.STEPS)[n]
        columns = torch.stack([states[:, start], *(outputs[:, j] for j in steps[: n + 1])]).flatten(1)
        target = (states[:, end] - states[:, start]).flatten()
        explicit = torch.linalg.lstsq(columns.T, target).solution
        np.testing.assert_allclose(columns.T @ torch.tensor(row), columns.T @ explicit, atol=1e-7)
        total += (columns.T @ explicit - target).view_as(total)
    assert loop.error(steps) == pytest.approx(float(total.square().mean()), rel=1e-6)


def test_every_step_evaluated_is_the_scheduler_itself(loop: OpenLoop) -> None:
    steps = tuple(range(toy.STEPS))
    assert loop.error(steps) < 1e-14


@pytest.mark.parametrize("power", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("evaluations", [1, 2, 7, 20])
def test_placed_steps_are_distinct_and_in_range(evaluations: int, power: float) -> None:
    steps = placed(evaluations, 20, power)
    assert len(set(steps)) == evaluations
    assert list(steps) == sorted(steps)
    assert steps[0] == 0
    assert steps[-1] <= 19


def test_swaps_never_raise_the_error_and_stop_at_a_local_best(loop: OpenLoop) -> None:
    start = placed(5, toy.STEPS)
    steps, error = improve(start, loop)
    assert error <= loop.error(start)
    assert improve(steps, loop) == (steps, error)
    assert loop.error(search(loop, 5)[0]) <= error


def test_search_refuses_more_evaluations_than_steps(loop: OpenLoop) -> None:
    with pytest.raises(ValueError, match="evaluations=21 must lie between 1 and the 20"):
        search(loop, 21)


def test_forecasts_are_least_squares_on_earlier_outputs() -> None:
    gram, steps = toy.profile().grams.mean(0), (0, 4, 9)
    _, outputs = toy.trajectories(toy.noise(8))
    rows = forecasts(gram, steps, ridge=0.0)
    assert [len(row) for row in rows] == [0, 1, 2]
    columns = outputs[:, [0, 4]].transpose(0, 1).flatten(1).T
    explicit = torch.linalg.lstsq(columns, outputs[:, 9].flatten()).solution
    np.testing.assert_allclose(rows[2], explicit, atol=1e-7)
