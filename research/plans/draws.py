"""Held-out images of one method after another, outside of `compare` where its records would not do."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from skipcast.bench import metrics
from skipcast.bench.draw import Batch, draw
from skipcast.bench.grid import in_calls, pairs_of
from skipcast.grid import Vector
from skipcast.methods import names
from skipcast.models.load import Model
from skipcast.pipelines.calls import argument_of
from skipcast.pipelines.plan_scheduler import PlanScheduler
from skipcast.pipelines.recording.replay import swapped
from skipcast.plans.plan import Plan

#: Multiples of the largest recorded residual at which `PlanScheduler.trusted` is evaluated.
FACTORS = (2.0, 3.0)


@dataclass(frozen=True)
class Settings:
    """Held-out images: prompts and seeds, and how they are drawn.

    Args:
        prompts: each with `seeds` seeds, which follow from `seed`.
        batch: images per call.
        call: further arguments of every pipeline call.
    """

    prompts: tuple[str, ...]
    steps: int = 50
    seeds: int = 8
    seed: int = 1000
    batch: int = 8
    call: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pairs(self) -> Batch:
        """Every image, prompt by prompt."""
        return pairs_of(self.prompts, self.seeds, self.seed)

    @property
    def batches(self) -> list[Batch]:
        """The images of every call."""
        return in_calls(self.pairs, self.batch)


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
    found = [draw(model.pipe, batch, method, steps=count, call=settings.call).images for batch in settings.batches]
    return torch.cat(found)


def planned(model: Model, settings: Settings, plan: Plan, *, strict: bool = False) -> Planned:
    """Every image of the settings by a plan, on the plan's own grid whatever the settings ask for.

    A plan with knots runs at the guidance of the settings, outside the knots on the line through the last ones. One
    without forecasts departs by NaN and flags nothing.
    """
    if plan.argument:
        plan = plan.at(argument_of(model.pipe, plan.argument, **settings.call), extrapolate=True)
    images: list[Tensor] = []
    departure: list[float] = []
    flagged: dict[float, list[bool]] = {factor: [] for factor in FACTORS}
    for batch in settings.batches:
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
