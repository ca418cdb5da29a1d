"""U-Nets (Stable Diffusion 1.5 and XL), HiDream-I1, and modular pipelines of FLUX and Wan."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers
import transformers

from families.base import Family, encoded, image
from families.parts import (
    NETWORK,
    assembled,
    clip,
    flow,
    flow_unipc,
    kl_vae,
    language,
    made,
    quiet,
    redrawn,
    t5,
    wan_vae,
)
from research.shapes_flux import text
from support import tiny

#: Width of text embeddings, of pooled ones and of each of the six sizes that SDXL is given with the timestep.
WIDTH, POOLED, TIME_IDS = 16, 8, 8
SIDE, TOKENS = 64, 5  # images of 8x8 latents
#: Captions over the words of the tiny tokenizers.
PROMPTS = ("a large red star on a blue background", "a small blue circle on a red background", "a green star")
#: What every scheduler of Stable Diffusion is given of its training.
TRAINED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
CROSSED = "CrossAttnDownBlock2D"
UNET = (
    {"sample_size": SIDE // 8, "down_block_types": (CROSSED, CROSSED, "DownBlock2D")}
    | {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), "block_out_channels": (8, 16, 16)}
    | {"layers_per_block": 2, "attention_head_dim": 2, "norm_num_groups": 4, "cross_attention_dim": WIDTH}
)
#: Of SDXL's U-Net and its ControlNet.
XL = (
    {"down_block_types": ("DownBlock2D", CROSSED, CROSSED)}
    | {"up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")}
    | {"transformer_layers_per_block": (1, 1, 2), "use_linear_projection": True, "addition_embed_type": "text_time"}
    | {"addition_time_embed_dim": TIME_IDS, "projection_class_embeddings_input_dim": POOLED + 6 * TIME_IDS}
)
embeds = partial(encoded, tokens=TOKENS, width=WIDTH)
pooled_embeds = partial(encoded, tokens=TOKENS, width=WIDTH, pooled=POOLED)


def pndm() -> Any:
    return diffusers.PNDMScheduler(**TRAINED, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)


def ddim() -> Any:
    return diffusers.DDIMScheduler(**TRAINED, clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def dpm() -> Any:
    solver = {"algorithm_type": "dpmsolver++", "solver_order": 2}
    return diffusers.DPMSolverMultistepScheduler(**TRAINED, **solver, steps_offset=1)


def with_image(prompt: Callable[[int], dict[str, Any]]) -> Callable[[int], dict[str, Any]]:
    return lambda number: {**prompt(number), "image": image(40 + number, SIDE)}


def stable_diffusion(scheduler: Callable[[], Any], kind: Any = diffusers.StableDiffusionPipeline, **config: Any) -> Any:
    unchecked = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    unet = made(diffusers.UNet2DConditionModel, UNET, **config)
    return assembled(kind, vae=kl_vae(), unet=unet, scheduler=scheduler(), **clip(), **unchecked)


def stable_diffusion_xl(control: bool = False) -> Any:
    none = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    parts = {"vae": kl_vae(), "unet": made(diffusers.UNet2DConditionModel, UNET, **XL), **none}
    parts["scheduler"] = diffusers.EulerDiscreteScheduler(**TRAINED, timestep_spacing="leading", steps_offset=1)
    if not control:
        return assembled(diffusers.StableDiffusionXLPipeline, **parts, add_watermarker=False)
    config = {name: value for name, value in XL.items() if name != "up_block_types"}
    controlnet = made(diffusers.ControlNetModel, UNET, conditioning_embedding_out_channels=(4,) * 4, **config)
    parts["controlnet"] = redrawn(controlnet, std=0.1)
    return assembled(diffusers.StableDiffusionXLControlNetPipeline, **parts, add_watermarker=False)


def hidream() -> Any:
    """The pipeline brings every size to 128x128 latents, so patches are as large as makes 16 tokens of them."""
    config = (
        {
            "num_layers": 2,
            "num_single_layers": 2,
            "caption_channels": [text.T5_WIDTH, WIDTH],
            "text_emb_dim": 2 * POOLED,
        }
        | {"num_routed_experts": 4, "num_activated_experts": 2, "max_resolution": (128, 128)}
        | {"axes_dims_rope": (4, 2, 2), "patch_size": 32, "llama_layers": [0, 1, 1, 2]}
    )
    transformer = made(diffusers.HiDreamImageTransformer2DModel, NETWORK | {"out_channels": None}, **config)
    tokenizer = text.build_t5_tokenizer()
    llama = {"vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "bos_token_id": None}
    llama |= {"num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1}
    pooling = partial(clip, kind=transformers.CLIPTextModelWithProjection, projection_dim=POOLED)
    return assembled(
        diffusers.HiDreamImagePipeline,
        scheduler=flow_unipc(),  # the full model's; Dev and Fast are distilled and run without guidance
        vae=kl_vae(1),
        transformer=redrawn(transformer, std=0.1),
        **pooling(""),
        **pooling("_2"),
        **t5("_3"),
        **language(transformers.LlamaForCausalLM, "_4", tokenizer, **llama, eos_token_id=tokenizer.eos_token_id),
    )


def words(number: int) -> dict[str, Any]:
    return {"prompt": PROMPTS[number % len(PROMPTS)]}


def flux_modular() -> Any:
    """FLUX.1-dev's default blocks over the parts of the tiny FLUX pipeline."""
    parts = tiny.flux_pipeline(num_layers=2, guidance_embeds=True)
    names = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "transformer")
    levels = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256}
    pipe = diffusers.FluxModularPipeline()
    pipe.update_components(
        **{name: getattr(parts, name) for name in names},
        scheduler=flow(shift=3.0, use_dynamic_shifting=True, **levels),
    )
    return quiet(pipe)


def wan_modular() -> Any:
    """Wan 2.1's default blocks but the text encoder, whose cleaning of prompts needs a further package."""
    config = {"attention_head_dim": 12, "text_dim": WIDTH, "freq_dim": 16, "ffn_dim": 32, "rope_max_seq_len": 32}
    transformer = made(diffusers.WanTransformer3DModel, NETWORK, cross_attn_norm=True, **config)
    blocks = diffusers.WanBlocks()  # since 0.37
    blocks.sub_blocks.pop("text_encoder")
    pipe = diffusers.WanModularPipeline(blocks)
    pipe.update_components(
        vae=wan_vae(dim_mult=[1, 1], temperal_downsample=[True]),
        transformer=redrawn(transformer, std=0.1),
        scheduler=flow_unipc(),
    )
    return quiet(pipe)


LATENT = {"height": SIDE, "width": SIDE, "output_type": "latent"}
SD, XL_BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-xl-base-1.0"
HIDREAM, FLUX, WAN = "HiDream-ai/HiDream-I1-Full", "black-forest-labs/FLUX.1-dev", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
LENGTH = {"max_sequence_length": text.TEXT_TOKENS}
WORDS = {**LATENT, **LENGTH, "guidance_scale": 3.5, "output": "latents"}
SHORT = {"height": 16, "width": 16, "num_frames": 3, "output_type": "pt", "output": "latents"}


def unet(name: str, example: str, build: Any, prompt: Any, **fixed: Any) -> Family:
    return Family(name, example, build, prompt, fixed, "batched", denoisers=("unet",))


FAMILIES: tuple[Family, ...] = (
    *(
        unet(f"Stable Diffusion 1.5{ending}", SD, partial(stable_diffusion, make), embeds, **LATENT, guidance_scale=7.5)
        for ending, make in (("", pndm), (", DDIM", ddim), (", DPM-Solver++", dpm))
    ),
    unet(
        "Stable Diffusion 1.5 image-to-image, DDIM",
        SD,
        partial(stable_diffusion, ddim, diffusers.StableDiffusionImg2ImgPipeline),
        with_image(embeds),
        output_type="latent",
        guidance_scale=7.5,
        strength=0.75,
    ),
    unet("Stable Diffusion XL", XL_BASE, stable_diffusion_xl, pooled_embeds, **LATENT, guidance_scale=5.0),
    unet(
        "Stable Diffusion XL ControlNet",
        "diffusers/controlnet-canny-sdxl-1.0",
        partial(stable_diffusion_xl, control=True),
        with_image(pooled_embeds),
        **{**LATENT, "guidance_scale": 5.0, "controlnet_conditioning_scale": 0.5},
    ),
    Family(
        "HiDream-I1", HIDREAM, hidream, words, {**LENGTH, "guidance_scale": 5.0, "output_type": "latent"}, "batched"
    ),
    Family("FLUX.1, modular", FLUX, flux_modular, words, WORDS, "distilled", since="0.42"),
    Family("Wan 2.1, modular", WAN, wan_modular, embeds, SHORT, "separate", since="0.37"),
)
