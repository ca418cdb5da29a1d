"""The autoencoder of `shapes-wan`: `AutoencoderKLWan`, 9x48x48x3 to 3x6x6x16, causal in time.

As Wan 2.2's it folds 2x2 pixels into channels first and carries averages around its blocks, which is what two cores can
train; the ratios, 4 in time and 8 in space, are Wan 2.1's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from research.training.fit import Recipe, fit
from skipcast.models.clips import draw, sample_clip

CHANNELS = 16
#: Weight of the KL term per latent element: a latent stands for 36 values here, three times those of `shapes-flux`.
KL_WEIGHT = 6e-5
RECIPE = Recipe(steps=2400, rate=2e-3, anneal=0.9, warmup=50, ema=0.99)
BATCH = 8
TESTED = 64  # clips of each of the four parts that figures are of
#: The decoder goes on alone, on the final latents, which the transformer may meanwhile be trained on.
DECODER_RECIPE = Recipe(steps=1000, rate=1e-3, anneal=0.9, warmup=50, ema=0.99)


def build_autoencoder(width: int = 32) -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=width,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        is_residual=True,
        patch_size=2,
        in_channels=12,
        out_channels=12,
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
    )


def draw_clips(count: int, seed: list[int], *, held_out: bool = False) -> Tensor:
    """`count` drawn clips in [-1, 1], as the autoencoder takes them: (count, 3, 9, 48, 48)."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(draw(sample_clip(count, rng, held_out=held_out))).transpose(1, 2) * 2 - 1


@torch.no_grad()
def rebuild(vae: AutoencoderKLWan, clips: Tensor) -> Tensor:
    """Clips in [-1, 1] through the posterior mean and back: (B, 3, T, H, W)."""
    rebuilt: Tensor = vae.decode(vae.encode(clips).latent_dist.mode()).sample
    return rebuilt


def psnr_of(vae: AutoencoderKLWan, clips: Tensor) -> Tensor:
    """PSNR of the reconstruction (posterior mean) per frame, in dB, on the [0, 1] scale: (B, T)."""
    error = ((rebuild(vae, clips) - clips) / 2).double().square().mean(dim=(1, 3, 4))
    return -10 * torch.log10(error)


@torch.no_grad()
def set_scaling(vae: AutoencoderKLWan, clips: Tensor) -> None:
    """Set `latents_mean` and `latents_std` so that every channel of the latents has mean 0 and variance 1."""
    latents = vae.encode(clips).latent_dist.mode()
    mean, std = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())


def train_autoencoder(folder: Path, recipe: Recipe = RECIPE, seed: int = 1) -> tuple[AutoencoderKLWan, dict[str, Any]]:
    """Train or resume; returns the model and the figures of the card (PSNR on clips never shown)."""
    torch.manual_seed(seed)
    vae = build_autoencoder()

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        clips = draw_clips(BATCH, [seed, step])
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = vae.encode(clips).latent_dist
            rebuilt = vae.decode(posterior.sample(generator)).sample
        error = (rebuilt.float() - clips).square().mean()
        spread = posterior.mean.float().square() + posterior.var.float() - 1.0 - posterior.logvar.float()
        total = error + KL_WEIGHT * 0.5 * spread.mean()
        return total, {"psnr": -10 * float(torch.log10(error.detach() / 4))}

    log = fit("autoencoder", folder, [vae], loss, recipe)
    vae.eval()
    set_scaling(vae, draw_clips(256, [seed, 10**9]))
    return vae, {**figures(vae, seed), "seconds": log[-1]["seconds"]}


def refine_decoder(
    vae: AutoencoderKLWan, folder: Path, recipe: Recipe = DECODER_RECIPE, seed: int = 7
) -> tuple[AutoencoderKLWan, dict[str, Any]]:
    """Train the decoder alone, or resume; the encoder and so every latent stays what it is."""
    vae.requires_grad_(False)
    trained = [vae.post_quant_conv, vae.decoder]
    for module in trained:
        module.requires_grad_(True)
    # A sampled latent is never exactly an encoded one.
    spread = 0.02 * torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        clips = draw_clips(BATCH, [seed, step])
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                mean = vae.encode(clips).latent_dist.mode()
            rebuilt = vae.decode(mean + spread * torch.randn(mean.shape, generator=generator)).sample
        error = (rebuilt.float() - clips).square().mean()
        return error, {"psnr": -10 * float(torch.log10(error.detach() / 4))}

    log = fit("decoder", folder, trained, loss, recipe)
    vae.requires_grad_(True)
    return vae.eval(), {**figures(vae, seed), "seconds": log[-1]["seconds"]}


def figures(vae: AutoencoderKLWan, seed: int) -> dict[str, Any]:
    """PSNR per frame on clips never shown, in dB, and the size."""
    shown = torch.cat([psnr_of(vae, draw_clips(TESTED, [seed, 10**9 + 1 + i])) for i in range(4)])
    unseen = psnr_of(vae, draw_clips(TESTED, [seed, 10**9 + 9], held_out=True))
    return {
        "psnr_mean": shown.mean().item(),
        "psnr_worst": shown.min().item(),
        "psnr_unseen_combinations": unseen.mean().item(),
        "parameters": sum(p.numel() for p in vae.parameters()),
    }
