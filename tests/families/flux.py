"""FLUX.1 and what grew out of it: its editing, filling and control pipelines, FLUX.2 and Chroma."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor
from transformers import Mistral3ForConditionalGeneration

from families.base import Family, drawn, encoded, image, mask
from families.parts import assembled, clip, flow, kl_vae, language, made, redrawn, t5
from research.shapes_flux import text

#: The VAE halves an image and FLUX packs 2x2 latents into a token: 16x16 pixels are 16 tokens of 16 channels.
SIZE, CHANNELS = 16, 16
TOKENS = 6
SHAPE = {"height": SIZE, "width": SIZE, "output_type": "latent"}
#: Two blocks with separate streams and two with one.
NETWORK = (
    {"in_channels": CHANNELS, "num_layers": 2, "num_single_layers": 2, "num_attention_heads": 2}
    | {"attention_head_dim": 8, "joint_attention_dim": text.T5_WIDTH, "axes_dims_rope": (2, 2, 4)}
    | {"pooled_projection_dim": text.CLIP_WIDTH, "guidance_embeds": True}
)
LANGUAGE = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


def network(kind: Any, gain: float = 0.7, **config: Any) -> Any:
    return redrawn(made(kind, NETWORK, **config), gain, seed=1)


def scheduler(**changes: Any) -> Any:
    """As shipped with FLUX.1-dev and FLUX.2-dev: noise levels shifted by the number of tokens."""
    return flow(**{"shift": 3.0, "use_dynamic_shifting": True, **changes})


def vae() -> Any:
    plain = {"use_quant_conv": False, "use_post_quant_conv": False}
    return kl_vae(2, shift_factor=0.1159, scaling_factor=0.3611, **plain)


def flux(kind: Any, control: bool = False, **config: Any) -> Callable[[], Any]:
    """How a pipeline of FLUX.1-dev is built, distilled to a guidance scale that is an input of the network."""

    def build() -> Any:
        parts = {**clip(), **t5("_2"), "vae": vae(), "transformer": network(diffusers.FluxTransformer2DModel, **config)}
        if control:
            # Published ones are smaller than the network they steer; what they add is spread over its blocks.
            parts["controlnet"] = network(diffusers.FluxControlNetModel, num_layers=1, num_single_layers=1)
        return assembled(kind, scheduler=scheduler(), **parts)

    return build


def flux2() -> Any:
    config = {
        "text_config": {"model_type": "mistral", **LANGUAGE, "num_key_value_heads": 2, "vocab_size": 32},
        "vision_config": {"model_type": "pixtral", **LANGUAGE, "image_size": 16, "patch_size": 8},
    }
    return assembled(
        diffusers.Flux2Pipeline,
        scheduler=scheduler(),
        vae=kl_vae(2, diffusers.AutoencoderKLFlux2),
        transformer=network(diffusers.Flux2Transformer2DModel, gain=1.0, axes_dims_rope=(2, 2, 2, 2)),
        **language(Mistral3ForConditionalGeneration, **config),
    )


def chroma() -> Any:
    small = {"approximator_hidden_dim": 16, "approximator_layers": 2}
    return assembled(
        diffusers.ChromaPipeline,
        # Chroma1-HD spaces its noise levels by a beta distribution and shifts nothing.
        scheduler=scheduler(shift=1.0, use_dynamic_shifting=False, use_beta_sigmas=True),
        vae=vae(),
        transformer=network(diffusers.ChromaTransformer2DModel, gain=0.5, **small),
        **t5(),
    )


def plain(number: int) -> dict[str, Any]:
    return {"prompt_embeds": drawn(100 + number, 1, TOKENS, text.T5_WIDTH)}


def pooled(number: int) -> dict[str, Any]:
    return {**plain(number), "pooled_prompt_embeds": drawn(200 + number, 1, text.CLIP_WIDTH)}


def against(number: int) -> dict[str, Any]:
    """A prompt with a negative prompt of its own."""
    return {
        **pooled(number),
        "negative_prompt_embeds": drawn(300 + number, 1, TOKENS, text.T5_WIDTH),
        "negative_pooled_prompt_embeds": drawn(400 + number, 1, text.CLIP_WIDTH),
    }


def edited(number: int) -> dict[str, Any]:
    """A prompt with the image to change, for every one draws its own encoding."""
    return {**pooled(number), "image": image(500 + number, SIZE)}


def padded(number: int) -> dict[str, Any]:
    """A prompt and an empty negative one; of the padding, only the first token is not masked out."""
    masks = {"prompt_attention_mask": mask(TOKENS, 4 + number % 2).float()}
    masks |= {"negative_prompt_attention_mask": mask(TOKENS, 2).float()}
    return encoded(number, TOKENS, text.T5_WIDTH) | masks


def right_half() -> Tensor:
    """A mask of what is to be painted."""
    return (torch.arange(SIZE) >= SIZE // 2).float().expand(1, 1, SIZE, SIZE).contiguous()


def family(name: str, example: str, kind: Any, fixed: dict[str, Any], prompt: Any = pooled, **further: Any) -> Family:
    """A pipeline of FLUX.1 with distilled guidance."""
    return Family(name, example, flux(kind, **further), prompt, SHAPE | fixed, "distilled")


FLUX = "black-forest-labs/FLUX.1"
DEV, CANNY = f"{FLUX}-dev", "InstantX/FLUX.1-dev-Controlnet-Canny"
TWO_BRANCHES = {**SHAPE, "guidance_scale": 1.0, "true_cfg_scale": 2.0}
CHANGED = {"guidance_scale": 3.5, "strength": 0.75}
PAINTED = {**CHANGED, "mask_image": right_half()}
CONTROL = {"guidance_scale": 30.0, "control_image": image(0, SIZE)}
CONTROLLED = {"guidance_scale": 3.5, "control_image": image(0, SIZE), "controlnet_conditioning_scale": 0.7}
FILLED = {"guidance_scale": 30.0, "mask_image": right_half()}
# A smaller image to edit: four further tokens behind the sixteen of the result.
KONTEXT = {"guidance_scale": 2.5, "image": image(0, 8), "max_area": SIZE**2, "_auto_resize": False}
# What is to be filled rides along as channels: the image, and the mask's 4x4 pixels under a token.
WIDE, WIDER = ({"in_channels": n * CHANNELS, "out_channels": CHANNELS} for n in (2, 3))

FAMILIES: tuple[Family, ...] = (
    family("FLUX.1", DEV, diffusers.FluxPipeline, {"guidance_scale": 3.5}),
    Family("FLUX.1 true CFG", DEV, flux(diffusers.FluxPipeline), against, TWO_BRANCHES, "separate"),
    family("FLUX.1 img2img", DEV, diffusers.FluxImg2ImgPipeline, CHANGED, edited),
    family("FLUX.1 inpaint", DEV, diffusers.FluxInpaintPipeline, PAINTED, edited),
    family("FLUX.1 Fill", f"{FLUX}-Fill-dev", diffusers.FluxFillPipeline, FILLED, prompt=edited, **WIDER),
    family("FLUX.1 Kontext", f"{FLUX}-Kontext-dev", diffusers.FluxKontextPipeline, KONTEXT),
    family("FLUX.1 Control", f"{FLUX}-Canny-dev", diffusers.FluxControlPipeline, CONTROL, **WIDE),
    family("FLUX.1 ControlNet", CANNY, diffusers.FluxControlNetPipeline, CONTROLLED, control=True),
    Family("FLUX.2", "black-forest-labs/FLUX.2-dev", flux2, plain, {**SHAPE, "guidance_scale": 4.0}, "distilled"),
    Family("Chroma", "lodestones/Chroma1-HD", chroma, padded, {**SHAPE, "guidance_scale": 3.0}, "separate"),
)
