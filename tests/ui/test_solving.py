"""Recording and solving, with progress."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import skipcast as sc
from skipcast.bench.prompts import prompts_to_record
from skipcast.ui import panels
from skipcast.ui.drawing import ACCELERATED, FEWER, DrawRequest, draw
from skipcast.ui.solving import OPEN, PlanRequest, budgets_of, solve
from skipcast.ui.state import SOLVE, Models, Session, Stopped, watched
from support.tiny import flux_pipeline, latents

REQUEST = PlanRequest("shapes-flux", (3, 4), pairs=4, steps=12)


def silent(share: float | None, words: str) -> None:
    """Reports to nobody."""


@pytest.fixture(scope="module")
def models() -> Models:
    return Models(["shapes-flux"])


def test_plans_are_the_librarys_own_and_can_be_used(models: Models) -> None:
    session, reports = Session(), list[tuple[float | None, str]]()
    solved = list(solve(models, REQUEST, session, lambda share, words: reports.append((share, words))))
    assert [each.label for each in solved] == ["my shapes-flux-3-of-12", "my shapes-flux-4-of-12"]
    with models.using("shapes-flux") as loaded:
        pipe, model = loaded.pipe, loaded.model
    prompts = prompts_to_record(model, 4)
    profile = sc.record(
        pipe, prompts, seeds=0, num_inference_steps=12, progress=False, revision=model.revision, **model.call
    )
    by_hand = profile.plan(evaluations=4, refine=pipe, effort="low")
    assert solved[1].plan.as_dict() == by_hand.as_dict()
    assert sc.Plan.load(session.files()[1]).as_dict() == by_hand.as_dict()
    shares = [share for share, words in reports if words.startswith("recording") and share is not None]
    assert shares == sorted(shares)
    assert any("newest candidate" in words for _, words in reports)

    request = DrawRequest("shapes-flux", solved[1].label, steps=12, prompt="a green ring", sampler="ab2")
    list(draw(models, request, session, silent))
    made, fewer = session.samples[ACCELERATED], session.samples[FEWER]
    assert made.evaluated == by_hand.steps
    assert made.psnr is not None
    assert fewer.psnr is not None
    assert made.psnr > fewer.psnr - 10
    html = panels.plan(solved[1])
    assert by_hand.predicted is not None
    assert f"{by_hand.predicted.psnr:.1f} dB predicted" in html
    assert (html.count('class="on"'), html.count('class="off"')) == (4, 8)


def test_the_open_loop_makes_no_network_calls(models: Models) -> None:
    request = replace(REQUEST, budgets=(4,), effort=OPEN, prompts=("a red star",), pairs=2)
    (solved,) = solve(models, request, Session(), silent)
    assert solved.calls == 0
    assert solved.plan.label == "open loop"
    assert len(solved.plan.origin.pairs) == 2


@pytest.mark.parametrize("stage", ["recording", "solving"])
def test_stopping_restores_the_pipeline(models: Models, stage: str) -> None:
    session = Session()
    request = DrawRequest("shapes-flux", "reuse", budget=4, steps=12, prompt="a green ring", sampler="ab2")
    list(draw(models, request, session, silent))
    before = session.samples[ACCELERATED].image
    with models.using("shapes-flux") as loaded:
        pipe = loaded.pipe
    scheduler, parts = pipe.scheduler, dict(pipe.components)

    def stop(share: float | None, words: str) -> None:
        if words.startswith(stage):
            session.running.pop(SOLVE)

    with pytest.raises(Stopped):
        list(solve(models, REQUEST, session, stop))
    assert not session.plans
    assert pipe.scheduler is scheduler
    assert all(pipe.components[name] is part for name, part in parts.items())
    assert not pipe.transformer._forward_pre_hooks
    assert "step" not in vars(scheduler)
    list(draw(models, request, session, silent))  # stopping one kind of work leaves the other alone
    assert torch.equal(session.samples[ACCELERATED].image, before)


def test_budgets_are_read_from_text() -> None:
    assert budgets_of(" 10, 6;8  6", 50) == (6, 8, 10)
    for text, words in {
        "ten": "whole numbers",
        "": "such as 10",
        "12": "fewer than the 12 steps",
        "0": "at least",
    }.items():
        with pytest.raises(ValueError, match=words):
            budgets_of(text, 12)


def test_files_of_plans_are_kept_or_refused_and_go_with_the_session(tmp_path: Path) -> None:
    plan = sc.shipped_plan("shapes-flux", 8)
    plan.save(tmp_path / "given.plan.json")
    session, other = Session(), Session()
    assert session.upload(tmp_path / "given.plan.json") == "my given"
    assert session.upload(tmp_path / "given.plan.json") == "my given-2"
    assert sc.Plan.load(session.files()[1]).as_dict() == plan.as_dict()
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"^bad\.json is not a plan"):
        session.upload(tmp_path / "bad.json")
    assert list(session.plans) == ["my given", "my given-2"]
    other.upload(tmp_path / "given.plan.json")
    check = session.begin(SOLVE)
    session.close()
    assert not session.files()[0].exists()
    assert other.files()[0].exists()
    with pytest.raises(Stopped):
        check()


def test_watching_counts_calls_and_leaves_nothing_behind() -> None:
    pipe = flux_pipeline()
    plain = latents(pipe, 3)
    made: list[int] = []
    with watched(pipe, lambda: made.append(1)):
        seen = latents(pipe, 3)
    assert len(made) == 6  # three steps of two guidance branches
    assert (seen == plain).all()
    assert not pipe.transformer._forward_pre_hooks
