"""What evaluations buy: the predicted PSNR of a profile's plans as a table, and as plain lines for machines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.table import Table

from skipcast.plans.plan import Plan, Prediction

#: Evaluations of a curve, where no others are given.
BUDGETS = (4, 6, 8, 10, 14, 20)


@dataclass(frozen=True)
class Point:
    """A plan with a known fidelity."""

    plan: Plan
    predicted: Prediction


def how(predicted: Prediction) -> str:
    """Where a predicted PSNR comes from, in words."""
    if not predicted.closed:
        return "open loop"
    return f"closed loop, {'held-out' if predicted.held_out else 'fitted'} pairs"


def finite(curves: Sequence[Sequence[Plan]]) -> list[list[Point]]:
    """The plans of each curve with a finite prediction, by evaluations; curves without any are left out.

    Raises:
        ValueError: no plan has a finite predicted PSNR.
    """
    found = [sorted(_finite(plans), key=lambda point: len(point.plan)) for plans in curves]
    if not any(found):
        raise ValueError("no plan of the curve has a finite predicted PSNR.")
    return [points for points in found if points]


def _finite(plans: Sequence[Plan]) -> Iterator[Point]:
    for plan in plans:
        if plan.predicted is not None and math.isfinite(plan.predicted.psnr):
            yield Point(plan, plan.predicted)


def curve_rows(curves: Sequence[Sequence[Plan]]) -> list[dict[str, Any]]:
    """One plain line per plan, for machines."""
    return [
        {
            "evaluations": len(point.plan),
            "speedup": point.plan.speedup,
            "steps": list(point.plan.steps),
            "reference": point.plan.origin.reference,
            "label": point.plan.label,
            "predicted": asdict(point.predicted),
        }
        for points in finite(curves)
        for point in points
    ]


def curve_table(curves: Sequence[Sequence[Plan]]) -> Table:
    """A section per curve: evaluations, speed-up, and the mean, the 5 % worst and the worst PSNR in dB."""
    known = finite(curves)
    pairs = sorted({point.predicted.pairs for points in known for point in points})
    target = {"default": "the unaccelerated run", "converged": "the converged run"}[known[0][0].plan.origin.reference]
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=f"PSNR in dB to {target}, of {' or '.join(map(str, pairs))} pairs",
        caption_justify="left",
    )
    table.add_column("prediction", overflow="fold")
    for header in ("NFE", "speedup", "mean", "5 % worst", "worst"):
        table.add_column(header, justify="right")
    for points in known:
        for i, point in enumerate(points):
            made = point.predicted
            decibels = (f"{value:.1f}" for value in (made.psnr, made.worst5, made.worst))
            table.add_row("" if i else how(made), str(len(point.plan)), f"{point.plan.speedup:.3g}x", *decibels)
        table.add_section()
    return table
