"""What evaluations buy: the predicted PSNR of a profile's plans as plain rows, and as a table of these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from skipcast.plans.plan import Plan, Prediction

#: Evaluations of a curve, where no others are given.
BUDGETS = (4, 6, 8, 10, 14, 20)
#: What the predicted PSNR of a plan is to, by the target of the plan.
TARGETS = {"default": "the unaccelerated run", "converged": "the converged run"}


def how(predicted: Prediction) -> str:
    """Where a predicted PSNR comes from, in words."""
    if not predicted.closed:
        return "open loop"
    return f"closed loop, {'held-out' if predicted.held_out else 'fitted'} pairs"


def finite(curves: Sequence[Sequence[Plan]]) -> list[list[tuple[Plan, Prediction]]]:
    """The plans of each curve with a finite prediction, by evaluations; curves without any are left out.

    Raises:
        ValueError: no plan has a finite predicted PSNR.
    """
    known = [[(plan, plan.predicted) for plan in sorted(plans, key=len) if plan.predicted] for plans in curves]
    known = [[pair for pair in plans if math.isfinite(pair[1].psnr)] for plans in known]
    if not any(known):
        raise ValueError("no plan of the curve has a finite predicted PSNR.")
    return [plans for plans in known if plans]


def curve_rows(curves: Sequence[Sequence[Plan]]) -> list[dict[str, Any]]:
    """One plain line per plan, for machines."""
    return [
        {
            "evaluations": plan.evaluations,
            "speedup": plan.speedup,
            "steps": list(plan.steps),
            "reference": plan.origin.reference,
            "label": plan.label,
            "predicted": asdict(predicted),
        }
        for plans in finite(curves)
        for plan, predicted in plans
    ]


def curve_table(curves: Sequence[Sequence[Plan]]) -> Table:
    """A section per curve: evaluations, speed-up, and the mean, the 5 % worst and the worst PSNR in dB."""
    known = finite(curves)
    pairs = sorted({predicted.pairs for plans in known for _, predicted in plans})
    target = TARGETS[known[0][0][0].origin.reference]
    caption = f"PSNR in dB to {target}, of {' or '.join(map(str, pairs))} pairs"
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
    table.add_column("prediction", overflow="fold")
    for header in ("NFE", "speedup", "mean", "5 % worst", "worst"):
        table.add_column(header, justify="right")
    for plans in known:
        for place, (plan, made) in enumerate(plans):
            decibels = (f"{psnr:.1f}" for psnr in (made.psnr, made.worst5, made.worst))
            table.add_row("" if place else how(made), str(plan.evaluations), f"{plan.speedup:.3g}x", *decibels)
        table.add_section()
    return table
