"""Closing the loop on a pipeline: programs run inside pipeline calls, plans come out that the scheduler repeats."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

import skipcast as sc
from skipcast.pipelines.recording.record import record
from skipcast.pipelines.recording.replay import PipelineEvaluator
from skipcast.plans.closed_loop import Table, final_errors
from skipcast.plans.plan import Origin
from skipcast.plans.profile import Profile
from skipcast.plans.refine import Effort
from support import tiny
from support.seams import counted

STEPS = 8
PROMPTS = ("a red star", "a blue ring", "a green heart", "a white cross")
RECORD: dict[str, Any] = {"seeds": 3, "num_inference_steps": STEPS, "progress": False, "negative_prompt": ""}


@pytest.fixture(scope="module")
def profile(pipe: Any) -> Profile:
    return record(pipe, PROMPTS, true_cfg_scale=2.0, **RECORD)


def final(profile: Profile) -> Tensor:
    assert profile.trajectory is not None
    return profile.trajectory[:, -1]


@pytest.mark.parametrize("batch", [4, 3])
def test_every_step_evaluated_repeats_the_recording(pipe: Any, profile: Profile, batch: int) -> None:
    plan = profile.plan(steps=range(STEPS), refine=pipe, effort="low", batch=batch)
    assert plan.predicted is not None
    assert plan.predicted.worst > 90


@pytest.mark.parametrize("nfe", [2, 4])
def test_a_refined_plan_reaches_what_its_scheduler_reaches(pipe: Any, profile: Profile, nfe: int) -> None:
    scheduler = pipe.scheduler
    plan = profile.plan(evaluations=nfe, refine=pipe, effort="low")
    assert pipe.scheduler is scheduler
    with sc.accelerate(pipe, plan):
        made = tiny.latents(pipe, STEPS, list(PROMPTS), seed=3)
    errors = (made - final(profile)).double().square().flatten(1).mean(1).numpy()
    psnr = -10 * np.log10(profile.gain * errors)
    assert plan.predicted is not None
    assert plan.predicted.psnr == pytest.approx(psnr[3], abs=0.02)  # every fourth pair validates


def test_a_swept_plan_is_judged_by_its_decoded_images(pipe: Any, profile: Profile) -> None:
    evaluator = PipelineEvaluator(pipe, profile.origin, batch=4)
    assert evaluator.decodes
    plan = profile.plan(evaluations=3, refine=evaluator, effort=Effort(sweeps=1))
    call = {"generator": torch.Generator().manual_seed(6), "num_inference_steps": STEPS, "output_type": "pt"}
    given = {"true_cfg_scale": 2.0, "negative_prompt": "", **call}
    truth = pipe(PROMPTS[3], **given).images
    with sc.accelerate(pipe, plan):
        found = pipe(PROMPTS[3], **{**given, "generator": torch.Generator().manual_seed(6)}).images
    assert plan.predicted is not None
    expected = float(-10 * (found.double() - truth.double()).square().mean().log10())
    assert plan.predicted.psnr == pytest.approx(expected, abs=0.05)  # every fourth pair validates


def test_images_of_the_reference_are_decoded_once(pipe: Any, profile: Profile) -> None:
    evaluator = PipelineEvaluator(pipe, profile.origin, batch=4)
    samples = final(profile)[[1, 2]].float()
    first = evaluator.decoded([1, 2], samples, reference=True)
    assert evaluator.evaluations == 2
    torch.testing.assert_close(evaluator.decoded([2, 1], samples, reference=True), first[[1, 0]], rtol=0, atol=1e-6)
    assert evaluator.evaluations == 2
    assert ((first >= 0) & (first <= 1)).all()
    evaluator.decoded([1, 2], samples)
    assert evaluator.evaluations == 4


def test_a_refined_plan_beats_the_open_loop(pipe: Any, profile: Profile) -> None:
    plans = [profile.plan(evaluations=3, refine=given, effort="low") for given in (None, pipe)]
    tables = [Table(plan.steps, plan.rows, plan.evaluation_timesteps, plan.scale) for plan in plans]
    evaluator = PipelineEvaluator(pipe, profile.origin)
    errors = [final_errors(table, evaluator, final(profile), range(4)).mean() for table in tables]
    assert errors[1] < errors[0]


def test_the_network_is_called_as_often_as_it_is_said(pipe: Any, profile: Profile) -> None:
    evaluator = PipelineEvaluator(pipe, profile.origin, batch=4)
    with counted(pipe.transformer) as counts:
        profile.plan(steps=(0, 1, 2), refine=evaluator, effort="low")
    assert evaluator.evaluations == 4 * counts[pipe.transformer] / 2  # two guidance branches a call


def test_programs_that_fail_or_end_early_leave_the_pipeline_as_it_was(pipe: Any, profile: Profile) -> None:
    scheduler, evaluator = pipe.scheduler, PipelineEvaluator(pipe, profile.origin)

    def fails(x: Tensor) -> Generator[Tensor, Tensor, None]:
        yield x
        raise ArithmeticError("in the middle")

    def short(x: Tensor) -> Generator[Tensor, Tensor, None]:
        yield x

    with pytest.raises(ArithmeticError):
        evaluator.call([0], [1000.0, 500.0], [1.0, 1.0], fails)
    with pytest.raises(RuntimeError, match="ended after 1 of 2"):
        evaluator.call([0], [1000.0, 500.0], [1.0, 1.0], short)
    assert pipe.scheduler is scheduler


def test_another_scheduler_than_the_recorded_one_is_refused(pipe: Any, profile: Profile) -> None:
    other = tiny.twin(pipe, scheduler=FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config, max_shift=2.0))
    with pytest.raises(ValueError, match=r"max_shift=1.15.*has max_shift=2.0"):
        profile.plan(evaluations=3, refine=other)


def test_half_precision_is_refined_too() -> None:
    pipe = tiny.flux_pipeline().to(torch.bfloat16)
    profile = record(pipe, PROMPTS, true_cfg_scale=2.0, **RECORD)
    evaluator = PipelineEvaluator(pipe, profile.origin)
    assert evaluator.coarse
    plan = profile.plan(evaluations=4, refine=evaluator, effort="normal")
    assert plan.predicted is not None
    assert plan.predicted.psnr > 25


def test_pairs_of_several_guidance_scales_make_one_plan(pipe: Any) -> None:
    scales = [1.5, 1.5, 4.0, 4.0]
    profile = record(pipe, PROMPTS, varied={"true_cfg_scale": scales}, **RECORD)
    assert profile.origin.alike(range(4)) == [[0, 1], [2, 3]]
    for pair, scale in enumerate(scales):
        alone = tiny.latents(pipe, STEPS, [PROMPTS[pair]], seed=3 + pair, true_cfg_scale=scale)
        torch.testing.assert_close(final(profile)[pair], alone[0], atol=1e-5, rtol=1e-5)
    evaluator = PipelineEvaluator(pipe, profile.origin)
    assert evaluator.groups([3, 0, 2]) == [[3, 2], [0]]
    plan = profile.plan(steps=range(STEPS), refine=evaluator, effort="low", knots=False)
    assert plan.predicted is not None
    assert plan.predicted.worst > 90
    assert plan.origin == replace(profile.origin, prompts=(), seeds=())
    assert Origin(**plan.origin.as_dict()) == plan.origin


@pytest.mark.parametrize(
    ("varied", "call", "words"),
    [
        ({"true_cfg_scale": [1.0]}, {}, "1 values of true_cfg_scale for 4"),
        ({"true_cfg_scale": [1.0] * 4}, {"true_cfg_scale": 2.0}, "given for all pairs and in varied="),
    ],
)
def test_varied_arguments_are_checked(pipe: Any, varied: Any, call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        record(pipe, PROMPTS, varied=varied, **RECORD, **call)
