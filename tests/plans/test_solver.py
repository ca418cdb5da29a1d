"""From requests to plans on the toy flow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from skipcast.plans.closed_loop import Table
from skipcast.plans.plain import extrapolated_tables, plain_tables
from skipcast.plans.plan import Plan
from skipcast.plans.profile import Request, _Solver
from skipcast.plans.refine import EFFORTS, Effort, Recorded, Refined, Split, _Refinement, neighbours
from support import toy


def solved(**goal: Any) -> Plan:
    return toy.profile(12).plan(refine=toy.ToyEvaluator(12, 12), **goal)


def psnr(plan: Plan) -> float:
    assert plan.predicted is not None
    return plan.predicted.psnr


@pytest.mark.parametrize(
    ("goal", "evaluations"),
    [({"nfe": 5}, 5), ({"speedup": 4}, 5), ({"speedup": 3.5}, 5), ({"steps": (0, 3, 9)}, 3)],
)
def test_budgets(goal: dict[str, Any], evaluations: int) -> None:
    plan = toy.profile().plan(**goal)
    assert plan.evaluations == evaluations
    assert plan.label == "open loop"
    assert plan.predicted is not None
    assert not plan.predicted.closed


def test_given_steps_are_used() -> None:
    assert toy.profile().plan(steps=(0, 3, 9)).steps == (0, 3, 9)
    assert solved(steps=(0, 3, 9), effort="low").steps == (0, 3, 9)


def test_refined_plans_are_validated_on_pairs_kept_out_of_the_fit() -> None:
    plan = solved(evaluations=5)
    assert plan.predicted is not None
    assert plan.predicted.held_out
    assert plan.predicted.closed
    assert plan.predicted.pairs == len(Split.of(12).judge) == 3


@pytest.mark.parametrize(
    ("pairs", "fit", "choose", "judge"),
    [(2, 2, 2, 2), (8, 6, 2, 2), (32, 16, 8, 8), (96, 48, 24, 24), (256, 96, 80, 80)],
)
def test_pairs_are_divided_by_their_use(pairs: int, fit: int, choose: int, judge: int) -> None:
    split = Split.of(pairs)
    assert (len(split.fit), len(split.choose), len(split.judge)) == (fit, choose, judge)
    if pairs >= 4:
        assert not set(split.fit) & {*split.choose, *split.judge}
    if pairs >= 32:
        assert sorted([*split.fit, *split.choose, *split.judge]) == list(range(pairs))


def chooser(pairs: int, effort: Effort, groups: dict[float, list[int]] | None = None) -> _Refinement:
    profile = toy.profile(pairs)
    assert profile.trajectory is not None
    recorded = Recorded(profile.trajectory, profile.gain, profile.timesteps, profile.scale, groups)
    return _Refinement(recorded, toy.ToyEvaluator(pairs, pairs), effort, lambda note, share: None)


@pytest.mark.parametrize("effort", ["low", "normal", "high"])
@pytest.mark.parametrize("evaluations", [1, 2, 4, 7])
def test_no_plain_sampler_is_ahead_on_the_choosing_pairs(evaluations: int, effort: str) -> None:
    plan = solved(evaluations=evaluations, effort=effort)
    judge = chooser(12, Effort())
    reached, profile = judge.score(judge.chosen_by([plan.table])), toy.profile(12)
    assert judge.evaluator.levels is not None
    tables = [
        *plain_tables(judge.evaluator.levels, profile.scale, evaluations),
        *extrapolated_tables(profile.states, profile.timesteps, profile.scale, evaluations),
    ]
    assert len(tables) >= 4
    for plain in tables:
        assert reached >= judge.score(judge.chosen_by([plain]))


def test_a_table_that_overflows_wins_nothing() -> None:
    judge = chooser(12, Effort())
    table = judge.closed((0, 5, 10)).tables[0]
    broken = Table(table.steps, (table.rows[0] * 1e300, *table.rows[1:]), table.timesteps, table.scale)
    assert judge.score(judge.chosen_by([broken])) == -np.inf


def test_a_sampler_that_nothing_beats_is_the_plan() -> None:
    profile = toy.profile(12)
    every = profile.plan(evaluations=20, refine=toy.ToyEvaluator(12, 12), effort=Effort(candidates=1))
    assert every.predicted is not None
    assert every.predicted.psnr > 150


def test_what_lies_beside_the_best_is_swept_once() -> None:
    finder = chooser(12, Effort(starts=2))
    closed = {steps: finder.closed(steps) for steps in [(0, 5, 10), (0, 5, 11), (0, 6, 10), (0, 5, 13)]}
    best, beside = closed[0, 5, 10], [closed[0, 5, 11], closed[0, 6, 10]]
    first = max(beside, key=finder.score)
    assert finder.neighbour(best, closed, {best.steps}) is first
    assert finder.neighbour(best, closed, {best.steps, first.steps}) is min(beside, key=finder.score)
    assert finder.neighbour(best, closed, {found.steps for found in beside}) is None


def test_neighbours_move_one_step_and_keep_the_first() -> None:
    assert list(neighbours((0, 2, 4), 1, 5)) == [(0, 2, 3), (0, 1, 4), (0, 3, 4)]


def test_work_that_would_cost_too_much_is_left_out() -> None:
    costs = []
    for generations in (1.0, 20.0):
        evaluator = toy.ToyEvaluator(12, 12)
        effort = Effort(candidates=1, moves=4, sweeps=2, generations=generations)
        toy.profile(12).plan(evaluations=5, refine=evaluator, effort=effort)
        costs.append(evaluator.evaluations / (12 * 20))
    assert costs[0] <= 1.0 < costs[1] <= 20.0


def test_more_effort_does_not_validate_worse() -> None:
    efforts = [Effort(power=0.0), Effort(power=0.0, candidates=4, sweeps=2)]
    less, more = (psnr(solved(evaluations=5, effort=effort)) for effort in efforts)
    assert more >= less


def test_a_sweep_takes_its_pairs_of_every_group() -> None:
    """Shared out among the groups they would be too few for the numbers of each."""
    two = {1.0: list(range(0, 16, 2)), 2.0: list(range(1, 16, 2))}
    tables = chooser(16, Effort(), two).closed((0, 5, 11)).tables
    for sweep_pairs, taken in ((4, 4), (None, 6), (50, 6)):
        finder = chooser(16, Effort(sweeps=1, sweep_pairs=sweep_pairs), two)
        found = finder.swept(Refined(tables, np.full(16, 1.0)))
        assert found is not None
        assert [len(local.c) for local in found.locals] == [taken, taken]
    assert finder.effort.evaluations(3, 20, 16, 2) > Effort(sweeps=1, sweep_pairs=4).evaluations(3, 20, 16, 2)


def test_a_sweep_frees_the_told_times() -> None:
    plan = solved(evaluations=5, effort=Effort(sweeps=2))
    assert not np.array_equal(plan.evaluation_timesteps, plan.timesteps[list(plan.steps)])
    fixed = solved(evaluations=5, effort=Effort(sweeps=2, free_timesteps=False))
    np.testing.assert_array_equal(fixed.evaluation_timesteps, fixed.timesteps[list(fixed.steps)])


def test_a_quality_is_reached_with_the_fewest_evaluations() -> None:
    plan = solved(psnr=45, effort="low")
    assert psnr(plan) >= 45 > psnr(solved(evaluations=plan.evaluations - 1, effort="low"))
    with pytest.raises(ValueError, match=r"psnr=300\) is out of reach: the best plan of at most 10"):
        solved(psnr=300, effort="low")


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        ({}, "exactly one of evaluations="),
        ({"nfe": 3, "psnr": 40}, "one of evaluations=, speedup= and psnr="),
        ({"nfe": 0}, "between 1 and the 20"),
        ({"nfe": 21}, "between 1 and the 20"),
        ({"speedup": 0.5}, r"speedup=\.\.\.\) must be at least 1, got 0.5"),
        ({"nfe": 3, "effort": "utmost"}, "effort='utmost'"),
        ({"nfe": 3, "batch": 0}, r"batch=\.\.\.\) must be at least 1, got 0"),
        ({"nfe": 4, "steps": (0, 3, 9)}, "names 3 steps"),
        ({"steps": (1, 3, 9)}, "must begin with 0"),
        ({"steps": (0, 9, 3)}, "must begin with 0, rise"),
        ({"steps": (0, 3, 20)}, "within the steps 0 to 19"),
        ({"evaluations": 5, "start": toy.profile().plan(steps=(0, 3, 9))}, "start=.* needs refine="),
        ({"psnr": 40, "start": toy.profile().plan(steps=(0, 3, 9))}, "goes with evaluations= or speedup="),
    ],
)
def test_contradictions_are_refused(goal: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        toy.profile().plan(**goal)


def test_refining_needs_the_trajectory() -> None:
    with pytest.raises(ValueError, match="keep_trajectory=True"):
        toy.profile(keep=False).plan(evaluations=4, refine=toy.ToyEvaluator())


def test_the_curve_holds_one_plan_per_budget() -> None:
    assert [plan.evaluations for plan in toy.profile().curve([2, 4])] == [2, 4]


def test_expected_residuals_are_those_of_the_recorded_pairs() -> None:
    plan = toy.profile().plan(steps=(0, 4, 9))
    _, outputs = toy.trajectories(toy.noise(8))
    guess = plan.forecasts[2][0] * outputs[:, 0] + plan.forecasts[2][1] * outputs[:, 4]
    residual = ((outputs[:, 9] - guess).norm(dim=1) / outputs[:, 9].norm(dim=1)).numpy()
    assert plan.expected is not None
    np.testing.assert_allclose(plan.expected[2], [residual.mean(), residual.max()], rtol=1e-6)
    np.testing.assert_array_equal(plan.expected[0], [0, 0])


@pytest.mark.parametrize("effort", ["low", "normal", "high"])
def test_the_cost_is_told_beforehand_and_its_share_on_the_way(effort: str) -> None:
    evaluator, shares = toy.ToyEvaluator(12, 12), list[float]()
    most = EFFORTS[effort].evaluations(5, 20, 12)
    toy.profile(12).plan(
        evaluations=5, refine=evaluator, effort=effort, advance=lambda note, share: shares.append(share)
    )
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[-1] <= evaluator.evaluations / most <= 1


@pytest.mark.parametrize(
    "goal",
    [
        {"psnr": float("nan")},
        {"psnr": True},
        {"evaluations": True},
        {"evaluations": 4.5},
        {"evaluations": "4"},
        {"speedup": float("nan")},
        {"speedup": "2"},
        {"batch": float("nan"), "evaluations": 4},
        {"batch": True, "evaluations": 4},
        {"steps": (0, 1.5)},
    ],
    ids=str,
)
def test_what_is_no_number_is_refused_by_name(goal: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"plan\({next(iter(goal))}=\.\.\.\) must be"):
        toy.profile().plan(**goal)


def test_sets_of_passes_cost_the_budget_and_hold_whole_evaluations() -> None:
    """The second is that of whole evaluations, both branches at every step, so that no candidate is behind it."""
    given = Request(evaluations=4, branches=True)
    sets = list(_Solver(toy.profile(), given, toy.ToyEvaluator(), lambda note, share: None)._sets(4))
    for steps in sets:
        assert (len(steps), steps[0], list(steps)) == (8, 0, sorted(steps))
        assert max(map(steps.count, steps)) == 2
    assert len(set(sets[0])) == 5
    assert [steps for steps in sets[:2] if len(set(steps)) == 4] == [sets[1]]


def test_a_plan_of_passes_is_solved_and_swept_on_any_evaluator() -> None:
    profile = toy.profile(8)
    plans = [
        profile.plan(evaluations=4, refine=toy.ToyEvaluator(), effort=Effort(sweeps=sweeps), branches=True)
        for sweeps in (0, 2)
    ]
    assert {plan.branches for plan in plans} == {"first call"}
    assert all(len(plan) == 8 and plan.evaluations == 4 and len(plan.forecasts) == 8 for plan in plans)
    assert plans[1].predicted is not None
    assert plans[0].predicted is not None
    assert plans[1].predicted.psnr >= plans[0].predicted.psnr


@pytest.mark.parametrize("branches", [False, True])
def test_a_solve_goes_on_from_a_plan_and_is_never_behind_it(branches: bool) -> None:
    """Not even where the effort affords next to nothing; whole evaluations count as passes of both branches."""
    start, profile = solved(evaluations=5, effort="high"), toy.profile(12)
    for effort in (Effort(candidates=1, generations=0.1), Effort(candidates=1, sweeps=2)):
        plan = profile.plan(
            evaluations=5, refine=toy.ToyEvaluator(12, 12), effort=effort, branches=branches, start=start
        )
        judge = chooser(12, Effort())
        assert judge.score(judge.chosen_by([plan.table])) >= judge.score(judge.chosen_by([start.table])) - 1e-6
        assert plan.branches == ("first call" if branches else "")


def test_a_plan_with_knots_starts_every_group_from_its_own_numbers() -> None:
    two = {1.0: list(range(0, 16, 2)), 2.0: list(range(1, 16, 2))}
    finder = chooser(16, Effort(candidates=0), two)
    tables = finder.closed((0, 5, 11)).tables
    found = finder.run([], [], tables)
    assert found.tables == tables
    swapped = finder.run([], [], tables[::-1])
    assert finder.score(swapped) != finder.score(found)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (lambda: solved(steps=(0, 3, 9), effort="low"), "the budgets must be the same"),
        (lambda: replace(solved(evaluations=5, effort="low"), timesteps=np.arange(20.0)), "another grid or shape"),
        (
            lambda: toy.profile(8).plan(evaluations=5, refine=toy.ToyEvaluator(), effort="low", branches=True),
            "whose passes need branches=True",
        ),
    ],
)
def test_a_start_that_does_not_fit_is_refused_before_the_first_evaluation(start: Any, words: str) -> None:
    evaluator = toy.ToyEvaluator(12, 12)
    with pytest.raises(ValueError, match=words):
        toy.profile(12).plan(evaluations=5, refine=evaluator, start=start())
    assert evaluator.evaluations == 0
