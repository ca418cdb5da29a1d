"""Seconds and memory of one call, and of its loop from the first evaluation to the last step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from skipcast.bench.rounds import Batch, arguments, telling
from skipcast.bench.settings import Settings
from skipcast.methods.base import Method
from skipcast.pipelines.accelerate import accelerate
from skipcast.pipelines.networks import denoisers
from skipcast.plans.plan import Plan
from skipcast.samplers import Sampler

Row = Method | Sampler | Plan | None  # None: the unaccelerated run


def taken(
    pipe: Any, rows: Mapping[str, Row], batch: Batch, settings: Settings, repeats: int
) -> dict[str, dict[str, Any]]:
    """Seconds of the loop and of the call: everybody once to warm up, then in turn, nobody always first."""
    names = list(rows)
    found: dict[str, dict[str, Any]] = {name: {"call": [], "loop": [], "peak_bytes": None} for name in names}
    for number in range(repeats + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            call_seconds, loop_seconds, peak = _timed(pipe, rows[name], batch, settings)
            if number:
                times = found[name]
                times["call"].append(call_seconds)
                times["loop"].append(loop_seconds)
                times["peak_bytes"] = max(peak, times["peak_bytes"] or 0) if peak is not None else None
    return found


def _timed(pipe: Any, row: Row, batch: Batch, settings: Settings) -> tuple[float, float, int | None]:
    gpu = torch.cuda.is_available()
    moments: dict[str, float] = {}

    def begins(_module: Any, _args: Any) -> None:
        if "begin" not in moments:
            moments["begin"] = _now()

    def hears(step: int, _latents: Tensor) -> None:
        if step + 1 >= pipe.num_timesteps:  # to wait at every step would slow a GPU down
            moments["end"] = _now()

    given = arguments(settings.call, batch.prompts, batch.seeds)
    hooks = [module.register_forward_pre_hook(begins) for module in denoisers(pipe)]
    try:
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        started = _now()
        with nullcontext() if row is None else accelerate(pipe, row), telling(pipe, hears) as heard:
            pipe(num_inference_steps=settings.steps, output_type="pt", **heard, **given)
        seconds = _now() - started
    finally:
        for hook in hooks:
            hook.remove()
    peak = torch.cuda.max_memory_allocated() if gpu else None
    return seconds, moments["end"] - moments["begin"], peak


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
