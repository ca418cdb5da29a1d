"""Plans with knots in pipelines: recorded, told their scale by the call, refused where they do not know it."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import skipcast as sc
from skipcast.pipelines.plan_scheduler import PlanScheduler
from skipcast.pipelines.recording.record import record
from skipcast.plans.knots import joined
from skipcast.plans.plan import Plan
from skipcast.plans.profile import Profile
from support.seams import counted, state
from support.tiny import at, image_to_image, latents, twin

STEPS = 8
PROMPTS = ("a red star", "a blue ring", "a green heart", "a white cross", "a black square")
RECORD: dict[str, Any] = {"seeds": 3, "num_inference_steps": STEPS, "progress": False}


@pytest.fixture(scope="module")
def profile(pipe: Any) -> Profile:
    """Five pairs at three scales in turn."""
    return record(pipe, PROMPTS, guidance=[3.0, 1.5, 2.0], batch=2, **RECORD)


@pytest.fixture(scope="module")
def plan(pipe: Any, profile: Profile) -> Plan:
    return profile.plan(evaluations=3, refine=pipe, effort="low")


# Recording ----------------------------------------------------------------------------------------------------------


def test_scales_go_to_the_pairs_in_turn_whatever_the_calls(pipe: Any, profile: Profile) -> None:
    assert profile.origin.varied == {"true_cfg_scale": (3.0, 1.5, 2.0, 3.0, 1.5)}
    assert profile.origin.call == {"negative_prompt": ""}
    assert profile.trajectory is not None
    for pair, scale in enumerate(profile.origin.varied["true_cfg_scale"]):
        alone = latents(pipe, STEPS, [PROMPTS[pair]], seed=3 + pair, true_cfg_scale=scale)
        torch.testing.assert_close(profile.trajectory[pair, -1], alone[0], atol=1e-5, rtol=1e-5)
        size = float(profile.trajectory[pair, 0].double().square().mean())
        assert profile.grams[pair, 0, 0] == pytest.approx(size, rel=1e-6)  # grams are in the order of the pairs too


def test_one_scale_is_an_argument_of_all_pairs(pipe: Any) -> None:
    origin = record(pipe, PROMPTS[:1], guidance=1.5, negative_prompt="blurred", **RECORD).origin
    assert (origin.call, origin.varied) == ({"negative_prompt": "blurred", "true_cfg_scale": 1.5}, {})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"guidance": [1.5, 1.5]}, r"guidance=\[1.5, 1.5\].* distinct"),
        ({"guidance": []}, "distinct"),
        ({"guidance": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}, "there are 5 prompts"),
        ({"guidance": [1.0, float("inf")]}, "must be finite"),
        ({"guidance": 2.0, "true_cfg_scale": 2.0}, "two names of one argument"),
        ({"guidance": [1.0, 2.0], "varied": {"true_cfg_scale": [2.0] * 5}}, "two names of one argument"),
        ({"varied": {"colour": [2.0] * 5}}, r"record\(colour=\.\.\.\) is no argument"),
    ],
)
def test_scales_that_cannot_be_recorded_are_refused_before_any_evaluation(
    pipe: Any, given: dict[str, Any], says: str
) -> None:
    with counted(pipe.transformer) as counts, pytest.raises(ValueError, match=says):
        record(pipe, PROMPTS, **given, **RECORD)
    assert not counts[pipe.transformer]


# Running ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.5, 2.0, 2.6])
def test_the_scale_comes_from_the_call_of_the_pipeline(pipe: Any, plan: Plan, scale: float) -> None:
    expected = latents(twin(pipe, scheduler=PlanScheduler(plan.at(scale))), STEPS, true_cfg_scale=scale)
    with sc.accelerate(pipe, plan) as acceleration:
        latents(pipe, STEPS, true_cfg_scale=1.7)
        assert torch.equal(latents(pipe, STEPS, true_cfg_scale=scale), expected)
        assert acceleration.scheduler.plan.origin.call["true_cfg_scale"] == scale
        assert acceleration.summary().evaluated_steps == plan.steps
    named = twin(pipe, scheduler=PlanScheduler(plan, guidance=scale))
    assert torch.equal(latents(named, STEPS, true_cfg_scale=scale), expected)


def test_positional_arguments_and_defaults_count(pipe: Any, plan: Plan) -> None:
    noise = [torch.Generator().manual_seed(7) for _ in range(2)]
    with sc.accelerate(pipe, plan) as acceleration:
        pipe("a star", None, "", None, 2.5, num_inference_steps=STEPS, output_type="latent", generator=noise[0])
        assert acceleration.scheduler.guidance == 2.5
        with pytest.raises(ValueError, match=r"true_cfg_scale=1 lies outside the 1.5 to 3"):
            pipe("a star", num_inference_steps=STEPS, output_type="latent", generator=noise[1])
        with pytest.raises(ValueError, match=r"gives true_cfg_scale=None; pass a number"):
            pipe("a star", true_cfg_scale=None)


def test_outside_the_knots_nothing_is_evaluated(pipe: Any, plan: Plan) -> None:
    with (
        counted(pipe.transformer) as counts,
        sc.accelerate(pipe, plan),
        pytest.raises(ValueError, match=r"true_cfg_scale=5 lies outside the 1.5 to 3 .*extrapolate=True"),
    ):
        latents(pipe, STEPS, true_cfg_scale=5.0)
    assert not counts[pipe.transformer]
    with pytest.raises(ValueError, match="outside"):
        PlanScheduler(plan, guidance=5.0)
    further = PlanScheduler(plan, guidance=5.0, extrapolate=True)
    assert further.plan.as_dict() == plan.at(5.0, extrapolate=True).as_dict()


def test_a_plan_that_was_not_told_its_scale_is_refused_before_the_network(pipe: Any, plan: Plan) -> None:
    used = twin(pipe, scheduler=PlanScheduler(plan))
    with counted(used.transformer) as counts:
        with pytest.raises(
            ValueError, match=r"1.5 to 3 .*PlanScheduler\(plan, guidance=\.\.\.\).*skipcast\.accelerate"
        ):
            latents(used, STEPS)
        assert not counts[used.transformer]
        used.scheduler.guidance = 2.0
        latents(used, STEPS)
        assert counts[used.transformer] == 2 * 3


def test_a_plan_without_knots_takes_no_other_scale(plan: Plan) -> None:
    assert PlanScheduler(plan.at(2.0), guidance=2.0).plan.as_dict() == plan.at(2.0).as_dict()
    with pytest.raises(ValueError, match=r"has no knots: it was made for .*true_cfg_scale=2.0"):
        PlanScheduler(plan.at(2.0), guidance=3.0)


def test_a_pipeline_without_the_argument_is_refused(pipe: Any, plan: Plan) -> None:
    other = joined("strength", {0.5: plan.at(2.0), 1.0: plan.at(3.0)}, plan.origin)
    with pytest.raises(ValueError, match=r"knots over strength, which calls of FluxPipeline do not take"):
        sc.accelerate(pipe, other)
    sc.accelerate(image_to_image(pipe), other)  # that one does


def test_the_pipeline_is_restored_exactly(pipe: Any, plan: Plan) -> None:
    kind, before, plain = type(pipe), state(pipe), latents(pipe, STEPS)
    with sc.accelerate(pipe, plan):
        latents(pipe, STEPS)
        assert isinstance(pipe, kind)
        assert (type(pipe).__name__, type(pipe).__module__) == (kind.__name__, kind.__module__)
        twice = copy.deepcopy(pipe)
    assert type(pipe) is kind
    assert state(pipe) == before
    assert torch.equal(latents(pipe, STEPS), plain)
    assert type(twice) is kind  # the copy is what the pipeline was
    assert torch.equal(latents(twice, STEPS), plain)


def test_a_scale_that_changes_midway_is_warned_of_once(pipe: Any, plan: Plan) -> None:
    def set_to(value: float) -> Any:
        return lambda pipe, values: setattr(pipe, "_true_cfg_scale", value)

    pipe._true_cfg_scale = 2.0  # as pipelines keep their guidance_scale, which callbacks may change
    try:
        with sc.accelerate(pipe, plan):
            with pytest.warns(
                UserWarning, match=r"true_cfg_scale was changed from 2.0 to 0.0 .* numbers for 2:"
            ) as heard:
                latents(pipe, STEPS, callback_on_step_end=at(0, set_to(0.0)))
            assert len(heard) == 1
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                latents(pipe, STEPS)
    finally:
        del pipe._true_cfg_scale


def test_configurations_keep_knots_and_scale(tmp_path: Path, plan: Plan) -> None:
    PlanScheduler(plan, guidance=2.5).save_pretrained(tmp_path)
    again = PlanScheduler.from_pretrained(tmp_path)
    assert again.guidance == 2.5
    assert again.plan.as_dict() == plan.at(2.5).as_dict()
    again.guidance = 1.5
    assert PlanScheduler.from_config(again.config).plan.as_dict() == plan.at(1.5).as_dict()
    again.guidance = None
    assert again.plan.as_dict() == plan.as_dict()
    assert np.isfinite(again.timesteps).all()
