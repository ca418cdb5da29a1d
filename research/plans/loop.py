"""Wall clock of the denoising loop alone: from the first call of the network to the last step of the scheduler."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from research.plans.asked import TEN, Asked
from research.plans.meter import network_of
from skipcast.pipelines.calls import arguments
from skipcast.pipelines.plan_scheduler import PlanScheduler
from skipcast.pipelines.recording.replay import swapped


def measure(
    asked: Asked, *, rounds: int = 9, batches: Sequence[int] = (1, 8), evaluations: int = TEN
) -> dict[str, Any]:
    """The unaccelerated loop against the plan's, in turn within every round.

    Args:
        asked: model, pictures, plans.
        rounds: of both; the first of each is not counted.
        batches: pictures per call.
        evaluations: of the plan.
    """
    plan = asked.plan(evaluations)
    scheduler = PlanScheduler(plan)
    pipe, settings = asked.model.pipe, asked.settings
    rows = []
    for size in batches:
        prompts = [settings.prompts[i % len(settings.prompts)] for i in range(size)]
        given = arguments(settings.call, prompts, range(settings.first_seed, settings.first_seed + size))
        seconds: dict[str, list[float]] = {"full": [], "plan": []}
        for number in range(rounds + 1):
            for kind in ("full", "plan") if number % 2 else ("plan", "full"):  # nobody always goes first
                noise = [generator.clone_state() for generator in given["generator"]]
                call = {**given, "generator": noise}
                with swapped(pipe, scheduler if kind == "plan" else pipe.scheduler):
                    spent = timed(pipe, settings.steps, call)
                if number:
                    seconds[kind].append(spent)
            asked.advance(f"batch {size}, round {number} of {rounds}")
        full, short = np.array(seconds["full"]), np.array(seconds["plan"])
        ratios = full / short
        rows.append(
            {
                "batch": size,
                "full_seconds": float(np.median(full)),
                "plan_seconds": float(np.median(short)),
                "ratio": float(np.median(ratios)),
                "least": float(ratios.min()),
                "most": float(ratios.max()),
                "quartiles": np.quantile(ratios, [0.25, 0.75]).tolist(),
                "ratio_of_fastest": float(full.min() / short.min()),
                "rounds": rounds,
            }
        )
    return {"rows": rows, "evaluations": len(plan), "steps": settings.steps, "threads": torch.get_num_threads()}


def timed(pipe: Any, steps: int, given: dict[str, Any]) -> float:
    """Seconds of one call's loop."""
    begun: list[float] = []
    ended = [0.0]

    def at_first(_module: Any, _given: Any) -> None:
        if not begun:
            _wait()
            begun.append(time.perf_counter())

    def after_step(_pipe: Any, _step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        ended[0] = time.perf_counter()
        return values

    hook = network_of(pipe).register_forward_pre_hook(at_first)
    try:
        pipe(num_inference_steps=steps, output_type="latent", callback_on_step_end=after_step, **given)
    finally:
        hook.remove()
    if torch.cuda.is_available():
        _wait()
        ended[0] = time.perf_counter()
    return ended[0] - begun[0]


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
