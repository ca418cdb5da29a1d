"""Small charts, one for every method that the large ones leave without a name."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from skipcast.report.cast import FIGURES, PRICES, field
from skipcast.report.chart import SVG, Chart
from skipcast.report.frontier import frontier
from skipcast.report.plot import faint, fitted, line_to_beat
from skipcast.report.summary import Row


def multiples(rows: Sequence[Row]) -> str:
    """A small chart for every method that the large ones leave without a name; empty where there is none."""
    shown, price, figure = field(rows), PRICES["evaluations"], FIGURES["mean"]
    points = [row for each in shown.series for row in each.rows]
    if not shown.others or not points:
        return ""
    line = frontier(rows, price, figure)
    big = fitted(shown, line, points, price, figure, narrow=False)
    small = Chart(220, 120, 30, 214, 6, 104, big.prices, (big.levels[0], big.levels[-1]))
    frame = (
        f'<path d="M30 6V104H214" fill="none" stroke="currentColor"/><text x="26" y="14" text-anchor="end" '
        f'font-size="10">{small.levels[1]:g}</text><text x="26" y="104" text-anchor="end" font-size="10">'
        f"{small.levels[0]:g}</text>" + "".join(
            f'<text x="{small.x(end):.1f}" y="117" text-anchor="middle" font-size="10">{end:g}</text>'
            for end in {min(r.budget for r in points), max(r.budget for r in points)}
        ) + line_to_beat(small, line, 1.6)
    )  # fmt: skip
    figures = []
    for each in sorted(shown.others, key=lambda each: each.label):
        places = [(small.x(row.evaluations), small.y(row.psnr or 0.0)) for row in each.rows]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        marks = "".join(faint(small, "dot", row, price, figure, opacity=1) for row in each.rows)
        label = escape(each.label).replace(":", ":<wbr/>").replace(",", ",<wbr/>")
        figures.append(
            f'<figure><svg {SVG} viewBox="0 0 220 120">{frame}<g class="own"><polyline points="{path}" fill="none" '
            f'stroke="currentColor" stroke-width="1.2" stroke-dasharray="4 2"/>{marks}</g></svg><figcaption>'
            f"<code>{label}</code></figcaption></figure>"
        )
    return f'<div class="multiples">{"".join(figures)}</div>'
