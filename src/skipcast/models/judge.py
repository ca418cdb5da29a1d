"""The judge of `shapes-flux`: a small convolutional network that reads shape, colour, size and background.

It scores prompt adherence without downloads; its penultimate features give a Frechet distance between picture sets.
A second copy, trained from another seed, is the teacher whose 4x4 feature map the transformer may align with.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from research.shapes_flux.fit import Recipe, fit
from skipcast.models.scenes import ATTRIBUTES, Scene, draw, sample_scene

WIDTH = 128
RECIPE = Recipe(steps=900, rate=2e-3, warmup=100, anneal=0.8)
TEACHER_RECIPE = Recipe(steps=500, rate=2e-3, warmup=100, anneal=0.8)
BATCH = 96
MOST_BLUR = 1.5  # pixels


class Judge(nn.Module):
    """Pictures (B, 3, 64, 64) in [0, 1] to logits per attribute."""

    def __init__(self) -> None:
        super().__init__()
        widths = (24, 48, 96, WIDTH, WIDTH)
        layers: list[nn.Module] = []
        for i, (inner, outer) in enumerate(zip((3, *widths[:-1]), widths, strict=True)):
            layers += [
                nn.Conv2d(inner, outer, 3, stride=1 if i == 0 else 2, padding=1),
                nn.GroupNorm(8, outer),
                nn.GELU(),
            ]
        self.trunk = nn.Sequential(*layers)
        self.project = nn.Linear(WIDTH * 16, WIDTH)
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, len(values)) for name, values in ATTRIBUTES.items()})

    def feature_map(self, images: Tensor) -> Tensor:
        """Spatial features: (B, 16, WIDTH), the 4x4 places in reading order."""
        return self.trunk(images * 2 - 1).flatten(2).transpose(1, 2)

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features: (B, WIDTH)."""
        return F.gelu(self.project(self.feature_map(images).flatten(1)))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.features(images)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, images: Tensor) -> dict[str, Tensor]:
        """The most likely index per attribute: (B,) each."""
        return {name: logits.argmax(dim=1) for name, logits in self(images).items()}


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
    """Share of pictures read correctly, per attribute."""
    seen = judge.read(images)
    return {name: (seen[name].numpy() == truth).mean().item() for name, truth in scene.labels().items()}


def train_judge(
    folder: Path, recipe: Recipe = RECIPE, seed: int = 2, name: str = "judge", start: Judge | None = None
) -> tuple[Judge, dict[str, Any]]:
    """Train (from `start`, or anew) or resume; returns the judge and its accuracy on pictures never shown."""
    torch.manual_seed(seed)
    judge = start or Judge()

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        # A sixth of the pictures comes from the combinations the generator never sees: the judge must read those too.
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


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Frechet distance between two feature sets (n, d), as Gaussians: |m - m'|^2 + tr(S + S' - 2 (S S')^1/2)."""
    x, y = a.detach().double().cpu().numpy(), b.detach().double().cpu().numpy()
    if min(len(x), len(y)) < 2:
        raise ValueError("frechet_distance(a, b) needs at least two rows in each set")
    cov_x, cov_y = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (x, y))
    # tr (S S')^1/2 = sum of square roots of the eigenvalues of S S', which are real and non-negative.
    cross = np.sqrt(np.clip(np.linalg.eigvals(cov_x @ cov_y).real, 0, None)).sum()
    mean = x.mean(axis=0) - y.mean(axis=0)
    return float(mean @ mean + np.trace(cov_x) + np.trace(cov_y) - 2 * cross)
