"""Training of the judge of `shapes-flux`.

A second copy, trained from another seed, is the teacher whose 4x4 feature map the transformer may align with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from research.training import judge as training
from research.training.fit import Recipe
from skipcast.models.judge import Judge
from skipcast.models.scenes import Scene, draw, sample_scene

RECIPE = Recipe(steps=900, rate=2e-3, warmup=100, anneal=0.8)
TEACHER_RECIPE = Recipe(steps=500, rate=2e-3, warmup=100, anneal=0.8)


def draw_scenes(count: int, seed: list[int], held_out: bool = False) -> tuple[Tensor, Scene]:
    """Images (count, 3, 64, 64) in [0, 1] and what they show."""
    scene = sample_scene(count, np.random.default_rng(seed), held_out=held_out)
    return torch.from_numpy(draw(scene)), scene


def train_judge(
    folder: Path, recipe: Recipe = RECIPE, seed: int = 2, name: str = "judge", start: Judge | None = None
) -> tuple[Judge, dict[str, Any]]:
    """Train (from `start`, or anew) or resume; returns the judge and its accuracy on images never shown."""
    torch.manual_seed(seed)
    judge = start or Judge()
    return judge, training.train_judge(folder, judge, draw_scenes, recipe, seed=seed, name=name)
