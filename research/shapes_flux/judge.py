"""Training of the judge of `shapes-flux`.

A second copy, trained from another seed, is the teacher whose 4x4 feature map the transformer may align with.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from research.shapes_flux.fit import Recipe, fit
from skipcast.models.judge import Judge
from skipcast.models.scenes import Scene, draw, sample_scene

RECIPE = Recipe(steps=900, rate=2e-3, warmup=100, anneal=0.8)
TEACHER_RECIPE = Recipe(steps=500, rate=2e-3, warmup=100, anneal=0.8)
BATCH = 96
MOST_BLUR = 1.5  # pixels


def _batch(count: int, seed: list[int], *, held_out: bool = False) -> tuple[Tensor, Scene]:
    scene = sample_scene(count, np.random.default_rng(seed), held_out=held_out)
    return torch.from_numpy(draw(scene)), scene


def soften(images: Tensor, width: float) -> Tensor:
    """Gaussian blur of standard deviation `width`, in pixels: (B, 3, H, W) to the same."""
    if width < 0.1:  # narrower than a pixel can show
        return images
    reach = math.ceil(3 * width)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / width) ** 2)
    bell = (bell / bell.sum()).to(images.dtype)
    kernel = bell.expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    across = F.conv2d(padded, kernel, groups=images.shape[1])
    return F.conv2d(across, kernel.transpose(2, 3), groups=images.shape[1])


def accuracy(judge: Judge, images: Tensor, scene: Scene) -> dict[str, float]:
    """Share of images read correctly, per attribute."""
    seen = judge.read(images)
    return {name: (seen[name].numpy() == truth).mean().item() for name, truth in scene.labels().items()}


def train_judge(
    folder: Path, recipe: Recipe = RECIPE, seed: int = 2, name: str = "judge", start: Judge | None = None
) -> tuple[Judge, dict[str, Any]]:
    """Train (from `start`, or anew) or resume; returns the judge and its accuracy on images never shown."""
    torch.manual_seed(seed)
    judge = start or Judge()

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        # A sixth of the images comes from the combinations the generator never sees: the judge must read those too.
        images, scene = _batch(BATCH - 16, [seed, step])
        more, rare = _batch(16, [seed, step, 1], held_out=True)
        images = torch.cat([images, more])
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        noise = torch.rand(len(images), 1, 1, 1, generator=generator) * 0.05
        # What a model draws is softer than what is drawn; the judge must read a hexagon that lost its sharp corners.
        images = soften(images, MOST_BLUR * float(torch.rand((), generator=generator)))
        images = (images + noise * torch.randn(images.shape, generator=generator)).clamp(0, 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = judge(images)
        total = torch.zeros(())
        for attribute, truth in scene.labels().items():
            target = torch.from_numpy(np.concatenate([truth, rare.labels()[attribute]]))
            total = total + F.cross_entropy(logits[attribute].float(), target)
        return total, {"loss": total.item()}

    log = fit(name, folder, [judge], loss, recipe)
    judge.eval()
    images, scene = _batch(2000, [seed, 10**9])
    unseen, rare = _batch(500, [seed, 10**9 + 1], held_out=True)
    return judge, {
        "accuracy": accuracy(judge, images, scene),
        "accuracy_unseen_combinations": accuracy(judge, unseen, rare),
        "parameters": sum(p.numel() for p in judge.parameters()),
        "seconds": log[-1]["seconds"],
    }
