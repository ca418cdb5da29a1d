"""The whole life of a plan on `shapes-flux`: recorded in ComfyUI, published, run in diffusers, served: one image."""

from __future__ import annotations

import base64
import io
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import skipcast as sc
from skipcast.cli import app
from skipcast.engines.comfy.nodes import LoadPlan, PlanSampler, RecordProfile, SolvePlan
from skipcast.engines.serving import ImageServer
from skipcast.engines.tiered import TieredScheduler, tiered
from skipcast.engines.tiers import Tiers
from skipcast.hub.publish import Publication
from skipcast.plans.plan import Knot, Origin
from support import comfy_stand_in as stand_in
from support import comfyui
from support.tiny import PROMPT, latents, twin

STEPS, EVALUATIONS, SCALE, SEED = 8, 3, 2.0, 7
PROMPTS = "a small green circle on a black background\na blue square on a white background"
CALL = {"negative_prompt": "", "true_cfg_scale": SCALE}


@pytest.fixture(params=["stand-in", "ComfyUI"])
def engine(request: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[types.SimpleNamespace]:
    """What the loader, the guider and the schedulers of ComfyUI give of the reference model."""
    pipe = sc.load_reference("shapes-flux")
    if request.param == "stand-in":
        with stand_in.installed(monkeypatch, tmp_path):
            model, sampler = stand_in.shapes_flux(pipe), stand_in.KSAMPLER(stand_in.sample_euler)
            sigmas = stand_in.simple(model.model.model_sampling, STEPS)
            yield _guided(stand_in, model, stand_in.ShapesClip(pipe), pipe, sampler, sigmas, lambda x: x)
        return
    if not comfyui.PATH:
        pytest.skip(comfyui.WHY_NOT)
    own = comfyui.imported()
    import folder_paths

    folder = ([str(tmp_path / "skipcast")], {".json", ".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "skipcast", folder)
    model = comfyui.shapes_flux(own, pipe)
    sigmas = own.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    sampler, inward = own.samplers.sampler_object("euler"), model.model.process_latent_in
    yield _guided(own.samplers, model, comfyui.Clip(pipe), pipe, sampler, sigmas, inward)


def _guided(
    kinds: Any, model: Any, clip: Any, pipe: Any, sampler: Any, sigmas: torch.Tensor, inward: Any
) -> types.SimpleNamespace:
    guider = kinds.CFGGuider(model)
    guider.set_conds(*(clip.encode_from_tokens_scheduled(text) for text in (PROMPT, "")))
    guider.set_cfg(SCALE)
    return types.SimpleNamespace(
        pipe=pipe, model=model, clip=clip, guider=guider, sampler=sampler, sigmas=sigmas, inward=inward
    )


def drawn_in_comfyui(engine: Any, sampler: Any, sigmas: torch.Tensor) -> np.ndarray:
    """The image of a run behind RandomNoise, SamplerCustomAdvanced and VAEDecode."""
    noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(SEED))
    vae = engine.pipe.vae
    with torch.inference_mode():
        found = engine.guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=SEED)
        image = vae.decode(engine.inward(found) / vae.config.scaling_factor + vae.config.shift_factor).sample
    return np.asarray(engine.pipe.image_processor.postprocess(image, output_type="pil")[0])


def drawn_in_diffusers(pipe: Any, steps: int) -> np.ndarray:
    noise = torch.Generator().manual_seed(SEED)
    return np.asarray(pipe(PROMPT, num_inference_steps=steps, generator=noise, **CALL).images[0])


def off(image: np.ndarray, other: np.ndarray) -> int:
    """The largest difference in levels of 256."""
    return int(np.abs(image.astype(int) - other.astype(int)).max())


def test_one_image_from_the_recording_to_the_server(engine: Any, tmp_path: Path) -> None:
    with torch.inference_mode():
        recorded = RecordProfile.execute(
            engine.guider, engine.sampler, engine.sigmas, {"samples": torch.zeros(1, 16, 8, 8)},
            prompts=PROMPTS, pairs=1, seed=0, scales="", batch=2, name="shapes", clip=engine.clip,
        )  # fmt: skip
        SolvePlan.execute(
            engine.guider, "(connected)", evaluations=EVALUATIONS, psnr=0.0, effort="low", batch=2, name="shapes",
            profile=recorded.args[0], clip=engine.clip,
        )  # fmt: skip
    (plan,) = LoadPlan.execute("shapes.plan.json").args
    image = drawn_in_comfyui(engine, *PlanSampler.execute(engine.model, plan, 1.0, 0.0, True).args)

    published = tmp_path / "published"
    command = ["publish", str(tmp_path / "skipcast"), "--repo", "me/shapes-flux-plans", "--base-model", "shapes-flux"]
    done = CliRunner().invoke(app, [*command, "--out", str(published), "--dry-run"])
    assert done.exit_code == 0, done.output
    card = (published / "README.md").read_text()
    assert "import DiffusionPipeline" in card
    assert "PSNR of the latents" in card

    pipe = sc.load_reference("shapes-flux")
    unaccelerated = drawn_in_diffusers(pipe, STEPS)
    assert off(drawn_in_comfyui(engine, engine.sampler, engine.sigmas), unaccelerated) <= 1
    fetched = sc.Plan.from_hub(str(published), evaluations=EVALUATIONS)
    with sc.accelerate(pipe, fetched):
        in_diffusers = drawn_in_diffusers(pipe, STEPS)
    assert off(image, in_diffusers) <= 1
    assert off(image, unaccelerated) > 1
    pipe.scheduler = sc.PlanScheduler(fetched)
    assert np.array_equal(drawn_in_diffusers(pipe, EVALUATIONS), in_diffusers)

    server = ImageServer.load("shapes-flux", published)
    answer = server.answer({"prompt": PROMPT, "seed": SEED, "quality": "low", "guidance_scale": SCALE})
    served = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))))
    assert np.array_equal(served, in_diffusers)
    assert answer["plan"]["evaluations"] == EVALUATIONS


def from_comfyui(pipe: Any, steps: int, prediction: str = "velocity") -> sc.Plan:
    """A plan as ComfyUI's nodes save it, of the grid of a pipeline."""
    latents(pipe, steps)
    sigma = pipe.scheduler.sigmas.double().numpy()
    made = sc.compile_plan("lagrange:order=1,evaluations=4", sc.TimeGrid.flow(sigma[:-1]))
    config = {"alpha": (1 - sigma).tolist(), "sigma": sigma.tolist(), "prediction": prediction}
    return replace(made, origin=Origin("comfyui:Flux", "", config, steps, call={"sampler": "euler", "cfg": SCALE}))


def test_a_plan_from_comfyui_is_held_to_its_grid(pipe: Any) -> None:
    plan = from_comfyui(pipe, 8)
    assert plan.at(SCALE) is plan
    with sc.accelerate(pipe, plan):
        found = latents(pipe, 8)
    direct = twin(pipe, transformer=pipe.transformer, scheduler=sc.PlanScheduler(plan))
    assert torch.equal(latents(direct, 8), found)
    assert type(tiered(Tiers((plan,)), pipe.scheduler, "an engine")) is TieredScheduler
    own = type(pipe.scheduler).from_config(pipe.scheduler.config, max_shift=0.9)
    shifted = twin(pipe, transformer=pipe.transformer, scheduler=own)
    with sc.accelerate(shifted, plan), pytest.raises(ValueError, match="timesteps of this run differ"):
        latents(shifted, 8)


def test_the_card_of_a_plan_from_comfyui_shows_calls_that_exist(pipe: Any) -> None:
    plan = from_comfyui(pipe, 8)
    knots = tuple(Knot(value, plan.rows, plan.evaluation_timesteps) for value in (1.0, 2.0, 4.0))
    knotted = replace(plan, argument="cfg", knots=knots, rows=knots[1].rows)
    card = Publication("me/plans", {"mine": knotted}, "someone/small").files()["README.md"].decode()
    assert 'from_hub("me/plans", evaluations=4).at(2)' in card
    assert "num_inference_steps=8).images[0]" in card
    assert "- scheduler: 8 steps" in card


def test_a_plan_from_comfyui_of_no_flow_is_refused(pipe: Any) -> None:
    plan = from_comfyui(pipe, 8, "epsilon")
    with pytest.raises(ValueError, match="of diffusers for flows alone, and ComfyUI has a network that predicts"):
        sc.accelerate(pipe, plan)
    with pytest.raises(ValueError, match="of diffusers for flows alone"):
        ImageServer(pipe, Tiers((plan,)))
