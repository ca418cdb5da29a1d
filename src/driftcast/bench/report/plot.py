"""The plot: what each method makes of its evaluations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from driftcast.bench.report.axes import LEFT, RIGHT, TOP, WIDTH, Axes
from driftcast.bench.report.columns import evaluations, number
from driftcast.bench.report.labels import MARKS, mark, without
from driftcast.bench.report.summary import Row

SVG = 'xmlns="http://www.w3.org/2000/svg" role="img" fill="currentColor" font-family="sans-serif" font-size="12"'
_COLOURS = (
    "#2b7bcb",
    "#d4551c",
    "#178a5f",
    "#b5519c",
    "#a97800",
    "#7d62d0",
    "#2a8c9e",
    "#c23b55",
    "#71801c",
    "#96603d",
    "#5f7196",
    "#cc5f93",
)
_LINES = {"forecast": "forecaster, solid", "plan": "plan, dash-dotted", "sampler": "plain sampler, dashed"}
_DASHES = {"forecast": "none", "plan": "12 3 2 3", "sampler": "6 4"}


def pareto_svg(rows: Sequence[Row]) -> str:
    """Inline SVG of mean PSNR (mark) with a whisker down to the worst picture, in dB, against evaluations.

    Rows without a finite mean PSNR, such as the reference, are not drawn.
    """
    drawn = [row for row in rows if row.psnr is not None and math.isfinite(row.psnr)]
    if not drawn:
        return f'<svg {SVG} viewBox="0 0 900 40"><text x="8" y="24">no finite PSNR to draw</text></svg>'
    series: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(drawn, key=lambda row: row.evaluations):
        series.setdefault((row.kind, without(row.method, "evaluations", "interval")), []).append(row)
    axes = Axes.fit(drawn, len(series))
    # Methods of one budget share their x: they are set apart a little, or their whiskers would hide each other.
    lines, ends, hues = [], [], iter(range(len(series)))
    for i, ((kind, label), points) in enumerate(series.items()):
        # Samplers are the baseline and take the colour of the text.
        colour = "currentColor" if kind == "sampler" else _COLOURS[next(hues) % len(_COLOURS)]
        aside = axes.spread * (i / (len(series) - 1) - 0.5) if len(series) > 1 else 0.0
        places = [(axes.x(row.evaluations) + aside, axes.y(row.psnr or 0.0)) for row in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        lines.append(
            f'<g stroke="{colour}" fill="{colour}"><polyline points="{path}" fill="none" stroke-width="1.6" '
            f'stroke-dasharray="{_DASHES.get(kind, "none")}"/>'
            + "".join(_point(axes, row, x, y) for row, (x, y) in zip(points, places, strict=True))
            + "</g>"
        )
        short = label if len(label) <= 34 else label[:31] + "..."
        ends.append((f"{mark(kind)} {short}", colour, *places[-1]))
    legend = "   ".join(f"{MARKS[kind]} {words}" for kind, words in _LINES.items())
    return "\n".join(
        [
            f'<svg {SVG} viewBox="0 0 {WIDTH} {axes.height}">',
            "<title>Mean PSNR against evaluations</title>",
            axes.svg(sorted({row.budget for row in drawn})),
            f'<text x="{LEFT}" y="22" xml:space="preserve">mean   {legend}   ┴ worst picture</text>',
            *lines,
            end_labels(axes, ends),
            "</svg>",
        ]
    )


def _point(axes: Axes, row: Row, x: float, y: float) -> str:
    """The mark of a row, its whisker, and its numbers in words."""
    hollow = 'style="fill:var(--paper,#fff)"'
    shape = {
        "forecast": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.2"/>',
        "plan": f'<path d="M{x:.1f} {y - 6:.1f}l6 6-6 6-6-6z"/>',
    }.get(row.kind, f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" stroke-width="1.8" {hollow}/>')
    worst = ""
    if row.psnr_worst is not None and math.isfinite(row.psnr_worst):
        low = axes.y(row.psnr_worst)
        worst = f'<path d="M{x:.1f} {y:.1f}V{low:.1f}m-3 0h6" stroke-width="0.9" opacity="0.75"/>'
    words = f"{row.method}: mean {number(row.psnr, '.1f')} dB, worst {number(row.psnr_worst, '.1f')} dB"
    return f"<g><title>{escape(words)}, {evaluations(row)} evaluations</title>{worst}{shape}</g>"


def end_labels(axes: Axes, ends: Sequence[tuple[str, str, float, float]]) -> str:
    """A label per line beside the plot, joined to its last point; labels are moved until none overlaps."""
    pitch, x = 15.0, RIGHT + 22
    ordered = sorted(ends, key=lambda end: end[3])
    places = [y for *_, y in ordered]
    for _ in range(100):  # neighbours that overlap part by halves, so that labels stay near their lines
        for i in range(len(places) - 1):
            overlap = max(0.0, places[i] + pitch - places[i + 1])
            places[i : i + 2] = places[i] - overlap / 2, places[i + 1] + overlap / 2
    limit = TOP - pitch
    for i in range(len(places)):
        limit = places[i] = max(places[i], limit + pitch)
    limit = axes.floor + pitch
    for i in reversed(range(len(places))):
        limit = places[i] = min(places[i], limit - pitch)
    return "\n".join(
        f'<path d="M{end_x + 7:.1f} {end_y:.1f}L{x - 4} {y:.1f}" stroke="{colour}" stroke-width="0.7" '
        f'stroke-dasharray="1 3" fill="none"/><text x="{x}" y="{y + 4:.1f}" fill="{colour}">{escape(label)}</text>'
        for (label, colour, end_x, end_y), y in zip(ordered, places, strict=True)
    )
