"""Tiny pipelines of the families that make videos from text, or from text and a video."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    AutoencoderKLWan,
    ClassifierFreeGuidance,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
    WanVideoToVideoPipeline,
)
from torch import Tensor, nn
from transformers import (
    ByT5Tokenizer,
    LlamaConfig,
    LlamaModel,
    LlamaTokenizer,
    Qwen2_5_VLTextModel,
    Qwen2Tokenizer,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig

from families.base import Family, drawn
from research.shapes_flux import text

#: Text tokens of a prompt and their width, for every family here.
TOKENS, WIDTH = 6, 16


def _filled(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with every parameter drawn: some start at zero, and then its output would be zero at every step."""
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
            if parameter.ndim == 1 and name.endswith("weight"):  # the scale of a norm
                parameter.add_(1.0)
    return network.eval()


# Prompts come as embeddings, so text encoders are never run; but a saved pipeline cannot be loaded without them.


def _t5(width: int = WIDTH, kind: type = T5EncoderModel, config: type = T5Config) -> nn.Module:
    return kind(config(vocab_size=512, d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2))


def _decoder_only(kind: type, config: type, **rope: Any) -> nn.Module:
    return kind(
        config(
            vocab_size=16,
            hidden_size=WIDTH,
            intermediate_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=2,
            bos_token_id=0,
            eos_token_id=1,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, **rope},
        )
    )


def _assembled(kind: type, **parts: Any) -> Any:
    """A silent pipeline, with T5 unless it has another text encoder."""
    if "text_encoder" not in parts:
        parts |= {"text_encoder": _t5(), "tokenizer": text.build_t5_tokenizer()}
    pipe = kind(**parts)
    for part in parts.values():
        if isinstance(part, nn.Module):
            part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _text(number: int, width: int = WIDTH) -> Tensor:
    return drawn(100 + number, 1, TOKENS, width)


def _mask(number: int) -> Tensor:
    """Prompts of different lengths, padded to the same."""
    return (torch.arange(TOKENS) < TOKENS - number % 3).int()[None]


def _text_and_negative(number: int) -> dict[str, Tensor]:
    return {"prompt_embeds": _text(number), "negative_prompt_embeds": _text(900)}


def _text_and_negative_with_masks(number: int) -> dict[str, Tensor]:
    return {
        **_text_and_negative(number),
        "prompt_attention_mask": _mask(number),
        "negative_prompt_attention_mask": _mask(2),
    }


# HunyuanVideo: two streams, then one; guidance is distilled into the network.


def _hunyuan_video() -> HunyuanVideoPipeline:
    torch.manual_seed(0)
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=2,
        mlp_ratio=4.0,  # with 2.0 a saved file maps its weights to addresses on which one picture rounds differently
        guidance_embeds=True,
        text_embed_dim=WIDTH,
        pooled_projection_dim=16,
        rope_axes_dim=(4, 6, 6),
    )
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2
    )
    clip = text.build_clip_tokenizer()
    return _assembled(
        HunyuanVideoPipeline,
        transformer=_filled(transformer),
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder=_decoder_only(LlamaModel, LlamaConfig),
        tokenizer=LlamaTokenizer(),
        text_encoder_2=text.build_clip(clip),
        tokenizer_2=clip,
    )


def _hunyuan_video_prompt(number: int) -> dict[str, Tensor]:
    return {
        "prompt_embeds": _text(number),
        "prompt_attention_mask": _mask(number),
        "pooled_prompt_embeds": drawn(200 + number, 1, 16),
    }


# HunyuanVideo 1.5: two streams only; a guider, which is part of the pipeline, calls the network once per branch.


def _hunyuan_video_15() -> HunyuanVideo15Pipeline:
    torch.manual_seed(0)
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9,  # latents, the latents of a first frame, and where there is one
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=3,
        num_refiner_layers=2,
        mlp_ratio=2.0,
        text_embed_dim=WIDTH,
        text_embed_2_dim=8,
        image_embed_dim=8,
        rope_axes_dim=(4, 6, 6),
        target_size=64,
        task_type="t2v",
    )
    vae = AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(32,) * 5, layers_per_block=1)
    return _assembled(
        HunyuanVideo15Pipeline,
        transformer=_filled(transformer),
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        text_encoder=_decoder_only(Qwen2_5_VLTextModel, Qwen2_5_VLTextConfig, mrope_section=[1, 1, 2]),
        tokenizer=Qwen2Tokenizer(),
        text_encoder_2=_t5(8),
        tokenizer_2=ByT5Tokenizer(),
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
    )


def _hunyuan_video_15_prompt(number: int) -> dict[str, Tensor]:
    return {
        **_text_and_negative(number),
        "prompt_embeds_mask": _mask(number),
        "negative_prompt_embeds_mask": _mask(2),
        "prompt_embeds_2": _text(200 + number, 8),
        "prompt_embeds_mask_2": _mask(number + 1),
        "negative_prompt_embeds_2": _text(901, 8),
        "negative_prompt_embeds_mask_2": torch.zeros(1, TOKENS, dtype=torch.int32),  # it quotes nothing
    }


# Wan: image tokens that look at the text; two calls for guidance, on a multistep scheduler.


def _wan_transformer(seed: int = 0) -> nn.Module:
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=32,
        ffn_dim=48,
        num_layers=3,
        rope_max_seq_len=32,
    )
    return _filled(transformer, seed)


def _wan_parts() -> dict[str, Any]:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[-0.7, 0.1, 0.9, -0.1],
        latents_std=[2.8, 1.4, 2.3, 1.2],
    )
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return {
        "vae": vae,
        "scheduler": scheduler,
        "transformer": _wan_transformer(),
        "text_encoder": _t5(kind=UMT5EncoderModel, config=UMT5Config),
        "tokenizer": text.build_t5_tokenizer(),
    }


def _wan_21() -> WanPipeline:
    return _assembled(WanPipeline, **_wan_parts())


def _wan_22() -> WanPipeline:
    # The published boundary is 0.875, behind the third of eight steps; here it lies behind the fourth, so that methods
    # which evaluate every third step meet the second network between two of them.
    return _assembled(WanPipeline, **_wan_parts(), transformer_2=_wan_transformer(1), boundary_ratio=0.8)


def _wan_video_to_video() -> WanVideoToVideoPipeline:
    return _assembled(WanVideoToVideoPipeline, **_wan_parts())


def _wan_video_prompt(number: int) -> dict[str, Tensor]:
    return {**_text_and_negative(number), "video": drawn(300 + number, 1, 5, 3, 48, 48).sigmoid()}


# LTX-Video: packed latents, on a schedule that is shifted by their number.


def _ltx() -> LTXPipeline:
    torch.manual_seed(0)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=3,
        caption_channels=WIDTH,
    )
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_image_seq_len=1024,
        max_image_seq_len=4096,
        base_shift=0.95,
        max_shift=2.05,
        shift_terminal=0.1,
    )
    return _assembled(LTXPipeline, transformer=_filled(transformer), vae=vae, scheduler=scheduler)


# CogVideoX: predicts v on a discrete schedule of DDIM that has no sigmas.


def _cogvideox() -> CogVideoXPipeline:
    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=16,
        text_embed_dim=WIDTH,
        num_layers=3,
        sample_width=8,
        sample_height=8,
        sample_frames=5,
        max_text_seq_length=TOKENS,
    )
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(4, 4, 4, 4), latent_channels=4, layers_per_block=1, norm_num_groups=2
    )
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction",
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        rescale_betas_zero_snr=True,
        set_alpha_to_one=True,
        snr_shift_scale=3.0,
        timestep_spacing="trailing",
    )
    return _assembled(CogVideoXPipeline, transformer=_filled(transformer), vae=vae, scheduler=scheduler)


# Mochi: the schedule runs the other way, from 0 to 1.


def _mochi() -> MochiPipeline:
    torch.manual_seed(0)
    transformer = MochiTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=3,
        pooled_projection_dim=24,
        in_channels=12,
        text_embed_dim=WIDTH,
        time_embed_dim=16,
        max_sequence_length=TOKENS,
    )
    vae = AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    return _assembled(MochiPipeline, transformer=_filled(transformer), vae=vae, scheduler=scheduler)


_SIZE = {"height": 64, "width": 64, "num_frames": 5, "output_type": "latent"}

FAMILIES: tuple[Family, ...] = (
    Family(
        name="HunyuanVideo",
        example="hunyuanvideo-community/HunyuanVideo",
        build=_hunyuan_video,
        prompt=_hunyuan_video_prompt,
        fixed={**_SIZE, "guidance_scale": 6.0},
        guidance="distilled",
    ),
    Family(
        name="HunyuanVideo 1.5",
        example="hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v",
        build=_hunyuan_video_15,
        prompt=_hunyuan_video_15_prompt,
        fixed=_SIZE,
        guidance="separate",
    ),
    Family(
        name="Wan 2.1",
        example="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        build=_wan_21,
        prompt=_text_and_negative,
        fixed={**_SIZE, "guidance_scale": 5.0},
        guidance="separate",
    ),
    Family(
        name="Wan 2.2",
        example="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        build=_wan_22,
        prompt=_text_and_negative,
        fixed={**_SIZE, "guidance_scale": 4.0, "guidance_scale_2": 3.0},
        guidance="separate",
        denoisers=("transformer", "transformer_2"),
    ),
    Family(
        name="Wan video to video",
        example="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        build=_wan_video_to_video,
        prompt=_wan_video_prompt,
        fixed={"height": 48, "width": 48, "guidance_scale": 5.0, "strength": 0.8, "output_type": "latent"},
        guidance="separate",
        unrecorded="it begins in mid-grid: use a plan of text-to-image",
    ),
    Family(
        name="LTX-Video",
        example="Lightricks/LTX-Video",
        build=_ltx,
        prompt=_text_and_negative_with_masks,
        fixed={**_SIZE, "height": 128, "width": 128, "num_frames": 9, "guidance_scale": 3.0},
        guidance="batched",
    ),
    Family(
        name="CogVideoX",
        example="zai-org/CogVideoX-2b",
        build=_cogvideox,
        prompt=_text_and_negative,
        fixed={**_SIZE, "guidance_scale": 6.0},
        guidance="batched",
    ),
    Family(
        name="Mochi",
        example="genmo/mochi-1-preview",
        build=_mochi,
        prompt=_text_and_negative_with_masks,
        fixed={**_SIZE, "num_frames": 7, "guidance_scale": 4.5},
        guidance="batched",
    ),
)
