"""Training of the judges, the small networks that read what was drawn off images and clips."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from research.training.fit import Recipe, fit

MOST_BLUR = 1.5  # pixels
TESTED = 2000, 500  # images that the accuracy is measured on, and of combinations that are held out


class Drawn(Protocol):
    """A batch of drawn scenes or clips."""

    def labels(self) -> dict[str, NDArray[np.int64]]: ...


#: (count, seed, held out) to pixels (count, ..., 3, H, W) in [0, 1], and what they show.
Draw = Callable[[int, list[int], bool], tuple[Tensor, Drawn]]


def soften(images: Tensor, width: float) -> Tensor:
    """Gaussian blur of standard deviation `width`, in pixels: (..., 3, H, W) to the same."""
    if width < 0.1:  # narrower than a pixel can show
        return images
    reach = math.ceil(3 * width)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / width) ** 2)
    bell = (bell / bell.sum()).to(images.dtype)
    channels = images.shape[-3]
    kernel = bell.expand(channels, 1, 1, -1)
    padded = F.pad(images.reshape(-1, *images.shape[-3:]), (reach,) * 4, mode="replicate")
    across = F.conv2d(padded, kernel, groups=channels)
    return F.conv2d(across, kernel.transpose(2, 3), groups=channels).view(images.shape)


def accuracy(judge: Any, images: Tensor, drawn: Drawn) -> dict[str, float]:
    """Share of images read correctly, per attribute."""
    seen = judge.read(images)
    return {name: (seen[name].numpy() == truth).mean().item() for name, truth in drawn.labels().items()}


def train_judge(
    folder: Path, judge: nn.Module, draw: Draw, recipe: Recipe, *, seed: int, name: str, batch: int = 96
) -> dict[str, Any]:
    """Train or resume; returns the judge's accuracy on images never shown.

    What a model draws is softer than what is drawn; the judge must read a hexagon that lost its sharp corners.
    """

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        # A sixth of the images comes from the combinations the generator never sees: the judge must read those too.
        images, shown = draw(batch - batch // 6, [seed, step], False)
        more, rare = draw(batch // 6, [seed, step, 1], True)
        images = torch.cat([images, more])
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        noise = torch.rand(len(images), *[1] * (images.ndim - 1), generator=generator) * 0.05
        images = soften(images, MOST_BLUR * float(torch.rand((), generator=generator)))
        images = (images + noise * torch.randn(images.shape, generator=generator)).clamp(0, 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = judge(images)
        total, others = torch.zeros(()), rare.labels()
        for attribute, truth in shown.labels().items():
            target = torch.from_numpy(np.concatenate([truth, others[attribute]]))
            total = total + F.cross_entropy(logits[attribute].float(), target)
        return total, {"loss": total.item()}

    log = fit(name, folder, [judge], loss, recipe)
    judge.eval()
    images, shown = draw(TESTED[0], [seed, 10**9], False)
    unseen, rare = draw(TESTED[1], [seed, 10**9 + 1], True)
    return {
        "accuracy": accuracy(judge, images, shown),
        "accuracy_unseen_combinations": accuracy(judge, unseen, rare),
        "parameters": sum(p.numel() for p in judge.parameters()),
        "seconds": log[-1]["seconds"],
    }
