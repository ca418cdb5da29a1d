"""From requests to plans on the toy flow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from skipcast.plans.plan import Plan
from skipcast.plans.refine import Effort, split
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
    fit, validate = split(12)
    assert not set(fit) & set(validate)
    assert validate == [3, 7, 11]
    plan = solved(evaluations=5)
    assert plan.predicted is not None
    assert plan.predicted.held_out
    assert plan.predicted.closed
    assert plan.predicted.pairs == len(validate)


def test_more_effort_does_not_validate_worse() -> None:
    efforts = [Effort(power=0.0), Effort(power=0.0, candidates=4, sweeps=2)]
    less, more = (psnr(solved(evaluations=5, effort=effort)) for effort in efforts)
    assert more >= less


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
        ({"speedup": 0.5}, "speedup=0.5"),
        ({"nfe": 3, "effort": "utmost"}, "effort='utmost'"),
        ({"nfe": 3, "batch": 0}, "batch=0"),
        ({"nfe": 4, "steps": (0, 3, 9)}, "names 3 steps"),
        ({"steps": (1, 3, 9)}, "must begin with 0"),
        ({"steps": (0, 9, 3)}, "must begin with 0, rise"),
        ({"steps": (0, 3, 20)}, "within the steps 0 to 19"),
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


def test_sweeps_that_cost_too_much_are_left_out() -> None:
    costs = []
    for cost in (0.5, 5.0):
        evaluator, effort = toy.ToyEvaluator(12, 12), Effort(candidates=1, sweeps=1, sweep_cost=cost)
        toy.profile(12).plan(evaluations=5, refine=evaluator, effort=effort)
        costs.append(evaluator.evaluations)
    assert costs[1] > costs[0] == 12 * 5
