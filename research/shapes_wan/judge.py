"""Training of the judge of `shapes-wan`, and of a copy from another seed, the teacher that is aligned with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from research.training import judge as training
from research.training.fit import Recipe
from skipcast.models.clips import Clip, draw, sample_clip
from skipcast.models.judge import ClipJudge

RECIPE = Recipe(steps=4000, rate=2e-3, warmup=100, anneal=0.8)
TEACHER_RECIPE = Recipe(steps=300, rate=2e-3, warmup=50, anneal=0.8)
BATCH = 48


def draw_clips(count: int, seed: list[int], held_out: bool = False) -> tuple[Tensor, Clip]:
    """Clips (count, 9, 3, 48, 48) in [0, 1] and what they show."""
    clip = sample_clip(count, np.random.default_rng(seed), held_out=held_out)
    return torch.from_numpy(draw(clip)), clip


def train_judge(
    folder: Path, recipe: Recipe = RECIPE, seed: int = 2, name: str = "judge", start: ClipJudge | None = None
) -> tuple[ClipJudge, dict[str, Any]]:
    """Train or resume, from `start` if it is given; returns the judge and its accuracy on clips never shown."""
    torch.manual_seed(seed)
    judge = start or ClipJudge()
    judge.train()
    return judge, training.train_judge(folder, judge, draw_clips, recipe, seed=seed, name=name, batch=BATCH)
