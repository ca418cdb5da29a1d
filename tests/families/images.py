"""Image pipelines of one network each: diffusion transformers with joint, crossed or no attention to text."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
import transformers

from families.base import Family, drawn, encoded, mask
from families.parts import LANGUAGE, NETWORK, assembled, clip, flow, kl_vae, language, made, redrawn, t5, umt5, wan_vae

TOKENS, WIDTH, POOLED = 6, 12, 10
#: What several networks call the same thing.
COMMON = (
    NETWORK
    | {"sample_size": 8, "patch_size": 2, "joint_attention_dim": WIDTH, "caption_channels": WIDTH}
    | {"cap_feat_dim": WIDTH, "cross_attention_dim": 16, "caption_projection_dim": 16, "num_refiner_layers": 2}
)
SMALL = {"height": 64, "width": 64, "output_type": "latent"}


def network(kind: Any, **config: Any) -> Any:
    return redrawn(made(kind, COMMON, **config), vectors=0.1)


def masked(number: int) -> dict[str, Any]:
    """A prompt with masks; odd ones are a token shorter."""
    masks = {"prompt_attention_mask": mask(TOKENS, TOKENS - number % 2)}
    return encoded(number, TOKENS, WIDTH) | masks | {"negative_prompt_attention_mask": mask(TOKENS, TOKENS)}


def stable_diffusion_3() -> Any:
    config = {"pooled_projection_dim": POOLED, "dual_attention_layers": (0,), "qk_norm": "rms_norm"}
    return assembled(
        diffusers.StableDiffusion3Pipeline,
        transformer=network(diffusers.SD3Transformer2DModel, pos_embed_max_size=8, **config),
        vae=kl_vae(),
        scheduler=flow(shift=3.0),
        **clip(kind=transformers.CLIPTextModelWithProjection),
        **clip("_2", transformers.CLIPTextModelWithProjection),
        **t5("_3"),
    )


def qwen_image() -> Any:
    vision = {"depth": 1, "hidden_size": 8, "num_heads": 2, "intermediate_size": 8, "out_hidden_size": WIDTH}
    levels = {"base_shift": 0.5, "max_shift": 0.9, "base_image_seq_len": 256, "max_image_seq_len": 8192}
    config = {"in_channels": 16, "attention_head_dim": 16, "axes_dims_rope": (4, 6, 6)}
    return assembled(
        diffusers.QwenImagePipeline,
        transformer=network(diffusers.QwenImageTransformer2DModel, **config),
        vae=wan_vae(diffusers.AutoencoderKLQwenImage),
        scheduler=flow(use_dynamic_shifting=True, shift_terminal=0.02, **levels),
        **language(transformers.Qwen2_5_VLForConditionalGeneration, text_config=LANGUAGE, vision_config=vision),
    )


def qwen_text(number: int) -> dict[str, Any]:
    masks = {"prompt_embeds_mask": mask(TOKENS, TOKENS), "negative_prompt_embeds_mask": mask(TOKENS, TOKENS)}
    return encoded(number, TOKENS, WIDTH) | masks


def pixart_sigma() -> Any:
    config = {"interpolation_scale": 2, "use_additional_conditions": False, "out_channels": 8}
    levels = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
    return assembled(
        diffusers.PixArtSigmaPipeline,
        transformer=network(diffusers.PixArtTransformer2DModel, **config),
        vae=kl_vae(),
        scheduler=diffusers.DPMSolverMultistepScheduler(**levels),
        text_encoder=None,
        tokenizer=None,
    )


def dit() -> Any:
    # It always decodes: an image as large as its latents, far from where the pipeline cuts it off, stands for them.
    vae = kl_vae(levels=1)
    vae.decoder.conv_out.weight.data.mul_(0.25)
    transformer = network(diffusers.DiTTransformer2DModel, out_channels=8, num_embeds_ada_norm=1000)
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    return assembled(diffusers.DiTPipeline, transformer=transformer, vae=vae, scheduler=scheduler)


def sana() -> Any:
    config = {"num_cross_attention_heads": 2, "cross_attention_head_dim": 8, "sample_size": 4, "patch_size": 1}
    levels = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    blocks = {"block_out_channels": (4,) * 4, "layers_per_block": (1,) * 4, "qkv_multiscales": ((),) * 4}
    sides = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in blocks.items()}
    return assembled(
        diffusers.SanaPipeline,
        transformer=network(diffusers.SanaTransformer2DModel, **config),
        vae=made(diffusers.AutoencoderDC, latent_channels=4, attention_head_dim=4, **sides),
        scheduler=diffusers.DPMSolverMultistepScheduler(**levels),
        **language(transformers.Gemma2Model),
    )


def z_image() -> Any:
    config = {"dim": 32, "n_layers": 3, "n_refiner_layers": 2, "n_heads": 2, "n_kv_heads": 2}
    rope = {"axes_dims": [4, 6, 6], "axes_lens": [64, 16, 16]}
    return assembled(
        diffusers.ZImagePipeline,
        transformer=network(diffusers.ZImageTransformer2DModel, **config, **rope),
        vae=kl_vae(),
        scheduler=flow(shift=6.0),
        **language(transformers.Qwen3Model),
    )


def listed_text(number: int) -> dict[str, Any]:
    """A list of prompts as long as they are."""
    return {
        "prompt_embeds": [drawn(100 + number, TOKENS - number % 2, WIDTH)],
        "negative_prompt_embeds": [drawn(99, TOKENS, WIDTH)],
    }


def aura_flow() -> Any:
    config = {"num_mmdit_layers": 2, "num_single_dit_layers": 2, "pos_embed_max_size": 16}
    return assembled(
        diffusers.AuraFlowPipeline,
        transformer=network(diffusers.AuraFlowTransformer2DModel, **config),
        vae=kl_vae(),
        scheduler=flow(shift=1.73),
        **umt5(),
    )


def lumina_2() -> Any:
    config = {"hidden_size": 32, "num_kv_heads": 1, "multiple_of": 8}
    rope = {"axes_dim_rope": (4, 6, 6), "axes_lens": (32, 16, 16)}
    return assembled(
        diffusers.Lumina2Pipeline,
        transformer=network(diffusers.Lumina2Transformer2DModel, **config, **rope),
        vae=kl_vae(),
        scheduler=flow(shift=6.0),
        **language(transformers.Gemma2Model),
    )


def family(name: str, example: str, build: Any, prompt: Any, guidance: Any = "batched", **fixed: Any) -> Family:
    return Family(name, example, build, prompt, fixed, guidance)


#: PixArt and Sana.
EXACT = {**SMALL, "negative_prompt": None, "guidance_scale": 4.5, "use_resolution_binning": False}
pooled_text = partial(encoded, tokens=TOKENS, width=WIDTH, pooled=POOLED)


def label(number: int) -> dict[str, Any]:
    return {"class_labels": [207 + number]}


SD3, SANA = "stabilityai/stable-diffusion-3.5-medium", "Efficient-Large-Model/Sana_1600M_1024px_diffusers"
FAMILIES: tuple[Family, ...] = (
    family("Stable Diffusion 3", SD3, stable_diffusion_3, pooled_text, **SMALL, guidance_scale=4.5),
    family("Qwen-Image", "Qwen/Qwen-Image", qwen_image, qwen_text, "separate", **SMALL, true_cfg_scale=4.0),
    family("PixArt-Sigma", "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", pixart_sigma, masked, **EXACT),
    family("DiT", "facebook/DiT-XL-2-256", dit, label, guidance_scale=4.0, output_type="np"),
    family("Sana", SANA, sana, masked, **{**EXACT, "height": 32, "width": 32}),
    family("Z-Image", "Tongyi-MAI/Z-Image", z_image, listed_text, **SMALL, guidance_scale=4.0),
    family("AuraFlow", "fal/AuraFlow-v0.3", aura_flow, masked, **SMALL, guidance_scale=3.5),
    family("Lumina 2", "Alpha-VLLM/Lumina-Image-2.0", lumina_2, masked, "separate", **SMALL, guidance_scale=4.0),
)
