"""Reference models are known by their folders, and ask with prompts of their own."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

import skipcast as sc
from skipcast.bench.draw import Pair, draw
from skipcast.bench.metrics import verdicts
from skipcast.bench.prompts import calibration_prompts, prompts_to_record, usual_prompts
from skipcast.models.judge import ClipJudge, Judge
from skipcast.models.load import load_model
from skipcast.models.worlds import CLIPS, STILLS, WORLDS, World, world_in
from skipcast.plans.refine import EFFORTS
from support.reference_model import save_tiny
from support.tiny_clips import save_tiny_clips


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clips(tmp_path_factory.mktemp("clips"))


def test_a_folder_is_known_by_its_judge_and_its_class(folder: Path, tmp_path: Path) -> None:
    assert world_in(folder) is CLIPS
    assert world_in(save_tiny(tmp_path)) is STILLS
    (tmp_path / "judge.safetensors").unlink()
    assert world_in(tmp_path) is None


def test_calls_default_to_nine_frames_of_48_pixels(folder: Path) -> None:
    model = load_model(str(folder))
    assert isinstance(model.judge, ClipJudge)
    assert model.world is CLIPS
    assert model.call == CLIPS.call
    given = {"prompt": CLIPS.prompts[0], "num_inference_steps": 2, "output_type": "pt"}

    def frames(pipe: diffusers.WanPipeline, **more: int) -> torch.Tensor:
        found: torch.Tensor = pipe(**given, **more, generator=torch.Generator().manual_seed(0)).frames
        return found

    own = frames(model.pipe)
    assert own.shape == (1, 9, 3, 48, 48)
    plain = diffusers.WanPipeline.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    plain.set_progress_bar_config(disable=True)
    assert torch.equal(own, frames(plain, height=48, width=48, num_frames=9, max_sequence_length=12))
    assert torch.equal(own, frames(model.pipe, max_sequence_length=512))
    assert frames(model.pipe, num_frames=5, height=64).shape == (1, 5, 3, 64, 48)


def test_the_signature_tells_the_defaults(folder: Path, tmp_path: Path) -> None:
    pipe = load_model(str(folder)).pipe
    told = inspect.signature(type(pipe).__call__).parameters
    assert [told[name].default for name in ("height", "width", "num_frames")] == [48, 48, 9]
    assert list(told) == list(inspect.signature(diffusers.WanPipeline.__call__).parameters)
    pipe.save_pretrained(tmp_path)
    assert type(diffusers.DiffusionPipeline.from_pretrained(tmp_path)) is diffusers.WanPipeline


def test_clips_are_drawn_forecast_and_judged(folder: Path) -> None:
    model = load_model(str(folder))
    assert model.judge is not None
    pairs = [Pair(prompt, seed) for seed, prompt in enumerate(CLIPS.prompts)]
    exact, forecast = (
        draw(model.pipe, pairs, method, steps=6, call=model.call)
        for method in (None, sc.method("lagrange:order=1,evaluations=4"))
    )
    assert exact.images.shape == forecast.images.shape == (4, 9, 3, 48, 48)
    assert not torch.equal(exact.images, forecast.images)
    assert [sorted(found or ()) for found in verdicts(model.judge, exact.images, list(CLIPS.prompts))] == (
        [["background", "colour", "motion", "shape", "speed"]] * 4
    )


@pytest.mark.parametrize("world", WORLDS.values(), ids=list(WORLDS))
def test_a_worlds_prompts_ask_for_everything_and_are_apart(world: World) -> None:
    judge = Judge() if world is STILLS else ClipJudge()
    for prompt in (*world.prompts, *world.calibration, *world.captions(20, np.random.default_rng(0))):
        assert set(judge.requested(prompt)) == set(judge.heads)
    assert not set(world.prompts) & set(world.calibration)
    assert (usual_prompts(world.name), calibration_prompts(world.name)) == (world.prompts, world.calibration)


def test_clips_are_recorded_on_captions_of_clips(folder: Path) -> None:
    found = prompts_to_record(load_model(str(folder)), 40)
    assert len(set(found)) == 40
    assert not set(found) & {*CLIPS.prompts}
    assert all("motion" in ClipJudge().requested(prompt) for prompt in found)


def test_plans_of_clips_are_refined_with_more_calls_than_the_run_has_steps(folder: Path) -> None:
    """`WanPipeline` looks up the noise level of every step that it takes, also of the many of a sweep."""
    model = load_model(str(folder))
    profile = sc.record(
        model.pipe, CLIPS.calibration[:4], seeds=7, num_inference_steps=8, progress=False, guidance=[2.0, 4.0],
        negative_prompt="",
    )  # fmt: skip
    effort = replace(EFFORTS["normal"], candidates=1, moves=0, sweeps=1)
    plan = profile.plan(evaluations=4, refine=model.pipe, effort=effort)
    assert [knot.value for knot in plan.knots] == [2.0, 4.0]
    assert plan.predicted is not None
    assert plan.predicted.closed
    given = {"num_inference_steps": 8, "output_type": "pt", "guidance_scale": 3.0}
    with sc.accelerate(model.pipe, plan) as acceleration:
        assert model.pipe(CLIPS.prompts[0], **given).frames.shape == (1, 9, 3, 48, 48)
    assert acceleration.summary().evaluations == 4
