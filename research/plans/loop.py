"""Wall clock of the denoising loop alone: from the first call of the network to the last step of the scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from research.plans.study import TEN, Study
from skipcast.bench.draw import Pair, draw
from skipcast.bench.grid import derived_seed
from skipcast.pipelines.plan_scheduler import PlanScheduler
from skipcast.pipelines.recording.replay import swapped


def measure(
    study: Study, *, rounds: int = 9, batches: Sequence[int] = (1, 8), evaluations: int = TEN
) -> dict[str, Any]:
    """The unaccelerated loop against the plan's, in turn within every round.

    Args:
        study: model, images, plans.
        rounds: of both; the first of each is not counted.
        batches: images per call.
        evaluations: of the plan.
    """
    plan = study.plan(evaluations)
    scheduler = PlanScheduler(plan)
    pipe, settings = study.model.pipe, study.settings
    rows = []
    for size in batches:
        prompts = [settings.prompts[i % len(settings.prompts)] for i in range(size)]
        pairs = [Pair(prompt, derived_seed(settings.seed, prompt, i)) for i, prompt in enumerate(prompts)]
        seconds: dict[str, list[float]] = {"full": [], "plan": []}
        for number in range(rounds + 1):
            for kind in ("full", "plan") if number % 2 else ("plan", "full"):  # nobody always goes first
                with swapped(pipe, scheduler if kind == "plan" else pipe.scheduler):
                    drawn = draw(pipe, pairs, steps=settings.steps, call=settings.call, decode=False, loop=True)
                if number:
                    seconds[kind].append(drawn.loop_seconds or 0.0)
            study.advance(f"batch {size}, round {number} of {rounds}")
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
