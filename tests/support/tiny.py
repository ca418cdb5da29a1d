"""A tiny random FLUX pipeline, built from configurations alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxImg2ImgPipeline, FluxPipeline, FluxTransformer2DModel

import skipcast as sc
from research.shapes_flux import text
from research.shapes_flux.assemble import assemble
from skipcast.models.pipeline import native_defaults


def flux_transformer(seed: int = 0, **changes: Any) -> FluxTransformer2DModel:
    torch.manual_seed(seed)
    config = {
        "patch_size": 1,
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": text.T5_WIDTH,
        "pooled_projection_dim": text.CLIP_WIDTH,
        "guidance_embeds": False,
        "axes_dims_rope": (4, 6, 6),
    }
    return FluxTransformer2DModel(**{**config, **changes}).eval()


def flux_pipeline(seed: int = 0, **changes: Any) -> FluxPipeline:
    """64x64 images through 16 image tokens; answers in milliseconds."""
    transformer = flux_transformer(seed, **changes)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        norm_num_groups=2,
        latent_channels=4,
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0,
        scaling_factor=1.0,
    )
    clip, t5 = text.build_clip_tokenizer(), text.build_t5_tokenizer()
    pipe = assemble(transformer, vae, (clip, text.build_clip(clip)), (t5, text.build_t5(t5)))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def twin(pipe: Any, **parts: Any) -> FluxPipeline:
    """A pipeline of equal weights with a transformer and a scheduler of its own, or other parts; the rest is shared."""
    own = {"transformer": flux_transformer(), "scheduler": type(pipe.scheduler).from_config(pipe.scheduler.config)}
    other = native_defaults(FluxPipeline(**{**pipe.components, **own, **parts}))
    other.set_progress_bar_config(disable=True)
    return other


def image_to_image(pipe: Any, **parts: Any) -> FluxImg2ImgPipeline:
    """A pipeline of another class around the same parts."""
    other = FluxImg2ImgPipeline(**{**pipe.components, **parts})
    other.set_progress_bar_config(disable=True)
    return other


PROMPT = "a large red star on a blue background"


def latents(pipe: FluxPipeline, steps: int = 12, prompt: Any = PROMPT, seed: int = 7, **call: Any) -> torch.Tensor:
    """Final latents of one call."""
    count = len(prompt) if isinstance(prompt, list) else 1
    noise = [torch.Generator().manual_seed(seed + i) for i in range(count)]
    options = {"generator": noise, "true_cfg_scale": 2.0, "negative_prompt": "" if count == 1 else [""] * count, **call}
    return pipe(prompt, num_inference_steps=steps, output_type="latent", **options).images


def edited(pipe: FluxImg2ImgPipeline, steps: int = 16, **changes: Any) -> torch.Tensor:
    """Final latents of a call that begins with an image, behind the first quarter of its steps."""
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    call = {"image": image, "strength": 0.75, "generator": torch.Generator().manual_seed(0), "output_type": "latent"}
    size = {"height": 64, "width": 64, "max_sequence_length": text.TEXT_TOKENS}
    return pipe(PROMPT, num_inference_steps=steps, **{**call, **size, **changes}).images


def compiled(pipe: Any, method: str) -> sc.Plan:
    """The method's plan for calls like the newest one of the pipeline."""
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler._step_index = None  # as before its first step
    return sc.compile_plan(sc.method(method), scheduler)


def accelerated(pipe: Any, method: Any, *calls: dict[str, Any]) -> list[torch.Tensor]:
    """Final latents of each call when nothing was called before it; of one call without arguments if none is given."""
    found = []
    for call in calls or ({},):
        with sc.accelerate(pipe, method):
            found.append(latents(pipe, **call))
    return found


SIGMAS = torch.linspace(1, 1 / 12, 12).numpy()


@torch.no_grad()
def own_loop(pipe: FluxPipeline, *, named: bool = False, steps: bool = True) -> Iterator[torch.Tensor]:
    """The sample after each of twelve steps of a loop that is written by hand.

    Args:
        pipe: the pipeline whose parts it calls.
        named: whether it names its guidance branch.
        steps: whether the scheduler takes its steps; the loop itself does otherwise.
    """
    pipe.scheduler.set_timesteps(sigmas=SIGMAS, mu=0.5)
    pipe.scheduler.set_begin_index(0)
    times, sigmas = pipe.scheduler.timesteps, pipe.scheduler.sigmas
    prompt, pooled, ids = pipe.encode_prompt("a star", None)
    x = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    places = pipe._prepare_latent_image_ids(1, 4, 4, x.device, x.dtype)
    for i, time in enumerate(times):
        with pipe.transformer.cache_context("cond") if named else nullcontext():
            v = pipe.transformer(
                hidden_states=x,
                timestep=time.expand(1) / 1000,
                encoder_hidden_states=prompt,
                pooled_projections=pooled,
                txt_ids=ids,
                img_ids=places,
                return_dict=False,
            )[0]
        x = pipe.scheduler.step(v, time, x).prev_sample if steps else x + (sigmas[i + 1] - sigmas[i]) * v
        yield x


class Stop(Exception):
    """Thrown by a callback of the user's."""


def stop(_pipe: Any, _values: dict[str, Any]) -> None:
    raise Stop


def interrupt(pipe: Any, _values: dict[str, Any]) -> None:
    pipe._interrupt = True


def at(step: int, do: Callable[[Any, dict[str, Any]], None]) -> Callable[..., dict[str, Any]]:
    """A callback that acts after one step."""

    def callback(pipe: Any, i: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if i == step:
            do(pipe, values)
        return values

    return callback
