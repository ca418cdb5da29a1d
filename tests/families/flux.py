"""FLUX.1 and what grew out of it: its editing, filling and control pipelines, FLUX.2 and Chroma."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)
from torch import Tensor, nn
from transformers import Mistral3Config, Mistral3ForConditionalGeneration

from families.base import Family, drawn
from research.shapes_flux import text

#: The VAE halves a picture and FLUX packs 2x2 latents into a token: 16x16 pixels are 16 tokens of 16 channels.
SIZE, LATENT_CHANNELS, TOKEN_CHANNELS = 16, 4, 16
TEXT_TOKENS = 6


def lively(network: nn.Module, gain: float) -> nn.Module:
    """Random weights, also where training begins from zeros: the output depends on all that is given.

    With a gain of 1 a weight keeps the variance of what it is given; the less, the smoother the network.
    """
    noise = torch.Generator("cpu").manual_seed(1)
    for weight in network.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, 0.0, gain * weight[0].numel() ** -0.5, generator=noise)
    return network.eval()


def scheduler(**changes: Any) -> FlowMatchEulerDiscreteScheduler:
    """As shipped with FLUX.1-dev and FLUX.2-dev: noise levels shifted by the number of tokens."""
    return FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, "use_dynamic_shifting": True, **changes})


def vae(kind: type[Any] = AutoencoderKL, **changes: Any) -> Any:
    config = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (4, 4),
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "latent_channels": LATENT_CHANNELS,
        "sample_size": SIZE,
    }
    torch.manual_seed(0)
    return kind(**config, **changes).eval()


def flux_vae() -> AutoencoderKL:
    return vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1159, scaling_factor=0.3611)


def network(kind: type[Any], gain: float = 0.7, **changes: Any) -> Any:
    """A network of two blocks with separate streams and two with one."""
    config = {
        "in_channels": TOKEN_CHANNELS,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": text.T5_WIDTH,
        "axes_dims_rope": (2, 2, 4),
    }
    torch.manual_seed(0)
    return lively(kind(**{**config, **changes}), gain)


def assembled(kind: type[Any], **parts: Any) -> Any:
    pipe = kind(**{"scheduler": scheduler(), **parts})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def clip() -> dict[str, Any]:
    torch.manual_seed(0)
    tokenizer = text.build_clip_tokenizer()
    return {"tokenizer": tokenizer, "text_encoder": text.build_clip(tokenizer).eval()}


def t5() -> dict[str, Any]:
    torch.manual_seed(0)
    tokenizer = text.build_t5_tokenizer()
    return {"tokenizer": tokenizer, "text_encoder": text.build_t5(tokenizer).eval()}


def flux(kind: type[Any], **changes: Any) -> Callable[[], Any]:
    """How a pipeline of FLUX.1-dev, distilled to a guidance it is told, is built."""

    def build() -> Any:
        told = {"pooled_projection_dim": text.CLIP_WIDTH, "guidance_embeds": True}
        parts = {"vae": flux_vae(), "transformer": network(FluxTransformer2DModel, **told, **changes)}
        if kind is FluxControlNetPipeline:
            # Published ones are smaller than the network they steer; what they add is spread over its blocks.
            parts["controlnet"] = network(FluxControlNetModel, **told, num_layers=1, num_single_layers=1)
        second = {f"{name}_2": part for name, part in t5().items()}
        return assembled(kind, **clip(), **second, **parts)

    return build


def flux2() -> Flux2Pipeline:
    width = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    encoder = Mistral3ForConditionalGeneration(
        Mistral3Config(
            text_config={"model_type": "mistral", **width, "num_key_value_heads": 2, "vocab_size": 32},
            vision_config={"model_type": "pixtral", **width, "image_size": 16, "patch_size": 8},
        )
    )
    return assembled(
        Flux2Pipeline,
        # It is given embeddings, so that any tokenizer does.
        tokenizer=text.build_t5_tokenizer(),
        text_encoder=encoder.eval(),
        vae=vae(AutoencoderKLFlux2),
        transformer=network(Flux2Transformer2DModel, gain=1.0, axes_dims_rope=(2, 2, 2, 2)),
    )


def chroma() -> ChromaPipeline:
    transformer = network(ChromaTransformer2DModel, gain=0.5, approximator_hidden_dim=16, approximator_layers=2)
    # Chroma1-HD spaces its noise levels by a beta distribution and shifts nothing.
    levels = scheduler(shift=1.0, use_dynamic_shifting=False, use_beta_sigmas=True)
    return assembled(ChromaPipeline, **t5(), vae=flux_vae(), transformer=transformer, scheduler=levels)


def words(seed: int) -> Tensor:
    return drawn(seed, 1, TEXT_TOKENS, text.T5_WIDTH)


def plain(number: int) -> dict[str, Any]:
    return {"prompt_embeds": words(100 + number)}


def pooled(number: int) -> dict[str, Any]:
    return {**plain(number), "pooled_prompt_embeds": drawn(200 + number, 1, text.CLIP_WIDTH)}


def against(number: int) -> dict[str, Any]:
    """A prompt with what is not wanted."""
    return {
        **pooled(number),
        "negative_prompt_embeds": words(300 + number),
        "negative_pooled_prompt_embeds": drawn(400 + number, 1, text.CLIP_WIDTH),
    }


def pictured(number: int) -> dict[str, Any]:
    """A prompt with the picture to change, for every one draws its own encoding."""
    return {**pooled(number), "image": picture(500 + number)}


def padded(number: int) -> dict[str, Any]:
    """A prompt and an empty negative one; of the padding, only the first token is not masked out."""
    places = torch.arange(TEXT_TOKENS)[None]
    return {
        **plain(number),
        "prompt_attention_mask": (places <= 3 + number % 2).float(),
        "negative_prompt_embeds": words(300),
        "negative_prompt_attention_mask": (places <= 1).float(),
    }


def picture(seed: int, size: int = SIZE) -> Tensor:
    """A picture with values in [0, 1]."""
    return drawn(seed, 1, 3, size, size).sigmoid()


def right_half() -> Tensor:
    """A mask of what is to be painted."""
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., SIZE // 2 :] = 1.0
    return mask


SHAPE = {"height": SIZE, "width": SIZE, "output_type": "latent"}

FAMILIES: tuple[Family, ...] = (
    Family(
        "FLUX.1",
        "black-forest-labs/FLUX.1-dev",
        flux(FluxPipeline),
        pooled,
        {**SHAPE, "guidance_scale": 3.5},
        "distilled",
    ),
    Family(
        "FLUX.1 true CFG",
        "black-forest-labs/FLUX.1-dev",
        flux(FluxPipeline),
        against,
        {**SHAPE, "guidance_scale": 1.0, "true_cfg_scale": 2.0},
        "separate",
    ),
    Family(
        "FLUX.1 img2img",
        "black-forest-labs/FLUX.1-dev",
        flux(FluxImg2ImgPipeline),
        pictured,
        {**SHAPE, "guidance_scale": 3.5, "strength": 0.75},
        "distilled",
        unrecorded="it begins in mid-grid: use a plan of text-to-image",
    ),
    Family(
        "FLUX.1 inpaint",
        "black-forest-labs/FLUX.1-dev",
        flux(FluxInpaintPipeline),
        pictured,
        {**SHAPE, "guidance_scale": 3.5, "mask_image": right_half(), "strength": 0.75},
        "distilled",
        unrecorded="it begins in mid-grid: use a plan of text-to-image",
    ),
    Family(
        "FLUX.1 Fill",
        "black-forest-labs/FLUX.1-Fill-dev",
        # The picture and the mask, whose 4x4 pixels under a token are channels, ride along.
        flux(FluxFillPipeline, in_channels=3 * TOKEN_CHANNELS, out_channels=TOKEN_CHANNELS),
        pictured,
        {**SHAPE, "guidance_scale": 30.0, "mask_image": right_half()},
        "distilled",
    ),
    Family(
        "FLUX.1 Kontext",
        "black-forest-labs/FLUX.1-Kontext-dev",
        flux(FluxKontextPipeline),
        pooled,
        # A smaller picture to edit: four further tokens behind the sixteen of the result.
        {**SHAPE, "guidance_scale": 2.5, "image": picture(0, 8), "max_area": SIZE**2, "_auto_resize": False},
        "distilled",
    ),
    Family(
        "FLUX.1 Control",
        "black-forest-labs/FLUX.1-Canny-dev",
        flux(FluxControlPipeline, in_channels=2 * TOKEN_CHANNELS, out_channels=TOKEN_CHANNELS),
        pooled,
        {**SHAPE, "guidance_scale": 30.0, "control_image": picture(0)},
        "distilled",
    ),
    Family(
        "FLUX.1 ControlNet",
        "InstantX/FLUX.1-dev-Controlnet-Canny",
        flux(FluxControlNetPipeline),
        pooled,
        {**SHAPE, "guidance_scale": 3.5, "control_image": picture(0), "controlnet_conditioning_scale": 0.7},
        "distilled",
    ),
    Family(
        "FLUX.2",
        "black-forest-labs/FLUX.2-dev",
        flux2,
        plain,
        {**SHAPE, "guidance_scale": 4.0},
        "distilled",
    ),
    Family("Chroma", "lodestones/Chroma1-HD", chroma, padded, {**SHAPE, "guidance_scale": 3.0}, "separate"),
)
