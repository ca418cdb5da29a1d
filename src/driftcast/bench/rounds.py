"""One pipeline call and what came out of it: pictures, latents, seconds, evaluations."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from driftcast.backends.calls import arguments as arguments
from driftcast.backends.diffusers import accelerate
from driftcast.backends.session import Acceleration
from driftcast.bench.settings import Settings
from driftcast.method import Method
from driftcast.planning.plan import Plan
from driftcast.samplers import Sampler


@dataclass(frozen=True)
class Batch:
    """The pictures of one call: prompts, their places in the list of prompts, seeds."""

    prompts: list[str]
    indices: list[int]
    seeds: list[int]


def batches(settings: Settings, prompts: Sequence[str]) -> Iterator[Batch]:
    """All pictures of a comparison, every prompt of a seed before the next seed."""
    jobs = [(i, settings.first_seed + s) for s in range(settings.seeds) for i in range(len(prompts))]
    size = settings.batch_of(len(prompts))
    for start in range(0, len(jobs), size):
        part = jobs[start : start + size]
        yield Batch([prompts[i] for i, _ in part], [i for i, _ in part], [seed for _, seed in part])


@dataclass(frozen=True)
class Outcome:
    """What one method made of one batch."""

    images: Tensor  # (B, 3, H, W) float32 in [0, 1], CPU
    latents: Tensor  # the final sample, CPU
    seconds: float
    evaluations: float  # per branch; of several branches that decide each for itself, the mean
    evaluated_steps: list[int] | None
    cached_bytes: int


def evaluations_made(acceleration: Acceleration) -> float:
    """Evaluations per branch of the newest run, the mean where branches decide each for itself."""
    summary = acceleration.summary()
    runs = [acceleration.runs[name] for name in summary.branches if name in acceleration.runs]
    counts = [sum(record.evaluated for record in run.trace) for run in runs]
    if len(set(counts)) < 2:
        return summary.evaluations
    return fmean(counts)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def call(pipe: Any, batch: Batch, settings: Settings, steps: int) -> tuple[Tensor, Tensor, float]:
    """One timed pipeline call: pictures, final latents, seconds."""
    last: dict[str, Tensor] = {}

    def keep(_pipe: Any, _step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        last["latents"] = values["latents"]
        return values

    given = arguments(settings.call, batch.prompts, batch.seeds)
    _synchronise()
    started = time.perf_counter()
    images = pipe(num_inference_steps=steps, output_type="pt", callback_on_step_end=keep, **given).images
    _synchronise()
    seconds = time.perf_counter() - started
    return images.float().cpu(), last["latents"].float().cpu(), seconds


def outcome(pipe: Any, batch: Batch, settings: Settings, method: Method | Sampler | Plan | None, steps: int) -> Outcome:
    """A batch with a method, or without one."""
    if method is None:
        images, latents, seconds = call(pipe, batch, settings, steps)
        return Outcome(images, latents, seconds, steps, None, 0)
    with accelerate(pipe, method) as acceleration:
        images, latents, seconds = call(pipe, batch, settings, steps)
    summary = acceleration.summary()
    evaluated = list(summary.evaluated_steps) if isinstance(method, Method) else None
    if isinstance(method, Plan):
        evaluated = list(method.steps)
    return Outcome(images, latents, seconds, evaluations_made(acceleration), evaluated, summary.cached_bytes)
