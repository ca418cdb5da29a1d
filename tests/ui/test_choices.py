"""What the playground offers, and what governs each choice."""

from __future__ import annotations

from typing import Any

import pytest

import skipcast as sc
from skipcast.models.load import load_reference
from skipcast.ui.choices import OWN, Control, control, methods, resolve, samplers
from skipcast.ui.state import installed
from support.tiny import flux_pipeline

MODEL = "shapes-flux"


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load_reference(MODEL)


def specs(found: list[tuple[str, str]]) -> list[str]:
    assert all(label.startswith(f"{spec} · ") for label, spec in found)
    return [spec for _, spec in found]


def test_shipped_plans_stand_before_methods_and_all_of_them_run(pipe: Any) -> None:
    found = specs(methods(MODEL, pipe, {}))
    assert found[:3] == ["plan", "plan:reference=converged", "reuse"]
    assert {"resilphase", "taylorseer", "teacache"} <= set(found)
    assert "ab2" not in found  # plain samplers have their own list
    for spec in found:
        resolve(spec, 10, None, 50, MODEL, {})
    assert specs(methods("tiny", pipe, {}))[0] == "reuse"  # no plans ship for it
    assert installed() == [MODEL]


def test_every_pipeline_has_its_own_scheduler_to_compare_with(pipe: Any) -> None:
    assert specs(samplers(pipe)) == ["ab2", "unipc", "dpmpp2m", "euler", OWN]
    other = flux_pipeline()
    from diffusers import DDIMScheduler

    other.scheduler = DDIMScheduler()
    assert specs(samplers(other)) == [OWN]
    assert "DDIM" in samplers(other)[0][0]


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("resilphase", "budget"),
        ("plan", "budget"),
        ("plan:reference=converged", "budget"),
        ("teacache", "threshold"),
        ("teacache:threshold=0.3", "fixed"),
        ("lagrange:interval=5", "fixed"),
        ("plan:evaluations=4", "fixed"),
    ],
)
def test_what_sets_the_number_of_evaluations(spec: str, kind: str) -> None:
    assert control(spec, 50, MODEL, {}).kind == kind


@pytest.mark.parametrize(
    ("spec", "budget", "threshold", "label"),
    [
        ("resilphase", 10, None, "resilphase:evaluations=10"),
        ("lagrange:order=1", 8, None, "lagrange:evaluations=8,order=1"),
        ("lagrange:interval=5", 8, None, "lagrange:interval=5"),
        ("plan", 12, None, "plan:evaluations=13"),  # the nearest that ships
        ("plan:reference=converged", 10, None, "plan:evaluations=10,reference=converged"),
        ("teacache", 10, None, "teacache:threshold=0.6"),
        ("teacache", 10, 0.25, "teacache:threshold=0.25"),
        ("teacache:threshold=0.3", 10, 0.25, "teacache:threshold=0.3"),
    ],
)
def test_what_is_run(spec: str, budget: int, threshold: float | None, label: str) -> None:
    found, method = resolve(spec, budget, threshold, 50, MODEL, {})
    assert found == label
    if label.startswith("resilphase"):
        assert len(method.controller.evaluated(50)) == budget  # type: ignore[union-attr]


def test_plans_bring_their_own_numbers() -> None:
    governed = control("plan", 12, MODEL, {})  # whatever steps were chosen
    assert [governed.nearest(n) for n in (5, 9, 12, 25)] == [5, 8, 13, 25]
    assert governed.steps == 50
    assert Control("budget", "").nearest(11) == 11  # without plans any number is its own nearest
    plan = sc.shipped_plan(MODEL, 8)
    governed = control("my plan", 12, MODEL, {"my plan": plan})
    assert (governed.kind, governed.evaluations, governed.steps) == ("fixed", 8, 50)
    assert resolve("my plan", 20, None, 50, MODEL, {"my plan": plan}) == ("my plan", plan)
    governed = control("teacache", 50, MODEL, {})
    assert (governed.threshold, governed.default) == ("threshold", 0.6)


@pytest.mark.parametrize(
    ("spec", "steps", "message"),
    [
        ("", 50, "choose a method"),
        ("resilfase", 50, "Did you mean 'resilphase'"),
        ("plan:evaluations=7", 50, "no default plan of 7 evaluations ships"),
        ("plan:file=x", 50, "no plan"),
        ("plan", 12, "made for 50 steps, not 12"),
        ("all", 50, "unknown method 'all'"),
        ("lagrange:order=x", 50, "must be of type int"),
    ],
)
def test_what_cannot_be_is_one_clear_error(spec: str, steps: int, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        resolve(spec, 10, None, steps, MODEL, {})
