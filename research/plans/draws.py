"""Held-out images of one method after another, outside of `compare` where its records would not do."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skipcast.bench import metrics
from skipcast.bench.draw import draw
from skipcast.bench.grid import batches
from skipcast.bench.spec import Settings
from skipcast.grid import Vector
from skipcast.methods import names
from skipcast.models.load import Model
from skipcast.pipelines.plan_scheduler import PlanScheduler
from skipcast.pipelines.recording.replay import swapped
from skipcast.plans.plan import Plan

#: Multiples of the largest recorded residual at which `PlanScheduler.trusted` is evaluated.
FACTORS = (2.0, 3.0)


@dataclass(frozen=True)
class Planned:
    """Images of a plan (n, 3, H, W), and how far each departed from the recording.

    Args:
        departure: per image, the largest residual over the largest recorded one.
        flagged: factor -> per image, whether `trusted` says no.
    """

    images: Tensor
    departure: list[float]
    flagged: dict[float, list[bool]]


def drawn_images(model: Model, settings: Settings, spec: str | None = None, steps: int | None = None) -> Tensor:
    """Every image of the settings, (n, 3, H, W), by a method or by the unaccelerated pipeline."""
    method: Any = None if spec is None else names.method(spec)
    count = steps or settings.steps
    found = [
        draw(model.pipe, batch, method, steps=count, call=settings.call).images
        for batch in batches(settings, settings.prompts)
    ]
    return torch.cat(found)


def planned(model: Model, settings: Settings, plan: Plan, *, strict: bool = False) -> Planned:
    """Every image of the settings by a plan, on the plan's own grid whatever the settings ask for.

    A plan without forecasts departs by NaN and flags nothing.
    """
    images: list[Tensor] = []
    departure: list[float] = []
    flagged: dict[float, list[bool]] = {factor: [] for factor in FACTORS}
    for batch in batches(settings, settings.prompts):
        scheduler = PlanScheduler(plan, strict=strict)
        with swapped(model.pipe, scheduler), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="this plan was made for")  # that it departs is what is measured
            images.append(draw(model.pipe, batch, steps=plan.origin.steps, call=settings.call).images)
        count = len(batch)
        if plan.expected is None or not scheduler.checked:
            departure += [float("nan")] * count
            for factor in FACTORS:
                flagged[factor] += [False] * count
            continue
        recorded = torch.tensor(plan.expected[1:, 1].copy())[:, None]
        departure += (scheduler.residuals[1:] / recorded).max(dim=0).values.tolist() if len(recorded) else [0.0] * count
        for factor in FACTORS:
            flagged[factor] += [not fine for fine in scheduler.trusted(factor)]
    return Planned(torch.cat(images), departure, flagged)


def psnr(images: Tensor, truth: Tensor) -> Vector:
    """PSNR per image, (n,)."""
    found: Vector = metrics.psnr(images, truth).numpy()
    return found
