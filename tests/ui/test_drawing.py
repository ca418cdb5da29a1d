"""Three samples, one after the other."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import skipcast as sc
from skipcast.bench import metrics
from skipcast.ui import panels
from skipcast.ui.choices import OWN
from skipcast.ui.drawing import ACCELERATED, FEWER, PANELS, UNACCELERATED, DrawRequest, Sample, draw
from skipcast.ui.state import DRAW, Models, Session, Stopped

REQUEST = DrawRequest("shapes-flux", "resilphase", "a red star", budget=4, steps=12, seed=3, sampler="ab2")


@pytest.fixture(scope="module")
def models() -> Models:
    return Models(["shapes-flux"])


@pytest.fixture
def session() -> Session:
    return Session()


def drawn(models: Models, request: DrawRequest, session: Session, report: Any = lambda share, words: None) -> Any:
    """The samples of a whole draw."""
    assert list(draw(models, request, session, report)) == list(PANELS)
    return dict(session.samples)


def test_samples_come_in_order_with_the_numbers_of_the_bench(models: Models, session: Session) -> None:
    reports: list[tuple[float | None, str]] = []
    found = drawn(models, REQUEST, session, lambda share, words: reports.append((share, words)))
    assert all(share is None or 0 <= share <= 1 for share, _ in reports)
    full, made, fewer = (found[panel] for panel in PANELS)
    assert {full.label, made.label, fewer.label} <= {words for _, words in reports}
    assert (full.evaluations, made.evaluations, fewer.evaluations) == (12, 4, 4)
    assert (made.label, fewer.label) == ("resilphase:evaluations=4", "ab2:evaluations=4")
    assert full.psnr is None
    assert full.speedup is None
    assert made.evaluated == sc.method("resilphase:evaluations=4").controller.evaluated(12)
    assert fewer.evaluated is None
    for sample in (made, fewer):
        assert sample.speedup == pytest.approx(full.seconds / sample.seconds)
        assert sample.psnr == float(metrics.psnr(sample.image[None], full.image[None]))
        assert sample.ssim == float(metrics.ssim(sample.image[None], full.image[None]))
        assert 15 < sample.psnr < 60


def test_images_are_the_pipelines_own(models: Models, session: Session) -> None:
    found = drawn(models, REQUEST, session)
    pipe = sc.load_reference("shapes-flux")
    given = {"true_cfg_scale": 2.0, "negative_prompt": "", "num_inference_steps": 12, "output_type": "pt"}

    def plain() -> torch.Tensor:
        return pipe("a red star", generator=torch.Generator().manual_seed(3), **given).images[0]

    assert torch.equal(found[UNACCELERATED].image, plain())
    with sc.accelerate(pipe, "resilphase:evaluations=4"):
        assert torch.equal(found[ACCELERATED].image, plain())


def test_the_unaccelerated_run_is_kept_while_only_the_method_changes(models: Models, session: Session) -> None:
    first = drawn(models, REQUEST, session)[UNACCELERATED]
    second = drawn(models, replace(REQUEST, spec="reuse", budget=6), session)[UNACCELERATED]
    assert (first.kept, second.kept) == (False, True)
    assert second.image is first.image
    assert second.seconds == first.seconds
    assert not drawn(models, replace(REQUEST, seed=4), session)[UNACCELERATED].kept
    assert not drawn(models, REQUEST, Session())[UNACCELERATED].kept  # nothing of another visitor's


def test_plans_say_what_they_promise_and_whether_they_trust(models: Models, session: Session) -> None:
    found = drawn(models, replace(REQUEST, spec="plan", budget=5, steps=50), session)[ACCELERATED]
    plan = sc.shipped_plan("shapes-flux", 5).at(2.0)
    assert (found.label, found.evaluated, found.trusted) == ("plan:evaluations=5", plan.steps, True)
    assert plan.predicted is not None
    assert f"predicted {plan.predicted.psnr:.1f} dB" in found.remarks[0]
    assert plan.expected is not None
    narrow = replace(plan, expected=plan.expected / 30)
    host = Models(["shapes-flux"], {"narrow.plan.json": narrow})
    found = drawn(host, replace(REQUEST, spec="narrow.plan.json", steps=50), session)[ACCELERATED]
    assert found.trusted is False
    assert any("departs" in remark for remark in found.remarks)
    with pytest.raises(ValueError, match=r"outside the 1\.5 to 6 that this plan was solved for"):
        drawn(models, replace(REQUEST, spec="plan", budget=5, steps=50, guidance=8.0), session)


def test_a_method_with_a_threshold_and_the_pipelines_own_scheduler(models: Models, session: Session) -> None:
    found = drawn(models, replace(REQUEST, spec="hindsight", threshold=10.0, sampler=OWN), session)
    assert found[ACCELERATED].label == "hindsight:tolerance=10"
    count = found[ACCELERATED].evaluations
    assert (found[FEWER].label, found[FEWER].evaluations) == (f"own scheduler, {count:g} steps", count)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spec": "resilfase"}, "Did you mean"),
        ({"spec": "resilphase:warmup=40,evaluations=3"}, "warmup|warm-up"),
        ({"spec": "plan"}, "made for 50"),
        ({"model": "no-such-model"}, "one of shapes-flux, not 'no-such-model'"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_drawn(
    models: Models, session: Session, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        next(draw(models, replace(REQUEST, **change), session, lambda share, words: None))
    assert not session.samples


def test_stopping_leaves_the_pipeline_as_it_was(models: Models, session: Session) -> None:
    before = drawn(models, REQUEST, session)
    with models.using(REQUEST.model) as loaded:
        pipe, scheduler = loaded.pipe, loaded.pipe.scheduler

    def stop(share: float | None, words: str) -> None:
        if words.startswith("resilphase") and share:
            session.running.pop(DRAW)

    with pytest.raises(Stopped):
        list(draw(models, REQUEST, session, stop))
    assert set(session.samples) == {UNACCELERATED}
    assert pipe.scheduler is scheduler
    assert "set_timesteps" not in vars(scheduler)
    assert not pipe.transformer._forward_pre_hooks
    assert torch.equal(drawn(models, REQUEST, session)[ACCELERATED].image, before[ACCELERATED].image)


def test_visitors_take_turns_and_get_what_they_would_get_alone(models: Models) -> None:
    one, two = Session(), Session()
    alone = drawn(models, REQUEST, Session())
    other = replace(REQUEST, prompt="a blue ring", spec="reuse")
    turns = zip(
        *(draw(models, r, s, lambda share, words: None) for r, s in ((REQUEST, one), (other, two))), strict=True
    )
    assert [panel for panel, _ in turns] == list(PANELS)
    assert all(torch.equal(one.samples[panel].image, alone[panel].image) for panel in PANELS)
    assert not torch.equal(two.samples[UNACCELERATED].image, alone[UNACCELERATED].image)


def test_panels_say_all_of_it(models: Models, session: Session) -> None:
    samples = drawn(models, REQUEST, session)
    html = panels.figure(ACCELERATED, samples)
    found: Sample = samples[ACCELERATED]
    for words in ("data:image/png;base64,", f"PSNR <b>{found.psnr:.1f} dB</b>", "4 evaluations", "SSIM", "sc-strip"):
        assert words in html
    assert panels.figure(ACCELERATED, samples, difference=True) != html
    same = {UNACCELERATED: samples[UNACCELERATED], FEWER: replace(found, psnr=math.inf, label="<b>")}
    assert "identical to unaccelerated" in panels.figure(FEWER, same)
    assert "<code>&lt;b&gt;</code>" in panels.figure(FEWER, same)
    assert "kept" in panels.figure(UNACCELERATED, {UNACCELERATED: replace(found, kept=True)})
    assert (html.count('class="on"'), html.count('class="off"')) == (4, 8)
    assert f'aria-label="evaluated 4 of 12 steps: {", ".join(map(str, found.evaluated or ()))}"' in html
    assert "sc-blank" in panels.figure(FEWER, {})
