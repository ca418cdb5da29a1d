"""The autoencoder of `shapes-flux`: `AutoencoderKL`, 64x64x3 to 8x8x16, as FLUX's in a small size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from research.training.fit import Recipe, fit
from skipcast.models.scenes import draw, sample_scene

CHANNELS = 16
#: Weight of the KL term per latent element; keeps the posterior about 20 dB below the latent (a smooth space).
KL_WEIGHT = 2e-4
RECIPE = Recipe(steps=3000, rate=8e-4, anneal=0.9, warmup=100)
BATCH = 16
#: The decoder goes on alone, on the final latents, which the transformer may meanwhile be trained on.
DECODER_RECIPE = Recipe(steps=1400, rate=6e-4, anneal=0.9, warmup=50)


def build_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=CHANNELS,
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=True,
    )


def draw_images(count: int, seed: list[int], *, held_out: bool = False) -> Tensor:
    """`count` drawn images in [-1, 1]: (count, 3, 64, 64)."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(draw(sample_scene(count, rng, held_out=held_out))) * 2 - 1


@torch.no_grad()
def rebuild(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Images in [-1, 1] through the posterior mean and back: (B, 3, H, W)."""
    rebuilt: Tensor = vae.decode(vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
    return rebuilt


def psnr_of(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """PSNR of the reconstruction (posterior mean) per image, in dB, on the [0, 1] scale."""
    error = ((rebuild(vae, images) - images) / 2).double().square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(error)


@torch.no_grad()
def set_scaling(vae: AutoencoderKL, images: Tensor) -> None:
    """Set `shift_factor` and `scaling_factor` so that latents have mean 0 and variance 1."""
    latents = vae.encode(images).latent_dist.mode()
    vae.register_to_config(shift_factor=latents.mean().item(), scaling_factor=1 / latents.std().item())


def train_autoencoder(folder: Path, recipe: Recipe = RECIPE, seed: int = 1) -> tuple[AutoencoderKL, dict[str, Any]]:
    """Train or resume; returns the model and the figures of the card (PSNR on images never shown)."""
    torch.manual_seed(seed)
    vae = build_autoencoder()

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        images = draw_images(BATCH, [seed, step])
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            rebuilt = vae.decode(posterior.sample(generator)).sample
        error = (rebuilt.float() - images).square().mean()
        spread = posterior.mean.float().square() + posterior.var.float() - 1.0 - posterior.logvar.float()
        total = error + KL_WEIGHT * 0.5 * spread.mean()
        return total, {"psnr": -10 * float(torch.log10(error.detach() / 4))}

    log = fit("autoencoder", folder, [vae], loss, recipe)
    vae.eval()
    set_scaling(vae, draw_images(512, [seed, 10**9]))
    return vae, {**figures(vae, seed), "seconds": log[-1]["seconds"]}


def refine_decoder(
    vae: AutoencoderKL, folder: Path, recipe: Recipe = DECODER_RECIPE, seed: int = 7
) -> tuple[AutoencoderKL, dict[str, Any]]:
    """Train the decoder alone, or resume; the encoder and so every latent stays what it is."""
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    spread = 0.02 * float(1 / vae.config.scaling_factor)  # a sampled latent is never exactly an encoded one

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        images = draw_images(BATCH, [seed, step])
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                mean = vae.encode(images).latent_dist.mode()
            rebuilt = vae.decode(mean + spread * torch.randn(mean.shape, generator=generator)).sample
        error = (rebuilt.float() - images).square().mean()
        return error, {"psnr": -10 * float(torch.log10(error.detach() / 4))}

    log = fit("decoder", folder, [vae.decoder], loss, recipe)
    vae.requires_grad_(True)
    return vae, {**figures(vae, seed), "seconds": log[-1]["seconds"]}


def figures(vae: AutoencoderKL, seed: int) -> dict[str, Any]:
    """PSNR on images never shown, in dB, and the size."""
    held_out = torch.cat([psnr_of(vae, draw_images(128, [seed, 10**9 + 1 + i])) for i in range(4)])
    unseen = psnr_of(vae, draw_images(128, [seed, 10**9 + 9], held_out=True))
    return {
        "psnr_mean": held_out.mean().item(),
        "psnr_worst": held_out.min().item(),
        "psnr_unseen_combinations": unseen.mean().item(),
        "parameters": sum(p.numel() for p in vae.parameters()),
    }
