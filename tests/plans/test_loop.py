"""Closing the loop, and the quadratics of single pairs, on a flow whose network is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skipcast.plans.closed_loop import Table, close, final_errors, linearise, sweep_evaluations
from skipcast.plans.open_loop import OpenLoop, forecasts, improve, placed, search
from skipcast.plans.refine import neighbours
from support import toy

STEPS = (0, 4, 9, 14, 18)
EVERYONE = list(range(8))
STATES, OUTPUTS = toy.trajectories(toy.noise(8))


def closed(steps: tuple[int, ...] = STEPS, batch: int = 8) -> tuple[Table, toy.ToyEvaluator]:
    profile, evaluator = toy.profile(), toy.ToyEvaluator(batch=batch)
    received = profile.timesteps[list(steps)]
    table, reached = close(steps, received, np.ones(len(steps)), evaluator, STATES, EVERYONE)
    np.testing.assert_allclose(reached, errors(table), rtol=1e-9, atol=1e-25)
    return table, evaluator


#: Passes: the leading branch at all of these steps, the other one where a step comes twice.
PASSES = (0, 4, 4, 7, 11, 11, 15, 18)


def of_passes(batch: int = 8, steps: tuple[int, ...] = PASSES) -> tuple[Table, toy.ToyEvaluator]:
    evaluator = toy.ToyEvaluator(batch=batch)
    received = toy.GRID.timestep[list(steps)]
    table, reached = close(steps, received, np.ones(len(steps)), evaluator, STATES, EVERYONE, branches="first call")
    np.testing.assert_allclose(reached, errors(table), rtol=1e-9, atol=1e-25)
    return table, evaluator


def errors(table: Table) -> np.ndarray:
    return final_errors(table, toy.ToyEvaluator(), STATES[:, -1], EVERYONE)


def test_every_step_evaluated_reproduces_the_reference() -> None:
    table, _ = closed(tuple(range(toy.STEPS)))
    assert errors(table).max() < 1e-9


def test_one_call_costs_m_evaluations_per_pair_and_several_give_the_same_rows() -> None:
    whole, evaluator = closed()
    assert (evaluator.calls, evaluator.evaluations) == (1, len(STEPS) * 8)
    parts, evaluator = closed(batch=3)
    for a, b in zip(whole.rows, parts.rows, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
    assert evaluator.evaluations == (2 * len(STEPS) - 1) * 8


@pytest.mark.parametrize("batch", [8, 3])
def test_pairs_kept_out_of_the_fit_do_not_move_the_rows(batch: int) -> None:
    spoiled = STATES.clone()
    spoiled[5, 1:] = 7.0
    fit = [i for i in EVERYONE if i != 5]
    received = toy.GRID.timestep[list(STEPS)]
    tables = [
        close(STEPS, received, np.ones(5), toy.ToyEvaluator(batch=batch), trajectory, fit, EVERYONE)
        for trajectory in (STATES, spoiled)
    ]
    for a, b in zip(tables[0][0].rows, tables[1][0].rows, strict=True):
        np.testing.assert_array_equal(a, b)
    assert tables[0][1][5] != tables[1][1][5]
    alone = close(STEPS, received, np.ones(5), toy.ToyEvaluator(batch=batch), STATES, fit)
    assert np.isnan(alone[1]).tolist() == [i == 5 for i in EVERYONE]


def test_closing_the_loop_beats_the_open_one() -> None:
    profile = toy.profile()
    rows = OpenLoop(profile.grams.mean(0), profile.states).rows(STEPS)
    table, _ = closed()
    opened = Table(STEPS, rows, table.timesteps, table.scale)
    assert errors(table).mean() < errors(opened).mean()


def test_rows_minimise_the_distance_to_the_next_reference_state() -> None:
    table, _ = closed()
    x, outputs = toy.noise(8), []
    for n, end in enumerate((*STEPS[1:], toy.STEPS)):
        outputs.append(toy.network(x, float(table.timesteps[n])))
        x = table.moved(n, x, outputs)
        missed = (x - STATES[:, end]).flatten()
        # The normal equations: what is missed is orthogonal to all regressors, up to the ridge.
        for y in outputs:
            assert abs(float(missed @ y.flatten())) < 1e-4 * float(y.norm()) * float(STATES[:, end].norm())


@pytest.mark.parametrize("batch", [8, 3])
def test_passes_close_the_loop_with_a_weight_for_each_branch(batch: int) -> None:
    table, evaluator = of_passes(batch)
    assert table.passes == ("lead", "lead", "other", "lead", "lead", "other", "lead", "lead")
    assert table.cost == 4
    assert [bool(np.any(row)) for row in table.rows] == [True, False, True, True, False, True, True, True]
    # In one call every pass once; in several x_0 again before each, and the leading pass again before the other one.
    assert evaluator.evaluations == 8 * (4 if batch == 8 else 4 + 7 / 2 + 2 / 2)
    whole = closed((0, 4, 11, 18))[0]
    assert whole.cost == 4
    # Guided outputs alone are what a plan of whole evaluations has; a leading branch more is one column more.
    both = of_passes(steps=(0, 0, 4, 4, 11, 11, 18, 18))[0]
    assert errors(both).mean() < errors(whole).mean()


def test_whole_evaluations_run_the_same_as_passes() -> None:
    table, _ = closed()
    passes = table.in_passes("first call")
    assert (passes.cost, passes.steps[:4]) == (table.cost, (0, 0, 4, 4))
    np.testing.assert_allclose(errors(passes), errors(table), rtol=1e-6)
    assert passes.in_passes("first call") is passes


def test_a_sweep_over_passes_moves_both_passes_of_a_step_together() -> None:
    table, _ = of_passes()
    evaluator = toy.ToyEvaluator(batch=3)  # which refuses a second pass at another state or time
    local = linearise(table, evaluator, STATES[:, -1], EVERYONE, timestep_change=0.5)
    assert evaluator.evaluations == 8 * sweep_evaluations(PASSES, "first call")
    free = [n for n in range(8) if n not in (1, 4)]
    assert local.places == (
        *((n, k) for n in free for k in range(n + 2)),
        *((n, -1) for n in (1, 3, 4, 6, 7)),
    )
    rng = np.random.default_rng(0)
    step = rng.normal(size=len(local.places)) * np.where([k < 0 for _, k in local.places], 0.2, 2e-4)
    moved = local.applied(table, step)
    assert moved.timesteps[1] == moved.timesteps[2] != table.timesteps[1]
    assert not np.any(moved.rows[1])
    change = errors(moved) - errors(table)
    np.testing.assert_allclose(local.errors(step) - errors(table), change, rtol=0.05, atol=0.02 * abs(change).max())
    better = local.applied(table, 0.25 * local.step(1e-2))
    assert np.log(errors(better)).mean() < np.log(errors(table)).mean()


def test_neighbours_of_passes_cost_as_much_and_trade_second_passes_for_steps() -> None:
    found = list(neighbours(PASSES, 2, toy.STEPS, passes=True))
    assert len(found) == len(set(found))
    for steps in found:
        assert len(steps) == len(PASSES)
        assert steps[0] == 0
        assert list(steps) == sorted(steps)
        assert max(map(steps.count, steps)) == 2
    assert (0, 4, 4, 7, 11, 11, 15, 16) in found  # a step moved,
    assert (0, 2, 2, 7, 11, 11, 15, 18) in found  # with both of its passes;
    assert (0, 4, 4, 7, 7, 11, 15, 18) in found  # a second pass moved,
    assert (0, 4, 7, 11, 11, 13, 15, 18) in found  # or spent on another step;
    assert (0, 4, 4, 7, 11, 11, 18, 18) in found  # a step given up for a second pass.


def test_quadratics_predict_small_changes_of_every_pair() -> None:
    table, _ = closed()
    local = linearise(table, toy.ToyEvaluator(batch=3), STATES[:, -1], EVERYONE, timestep_change=0.5)
    count = sum(n + 2 for n in range(5)) + 4
    assert local.a.shape == (8, count, count)
    assert local.places[-1] == (4, -1)
    np.testing.assert_allclose(local.errors(np.zeros(count)), errors(table), rtol=1e-9)
    rng = np.random.default_rng(0)
    step = rng.normal(size=count) * np.where([k < 0 for _, k in local.places], 0.2, 2e-4)
    change = errors(local.applied(table, step)) - errors(table)
    np.testing.assert_allclose(local.errors(step) - errors(table), change, rtol=0.05, atol=0.02 * abs(change).max())


def test_linearising_costs_what_it_says() -> None:
    table, _ = closed()
    for change in (None, 0.5):
        evaluator = toy.ToyEvaluator()
        linearise(table, evaluator, STATES[:, -1], EVERYONE, timestep_change=change)
        assert evaluator.evaluations == 8 * sweep_evaluations(STEPS, timesteps=change is not None)
    assert sweep_evaluations(range(5)) == 5 + (2 * 4 + 3 * 3 + 4 * 2 + 5 * 1) + 10


def test_damped_steps_lower_the_errors_and_strong_damping_holds_still() -> None:
    table, _ = closed()
    local = linearise(table, toy.ToyEvaluator(), STATES[:, -1], EVERYONE, timestep_change=0.5)
    before = np.log(errors(table)).mean()
    assert np.log(errors(local.applied(table, local.step(1e-3)))).mean() < before
    assert np.abs(local.step(1e9)).max() < 1e-6


@pytest.mark.parametrize("batch", [8, 5])
def test_final_errors_do_not_depend_on_the_batch(batch: int) -> None:
    table, _ = closed()
    found = final_errors(table, toy.ToyEvaluator(batch=batch), STATES[:, -1], EVERYONE)
    x, outputs = toy.noise(8), list[torch.Tensor]()
    for n in range(len(STEPS)):
        outputs.append(toy.network(x, float(table.timesteps[n])))
        x = table.moved(n, x, outputs)
    np.testing.assert_allclose(found, (x - STATES[:, -1]).square().mean(1), rtol=1e-12)


# The open loop against explicit tensors ------------------------------------------------------------------------------

SETS = [(0, 3, 9, 14), (0, 1, 2, 3), (0,), (0, 5, 6, 18, 19)]


@pytest.fixture(scope="module")
def loop() -> OpenLoop:
    profile = toy.profile()
    return OpenLoop(profile.grams.mean(0), profile.states, ridge=0.0)


@pytest.mark.parametrize("steps", SETS)
def test_rows_are_the_least_squares_fit_of_the_tensors(loop: OpenLoop, steps: tuple[int, ...]) -> None:
    total = torch.zeros_like(STATES[:, 0])
    for n, row in enumerate(loop.rows(steps)):
        start, end = steps[n], (*steps[1:], toy.STEPS)[n]
        columns = torch.stack([STATES[:, start], *(OUTPUTS[:, j] for j in steps[: n + 1])]).flatten(1)
        target = (STATES[:, end] - STATES[:, start]).flatten()
        explicit = torch.linalg.lstsq(columns.T, target).solution
        np.testing.assert_allclose(columns.T @ torch.tensor(row), columns.T @ explicit, atol=1e-7)
        total += (columns.T @ explicit - target).view_as(total)
    assert loop.error(steps) == pytest.approx(float(total.square().mean()), rel=1e-6)


def test_every_step_evaluated_is_the_scheduler_itself(loop: OpenLoop) -> None:
    assert loop.error(tuple(range(toy.STEPS))) < 1e-14


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
    rows = forecasts(gram, steps, ridge=0.0)
    assert [len(row) for row in rows] == [0, 1, 2]
    columns = OUTPUTS[:, [0, 4]].transpose(0, 1).flatten(1).T
    explicit = torch.linalg.lstsq(columns, OUTPUTS[:, 9].flatten()).solution
    np.testing.assert_allclose(rows[2], explicit, atol=1e-7)


def test_quadratics_move_along_with_the_table_and_keep_other_pairs() -> None:
    table = closed((0, 4, 9))[0]
    first = linearise(table, toy.ToyEvaluator(), STATES[:, -1], EVERYONE[:5])
    step = first.step(1e-2)
    there = first.moved(step)
    np.testing.assert_allclose(there.c, first.errors(step), rtol=1e-12)
    np.testing.assert_allclose(there.errors(-step), first.c, rtol=1e-9)
    np.testing.assert_allclose(there.errors(0.5 * step), first.errors(1.5 * step), rtol=1e-9)
    fresh = linearise(table, toy.ToyEvaluator(), STATES[:, -1], EVERYONE[3:])
    both = fresh.joined(first)
    assert both.pairs == (*EVERYONE[3:], *EVERYONE[:3])
    np.testing.assert_array_equal(both.c[-3:], first.c[:3])
    assert fresh.joined(None) is fresh
