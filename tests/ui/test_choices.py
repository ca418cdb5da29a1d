"""What the playground offers, and what governs each choice."""

from __future__ import annotations

from typing import Any

import pytest

import skipcast as sc
from skipcast.models.load import load_reference
from skipcast.ui.choices import OWN, Choice, Control, choices, control, fewer_steps, resolve, samplers
from skipcast.ui.model import installed
from support.tiny import flux_pipeline

MODEL = "shapes-flux"


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load_reference(MODEL)


def test_shipped_plans_stand_before_methods_and_all_of_them_run(pipe: Any) -> None:
    found = choices(MODEL, pipe)
    assert [choice.spec for choice in found[:3]] == ["plan", "plan:reference=converged", "reuse"]
    assert {"resilphase", "taylorseer", "teacache"} <= {choice.spec for choice in found}
    assert "ab2" not in {choice.spec for choice in found}  # plain samplers have their own list
    assert all(choice.summary in choice.label for choice in found)
    for choice in found:
        resolve(choice.spec, 10, None, 50, MODEL, {})


def test_other_models_are_offered_no_plans(pipe: Any) -> None:
    assert next(choice.spec for choice in choices("tiny", pipe)) == "reuse"
    assert installed() == [MODEL]


def test_every_pipeline_has_its_own_scheduler_to_compare_with(pipe: Any) -> None:
    assert [choice.spec for choice in samplers(pipe)] == ["ab2", "unipc", "dpmpp2m", "euler", OWN]
    other = flux_pipeline()
    from diffusers import DDIMScheduler

    other.scheduler = DDIMScheduler()
    assert [choice.spec for choice in samplers(other)] == [OWN]
    assert "DDIM" in samplers(other)[0].summary


def test_a_budget_is_what_it_says() -> None:
    assert control("resilphase", 50, MODEL, {}).kind == "budget"
    chosen = resolve("resilphase", 10, None, 50, MODEL, {})
    assert chosen.label == "resilphase:evaluations=10"
    assert len(chosen.method.controller.evaluated(50)) == 10  # type: ignore[union-attr]


def test_the_nearest_shipped_plan_is_taken() -> None:
    governed = control("plan", 12, MODEL, {})  # whatever steps were chosen: a plan brings its own
    assert (governed.kind, governed.steps) == ("budget", 50)
    assert [governed.nearest(n) for n in (5, 9, 12, 25)] == [5, 8, 13, 25]
    assert resolve("plan", 12, None, 50, MODEL, {}).label == "plan:evaluations=13"
    label = resolve("plan:reference=converged", 10, None, 50, MODEL, {}).label
    assert label == "plan:evaluations=10,reference=converged"
    with pytest.raises(ValueError, match="made for 50 steps, not 12"):
        resolve("plan", 10, None, 12, MODEL, {})


def test_methods_that_decide_by_values_have_a_threshold() -> None:
    governed = control("teacache", 50, MODEL, {})
    assert (governed.kind, governed.threshold, governed.default) == ("threshold", "threshold", 0.6)
    assert resolve("teacache", 10, None, 50, MODEL, {}).label == "teacache:threshold=0.6"
    assert resolve("teacache", 10, 0.25, 50, MODEL, {}).label == "teacache:threshold=0.25"
    assert control("teacache:threshold=0.3", 50, MODEL, {}).kind == "fixed"
    assert resolve("teacache:threshold=0.3", 10, 0.25, 50, MODEL, {}).label == "teacache:threshold=0.3"


def test_numbers_of_their_own_are_said() -> None:
    assert control("lagrange:interval=5", 50, MODEL, {}).kind == "fixed"
    plan = sc.shipped_plan(MODEL, 8)
    governed = control("my plan", 12, MODEL, {"my plan": plan})
    assert (governed.kind, governed.evaluations, governed.steps) == ("fixed", 8, 50)
    assert resolve("my plan", 20, None, 50, MODEL, {"my plan": plan}).method is plan
    assert control("plan:evaluations=4", 50, MODEL, {}).evaluations == 4


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "choose a method"),
        ("resilfase", "Did you mean 'resilphase'"),
        ("plan:evaluations=7", "no default plan of 7 evaluations ships"),
        ("all", "unknown method 'all'"),
        ("lagrange:order=x", "must be of type int"),
    ],
)
def test_what_cannot_be_is_one_clear_error(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(spec, 10, None, 50, MODEL, {})


def test_the_fewer_step_sampler() -> None:
    assert fewer_steps("ab2", 7) == sc.Sampler("ab2", 7)
    assert fewer_steps(OWN, 7) is None
    with pytest.raises(ValueError, match="no plain sampler 'abc'"):
        fewer_steps("abc", 7)


def test_any_budget_is_its_own_nearest() -> None:
    assert Control("budget", "").nearest(11) == 11


def test_choices_are_read_by_name_and_options() -> None:
    choice = Choice.read("lagrange:order=1,schedule=even")
    assert (choice.name, choice.options) == ("lagrange", {"order": "1", "schedule": "even"})
    assert choice.with_options(evaluations=8).spec == "lagrange:evaluations=8,order=1,schedule=even"
    assert Choice("plan").spec == "plan"
