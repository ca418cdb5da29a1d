"""Plans with knots: exact at a knot, linear between, refused outside; solved knot by knot on shared steps."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from skipcast.plans.closed_loop import Program, Table, final_errors
from skipcast.plans.knots import JointLoop, Share, joined, varied_number
from skipcast.plans.open_loop import OpenLoop, search
from skipcast.plans.plan import Origin, Plan, Prediction
from skipcast.plans.profile import Profile
from support import toy

VALUES = (1.5, 2.0, 4.0)


def one(value: float, **changes: Any) -> Plan:
    """The plan of one value; its weights have no short decimal form."""
    draw = np.random.default_rng(int(10 * value))
    whole: dict[str, Any] = {
        "steps": (0, 2, 5),
        "rows": tuple(draw.normal(size=n + 2) for n in range(3)),
        "timesteps": np.linspace(1000, 1000 / 6, 6),
        "evaluation_timesteps": np.array([1000.0, 650.0, 170.0]) + draw.normal(size=3),
        "scale": np.array([1.0, 0.9, 0.8]),
        "origin": Origin("P", "S", {}, 6, call={"prompt_2": ""}, pairs=("a", "b")),
        "forecasts": tuple(draw.normal(size=n) for n in range(3)),
        "expected": draw.uniform(size=(3, 2)),
        "predicted": Prediction(40 + value, 30 + value, 20 + value, int(2 * value), held_out=value < 3, closed=True),
    }
    return Plan(**{**whole, **changes})


ORIGIN = replace(one(2.0).origin, varied={"guidance_scale": (1.5, 4.0)})
PLANS = {value: one(value) for value in VALUES}
PLAN = joined("guidance_scale", PLANS, ORIGIN)


def numbers(plan: Plan) -> dict[str, Any]:
    return {key: value for key, value in plan.as_dict().items() if key != "origin"}


def test_at_a_knot_a_plan_has_exactly_its_numbers() -> None:
    for value, alone in PLANS.items():
        assert numbers(PLAN.at(value)) == numbers(alone)
    assert PLAN.at(4).origin.call == {"prompt_2": "", "guidance_scale": 4.0}
    assert not PLAN.at(4).origin.varied
    for a, b in zip(PLAN.rows, PLANS[2.0].rows, strict=True):  # the middle one
        np.testing.assert_array_equal(a, b)
    assert repr(PLAN) == "Plan(3 of 6, default, refined, guidance_scale 1.5 to 4, 42.0 dB)"


def test_every_number_is_linear_between_two_knots() -> None:
    found, low, high = PLAN.at(2.5), PLANS[2.0], PLANS[4.0]

    def quarter(a: Any, b: Any) -> Any:
        return 0.75 * a + 0.25 * b

    for name in ("rows", "forecasts"):
        for a, b, c in zip(getattr(found, name), getattr(low, name), getattr(high, name), strict=True):
            np.testing.assert_allclose(a, quarter(b, c), rtol=1e-14)
    for name in ("evaluation_timesteps", "expected"):
        np.testing.assert_allclose(getattr(found, name), quarter(getattr(low, name), getattr(high, name)), rtol=1e-14)
    assert found.predicted == Prediction(42.5, 32.5, 22.5, 4, held_out=False, closed=True)
    assert (found.knots, found.argument, found.origin.call["guidance_scale"]) == ((), None, 2.5)


@pytest.mark.parametrize("value", [1.49, 4.01, -2.0])
def test_outside_the_knots_it_is_refused_by_name(value: float) -> None:
    with pytest.raises(ValueError, match=r"guidance_scale=.* outside the 1.5 to 4 .*extrapolate=True"):
        PLAN.at(value)


def test_extrapolation_stays_on_the_line_of_the_nearest_two() -> None:
    below, above = PLAN.at(1.0, extrapolate=True), PLAN.at(5.0, extrapolate=True)
    np.testing.assert_allclose(below.rows[1], 2 * PLANS[1.5].rows[1] - PLANS[2.0].rows[1], rtol=1e-13)
    np.testing.assert_allclose(above.rows[1], 1.5 * PLANS[4.0].rows[1] - 0.5 * PLANS[2.0].rows[1], rtol=1e-13)
    assert below.expected is not None
    assert (below.expected >= 0).all()


def test_without_knots_only_the_recorded_scale_is_taken() -> None:
    with pytest.raises(ValueError, match=r"has no knots: .*prompt_2=''.*guidance=\["):
        one(2.0).at(2.0)
    plan = one(2.0, origin=replace(one(2.0).origin, call={"guidance_scale": 3.5, "true_cfg_scale": 2.0}))
    assert plan.at(2.0) is plan
    with pytest.raises(ValueError, match="has no knots"):
        plan.at(3.5)


def test_files_keep_every_bit(tmp_path: Path) -> None:
    path = tmp_path / "some.plan.json"
    PLAN.save(path)
    again = Plan.load(path)
    assert again.as_dict() == PLAN.as_dict()
    assert again.at(3.1).as_dict() == PLAN.at(3.1).as_dict()
    assert again.at(1.5).rows[2].tobytes() == PLANS[1.5].rows[2].tobytes()
    assert set(one(2.0).as_dict()) & {"knots", "argument"} == set()  # a plan without knots is written as ever


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"argument": None}, r"argument=None, knots=\.\.\.\) needs the name"),
        ({"knots": PLAN.knots[:1]}, r"two or more .* got \[1.5\]"),
        ({"knots": PLAN.knots[::-1]}, r"that rise, got \[4.0, 2.0, 1.5\]"),
        ({"knots": ()}, "two or more"),
        ({"knots": (PLAN.knots[0], replace(PLAN.knots[1], forecasts=()))}, "all knots or none"),
        ({"knots": (*PLAN.knots[:2], replace(PLAN.knots[2], rows=PLAN.rows[:2]))}, "needs 3 rows"),
        ({"rows": PLANS[4.0].rows}, "must be those of the middle knot"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(PLAN, **changes)


@pytest.mark.parametrize("value", [None, [], {}, 3, [3], [{"value": 2}]])
def test_damaged_knots_are_a_value_error(value: Any) -> None:
    values = json.loads(json.dumps(PLAN.as_dict()))
    with pytest.raises(ValueError):
        Plan.from_dict({**values, "knots": value})
    with pytest.raises(ValueError, match="not a plan"):
        Plan.from_dict({**values, "rows": one(2.0).as_dict()["rows"]})


def test_only_plans_on_the_same_steps_are_joined() -> None:
    with pytest.raises(ValueError, match="the same steps"):
        joined("guidance_scale", {1.0: one(1.0), 2.0: one(2.0, steps=(0, 1, 5))}, ORIGIN)


# Solving ------------------------------------------------------------------------------------------------------------

BENDS = (0.8, 0.0, 1.6) * 8


class Bent(toy.ToyEvaluator):
    """The toy's network times one plus the bend of the pair."""

    def groups(self, pairs: Sequence[int]) -> list[list[int]]:
        return [some for bend in (0.0, 0.8, 1.6) if (some := [pair for pair in pairs if BENDS[pair] == bend])]

    def call(self, pairs: Sequence[int], timesteps: Sequence[float], scale: Sequence[float], program: Program) -> None:
        (bend,) = {BENDS[pair] for pair in pairs}

        def bent(x: Tensor) -> Generator[Tensor, Tensor, None]:
            inner = program(x)
            x = next(inner)
            while True:
                y = yield x
                try:
                    x = inner.send((1 + bend) * y)
                except StopIteration:
                    return

        super().call(pairs, timesteps, scale, bent)


def evaluator() -> Bent:
    return Bent(24, 24)


@pytest.fixture(scope="module")
def profile() -> Profile:
    """24 pairs of three bends in turn."""
    bends = 1 + torch.tensor(BENDS, dtype=torch.float64)[:, None]
    states, outputs = [toy.noise(24)], list[Tensor]()
    for i, timestep in enumerate(toy.GRID.timestep):
        outputs.append(bends * toy.network(states[i], float(timestep)))
        states.append(states[i] + (toy.SIGMA[i + 1] - toy.SIGMA[i]) * outputs[i])
    basis = torch.stack([states[0], *outputs], 1)
    grams = (basis @ basis.transpose(1, 2) / toy.SIZE).numpy()
    plain = toy.profile(24)
    origin = replace(plain.origin, varied={"bend": BENDS})
    return replace(plain, grams=grams, trajectory=torch.stack(states, 1), origin=origin)


def test_only_one_number_that_varies_makes_knots() -> None:
    origin = Origin("P", "S", {}, 6, pairs=("a", "b", "c"))
    assert varied_number(replace(origin, varied={"s": (2, 1.5, 2)})) == ("s", {1.5: [1], 2: [0, 2]})
    for varied in ({}, {"s": (2, 2, 2)}, {"s": ("a", "b", "c")}, {"s": (1, 2, 3), "t": (1, 2, 3)}):
        assert varied_number(replace(origin, varied=varied)) is None


def test_a_share_is_the_profile_of_its_pairs(profile: Profile) -> None:
    share, pairs = profile.subset([4, 1, 7]), Share(evaluator(), [4, 1, 7])
    assert (share.origin.call, share.origin.varied, share.origin.seeds) == ({"bend": 0.0}, {}, (4, 1, 7))
    np.testing.assert_array_equal(share.grams[2], profile.grams[7])
    assert profile.subset([0, 1]).origin.varied == {"bend": (0.8, 0.0)}
    plan = share.plan(steps=range(toy.STEPS), refine=pairs, effort="low", knots=False)
    assert plan.predicted is not None
    assert plan.predicted.worst > 90
    assert pairs.evaluations == toy.STEPS * 3


def test_each_knot_is_solved_on_its_own_pairs(profile: Profile) -> None:
    effort = "low"
    plan = profile.plan(evaluations=5, refine=evaluator(), effort=effort)
    assert (plan.argument, [knot.value for knot in plan.knots]) == ("bend", [0.0, 0.8, 1.6])
    for value in (0.0, 0.8, 1.6):
        pairs = [i for i, bend in enumerate(BENDS) if bend == value]
        options: dict[str, Any] = {"steps": plan.steps, "effort": effort, "refine": Share(evaluator(), pairs)}
        assert numbers(plan.at(value)) == numbers(profile.subset(pairs).plan(**options))
    both = profile.plan(evaluations=5, refine=evaluator(), effort=effort, knots=False)
    assert not both.knots


def test_steps_are_searched_for_all_knots_in_equal_measure(profile: Profile) -> None:
    grams = [profile.grams[[i for i, bend in enumerate(BENDS) if bend == value]].mean(0) for value in (0.0, 1.6)]
    joint, alone = JointLoop(grams, profile.states), [OpenLoop(gram, profile.states) for gram in grams]
    steps = (0, 4, 9, 14)
    errors = [loop.error(steps) for loop in alone]
    assert joint.error(steps) == pytest.approx(np.sqrt(errors[0] * errors[1]))
    larger = JointLoop([grams[0], 100 * grams[1]], profile.states)
    assert search(larger, 4) == search(joint, 4)


def test_between_its_knots_a_plan_is_nearly_the_one_solved_there(profile: Profile) -> None:
    """Knots at 0 and 1.6 alone, run at 0.8; the numbers of either knot itself do worse."""
    ends = [i for i, bend in enumerate(BENDS) if bend != 0.8]
    middle = [i for i, bend in enumerate(BENDS) if bend == 0.8]
    assert profile.trajectory is not None

    def psnr(plan: Plan) -> float:
        table = Table(plan.steps, plan.rows, plan.evaluation_timesteps, plan.scale)
        errors = final_errors(table, evaluator(), profile.trajectory[:, -1], middle)  # type: ignore[index]
        return float(-10 * np.log10(errors).mean())

    plan = profile.subset(ends).plan(evaluations=12, refine=Share(evaluator(), ends), effort="low")
    alone = profile.subset(middle).plan(steps=plan.steps, refine=Share(evaluator(), middle), effort="low")
    neighbours = [plan.at(value) for value in (0.0, 1.6)]
    assert psnr(plan.at(0.8)) > psnr(alone) - 3
    assert psnr(plan.at(0.8)) > max(map(psnr, neighbours)) + 2


def test_a_quality_holds_at_every_knot(profile: Profile) -> None:
    plan = profile.plan(psnr=30)
    found = [knot.predicted.psnr for knot in plan.knots if knot.predicted]
    assert min(found) >= 30
    fewer = profile.plan(evaluations=len(plan) - 1)
    assert min(knot.predicted.psnr for knot in fewer.knots if knot.predicted) < 30
