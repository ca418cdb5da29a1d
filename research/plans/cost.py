"""What a plan costs to make from nothing, and what few recorded pairs already give."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from research.plans.draws import drawn_images, planned, psnr
from research.plans.figures import fidelity
from research.plans.meter import metered
from research.plans.study import TEN, Study
from skipcast.methods import names

#: Candidates for the best row that is not a plan.
OTHERS = ("ab2", "lagrange:order=1,schedule=even", "dpmpp2m", "unipc", "taylorseer", "resilphase")


def measure(
    study: Study,
    *,
    pairs: Sequence[int] = (2, 4, 8, 16),
    draws: int = 3,
    evaluations: int = TEN,
    effort: str = "low",
    others: Sequence[str] = OTHERS,
) -> dict[str, Any]:
    """Recordings of so many pairs, each solved and refined for one budget, each judged on the held-out images.

    The unit of network evaluations is one unaccelerated generation of one image.

    Args:
        study: model and images; its plans are not used.
        pairs: recorded, per row.
        draws: recordings per row, each with captions and noise of its own.
        evaluations: the budget.
        effort: of the refinement.
        others: among which the best row that is not a plan is sought.
    """
    pipe, settings = study.model.pipe, study.settings
    with metered(pipe) as one:
        drawn_images(study.model, study.changed(prompts=settings.prompts[:1], seeds=1).settings)
    unit = one.rows
    truth = drawn_images(study.model, settings)
    known = {}
    for spec in others:
        study.advance(spec)
        label = names.with_evaluations(spec, evaluations)
        known[label] = fidelity(psnr(drawn_images(study.model, settings, label), truth))
    rows = []
    for count in pairs:
        for draw in range(draws):
            study.advance(f"{count} pairs, draw {draw + 1} of {draws}")
            began = time.perf_counter()
            with metered(pipe) as recording:
                profile = study.record(count, draw=1 + draw)
            recorded = time.perf_counter()
            with metered(pipe) as solving:
                plan = profile.plan(evaluations=evaluations, refine=pipe, effort=effort, batch=max(8, count))
            solved = time.perf_counter()
            reached = psnr(planned(study.model, settings, plan, strict=True).images, truth)
            rows.append(
                {
                    "pairs": count,
                    "draw": draw,
                    "steps": list(plan.steps),
                    "recording": recording.rows / unit,
                    "solving": solving.rows / unit,
                    "generations": (recording.rows + solving.rows) / unit,
                    "seconds_outside": solved - recorded - solving.seconds,
                    "seconds_recording": recorded - began,
                    "seconds_solving": solved - recorded,
                    "held_out": fidelity(reached),
                }
            )
    return {
        "evaluations": evaluations,
        "effort": effort,
        "others": known,
        "rows": rows,
        "means": [_mean([row for row in rows if row["pairs"] == count]) for count in pairs],
    }


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of several draws."""
    keys = ("recording", "solving", "generations", "seconds_outside", "seconds_solving")
    held_out = [row["held_out"] for row in rows]
    return {
        "pairs": rows[0]["pairs"],
        "draws": len(rows),
        **{key: float(np.mean([row[key] for row in rows])) for key in keys},
        **{key: float(np.mean([found[key] for found in held_out])) for key in ("mean", "worst5", "worst")},
    }


def share_of_gain(data: dict[str, Any], few: int = 2, many: int = 8) -> float | None:
    """(PSNR of `few` pairs - best other) / (PSNR of `many` pairs - best other), of means; None if it means nothing."""
    means = {row["pairs"]: row["mean"] for row in data["means"]}
    if few not in means or many not in means or not data["others"]:
        return None
    best = max(other["mean"] for other in data["others"].values())
    gain: float = means[many] - best
    return (means[few] - best) / gain if gain > 0 else None
