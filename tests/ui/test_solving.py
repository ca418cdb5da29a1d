"""Recording and solving, with progress."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import skipcast as sc
from skipcast.bench.spec import prompts_to_record
from skipcast.ui import panels
from skipcast.ui.drawing import draw
from skipcast.ui.jobs import STOPPED
from skipcast.ui.solving import OPEN, Order, Progress, Solved, budgets_of, solve
from skipcast.ui.studio import Studio
from skipcast.ui.visitors import Visitor
from skipcast.ui.wishes import ACCELERATED, Shown, Wish

ORDER = Order("shapes-flux", (3, 4), pairs=4, steps=12)


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio()


def test_plans_are_the_librarys_own_and_can_be_used(studio: Studio, tmp_path: Path) -> None:
    visitor = Visitor(tmp_path)
    events = list(solve(studio, ORDER, visitor))
    solved = [event for event in events if isinstance(event, Solved)]
    assert [event.label for event in solved] == ["my shapes-flux-3-of-12", "my shapes-flux-4-of-12"]
    loaded: Any = studio._loaded
    prompts = prompts_to_record(loaded.model, 4)
    call = dict(loaded.model.call)
    profile = sc.record(loaded.pipe, prompts, seeds=0, num_inference_steps=12, progress=False,
                        revision=loaded.model.revision, **call)  # fmt: skip
    by_hand = profile.plan(nfe=4, refine=loaded.pipe, effort="low")
    assert solved[1].plan.as_dict() == by_hand.as_dict()
    saved = sc.Plan.load(visitor.file(solved[1].label))
    assert saved.as_dict() == by_hand.as_dict()
    shares = [event.share for event in events if isinstance(event, Progress) and event.words.startswith("recording")]
    assert shares == sorted(shares)
    assert any("best so far" in event.words for event in events if isinstance(event, Progress))

    wish = Wish("shapes-flux", solved[1].label, steps=12, prompt="a green ring", sampler="ab2")
    drawn = [event.picture for event in draw(studio, wish, visitor) if isinstance(event, Shown)]
    assert drawn[1].evaluated == by_hand.steps
    assert drawn[1].psnr > drawn[2].psnr - 10
    html = panels.plan(solved[1])
    assert by_hand.predicted is not None
    assert f"{by_hand.predicted.psnr:.1f} dB predicted" in html
    assert html.count('class="on"') == 4
    assert html.count('class="off"') == 8


def test_the_open_loop_asks_the_network_nothing(studio: Studio, tmp_path: Path) -> None:
    order = replace(ORDER, budgets=(4,), effort=OPEN, prompts=("a red star",), pairs=2)
    (solved,) = [event for event in solve(studio, order, Visitor(tmp_path)) if isinstance(event, Solved)]
    assert solved.made == 0
    assert solved.plan.label == "open loop"
    assert solved.plan.origin.prompts == ("a red star", "a red star")


@pytest.mark.parametrize("stage", ["recording", "solving"])
def test_stopping_restores_the_pipeline(studio: Studio, tmp_path: Path, stage: str) -> None:
    visitor = Visitor(tmp_path)
    wish = Wish("shapes-flux", "reuse", budget=4, steps=12, prompt="a green ring", sampler="ab2")
    before = [event.picture.image for event in draw(studio, wish, visitor) if isinstance(event, Shown)]
    pipe: Any = studio._loaded.pipe  # type: ignore[union-attr]
    scheduler, parts = pipe.scheduler, dict(pipe.components)
    job = solve(studio, ORDER, visitor)
    for event in job:
        last = event
        if isinstance(event, Progress) and event.words.startswith(stage):
            job.stop()
    assert last == STOPPED
    assert not visitor.plans
    assert pipe.scheduler is scheduler
    assert all(pipe.components[name] is part for name, part in parts.items())
    assert not pipe.transformer._forward_pre_hooks
    assert "step" not in vars(scheduler)
    after = [event.picture.image for event in draw(studio, wish, Visitor(tmp_path)) if isinstance(event, Shown)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_budgets_are_read_from_text() -> None:
    assert budgets_of(" 10, 6;8  6") == (6, 8, 10)
    assert budgets_of("") == ()
    with pytest.raises(ValueError, match="whole numbers"):
        budgets_of("ten")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"budgets": ()}, "how many evaluations"), ({"budgets": (12,)}, "fewer than the 12 steps"),
     ({"pairs": 0}, "pairs=0"), ({"effort": "some"}, "effort='some'"), ({"steps": 1}, "steps=1"),
     ({"seed": -1}, "seed=-1")],
)  # fmt: skip
def test_orders_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(ORDER, **change)


def test_files_of_plans_are_taken_in_or_refused(tmp_path: Path) -> None:
    plan = sc.shipped_plan("shapes-flux", 8)
    (tmp_path / "mine").mkdir()
    plan.save(tmp_path / "given.plan.json")
    visitor = Visitor(tmp_path / "mine")
    assert visitor.upload(tmp_path / "given.plan.json") == "my given"
    assert visitor.upload(tmp_path / "given.plan.json") == "my given-2"
    assert sc.Plan.load(visitor.file("my given-2")).as_dict() == plan.as_dict()
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"^bad\.json is not a plan"):
        visitor.upload(tmp_path / "bad.json")
    assert list(visitor.plans) == ["my given", "my given-2"]
    assert ACCELERATED not in visitor.shown
