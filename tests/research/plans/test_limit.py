"""Gradients pass the network that runs, the loss falls along them, and an interrupted descent ends where others do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from research.plans.gradients import DAMPING, Course, Descent, Network
from research.plans.limit import descended, joined, solved
from research.plans.study import Study
from research.plans.verdicts import bars
from skipcast.pipelines.recording.replay import PipelineEvaluator
from skipcast.plans.closed_loop import Local, final_errors, linearise
from skipcast.plans.plan import Plan
from skipcast.plans.profile import Profile

PAIRS, M = 6, 3
Given = tuple[Profile, PipelineEvaluator, Plan]


def quiet(note: str) -> None:
    pass


@pytest.fixture(scope="module")
def given(study: Study) -> Given:
    profile = study.record(PAIRS, draw=0)
    evaluator = PipelineEvaluator(study.model.pipe, profile.origin, 4)  # two calls
    return profile, evaluator, solved(profile, M, "low", evaluator, None, quiet)[0]


@pytest.fixture(scope="module")
def course(given: Given) -> tuple[Course, Local]:
    profile, evaluator, plan = given
    assert profile.trajectory is not None
    final = profile.trajectory[:, -1]
    local = linearise(plan.table, evaluator, final, range(PAIRS), timestep_change=2.0)
    network = Network(evaluator, profile.trajectory[:, 0])
    return Course(plan.table, local.places, network, final), local


def test_the_network_under_gradients_is_the_one_that_runs(given: Given, course: tuple[Course, Local]) -> None:
    _, evaluator, _ = given
    moved, local = course
    moved.check(evaluator, range(PAIRS))
    found = moved.errors(torch.zeros_like(moved.base), [5, 0]).detach().numpy()
    assert np.allclose(found, final_errors(moved.table, evaluator, moved.final.float(), [5, 0]), rtol=1e-3)
    assert not moved.network.module._forward_pre_hooks
    change = torch.zeros_like(moved.base, requires_grad=True)
    (slope,) = torch.autograd.grad(moved.errors(change, range(PAIRS)).sum(), [change])
    weights = [i for i, (_, k) in enumerate(local.places) if k >= 0]
    wanted = 2 * local.b.sum(0)
    assert np.allclose(slope.numpy()[weights], wanted[weights], rtol=0.05, atol=0.02 * np.abs(wanted[weights]).max())


def test_another_network_is_refused(
    given: Given, course: tuple[Course, Local], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course[0].network, "_scale", 1.1 * course[0].network._scale)
    with pytest.raises(ValueError, match="departs from FluxPipeline"):
        course[0].check(given[1], [0])


@pytest.mark.parametrize("power", [0.0, 0.25])
def test_the_loss_falls_and_its_matrix_is_the_identity(course: tuple[Course, Local], power: float) -> None:
    moved, local = course
    descent = Descent(iterations=12, power=power)
    inverse, weight = descent.factor(local).numpy(), local.c ** (power - 1)
    normal = 2 * np.einsum("p,pij->ij", weight, local.a) / (local.c**power).sum()
    normal += DAMPING * np.diag(np.diag(normal))
    assert np.allclose(inverse.T @ normal @ inverse, np.eye(len(inverse)), atol=1e-6)
    scaled = replace(descent, joint=False).factor(local).numpy()
    assert np.allclose(np.diag(scaled @ normal @ scaled), 1 + DAMPING)
    fit: Any = type("Split", (), {"fit": list(range(PAIRS)), "choose": list(range(PAIRS))})

    def score(errors: np.ndarray[Any, Any]) -> float:
        return -float(np.log(errors).mean() if power == 0 else (errors**power).mean())

    found = descent.run(moved, local, fit, score)
    assert found["score"] > found["looks"][0][1]
    assert found["evaluations"] == M * (3 * PAIRS * 12 + 2 * PAIRS)


def test_an_interrupted_descent_goes_on(given: Given, tmp_path: Path) -> None:
    profile, evaluator, plan = given
    descent, state = Descent(iterations=4, batch=2, every=2), tmp_path / "state"
    whole, cost, found = descended(profile, plan, evaluator, descent)
    assert [look["iteration"] for look in found["curve"]] == [0, 2, 4]
    assert cost > M * (3 * 2 * 4) / 8 / PAIRS

    def stopped(note: str) -> None:
        if note.startswith("iteration 4"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        descended(profile, plan, evaluator, descent, state, stopped)
    notes: list[str] = []
    again, _, _ = descended(profile, plan, evaluator, descent, state, notes.append)
    assert len(notes) == 1  # only the last look
    assert all(np.allclose(a, b, rtol=1e-6) for a, b in zip(again.rows, whole.rows, strict=True))
    with pytest.raises(ValueError, match="keep_trajectory"):
        descended(replace(profile, trajectory=None), plan, evaluator, descent)


def test_the_bar_is_the_worst_budgets() -> None:
    def row(budget: int, plan: float, limit: float, times: float) -> dict[str, Any]:
        side = {"held_out": {"mean": plan}, "generations": 2.0}
        return {"budget": budget, "plan": side, "limit": {"held_out": {"mean": limit}, "generations": 2.0 * times}}

    def reached(*rows: dict[str, Any]) -> bool | None:
        return next(bar for bar in bars({"limit": {"rows": rows}}) if bar.source == "limit").reached

    assert reached(row(5, 50.0, 50.4, 60), row(6, 51.0, 50.0, 50)) is True
    assert reached(row(5, 50.0, 50.4, 60), row(6, 51.0, 51.6, 60)) is False
    assert reached(row(5, 50.0, 50.4, 60), row(6, 51.0, 51.0, 49)) is False


def test_budgets_measured_one_at_a_time_are_joined() -> None:
    details = {
        "command": "limit --budgets 6", "commit": "a", "date": "2026-11-29",
        "revision": "r", "settings": {"seeds": 5}, "prompts": ["a star"],
    }  # fmt: skip
    old = {"pairs": 96, "rows": [{"budget": 5, "plan": 1}, {"budget": 6, "plan": 2}]}
    new = {"pairs": 96, "rows": [{"budget": 6, "plan": 3}, {"budget": 10, "plan": 4}]}
    now, before = {**details, "commit": "b"}, {**old, "about": details}

    def found(data: dict[str, Any]) -> list[tuple[int, int, str]]:
        return [(row["budget"], row["plan"], row["about"]["commit"]) for row in data["rows"]]

    alone, both = [(6, 3, "b"), (10, 4, "b")], [(5, 1, "a"), (6, 3, "b"), (10, 4, "b")]
    assert found(joined(new, now, None)) == alone
    assert found(joined(new, now, before)) == both
    again = {**joined(new, now, before), "about": now}
    assert found(joined({**old, "rows": []}, details, again)) == both
    assert found(joined({**new, "pairs": 48}, now, before)) == alone
    for other in ({"revision": "s"}, {"settings": {"seeds": 8}}, {"prompts": ["a ring"]}):
        assert found(joined(new, {**now, **other}, before)) == alone
