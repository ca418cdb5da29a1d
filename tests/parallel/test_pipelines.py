"""CHORDS on pipelines, in one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler

import skipcast as sc
from families.all import NAMED
from support.tiny import PROMPT, flux_pipeline


@pytest.fixture(scope="module")
def pipe() -> Any:
    return flux_pipeline()


def call(seed: int = 7, **options: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {"num_inference_steps": 12, "output_type": "latent", "generator": generator, **options}


def test_the_last_answer_is_the_pipeline_s_own_to_the_bit(pipe: Any) -> None:
    scheduler = pipe.scheduler
    plain = pipe(PROMPT, **call()).images
    found = list(sc.chords(pipe, PROMPT, cores=4, init=(0, 2, 4, 8), coarse="lagrange:order=1", **call()))
    assert [answer.rounds for answer in found] == [4, 7, 10, 11, 12]
    assert torch.equal(found[-1].output.images, plain)
    assert [answer.output is None for answer in found] == [True] * 4 + [False]
    assert pipe.scheduler is scheduler
    errors = [float((answer.samples - plain).norm()) for answer in found]
    assert errors[0] > errors[1] > errors[-1] == 0.0


def test_a_call_that_stops_returns_the_image_of_its_answer(pipe: Any) -> None:
    *_, answer = sc.chords(pipe, PROMPT, cores=4, init=(0, 2, 4, 8), stop=1, **call(output_type="pil"))
    assert (answer.core, answer.rounds, answer.evaluations) == (3, 7, 22)
    assert answer.output.images[0].size == (64, 64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_two_guidance_branches_in_any_dtype(pipe: Any, dtype: torch.dtype) -> None:
    other = flux_pipeline().to(dtype)
    options = {"true_cfg_scale": 2.0, "negative_prompt": ""}
    plain = other(PROMPT, **call(**options)).images
    *_, answer = sc.chords(other, PROMPT, cores=3, init="uniform", **call(**options))
    assert torch.equal(answer.output.images, plain)


def stable_diffusion() -> tuple[Any, dict[str, Any]]:
    """A U-Net's pipeline, and the arguments of its call."""
    family = NAMED["Stable Diffusion 1.5, DDIM"]
    made = family.build()
    made.set_progress_bar_config(disable=True)
    return made, {**family.prompt(0), **family.fixed, "num_inference_steps": 8}


def test_an_unet_under_ddim() -> None:
    made, given = stable_diffusion()
    made.scheduler = DDIMScheduler.from_config(made.scheduler.config, clip_sample=False)
    plain = made(**given, generator=torch.Generator().manual_seed(0)).images
    *_, last = sc.chords(made, cores=2, init="uniform", **given, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.as_tensor(last.output.images), torch.as_tensor(plain))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cores": 13, "init": "uniform"}, "between 1 and the 12 steps"),
        ({"stop": 0.1}, "must be the number of an answer; its call cannot be left"),
        ({"init": (0, 3, 3, 4)}, "rise"),
    ],
)
def test_refusals(pipe: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sc.chords(pipe, PROMPT, **{"cores": 4, **options}, **call())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (EulerAncestralDiscreteScheduler, "EulerAncestralDiscreteScheduler adds noise at every step"),
        (DPMSolverMultistepScheduler, "DPMSolverMultistepScheduler weighs earlier outputs at step 1"),
    ],
)
def test_schedulers_that_no_core_can_begin_late_with_are_refused(kind: Any, words: str) -> None:
    made, given = stable_diffusion()
    made.scheduler = kind.from_config(made.scheduler.config)
    with pytest.raises(ValueError, match=words):
        sc.chords(made, cores=2, init="uniform", **given)
