"""A FLUX transformer of random weights with a scheduler: as much of a pipeline as `accelerate` needs."""

from __future__ import annotations

import time

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

CHANNELS, TEXT_WIDTH, POOLED_WIDTH, HEAD = 64, 64, 32, 64


class BareFlux:
    """Random weights cost what trained ones do; what they forecast means nothing."""

    def __init__(
        self, double: int = 19, single: int = 38, width: int = 256, image_tokens: int = 256, text_tokens: int = 32
    ) -> None:
        if width % HEAD:
            raise ValueError(f"width={width} must be a multiple of {HEAD}, the width of an attention head.")
        torch.manual_seed(0)
        self.transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=CHANNELS,
            num_layers=double,
            num_single_layers=single,
            attention_head_dim=HEAD,
            num_attention_heads=width // HEAD,
            joint_attention_dim=TEXT_WIDTH,
            pooled_projection_dim=POOLED_WIDTH,
            guidance_embeds=False,
            axes_dims_rope=(16, 24, 24),
        ).eval()
        self.scheduler = FlowMatchEulerDiscreteScheduler()
        self._given = {
            "encoder_hidden_states": torch.randn(1, text_tokens, TEXT_WIDTH),
            "pooled_projections": torch.randn(1, POOLED_WIDTH),
            "txt_ids": torch.zeros(text_tokens, 3),
            "img_ids": torch.zeros(image_tokens, 3),
        }
        self._noise = torch.randn(1, image_tokens, CHANNELS)

    @torch.no_grad()
    def run(self, count: int) -> list[float]:
        """One trajectory of `count` steps; the seconds of every denoiser call."""
        self.scheduler.set_timesteps(count)
        self.scheduler.set_begin_index(0)
        x, seconds = self._noise, []
        for t in self.scheduler.timesteps:
            begun = time.perf_counter()
            velocity = self.transformer(hidden_states=x, timestep=t.expand(1) / 1000, return_dict=False, **self._given)
            seconds.append(time.perf_counter() - begun)
            x = self.scheduler.step(velocity[0], t, x, return_dict=False)[0]
        return seconds
