"""U-Nets (Stable Diffusion 1.5 and XL), HiDream-I1, and modular pipelines of FLUX and Wan."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    ControlNetModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxModularPipeline,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    ModularPipeline,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanModularPipeline,
    WanTransformer3DModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from families.base import Family, drawn
from research.shapes_flux import text
from support import tiny

WIDTH = 16  # of text embeddings
POOLED = 8
TIME_IDS = 8  # width of each of the six numbers that SDXL is told beside the time
SIDE = 64  # pictures of 8x8 latents
TEXT_TOKENS = 5

#: Captions over the words of the tiny tokenizers.
PROMPTS = ("a large red star on a blue background", "a small blue circle on a red background", "a green star")


def shaken(module: nn.Module, scale: float = 0.1) -> nn.Module:
    """Every matrix drawn anew: published designs begin with some of zeros, through which nothing passes."""
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, scale, generator=noise)
    return module


def quiet(pipe: Any) -> Any:
    """The pipeline without a progress bar, its networks in evaluation mode."""
    pipe.set_progress_bar_config(disable=True)
    _silence(getattr(pipe, "_blocks", None))
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval()
    return pipe


def _silence(block: Any) -> None:
    """A modular pipeline tells its outermost blocks alone, and the bar is that of a loop inside them."""
    for inner in (getattr(block, "sub_blocks", None) or {}).values():
        if hasattr(inner, "set_progress_bar_config"):
            inner.set_progress_bar_config(disable=True)
        _silence(inner)


def reload(pipe: Any, folder: str) -> Any:
    """The pipeline that was saved to `folder`, as its class loads it."""
    if not isinstance(pipe, ModularPipeline):
        return quiet(type(pipe).from_pretrained(folder))
    # from_pretrained would bring back the default blocks, and a modular pipeline loads its parts when it is told to.
    again = type(pipe)(blocks=pipe.blocks, pretrained_model_name_or_path=folder)
    again.load_components()
    return quiet(again)


def build_vae(**changes: Any) -> AutoencoderKL:
    """Eightfold compression, as the real one."""
    config = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (4, 4, 4, 4),
        "norm_num_groups": 2,
        "latent_channels": 4,
        "sample_size": SIDE,
    }
    return AutoencoderKL(**{**config, **changes})


def build_clip(kind: type, tokenizer: CLIPTokenizer) -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=POOLED,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=text.CLIP_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


# Stable Diffusion 1.5

#: What every scheduler of Stable Diffusion is told of its training.
TRAINED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


def build_pndm() -> PNDMScheduler:
    return PNDMScheduler(**TRAINED, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)


def build_ddim() -> DDIMScheduler:
    return DDIMScheduler(**TRAINED, clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def build_dpm() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(**TRAINED, algorithm_type="dpmsolver++", solver_order=2, steps_offset=1)


def build_unet(**changes: Any) -> UNet2DConditionModel:
    config = {
        "sample_size": SIDE // 8,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (8, 16, 16),
        "layers_per_block": 2,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "cross_attention_dim": WIDTH,
    }
    return UNet2DConditionModel(**{**config, **changes})


def _stable_diffusion(kind: type, scheduler: Any) -> Any:
    torch.manual_seed(0)
    clip = text.build_clip_tokenizer()
    return quiet(
        kind(
            vae=build_vae(),
            # Not asked for embeddings here, but the pipeline cannot be loaded without.
            text_encoder=build_clip(CLIPTextModel, clip),
            tokenizer=clip,
            unet=build_unet(),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def build_pndm_pipeline() -> StableDiffusionPipeline:
    return _stable_diffusion(StableDiffusionPipeline, build_pndm())


def build_ddim_pipeline() -> StableDiffusionPipeline:
    return _stable_diffusion(StableDiffusionPipeline, build_ddim())


def build_dpm_pipeline() -> StableDiffusionPipeline:
    return _stable_diffusion(StableDiffusionPipeline, build_dpm())


def build_image_pipeline() -> StableDiffusionImg2ImgPipeline:
    return _stable_diffusion(StableDiffusionImg2ImgPipeline, build_ddim())


def embeds(number: int) -> dict[str, Any]:
    return {
        "prompt_embeds": drawn(10 + number, 1, TEXT_TOKENS, WIDTH),
        "negative_prompt_embeds": drawn(30, 1, TEXT_TOKENS, WIDTH),
    }


def embeds_and_image(number: int) -> dict[str, Any]:
    return {**embeds(number), "image": drawn(40 + number, 1, 3, SIDE, SIDE).sigmoid()}


# Stable Diffusion XL


def _xl_config() -> dict[str, Any]:
    """Parts of the configuration that the U-Net and the ControlNet share."""
    return {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "block_out_channels": (8, 16, 16),
        "layers_per_block": 2,
        "transformer_layers_per_block": (1, 1, 2),
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "cross_attention_dim": WIDTH,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_IDS,
        "projection_class_embeddings_input_dim": POOLED + 6 * TIME_IDS,
    }


def _xl_parts() -> dict[str, Any]:
    torch.manual_seed(0)
    up = ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    return {
        "vae": build_vae(),
        "text_encoder": None,
        "text_encoder_2": None,
        "tokenizer": None,
        "tokenizer_2": None,
        "unet": build_unet(up_block_types=up, **_xl_config()),
        "scheduler": EulerDiscreteScheduler(**TRAINED, timestep_spacing="leading", steps_offset=1),
        "add_watermarker": False,
    }


def build_xl_pipeline() -> StableDiffusionXLPipeline:
    return quiet(StableDiffusionXLPipeline(**_xl_parts()))


def build_xl_controlled_pipeline() -> StableDiffusionXLControlNetPipeline:
    parts = _xl_parts()
    controlnet = ControlNetModel(conditioning_embedding_out_channels=(4, 4, 4, 4), **_xl_config())
    return quiet(StableDiffusionXLControlNetPipeline(controlnet=shaken(controlnet), **parts))


def pooled_embeds(number: int) -> dict[str, Any]:
    return {
        **embeds(number),
        "pooled_prompt_embeds": drawn(50 + number, 1, POOLED),
        "negative_pooled_prompt_embeds": drawn(60, 1, POOLED),
    }


def pooled_embeds_and_image(number: int) -> dict[str, Any]:
    return {**pooled_embeds(number), "image": drawn(40 + number, 1, 3, SIDE, SIDE).sigmoid()}


# HiDream-I1


def _build_llama(tokenizer: PreTrainedTokenizerFast, layers: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=32,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def build_hidream_pipeline() -> HiDreamImagePipeline:
    """The pipeline brings every size to 128x128 latents, so patches are as large as makes 16 tokens of them."""
    torch.manual_seed(0)
    transformer = HiDreamImageTransformer2DModel(
        patch_size=32,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=[text.T5_WIDTH, WIDTH],
        text_emb_dim=2 * POOLED,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(128, 128),
        llama_layers=[0, 1, 1, 2],
    )
    clip, t5, llama = text.build_clip_tokenizer(), text.build_t5_tokenizer(), text.build_t5_tokenizer()
    pipe = HiDreamImagePipeline(
        # UniPC with flow sigmas is the full model's; Dev and Fast are distilled and run without guidance.
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        vae=build_vae(
            down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",), block_out_channels=(4,)
        ),
        text_encoder=build_clip(CLIPTextModelWithProjection, clip),
        tokenizer=clip,
        text_encoder_2=build_clip(CLIPTextModelWithProjection, clip),
        tokenizer_2=clip,
        text_encoder_3=text.build_t5(t5),
        tokenizer_3=t5,
        text_encoder_4=_build_llama(llama, layers=3),
        tokenizer_4=llama,
        transformer=shaken(transformer),
    )
    return quiet(pipe)


def words(number: int) -> dict[str, Any]:
    return {"prompt": PROMPTS[number % len(PROMPTS)]}


# Modular pipelines


def build_flux_modular() -> FluxModularPipeline:
    """FLUX.1-dev's default blocks over the parts of the tiny FLUX pipeline."""
    parts = tiny.flux_pipeline(num_layers=2, guidance_embeds=True)
    pipe = FluxModularPipeline()
    names = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "transformer")
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256
    )
    pipe.update_components(**{name: getattr(parts, name) for name in names}, scheduler=scheduler)
    return quiet(pipe)


def build_wan_modular() -> WanModularPipeline:
    """Wan 2.1's default blocks but the text encoder, whose cleaning of prompts needs a further package."""
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=16,
        ffn_dim=32,
        num_layers=3,
        cross_attn_norm=True,
        rope_max_seq_len=32,
    )
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    from diffusers import WanBlocks  # since 0.37

    blocks = WanBlocks()
    blocks.sub_blocks.pop("text_encoder")
    pipe = WanModularPipeline(blocks)
    pipe.update_components(
        vae=vae,
        transformer=shaken(transformer),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    )
    return quiet(pipe)


_LATENT = {"height": SIDE, "width": SIDE, "output_type": "latent"}
_SD = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_UNET = {"guidance": "batched", "denoisers": ("unet",)}

FAMILIES: tuple[Family, ...] = (
    Family("Stable Diffusion 1.5", _SD, build_pndm_pipeline, embeds, {**_LATENT, "guidance_scale": 7.5}, **_UNET),
    Family("Stable Diffusion 1.5, DDIM", _SD, build_ddim_pipeline, embeds, {**_LATENT, "guidance_scale": 7.5}, **_UNET),
    Family(
        "Stable Diffusion 1.5, DPM-Solver++",
        _SD,
        build_dpm_pipeline,
        embeds,
        {**_LATENT, "guidance_scale": 7.5},
        **_UNET,
    ),
    Family(
        "Stable Diffusion 1.5 image-to-image, DDIM",
        _SD,
        build_image_pipeline,
        embeds_and_image,
        {"output_type": "latent", "guidance_scale": 7.5, "strength": 0.75},
        **_UNET,
        unrecorded="it begins in mid-grid: use a plan of text-to-image",
    ),
    Family(
        "Stable Diffusion XL",
        "stabilityai/stable-diffusion-xl-base-1.0",
        build_xl_pipeline,
        pooled_embeds,
        {**_LATENT, "guidance_scale": 5.0},
        **_UNET,
    ),
    Family(
        "Stable Diffusion XL ControlNet",
        "diffusers/controlnet-canny-sdxl-1.0",
        build_xl_controlled_pipeline,
        pooled_embeds_and_image,
        {**_LATENT, "guidance_scale": 5.0, "controlnet_conditioning_scale": 0.5},
        **_UNET,
    ),
    Family(
        "HiDream-I1",
        "HiDream-ai/HiDream-I1-Full",
        build_hidream_pipeline,
        words,
        {"guidance_scale": 5.0, "output_type": "latent", "max_sequence_length": text.TEXT_TOKENS},
        guidance="batched",
    ),
    Family(
        "FLUX.1, modular",
        "black-forest-labs/FLUX.1-dev",
        build_flux_modular,
        words,
        {**_LATENT, "guidance_scale": 3.5, "max_sequence_length": text.TEXT_TOKENS, "output": "latents"},
        guidance="distilled",
        result=lambda latents: latents,
        since="0.42",
    ),
    Family(
        "Wan 2.1, modular",
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        build_wan_modular,
        embeds,
        {
            "height": 16,
            "width": 16,
            "num_frames": 3,
            "output_type": "pt",
            "output": "latents",
        },
        guidance="separate",
        result=lambda latents: latents,
        since="0.37",
    ),
)
