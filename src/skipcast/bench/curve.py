"""What evaluations buy: the predicted PSNR of a profile's plans, as a table and as one SVG file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from rich import box
from rich.table import Table

from skipcast.plans.plan import Plan, Prediction
from skipcast.report.axes import LEFT, WIDTH, Axes
from skipcast.report.plot import SVG, end_labels

#: Evaluations of a curve, where no others are asked for.
BUDGETS = (4, 6, 8, 10, 14, 20)
_INK, _PAPER = "#1c1c1e", "#ffffff"  # a file of its own cannot ask the page around it
_REFERENCES = {"default": "the unaccelerated run", "converged": "the converged run"}


@dataclass(frozen=True)
class Point:
    """A plan with a known fidelity."""

    plan: Plan
    predicted: Prediction

    @property
    def budget(self) -> int:
        return len(self.plan)

    @property
    def evaluations(self) -> float:
        return len(self.plan)

    @property
    def psnr(self) -> float:
        return self.predicted.psnr

    @property
    def psnr_worst(self) -> float:
        return self.predicted.worst


def how(predicted: Prediction) -> str:
    """Where a predicted PSNR comes from, in words."""
    if not predicted.closed:
        return "open loop"
    return f"closed loop, {'held-out' if predicted.held_out else 'fitted'} pairs"


def curve_rows(curves: Sequence[Sequence[Plan]]) -> list[dict[str, Any]]:
    """One plain line per plan, for machines."""
    return [
        {
            "evaluations": point.budget,
            "speedup": point.plan.speedup,
            "steps": list(point.plan.steps),
            "reference": point.plan.origin.reference,
            "label": point.plan.label,
            "predicted": asdict(point.predicted),
        }
        for points in _known(curves)
        for point in points
    ]


def curve_table(curves: Sequence[Sequence[Plan]]) -> Table:
    """A section per curve: evaluations, speed-up, and the mean, the 5 % worst and the worst PSNR in dB."""
    known = _known(curves)
    pairs = sorted({point.predicted.pairs for points in known for point in points})
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=f"PSNR in dB to {_reference(known)}, of {' or '.join(map(str, pairs))} pairs",
        caption_justify="left",
    )
    table.add_column("prediction", overflow="fold")
    for header in ("NFE", "speedup", "mean", "5 % worst", "worst"):
        table.add_column(header, justify="right")
    for points in known:
        for i, point in enumerate(points):
            told = point.predicted
            decibels = (f"{value:.1f}" for value in (told.psnr, told.worst5, told.worst))
            table.add_row("" if i else how(told), str(point.budget), f"{point.plan.speedup:.3g}x", *decibels)
        table.add_section()
    return table


def curve_svg(curves: Sequence[Sequence[Plan]]) -> str:
    """One SVG file that loads nothing: mean PSNR (mark), the 5 % worst (tick) and the worst pair (end of the whisker).

    Curves of closed loops are solid with filled marks, those of open loops dashed with hollow ones.

    Raises:
        ValueError: no plan has a finite predicted PSNR.
    """
    known = _known(curves)
    everything = [point for points in known for point in points]
    axes = Axes.fit(everything, len(known))
    lines, ends = [], []
    for i, points in enumerate(known):
        aside = axes.spread * (i / (len(known) - 1) - 0.5) if len(known) > 1 else 0.0
        places = [(axes.x(point.evaluations) + aside, axes.y(point.psnr)) for point in points]
        closed = points[0].predicted.closed
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        lines.append(
            f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-width="1.6" '
            f'stroke-dasharray="{"none" if closed else "6 4"}"/>'
            + "".join(_mark(axes, point, x, y, filled=closed) for point, (x, y) in zip(points, places, strict=True))
        )
        ends.append((f"{'◆' if closed else '◇'} {how(points[0].predicted)}", "currentColor", *places[-1]))
    budgets = sorted({point.budget for point in everything})
    return "\n".join(
        [
            f'<svg {SVG} color="{_INK}" viewBox="0 0 {WIDTH} {axes.height}">',
            "<title>Predicted PSNR of plans against evaluations</title>",
            f'<rect width="{WIDTH}" height="{axes.height}" fill="{_PAPER}"/>',
            axes.svg(budgets, f"PSNR to {_reference(known)}, dB"),
            f'<text x="{LEFT}" y="22" xml:space="preserve">mean   ◆ closed loop   ◇ open loop   ┼ 5 % worst   '
            "┴ worst pair</text>",
            *lines,
            end_labels(axes, ends),
            "</svg>\n",
        ]
    )


def _mark(axes: Axes, point: Point, x: float, y: float, *, filled: bool) -> str:
    told = point.predicted
    words = f"{point.budget} evaluations: mean {told.psnr:.1f} dB, 5 % worst {told.worst5:.1f}, worst {told.worst:.1f}"
    whisker = ""
    if math.isfinite(told.worst) and math.isfinite(told.worst5):
        whisker = (
            f'<path d="M{x:.1f} {y:.1f}V{axes.y(told.worst):.1f}m-3 0h6M{x - 3:.1f} {axes.y(told.worst5):.1f}h6" '
            'stroke="currentColor" stroke-width="0.9" fill="none" opacity="0.75"/>'
        )
    fill = "currentColor" if filled else _PAPER
    return (
        f"<g><title>{escape(words)} ({escape(how(told))})</title>{whisker}"
        f'<path d="M{x:.1f} {y - 6:.1f}l6 6-6 6-6-6z" stroke="currentColor" fill="{fill}"/></g>'
    )


def _known(curves: Sequence[Sequence[Plan]]) -> list[list[Point]]:
    """The plans of each curve with a finite prediction, by evaluations; curves without any are left out."""
    found = [sorted(_finite(plans), key=lambda point: point.budget) for plans in curves]
    if not any(found):
        raise ValueError("no plan of the curve has a finite predicted PSNR.")
    return [points for points in found if points]


def _finite(plans: Sequence[Plan]) -> Iterator[Point]:
    for plan in plans:
        if plan.predicted is not None and math.isfinite(plan.predicted.psnr):
            yield Point(plan, plan.predicted)


def _reference(known: Sequence[Sequence[Point]]) -> str:
    return _REFERENCES[known[0][0].plan.origin.reference]
