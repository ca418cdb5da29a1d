"""One pipeline call and what came out of it: pictures or videos, latents, seconds, evaluations."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from skipcast.bench.metrics import METRICS, per_frame
from skipcast.bench.settings import Settings
from skipcast.methods.base import Method
from skipcast.pipelines.accelerate import accelerate
from skipcast.pipelines.calls import arguments as arguments
from skipcast.pipelines.steps import overridden
from skipcast.pipelines.summary import Acceleration
from skipcast.plans.plan import Plan
from skipcast.samplers import Sampler


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

    images: Tensor  # (B, 3, H, W) float32 in [0, 1], CPU; of videos (B, F, 3, H, W)
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


@contextmanager
def telling(pipe: Any, tell: Callable[[int, Tensor], None]) -> Iterator[dict[str, Any]]:
    """The arguments of a call that make `tell` hear of every step: its number and the sample after it.

    There are none for a pipeline without callbacks; its scheduler is listened to instead.
    """
    if "callback_on_step_end" in inspect.signature(type(pipe).__call__).parameters:

        def callback(_pipe: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            tell(step, values["latents"])
            return values

        yield {"callback_on_step_end": callback}
        return
    original, steps = pipe.scheduler.step, count()

    def step(*args: Any, **given: Any) -> Any:
        made = original(*args, **given)
        tell(next(steps), made[0])
        return made

    with overridden(pipe.scheduler, "step", step):
        yield {}


def call(pipe: Any, batch: Batch, settings: Settings, steps: int) -> tuple[Tensor, Tensor, float]:
    """One timed pipeline call: pictures or videos, final latents, seconds."""
    last: dict[str, Tensor] = {}

    def keep(_step: int, latents: Tensor) -> None:
        last["latents"] = latents

    given = arguments(settings.call, batch.prompts, batch.seeds)
    _synchronise()
    started = time.perf_counter()
    with telling(pipe, keep) as heard:
        made = pipe(num_inference_steps=steps, output_type="pt", **heard, **given)
    _synchronise()
    seconds = time.perf_counter() - started
    images = made.frames if hasattr(made, "frames") else made.images
    return images.float().cpu(), last["latents"].float().cpu(), seconds


def score(metric: str, made: Outcome, other: Outcome) -> Tensor:
    """A metric of METRICS per picture or video, (B,) float64; one of pictures is the mean over the frames of a video.

    Raises:
        ValueError: it does not suit what was drawn.
    """
    function, _, takes = METRICS[metric]
    if metric == "relative_l2":
        return function(made.latents, other.latents)
    if takes == "images" and made.images.ndim == 5:
        return per_frame(function, made.images, other.images).mean(dim=1)
    return function(made.images, other.images)


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
