"""Recording: what the scheduler received, exactly; taken up again after a kill; the pipeline as it was."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from families import others
from research.shapes_flux import text
from skipcast import accelerate
from skipcast.pipelines.recording.fine import AdamsBashforth, fine_path
from skipcast.pipelines.recording.record import record
from skipcast.plans.profile import Profile
from support.tiny import flux_pipeline, latents

PROMPTS = ["a large red star on a blue background", "a green ring on an orange background", "a blue heart"]
STEPS = 6
CALL: dict[str, Any] = {"true_cfg_scale": 2.0, "negative_prompt": "", "num_inference_steps": STEPS, "progress": False}


def diffusion_pipeline(scheduler: Any) -> Any:
    """A tiny random Stable Diffusion."""
    return others.stable_diffusion(lambda: scheduler, layers_per_block=1, cross_attention_dim=text.CLIP_WIDTH)


class Killed(Exception):
    pass


def raising(error: Exception) -> Callable[..., Any]:
    """A function that raises it."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


def same(one: Profile, other: Profile) -> None:
    for name in ("grams", "states", "timesteps", "scale", "gain"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.origin == other.origin
    assert torch.equal(one.trajectory, other.trajectory)


@pytest.fixture(scope="module")
def made(pipe: Any) -> Profile:
    return record(pipe, PROMPTS, seeds=[7, 8, 9], revision="r1", **CALL)


def test_states_are_those_of_the_pipeline(pipe: Any, made: Profile) -> None:
    assert torch.equal(made.trajectory[:, -1], latents(pipe, STEPS, prompt=PROMPTS, seed=7))
    assert made.trajectory.dtype == torch.float32
    x = made.trajectory.double().flatten(2).numpy()
    explicit = np.einsum("pie,pje->pij", x, x) / x.shape[2]
    np.testing.assert_allclose(made.states @ made.grams @ made.states.T, explicit, atol=1e-5)
    np.testing.assert_allclose(made.grams[:, 0, 0], explicit[:, 0, 0], rtol=1e-12)
    assert (made.gain > 0).all()


def test_few_outputs_in_memory_give_the_same(pipe: Any, made: Profile) -> None:
    thin = record(pipe, PROMPTS, seeds=7, in_memory=2, **CALL)
    np.testing.assert_allclose(thin.grams, made.grams, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(thin.gain, made.gain, rtol=1e-6)
    assert torch.equal(thin.trajectory, made.trajectory)


def test_outputs_are_what_the_scheduler_receives(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step, seen = FlowMatchEulerDiscreteScheduler.step, []

    def watched(self: Any, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, **kwargs: Any) -> Any:
        seen.append((model_output.double(), sample.double()))
        return step(self, model_output, timestep, sample, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(FlowMatchEulerDiscreteScheduler, "step", watched)
        latents(pipe, STEPS, prompt=PROMPTS[:1], seed=7, negative_prompt=[""])
    basis = torch.stack([seen[0][1], *(output for output, _ in seen)]).flatten(1)
    made = record(pipe, PROMPTS[:1], seeds=7, **CALL)
    np.testing.assert_allclose(made.grams[0], (basis @ basis.T / basis.shape[1]).numpy(), rtol=1e-12, atol=1e-15)


def test_origin_tells_what_was_recorded(made: Profile) -> None:
    origin = made.origin
    assert (origin.pipeline, origin.scheduler) == ("FluxPipeline", "FlowMatchEulerDiscreteScheduler")
    assert (origin.seeds, origin.prompts) == ((7, 8, 9), tuple(PROMPTS))
    assert (origin.steps, origin.revision, origin.shape) == (STEPS, "r1", (16, 16))
    assert origin.call == {"true_cfg_scale": 2.0, "negative_prompt": ""}
    assert origin.config["use_dynamic_shifting"] is True
    assert not any(key.startswith("_") for key in origin.config)
    assert set(origin.versions) == {"skipcast", "torch", "diffusers"}


def test_the_gain_says_what_an_error_costs_in_the_image(pipe: Any, made: Profile) -> None:
    final = made.trajectory[:1, -1]

    @torch.no_grad()
    def decode(sample: torch.Tensor) -> torch.Tensor:
        decoded = pipe.vae.decode(pipe._unpack_latents(sample, 64, 64, pipe.vae_scale_factor))[0]
        return pipe.image_processor.postprocess(decoded, output_type="pt").double()

    noise = torch.randn(final.shape, generator=torch.Generator().manual_seed(0)) * 0.01
    measured = (decode(final + noise) - decode(final)).square().mean() / noise.double().square().mean()
    assert 0.2 < made.gain[0] / float(measured) < 5


def test_without_images_the_gain_is_one(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe.image_processor, "postprocess", raising(ValueError("no pt here")))
    blind = record(pipe, PROMPTS, seeds=7, batch=2, keep_trajectory=False, **CALL)
    np.testing.assert_array_equal(blind.gain, [1.0, 1.0, 1.0])
    assert blind.trajectory is None
    assert len(blind) == 3


def killed_after(calls: int, transformer: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have the transformer raise after so many forwards; returns the count of them."""
    forward, count = transformer.forward, [0]

    def dying(*args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        if count[0] > calls:
            raise Killed
        return forward(*args, **kwargs)

    monkeypatch.setattr(transformer, "forward", dying)
    return count


def test_a_killed_recording_is_taken_up_bit_for_bit(pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = record(pipe, PROMPTS, seeds=7, batch=1, path=tmp_path / "whole.safetensors", **CALL)
    same(undisturbed, Profile.load(tmp_path / "whole.safetensors"))
    path = tmp_path / "p.safetensors"
    scheduler, before = pipe.scheduler, dict(vars(pipe.scheduler))
    one_call = 2 * STEPS + 4  # two branches; two decodings of one evaluation each
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_after(one_call + 5, pipe.transformer, patch)
        record(pipe, PROMPTS, seeds=7, batch=1, path=path, **CALL)
    assert pipe.scheduler is scheduler
    assert vars(pipe.scheduler).keys() == before.keys()
    folder = tmp_path / "p.safetensors.partial"
    assert sorted(file.name for file in folder.iterdir()) == [".lock", "parts", "recording.json"]
    assert [file.name for file in (folder / "parts").iterdir()] == ["00000.piece"]
    assert not path.exists()
    with pytest.raises(ValueError, match=r"json, line \d+: .*seeds \[7, 8, 9\], now it is \[8, 9, 10\]; "):
        record(pipe, PROMPTS, seeds=8, batch=1, path=path, **CALL)
    with pytest.raises(ValueError, match=r"begun with call .*, now it is .*3.0"):
        record(pipe, PROMPTS, seeds=7, batch=2, path=path, **{**CALL, "true_cfg_scale": 3.0})
    with monkeypatch.context() as patch:
        count = killed_after(10**6, pipe.transformer, patch)
        resumed = record(pipe, PROMPTS, seeds=7, batch=1, path=path, **CALL)
    assert count == [2 * one_call]
    same(resumed, undisturbed)
    same(Profile.load(path), undisturbed)
    assert not folder.exists()


def test_refuses_a_folder_of_somebody_else(pipe: Any, tmp_path: Path) -> None:
    (tmp_path / "p.partial").mkdir()
    (tmp_path / "p.partial" / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else than parts of a recording"):
        record(pipe, PROMPTS, seeds=7, path=tmp_path / "p", **CALL)
    assert (tmp_path / "p.partial" / "precious.txt").exists()


@pytest.mark.parametrize("failing", ["transformer", "vae"])
def test_the_pipeline_is_restored(pipe: Any, failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, before, attributes = pipe.scheduler, dict(vars(pipe.scheduler)), dict(vars(pipe))
    config = dict(scheduler.config)
    reference = latents(pipe, STEPS)
    record(pipe, PROMPTS[:1], seeds=7, **{**CALL, "progress": True})
    part = getattr(pipe, failing)
    name = "forward" if failing == "transformer" else "decode"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(part, name, raising(Killed()))
        record(pipe, PROMPTS[:1], seeds=7, **CALL)
    assert pipe.scheduler is scheduler
    assert vars(scheduler).keys() == before.keys()
    assert dict(scheduler.config) == config
    assert pipe._progress_bar_config == attributes["_progress_bar_config"]
    assert torch.equal(latents(pipe, STEPS), reference)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": "one text"}, "must be a list, each text or a mapping"),
        ({"prompts": []}, "holds no pair"),
        ({"seeds": [1, 2]}, "2 entries for 3 prompts; give one seed per prompt"),
        ({"batch": 0}, r"record\(batch=...\) must be at least 1"),
        ({"in_memory": 0}, r"record\(in_memory=...\) .* 0"),
        ({"num_inference_steps": 0}, r"record\(num_inference_steps=...\) .* 0"),
        ({"reference": "exact"}, "must be 'default' or 'converged'"),
        ({"latents": 1}, r"record\(latents=...\) is set by the recording; give seeds"),
        ({"colour": 3}, r"record\(colour=...\) is no argument of FluxPipeline"),
    ],
)
def test_refuses_arguments_before_any_evaluation(
    pipe: Any, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "encode_prompt", lambda *_, **__: pytest.fail("the pipeline ran"))
    given = {"prompts": PROMPTS, "seeds": 7, **CALL, **changes}
    with pytest.raises(ValueError, match=message):
        record(pipe, given.pop("prompts"), **given)


def test_refuses_pipelines_that_are_not_as_they_are(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a diffusers pipeline"):
        record(object(), PROMPTS, seeds=7)
    with pytest.raises(ValueError, match="is a folder"):
        record(pipe, PROMPTS, seeds=7, path=tmp_path, **CALL)
    with accelerate(pipe, "reuse:evaluations=3"), pytest.raises(ValueError, match="leave that first"):
        record(pipe, PROMPTS, seeds=7, **CALL)


def test_refuses_schedulers_before_any_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = diffusion_pipeline(DDIMScheduler(clip_sample=False))
    call = {"seeds": 7, "num_inference_steps": 4, "progress": False}
    monkeypatch.setattr(pipe.unet, "forward", lambda *_, **__: pytest.fail("evaluated"))
    with pytest.raises(ValueError, match=r"record\(eta=0.5\) adds noise at every step"):
        record(pipe, PROMPTS, eta=0.5, **call)
    pipe.scheduler = DDIMScheduler()  # the constructor of the pipeline mends a clipping one
    with pytest.raises(ValueError, match="set clip_sample=False"):
        record(pipe, PROMPTS, **call)


def test_refuses_what_the_coefficients_do_not_explain(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step = FlowMatchEulerDiscreteScheduler.step

    @functools.wraps(step)
    def meddling(self: Any, output: Any, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Linear when called alone, something else within a pipeline."""
        moved = step(self, output, timestep, sample, *args, **kwargs)
        return moved if sample.shape[-1] != 16 else (moved[0] * 1.01,)

    monkeypatch.setattr(FlowMatchEulerDiscreteScheduler, "step", meddling)
    with pytest.raises(ValueError, match="something else changes the sample between the steps"):
        record(pipe, PROMPTS[:1], seeds=7, **CALL)


def test_refuses_a_scheduler_that_a_plan_could_not_build_again() -> None:
    class Mine(FlowMatchEulerDiscreteScheduler):
        pass

    pipe = flux_pipeline()
    pipe.scheduler = Mine.from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match=r"record\(pipe=...\): scheduler Mine is none of diffusers"):
        record(pipe, PROMPTS[:1], seeds=7, **CALL)


LEVELS: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_end": 0.012}
DIFFUSION = {
    "ddim": DDIMScheduler(clip_sample=False, **LEVELS),
    "2M++": DPMSolverMultistepScheduler(**LEVELS),
    "unipc": UniPCMultistepScheduler(**LEVELS),
    "euler": EulerDiscreteScheduler(**LEVELS),
}


@pytest.mark.parametrize("name", DIFFUSION)
def test_diffusion_schedulers(name: str) -> None:
    pipe = diffusion_pipeline(DIFFUSION[name])
    for reference in ("default", "converged"):
        made = record(pipe, PROMPTS[:2], seeds=7, num_inference_steps=8, progress=False, reference=reference)
        x = made.trajectory.double().flatten(2).numpy()
        explicit = np.einsum("pie,pje->pij", x, x) / x.shape[2]
        np.testing.assert_allclose(made.states @ made.grams @ made.states.T, explicit, rtol=1e-4, atol=1e-3)
        assert (made.scale[0] < 0.2) == (name == "euler")


def test_the_converged_reference_settles() -> None:
    pipe = flux_pipeline()
    pipe.transformer.time_text_embed.time_proj.scale = 0.01  # random weights oscillate in time, trained ones do not
    fine = {"seeds": 7, "reference": "converged", **CALL}
    ends = {parts: record(pipe, PROMPTS[:2], substeps=parts, **fine) for parts in (2, 4, 8)}
    x = {parts: made.trajectory[:, -1].double() for parts, made in ends.items()}
    assert 3 < (x[2] - x[4]).norm() / (x[4] - x[8]).norm() < 5
    made = ends[4]
    assert made.grams.shape == (2, 2 * STEPS + 1, 2 * STEPS + 1)
    np.testing.assert_array_equal(made.states, np.eye(2 * STEPS + 1)[[0, *range(STEPS + 1, 2 * STEPS + 1)]])
    default = record(pipe, PROMPTS[:2], seeds=7, **CALL)
    assert torch.equal(default.trajectory[:, 0], made.trajectory[:, 0])
    np.testing.assert_array_equal(default.timesteps, made.timesteps)
    # The first output is made from the same noise at the same time.
    np.testing.assert_allclose(made.grams[:, 1, 1], default.grams[:, 1, 1], rtol=1e-6)


def gaussian(prediction: str, hat: float, u: float) -> float:
    """The exact network for clean samples of variance 1/4: x_hat has variance 1/4 + u^2."""
    noise = u * hat / (0.25 + u * u)
    clean, alpha = hat - u * noise, 1 / np.sqrt(1 + u * u)
    return {"epsilon": noise, "sample": clean, "v_prediction": alpha * noise - alpha * u * clean}[prediction]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", [DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler])
def test_the_fine_path_is_of_second_order(kind: Any, prediction: str) -> None:
    options = {"clip_sample": False} if kind is DDIMScheduler else {}
    scheduler = kind(prediction_type=prediction, **LEVELS, **options)
    scheduler.set_timesteps(40)
    errors = []
    for substeps in (4, 8):
        path = fine_path(scheduler, substeps)
        rule = AdamsBashforth(path)
        state = torch.ones(1, dtype=torch.float64) * path.alpha[0] * np.sqrt(0.25 + path.level[0] ** 2)
        for place, u in enumerate(path.level[:-1]):
            output = gaussian(prediction, float(state) / path.alpha[place], u)
            state = rule.move(place, torch.full((1,), output, dtype=torch.float64), state)
        exact = path.alpha[-1] * np.sqrt(0.25 + path.level[-1] ** 2)
        errors.append(abs(float(state) - exact))
    assert errors[0] < 1e-2
    assert 3 < errors[0] / errors[1] < 5


@pytest.mark.parametrize("name", ["flow", *DIFFUSION])
def test_the_fine_path_tells_the_network_the_grid_s_own_times(name: str) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0) if name == "flow" else DIFFUSION[name]
    scheduler.set_timesteps(10)
    path = fine_path(scheduler, 4)
    np.testing.assert_array_equal(path.timesteps[::4], scheduler.timesteps.double().numpy())
    assert (np.diff(path.timesteps) <= 0).all()
    assert (np.diff(path.level) < 0).all()
    if name == "flow":
        np.testing.assert_allclose(path.timesteps, 1000 * path.level[:-1], rtol=1e-6)
        assert path.level[-1] == 0
    else:
        # The training's own pairs of time and level, in between.
        signal = scheduler.alphas_cumprod.double().numpy()
        trained = np.interp(path.timesteps, np.arange(1000), np.log(np.sqrt((1 - signal) / signal)))
        inner = path.timesteps >= 1  # below the lowest level of the training, it receives the lowest time
        np.testing.assert_allclose(trained[inner], np.log(path.level[:-1][inner]), atol=1e-3)


def test_the_fine_path_refuses_what_it_does_not_know() -> None:
    zero_snr = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    scheduler = DDIMScheduler(clip_sample=False, **zero_snr)
    scheduler.set_timesteps(8)
    with pytest.raises(ValueError, match=r'finite noise levels.*use reference="default"'):
        fine_path(scheduler)

    class Unknown(FlowMatchEulerDiscreteScheduler):
        pass

    other = Unknown()
    other.set_timesteps(8)
    with pytest.raises(ValueError, match="does not know the noise levels of scheduler Unknown"):
        fine_path(other)


def test_refuses_an_eta_that_the_pipeline_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = diffusion_pipeline(DDIMScheduler(clip_sample=False))
    monkeypatch.setattr(pipe, "prepare_extra_step_kwargs", lambda *_: {"eta": 0.5})
    with pytest.raises(ValueError, match=r"steps DDIMScheduler with eta=0.5, which adds noise"):
        record(pipe, PROMPTS[:1], seeds=7, num_inference_steps=4, progress=False)
