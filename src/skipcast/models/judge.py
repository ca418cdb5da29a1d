"""The judges of the reference models: small convolutional networks that read off what an image or a clip shows.

They score prompt adherence without downloads; their penultimate features give a Frechet distance between sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipcast.models import clips, scenes

WIDTH, CLIP_WIDTH = 128, 192


def _layers(channels: int, widths: Sequence[int]) -> nn.Sequential:
    """Convolutions of 3x3 pixels; each but the first halves the side."""
    layers: list[nn.Module] = []
    for i, (inner, outer) in enumerate(zip((channels, *widths[:-1]), widths, strict=True)):
        layers += [
            nn.Conv2d(inner, outer, 3, stride=1 if i == 0 else 2, padding=1),
            nn.GroupNorm(8, outer),
            nn.GELU(),
        ]
    return nn.Sequential(*layers)


class Reader(nn.Module):
    """Images to logits of attributes, by way of features (B, width): what judges share."""

    def __init__(self, attributes: Mapping[str, Sequence[str]], width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in attributes.items()})

    def features(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def requested(self, prompt: str) -> dict[str, int]:
        """The attributes that a prompt names, as indices into those that are read."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.features(images)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, images: Tensor) -> dict[str, Tensor]:
        """The most likely index per attribute: (B,) each."""
        parts = [self(part) for part in images.split(250)]
        return {name: torch.cat([part[name].argmax(dim=1) for part in parts]) for name in self.heads}


class Judge(Reader):
    """Images (B, 3, 64, 64) in [0, 1] to logits of shape, colour, size and background."""

    def __init__(self) -> None:
        super().__init__(scenes.ATTRIBUTES, WIDTH)
        self.trunk = _layers(3, (24, 48, 96, WIDTH, WIDTH))
        self.project = nn.Linear(WIDTH * 16, WIDTH)

    def feature_map(self, images: Tensor) -> Tensor:
        """Spatial features: (B, 16, WIDTH), the 4x4 places in reading order."""
        return self.trunk(images * 2 - 1).flatten(2).transpose(1, 2)

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features: (B, WIDTH)."""
        return F.gelu(self.project(self.feature_map(images).flatten(1)))

    def requested(self, prompt: str) -> dict[str, int]:
        return scenes.read_caption(prompt)


class ClipJudge(Reader):
    """Clips (B, 9, 3, 48, 48) in [0, 1] to logits of shape, colour, background, motion and speed.

    Every frame is read by the same convolutions, and all frames together by one layer.
    """

    def __init__(self) -> None:
        super().__init__(clips.ATTRIBUTES, CLIP_WIDTH)
        self.trunk = nn.Sequential(nn.PixelUnshuffle(2), *_layers(12, (32, 64, 96, 96)))
        self.frame = nn.Linear(96 * 9, WIDTH)
        self.project = nn.Linear(WIDTH * clips.FRAMES, CLIP_WIDTH)

    def feature_map(self, images: Tensor) -> Tensor:
        """Spatial features of every frame: (B, 9, 9, 96), the 3x3 places in reading order."""
        maps = self.trunk(images.flatten(0, 1) * 2 - 1).flatten(2).transpose(1, 2)
        return maps.unflatten(0, (len(images), -1))

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features: (B, CLIP_WIDTH)."""
        frames = F.gelu(self.frame(self.feature_map(images).flatten(2)))
        return F.gelu(self.project(frames.flatten(1)))

    def requested(self, prompt: str) -> dict[str, int]:
        return clips.read_caption(prompt)


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
