"""Pipelines that begin in mid-grid: image to image, inpainting and video to video, of the families' networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import diffusers
import torch
from torch import Tensor

from families import flux, images, others, videos
from families.base import Family, drawn, image
from families.parts import assembled, made, quiet, redrawn

Build = Callable[[], Any]
Prompt = Callable[[int], dict[str, Any]]


def euler() -> Any:
    return diffusers.EulerDiscreteScheduler(**others.TRAINED, timestep_spacing="leading", steps_offset=1)


def around(build: Build, kind: str) -> Build:
    """How a pipeline of another class is built around the parts of a family's."""
    found = getattr(diffusers, f"{kind}Pipeline")

    def built() -> Any:
        parts = build().components
        if getattr(parts["vae"].config, "shift_factor", 0.0) is None:
            parts["vae"].register_to_config(shift_factor=0.0)
        taken = {name: part for name, part in parts.items() if name in inspect.signature(found).parameters}
        return quiet(found(**taken))

    return built


def animated() -> Any:
    """The U-Net of Stable Diffusion with a module of motion."""
    pipe = others.stable_diffusion(others.ddim)
    adapter = made(
        diffusers.MotionAdapter,
        block_out_channels=(8, 16, 16),
        motion_layers_per_block=2,
        motion_norm_num_groups=4,
        motion_num_attention_heads=2,
    )
    parts = {name: pipe.components[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    return assembled(
        diffusers.AnimateDiffVideoToVideoPipeline, motion_adapter=redrawn(adapter, std=0.1, vectors=0.1), **parts
    )


def half(size: int) -> Tensor:
    """A mask of what is to be painted, the right half."""
    return (torch.arange(size) >= size // 2).float().expand(1, 1, size, size).contiguous()


def edit(name: str, build: Build, prompt: Prompt, size: int = 64, **fixed: Any) -> Family:
    """A pipeline that takes an image of this size; one that paints takes a mask."""
    given = {"output_type": "latent", "image": image(40, size), **fixed}
    if "npaint" in name or "Fill" in name:
        given["mask_image"] = half(size)
    return Family(name, "", build, prompt, given)


def unets() -> Iterator[Family]:
    for name, scheduler in (("DDIM", others.ddim), ("PNDM", others.pndm), ("2M", others.dpm), ("Euler", euler)):
        build = partial(others.stable_diffusion, scheduler, diffusers.StableDiffusionImg2ImgPipeline)
        yield edit(f"StableDiffusionImg2Img, {name}", build, others.embeds)
    for kind in ("StableDiffusionInpaint", "StableDiffusionPAGImg2Img", "StableDiffusionPAGInpaint"):
        yield edit(kind, around(partial(others.stable_diffusion, euler), kind), others.embeds)
    for kind in ("Img2Img", "Inpaint", "PAGImg2Img", "PAGInpaint"):
        kind = f"StableDiffusionXL{kind}"
        yield edit(kind, around(others.stable_diffusion_xl, kind), others.pooled_embeds)
    for kind in ("StableDiffusionXLControlNetImg2Img", "StableDiffusionXLControlNetInpaint"):
        build = around(partial(others.stable_diffusion_xl, control=True), kind)
        yield edit(kind, build, others.pooled_embeds, control_image=image(41, 64))


def transformers() -> Iterator[Family]:
    for build, prompt, name in (
        (images.stable_diffusion_3, images.pooled_text, "StableDiffusion3"),
        (images.qwen_image, images.qwen_text, "QwenImage"),
        (images.z_image, images.listed_text, "ZImage"),
    ):
        # Inpainting with Stable Diffusion 3 wants a network of 16 channels.
        for kind in (f"{name}Img2Img", f"{name}Inpaint")[: 1 if name == "StableDiffusion3" else 2]:
            yield edit(kind, around(build, kind), prompt, height=64, width=64)
    size = {"height": 16, "width": 16, "guidance_scale": 3.5}
    yield edit("ChromaImg2Img", around(flux.chroma, "ChromaImg2Img"), flux.padded, 16, **size)
    for kind, config in (("FluxImg2Img", {}), ("FluxInpaint", {}), ("FluxFill", flux.WIDER)):
        yield edit(kind, flux.flux(getattr(diffusers, f"{kind}Pipeline"), **config), flux.pooled, 16, **size)
    control = {**size, "control_image": image(41, 16)}
    for kind, config in (
        ("FluxControlImg2Img", flux.WIDE),
        ("FluxControlNetImg2Img", {"control": True}),
        ("FluxControlNetInpaint", {"control": True}),
    ):
        yield edit(kind, flux.flux(getattr(diffusers, f"{kind}Pipeline"), **config), flux.pooled, 16, **control)


def clips() -> Iterator[Family]:
    for name, build, prompt, side in (
        ("WanVideoToVideo", partial(videos.wan, diffusers.WanVideoToVideoPipeline), videos.text, 48),
        ("CogVideoXVideoToVideo", around(videos.cogvideox, "CogVideoXVideoToVideo"), videos.text, 64),
        ("AnimateDiffVideoToVideo", animated, others.embeds, 64),
    ):
        frames = drawn(300, 1, 5, 3, side, side).sigmoid()
        video = [frames[0]] if name.startswith("Animate") else frames
        yield Family(name, "", build, prompt, {"video": video, "height": side, "width": side, "output_type": "latent"})


EDITS: dict[str, Family] = {family.name: family for family in (*unets(), *transformers(), *clips())}
