"""A teacher that attends, for `shapes-flux`: a small vision transformer that reads scenes off 4x4 patches.

The judge and its copy are convolutional, and alignment of attention maps (HASTE, arXiv:2505.16792) needs maps. The
patches are the places of the transformer's image tokens; convolutions lead to them (arXiv:2106.14881), for from flat
patches of 16x16 pixels 3,000 steps learnt 59 % of the shapes.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from research.shapes_flux.judge import draw_scenes
from research.training import judge as training
from research.training.fit import Recipe
from skipcast.models.judge import Reader
from skipcast.models.scenes import ATTRIBUTES

WIDTH, HEADS, BLOCKS, PLACES = 128, 4, 4, 4
STEM = 12, 32, 64, 96, 128
RECIPE = Recipe(steps=1500, rate=1e-3, warmup=100, anneal=0.8)


class PatchTeacher(Reader):
    """Images (B, 3, 64, 64) in [0, 1] to logits of shape, colour, size and background."""

    def __init__(self) -> None:
        super().__init__(ATTRIBUTES, WIDTH)
        config = ViTConfig(
            hidden_size=WIDTH,
            num_hidden_layers=BLOCKS,
            num_attention_heads=HEADS,
            intermediate_size=4 * WIDTH,
            image_size=PLACES,
            patch_size=1,
            num_channels=STEM[-1],
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        config._attn_implementation = "eager"  # the others keep no maps
        layers: list[nn.Module] = [nn.PixelUnshuffle(2)]
        for i, (inner, outer) in enumerate(pairwise(STEM)):
            layers += [nn.Conv2d(inner, outer, 3, stride=min(i + 1, 2), padding=1), nn.GroupNorm(8, outer), nn.GELU()]
        self.stem = nn.Sequential(*layers)
        self.body = ViTModel(config, add_pooling_layer=False)

    def features(self, images: Tensor) -> Tensor:
        """The mean of the final tokens: (B, 128)."""
        mean: Tensor = self.body(self.stem(images * 2 - 1)).last_hidden_state[:, 1:].mean(1)
        return mean

    @torch.no_grad()
    def seen(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Final tokens (B, 16, 128), and attention logits of the last two blocks among patches (B, 2, 4, 16, 16)."""
        found = self.body(self.stem(images * 2 - 1), output_attentions=True)
        maps = torch.stack(found.attentions[-2:], dim=1)[..., 1:, 1:]  # without the class token
        return found.last_hidden_state[:, 1:], maps.float().clamp(min=1e-7).log()


def train_teacher(folder: Path, recipe: Recipe = RECIPE, seed: int = 5) -> tuple[PatchTeacher, dict[str, Any]]:
    """Train or resume; returns the teacher and its accuracy on images never shown."""
    torch.manual_seed(seed)
    teacher = PatchTeacher()
    return teacher, training.train_judge(folder, teacher, draw_scenes, recipe, seed=seed, name="patch_teacher")
