"""The judge of `shapes-flux`: a small convolutional network that reads shape, colour, size and background.

It scores prompt adherence without downloads; its penultimate features give a Frechet distance between image sets.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipcast.models.scenes import ATTRIBUTES

WIDTH = 128


class Judge(nn.Module):
    """Images (B, 3, 64, 64) in [0, 1] to logits per attribute."""

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
