"""`shapes-wan` in miniature: its pipeline with a network of one narrow block, untrained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from research.shapes_wan import text
from research.shapes_wan.assemble import assemble, export
from research.shapes_wan.autoencoder import CHANNELS, build_autoencoder
from skipcast.models.judge import ClipJudge


def wan_pipeline() -> Any:
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=text.WIDTH,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    vae = build_autoencoder(width=4)
    vae.register_to_config(latents_mean=[0.1] * CHANNELS, latents_std=[1.5] * CHANNELS)
    tokenizer = text.build_tokenizer()
    pipe = assemble(transformer, vae, tokenizer, text.build_text_encoder(tokenizer))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_tiny_clips(folder: Path) -> Path:
    """The pipeline and an untrained judge, saved as a training saves them."""
    export(wan_pipeline(), ClipJudge().eval(), folder)
    return folder
