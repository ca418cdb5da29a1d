"""Tiny pipelines of the families that make videos from text, or from text and a video."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
import torch
import transformers

from families.base import Family, drawn, encoded, mask
from families.parts import NETWORK, assembled, clip, flow, flow_unipc, language, made, redrawn, t5, umt5, wan_vae

#: Text tokens of a prompt and their width, for every family here.
TOKENS, WIDTH = 6, 16
#: What several networks call the same thing.
COMMON = (
    NETWORK
    | {"attention_head_dim": 16, "text_embed_dim": WIDTH, "text_dim": WIDTH, "caption_channels": WIDTH}
    | {"num_refiner_layers": 2, "rope_axes_dim": (4, 6, 6), "time_embed_dim": 16}
)
SIZE = {"height": 64, "width": 64, "num_frames": 5, "output_type": "latent"}
text = partial(encoded, tokens=TOKENS, width=WIDTH)


def network(kind: Any, seed: int = 0, **config: Any) -> Any:
    return redrawn(made(kind, COMMON, **config), std=0.2, vectors=0.2, seed=seed)


def length(number: int) -> torch.Tensor:
    """The mask of a prompt, for they differ in length and are padded to the same."""
    return mask(TOKENS, TOKENS - number % 3)


def masked(number: int) -> dict[str, Any]:
    return {**text(number), "prompt_attention_mask": length(number), "negative_prompt_attention_mask": length(2)}


def hunyuan_video() -> Any:
    """Two streams, then one; guidance is distilled into the network."""
    # With an mlp_ratio of 2.0 a saved file maps its weights to addresses on which one image rounds differently.
    config = {"num_layers": 2, "num_single_layers": 2, "mlp_ratio": 4.0, "pooled_projection_dim": 16}
    return assembled(
        diffusers.HunyuanVideoPipeline,
        transformer=network(diffusers.HunyuanVideoTransformer3DModel, guidance_embeds=True, **config),
        vae=made(diffusers.AutoencoderKLHunyuanVideo, **VAE, norm_num_groups=2),
        scheduler=flow(shift=7.0),
        **language(transformers.LlamaModel, tokenizer=transformers.LlamaTokenizer()),
        **clip("_2"),
    )


def hunyuan_video_prompt(number: int) -> dict[str, Any]:
    pooled = {"pooled_prompt_embeds": drawn(200 + number, 1, 16), "prompt_attention_mask": length(number)}
    return {"prompt_embeds": text(number)["prompt_embeds"], **pooled}


def hunyuan_video_15() -> Any:
    """Two streams only; a guider, which is part of the pipeline, calls the network once per branch."""
    # Latents, the latents of a first frame, and where there is one.
    config = {"in_channels": 9, "target_size": 64, "task_type": "t2v", "mlp_ratio": 2.0}
    return assembled(
        diffusers.HunyuanVideo15Pipeline,
        transformer=network(
            diffusers.HunyuanVideo15Transformer3DModel, text_embed_2_dim=8, image_embed_dim=8, **config
        ),
        vae=made(diffusers.AutoencoderKLHunyuanVideo15, **VAE | {"block_out_channels": (32,) * 5}),
        scheduler=flow(shift=5.0),
        **language(transformers.Qwen2_5_VLTextModel, tokenizer=transformers.Qwen2Tokenizer()),
        **t5("_2") | {"tokenizer_2": transformers.ByT5Tokenizer()},
        guider=diffusers.ClassifierFreeGuidance(guidance_scale=6.0),
    )


def hunyuan_video_15_prompt(number: int) -> dict[str, Any]:
    quoted = {
        "prompt_embeds_2": drawn(300 + number, 1, TOKENS, 8),
        "negative_prompt_embeds_2": drawn(901, 1, TOKENS, 8),
        "prompt_embeds_mask_2": length(number + 1),
        "negative_prompt_embeds_mask_2": mask(TOKENS, 0),  # it quotes nothing
    }
    return {**text(number), "prompt_embeds_mask": length(number), "negative_prompt_embeds_mask": length(2), **quoted}


def wan(kind: Any = diffusers.WanPipeline, experts: int = 1, **config: Any) -> Any:
    """Image tokens that look at the text; two calls for guidance, on a multistep scheduler."""
    shape = {"freq_dim": 32, "ffn_dim": 48, "rope_max_seq_len": 32}
    networks = {
        name: network(diffusers.WanTransformer3DModel, seed, **shape)
        for seed, name in enumerate(("transformer", "transformer_2")[:experts])
    }
    spread = {"latents_mean": [-0.7, 0.1, 0.9, -0.1], "latents_std": [2.8, 1.4, 2.3, 1.2]}
    return assembled(kind, **networks, vae=wan_vae(**spread), scheduler=flow_unipc(), **umt5(), **config)


def video(number: int) -> dict[str, Any]:
    return {**text(number), "video": drawn(300 + number, 1, 5, 3, 48, 48).sigmoid()}


def ltx() -> Any:
    """Packed latents, on a schedule that is shifted by their number."""
    sides = ("block_out_channels", "decoder_block_out_channels"), ("layers_per_block", "decoder_layers_per_block")
    vae = dict.fromkeys(sides[0], (8,) * 4) | dict.fromkeys(sides[1], (1,) * 5)
    levels = {"base_image_seq_len": 1024, "max_image_seq_len": 4096, "base_shift": 0.95, "max_shift": 2.05}
    return assembled(
        diffusers.LTXPipeline,
        transformer=network(
            diffusers.LTXVideoTransformer3DModel, in_channels=8, out_channels=8, cross_attention_dim=32
        ),
        vae=made(diffusers.AutoencoderKLLTXVideo, latent_channels=8, **vae),
        scheduler=flow(use_dynamic_shifting=True, shift_terminal=0.1, **levels),
        **language(transformers.T5EncoderModel, vocab_size=512, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2),
    )


def cogvideox() -> Any:
    """Predicts v on a discrete schedule of DDIM that has no sigmas."""
    config = {"sample_width": 8, "sample_height": 8, "sample_frames": 5, "max_text_seq_length": TOKENS}
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "snr_shift_scale": 3.0}
    ends = {"rescale_betas_zero_snr": True, "set_alpha_to_one": True, "timestep_spacing": "trailing"}
    return assembled(
        diffusers.CogVideoXPipeline,
        transformer=network(diffusers.CogVideoXTransformer3DModel, **config),
        vae=made(diffusers.AutoencoderKLCogVideoX, **VAE, norm_num_groups=2),
        scheduler=diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction", clip_sample=False, **betas, **ends),
        **t5(),
    )


def mochi() -> Any:
    """The schedule runs the other way, from 0 to 1."""
    vae = {"encoder_block_out_channels": (32,) * 4, "decoder_block_out_channels": (32,) * 4}
    config = {"in_channels": 12, "out_channels": 12, "pooled_projection_dim": 24, "max_sequence_length": TOKENS}
    return assembled(
        diffusers.MochiPipeline,
        transformer=network(diffusers.MochiTransformer3DModel, **config),
        vae=made(diffusers.AutoencoderKLMochi, layers_per_block=(1,) * 5, **vae),
        scheduler=flow(invert_sigmas=True),
        **t5(),
    )


VAE = {"latent_channels": 4, "block_out_channels": (4,) * 4, "layers_per_block": 1}
HUNYUAN, WAN = "hunyuanvideo-community/HunyuanVideo", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
FROM_VIDEO = {"height": 48, "width": 48, "guidance_scale": 5.0, "strength": 0.8, "output_type": "latent"}
MOCHI = {**SIZE, "num_frames": 7, "guidance_scale": 4.5}
LTX = {**SIZE, "height": 128, "width": 128, "num_frames": 9, "guidance_scale": 3.0}

FIFTEEN = f"{HUNYUAN}-1.5-Diffusers-480p_t2v"
TWO = {"guidance_scale": 4.0, "guidance_scale_2": 3.0}
# The published boundary is 0.875, behind the third of eight steps; here it lies behind the fourth, so that methods
# which evaluate every third step meet the second network between two of them.
experts = partial(wan, experts=2, boundary_ratio=0.8)
edited = partial(wan, diffusers.WanVideoToVideoPipeline)
BOTH = ("transformer", "transformer_2")

FAMILIES: tuple[Family, ...] = (
    Family("HunyuanVideo", HUNYUAN, hunyuan_video, hunyuan_video_prompt, {**SIZE, "guidance_scale": 6.0}, "distilled"),
    Family("HunyuanVideo 1.5", FIFTEEN, hunyuan_video_15, hunyuan_video_15_prompt, SIZE, "separate"),
    Family("Wan 2.1", WAN, wan, text, {**SIZE, "guidance_scale": 5.0}, "separate"),
    Family("Wan 2.2", "Wan-AI/Wan2.2-T2V-A14B-Diffusers", experts, text, SIZE | TWO, "separate", denoisers=BOTH),
    Family("Wan video to video", WAN, edited, video, FROM_VIDEO, "separate"),
    Family("LTX-Video", "Lightricks/LTX-Video", ltx, masked, LTX, "batched"),
    Family("CogVideoX", "zai-org/CogVideoX-2b", cogvideox, text, {**SIZE, "guidance_scale": 6.0}, "batched"),
    Family("Mochi", "genmo/mochi-1-preview", mochi, masked, MOCHI, "batched"),
)
