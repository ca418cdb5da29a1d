"""Three pictures, one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import skipcast as sc
from skipcast.bench import metrics
from skipcast.ui import panels
from skipcast.ui.choices import OWN
from skipcast.ui.drawing import draw
from skipcast.ui.jobs import STOPPED, Failed, Job
from skipcast.ui.studio import Studio
from skipcast.ui.visitors import Visitor
from skipcast.ui.wishes import ACCELERATED, FEWER, PANELS, REFERENCE, Shown, Wish, Working

WISH = Wish("shapes-flux", "resilphase", budget=4, steps=12, prompt="a red star", seed=3, sampler="ab2")
Draw = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio()


@pytest.fixture
def visitor(tmp_path: Path) -> Visitor:
    return Visitor(tmp_path)


def shown(events: list[Any]) -> dict[str, Any]:
    return {event.panel: event.picture for event in events if isinstance(event, Shown)}


def test_the_reference_comes_first_and_numbers_are_those_of_the_bench(studio: Studio, visitor: Visitor) -> None:
    events = list(draw(studio, WISH, visitor))
    assert [event.panel for event in events if isinstance(event, Shown)] == list(PANELS)
    assert {event.panel for event in events if isinstance(event, Working) and event.of} == set(PANELS)
    assert all(event.done <= event.of for event in events if isinstance(event, Working))
    found = shown(events)
    truth, made, fewer = (found[panel] for panel in PANELS)
    assert (truth.evaluations, made.evaluations, fewer.evaluations) == (12, 4, 4)
    assert (made.label, fewer.label) == ("resilphase:evaluations=4", "ab2:evaluations=4")
    assert truth.psnr is None
    assert truth.speedup is None
    assert made.evaluated == sc.method("resilphase:evaluations=4").controller.evaluated(12)
    assert fewer.evaluated is None
    for picture in (made, fewer):
        assert picture.speedup == pytest.approx(truth.seconds / picture.seconds)
        assert picture.psnr == float(metrics.psnr(picture.image[None], truth.image[None]))
        assert picture.ssim == float(metrics.ssim(picture.image[None], truth.image[None]))
        assert 15 < picture.psnr < 60


def test_the_pictures_are_the_pipelines_own(studio: Studio, visitor: Visitor) -> None:
    found = shown(list(draw(studio, WISH, visitor)))
    pipe = sc.load_reference("shapes-flux")
    given = {"true_cfg_scale": 2.0, "negative_prompt": "", "num_inference_steps": 12, "output_type": "pt"}

    def plain() -> torch.Tensor:
        return pipe("a red star", generator=torch.Generator().manual_seed(3), **given).images[0]

    assert torch.equal(found[REFERENCE].image, plain())
    with sc.accelerate(pipe, "resilphase:evaluations=4"):
        assert torch.equal(found[ACCELERATED].image, plain())


def test_the_reference_is_kept_while_only_the_method_changes(studio: Studio, visitor: Visitor) -> None:
    first = shown(list(draw(studio, WISH, visitor)))
    second = shown(list(draw(studio, replace(WISH, spec="reuse", budget=6), visitor)))
    assert not first[REFERENCE].kept
    assert second[REFERENCE].kept
    assert second[REFERENCE].image is first[REFERENCE].image
    assert second[REFERENCE].seconds == first[REFERENCE].seconds
    third = shown(list(draw(studio, replace(WISH, seed=4), visitor)))
    assert not third[REFERENCE].kept
    other = Visitor(visitor.folder)
    assert not shown(list(draw(studio, WISH, other)))[REFERENCE].kept  # nobody else's


def test_plans_say_what_they_promise_and_whether_they_trust(studio: Studio, visitor: Visitor) -> None:
    found = shown(list(draw(studio, replace(WISH, spec="plan", budget=5, steps=50), visitor)))[ACCELERATED]
    plan = sc.shipped_plan("shapes-flux", 5)
    assert found.label == "plan:evaluations=5"
    assert found.evaluated == plan.steps
    assert found.trusted is True
    assert plan.predicted is not None
    assert f"predicted {plan.predicted.psnr:.1f} dB" in found.notes[0]
    doubted = replace(WISH, spec="plan", budget=5, steps=50, guidance=8.0, seed=5)
    found = shown(list(draw(studio, doubted, visitor)))[ACCELERATED]
    assert found.trusted is False
    assert any("departs" in note for note in found.notes)


def test_a_method_with_a_dial_and_the_pipelines_own_scheduler(studio: Studio, visitor: Visitor) -> None:
    wish = replace(WISH, spec="hindsight", dial=10.0, sampler=OWN)
    found = shown(list(draw(studio, wish, visitor)))
    assert found[ACCELERATED].label == "hindsight:tolerance=10"
    count = found[ACCELERATED].evaluations
    assert found[FEWER].label == f"own scheduler, {count:g} steps"
    assert found[FEWER].evaluations == count


def test_what_cannot_run_is_refused_before_anything_is_drawn(studio: Studio, visitor: Visitor) -> None:
    for spec, words in {
        "resilfase": "Did you mean",
        "resilphase:warmup=40,evaluations=3": "",
        "plan": "made for 50",
    }.items():
        events = list(draw(studio, replace(WISH, spec=spec), visitor))
        assert not shown(events)
        assert isinstance(events[-1], Failed)
        assert words in events[-1].message
    events = list(draw(studio, replace(WISH, model="no-such-model"), visitor))
    assert "no model 'no-such-model'" in events[-1].message
    assert not visitor.shown


@pytest.mark.parametrize(
    ("change", "message"),
    [({"prompt": " "}, "what to draw"), ({"steps": 1}, "between 2 and"), ({"seed": -1}, "whole number"),
     ({"model": ""}, "choose a model")],
)  # fmt: skip
def test_wishes_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(WISH, **change)


def test_stopping_leaves_the_pipeline_as_it_was(studio: Studio, visitor: Visitor) -> None:
    truth = shown(list(draw(studio, WISH, visitor)))
    pipe: Any = studio._loaded.pipe  # type: ignore[union-attr]
    scheduler = pipe.scheduler
    job = draw(studio, WISH, visitor)
    for event in job:
        if isinstance(event, Working) and event.panel == ACCELERATED and event.of:
            job.stop()
        last = event
    assert last == STOPPED
    assert pipe.scheduler is scheduler
    assert "set_timesteps" not in vars(scheduler)
    assert not pipe.transformer._forward_pre_hooks
    again = shown(list(draw(studio, WISH, visitor)))
    assert torch.equal(again[ACCELERATED].image, truth[ACCELERATED].image)


def test_two_visitors_take_turns(studio: Studio, tmp_path: Path) -> None:
    one, two = Visitor(tmp_path), Visitor(tmp_path)
    alone = shown(list(draw(studio, WISH, one)))
    second = iter(draw(studio, WISH, two))
    with studio.using(WISH.model, Job(lambda job: None)):
        assert next(second) == Working(REFERENCE, words="waiting for another visitor")
    both = shown(list(second))
    assert all(torch.equal(both[panel].image, alone[panel].image) for panel in PANELS)


def test_panels_tell_all_of_it(studio: Studio, visitor: Visitor) -> None:
    list(draw(studio, WISH, visitor))
    html = panels.shown(ACCELERATED, visitor.shown)
    picture = visitor.shown[ACCELERATED]
    for words in ("data:image/png;base64,", f"PSNR <b>{picture.psnr:.1f} dB</b>", "4 evaluations", "SSIM", "sc-strip"):
        assert words in html
    assert panels.shown(ACCELERATED, visitor.shown, difference=True) != html
    same = {REFERENCE: visitor.shown[REFERENCE], FEWER: replace(picture, psnr=math.inf, label="<b>")}
    assert "identical to the reference" in panels.shown(FEWER, same)
    assert "<code>&lt;b&gt;</code>" in panels.shown(FEWER, same)
    assert "kept" in panels.shown(REFERENCE, {REFERENCE: replace(picture, kept=True)})
