"""The Pareto plots: what each method makes of its evaluations and of its seconds, against the best plain sampler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Literal

from skipcast.report.cast import FIGURES, PRICES, Drawn, Field, field
from skipcast.report.chart import SVG as SVG
from skipcast.report.chart import Chart, round_ticks, shape
from skipcast.report.columns import evaluations, number
from skipcast.report.ends import end_labels as end_labels
from skipcast.report.frontier import Corner, Figure, Price, frontier
from skipcast.report.measures import with_interval
from skipcast.report.summary import Row

Against = Literal["evaluations", "seconds"]
Statistic = Literal["mean", "worst5"]

#: The marks as letters, for labels.
_SIGNS = {"diamond": "◆", "open": "◇", "circle": "●", "up": "▲", "down": "▼", "cross": "✕", "plus": "✚", "bar": "▬"}
_ACROSS = {"evaluations": "evaluations of the denoiser (log scale)", "seconds": "seconds a picture (log scale)"}
_UPWARDS = {"mean": "mean PSNR, dB", "worst5": "PSNR of the worst 5 %, dB"}


def pareto_svg(
    rows: Sequence[Row], against: Against = "evaluations", statistic: Statistic = "mean", *, narrow: bool = False
) -> str:
    """Inline SVG of PSNR in dB against a price, with whiskers over the 95 % interval of the mean.

    Rows without a finite mean PSNR, such as the reference, are not drawn.

    Args:
        rows: of one state.
        against: the price.
        statistic: the mean, or the mean of the worst 5 %.
        narrow: without labels beside the lines, for small screens.
    """
    price, figure = PRICES[against], FIGURES[statistic]
    shown = field(rows)
    if not (points := [row for each in shown.series for row in each.rows if price(row)]):
        return f'<svg {SVG} viewBox="0 0 900 40"><text x="8" y="24">no finite PSNR to draw</text></svg>'
    line = frontier(rows, price, figure)
    chart = fitted(shown, line, points, price, figure, narrow=narrow)
    low, high = chart.prices
    ticks = sorted({float(row.budget) for row in points}) if against == "evaluations" else round_ticks(low, high)
    parts = [chart.frame(ticks, _ACROSS[against], _UPWARDS[statistic]), line_to_beat(chart, line)]
    behind = [*(("square", row) for each in shown.samplers for row in each.rows),
             *(("dot", row) for each in shown.others for row in each.rows)]  # fmt: skip
    parts += [faint(chart, name, row, price, figure) for name, row in behind]
    ends: list[tuple[str, str, float, float]] = []
    if line:
        ends.append(("□ best plain sampler", "currentColor", chart.right - 7, chart.y(line[-1].figure)))
    for i, drawn in enumerate(shown.named):
        aside = 5.0 * (i - (len(shown.named) - 1) / 2) if against == "evaluations" else 0.0
        text, end = _named(chart, drawn, price, figure, aside, whiskers=statistic == "mean")
        parts.append(text)
        if end:
            ends.append((f"{_SIGNS[drawn.mark]} {_short(drawn.series.label)}", drawn.colour, *end))
    if not narrow:
        parts.append(end_labels(chart, ends))
    title = f"{'Mean PSNR' if statistic == 'mean' else 'PSNR of the worst 5 %'} against {against}"
    return (
        f'<svg {SVG} viewBox="0 0 {chart.width:g} {chart.height:g}"><title>{title}</title>\n'
        + "\n".join(parts)
        + "\n</svg>"
    )


def has_seconds(rows: Sequence[Row]) -> bool:
    """Whether there is anything to draw against seconds."""
    return any(row.seconds for row in rows if row.kind != "reference" and row.psnr is not None)


def legend(rows: Sequence[Row]) -> str:
    """The named series with their marks and dashes, as a list of HTML."""
    items = [
        f'<li><svg viewBox="0 0 46 16" width="46" height="16" aria-hidden="true"><g color="{drawn.colour}" '
        f'fill="{drawn.colour}" stroke="{drawn.colour}"><path d="M2 8H44" stroke-width="1.8" '
        f'stroke-dasharray="{drawn.dashes}"/>{shape(drawn.mark, 23, 8)}</g></svg> '
        f"<span><code>{escape(drawn.series.label)}</code></span></li>"
        for drawn in field(rows).named
    ]
    heavy = (
        '<svg viewBox="0 0 46 16" width="46" height="16" aria-hidden="true"><path d="M2 8H44" stroke="currentColor" '
    )
    items.append(f'<li>{heavy}stroke-width="3.2"/></svg> <span>best plain sampler</span></li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def fitted(
    shown: Field, line: Sequence[Corner], points: Sequence[Row], price: Price, figure: Figure, *, narrow: bool
) -> Chart:
    """A chart with room for what is named and for the line; of the rest what lies far below is drawn on the axis."""
    figures = [corner.figure for corner in line]
    for drawn in shown.named:
        for row in drawn.series.rows:
            made = row.measures["psnr"]
            ends = (made.interval or ()) if figure is FIGURES["mean"] else ()
            figures += [value for value in (figure(row), *ends) if value is not None and math.isfinite(value)]
    if not figures:
        figures = [value for row in points if (value := figure(row)) is not None and math.isfinite(value)]
    low, high = min(figures), max(figures)
    margin = 0.12 * (high - low) or 1.0
    least = min((value for row in points if (value := figure(row)) is not None and math.isfinite(value)), default=low)
    spanned = [max(low - margin, least), high]
    prices = [value for row in points if (value := price(row))]
    width, height, right = (390, 360, 384) if narrow else (900, 460, 650)
    return Chart.fit(prices, spanned, width=width, height=height, right=right)


def line_to_beat(chart: Chart, line: Sequence[Corner], width: float = 3.2) -> str:
    """The best plain sampler at every price, and the region under it."""
    if not line:
        return ""
    path = f"M{chart.x(line[0].price):.1f} {chart.y(line[0].figure):.1f}" + "".join(
        f"H{chart.x(corner.price):.1f}V{chart.y(corner.figure):.1f}" for corner in line[1:]
    )
    path += f"H{chart.right}"
    return (
        f'<g class="line-to-beat"><title>what the best plain sampler reaches at every price</title><path d="{path}V'
        f'{chart.floor}H{chart.x(line[0].price):.1f}z" opacity="0.07"/><path d="{path}" fill="none" '
        f'stroke="currentColor" stroke-width="{width:g}" stroke-linejoin="round"/></g>'
    )


def faint(chart: Chart, name: str, row: Row, price: Price, figure: Figure, opacity: float = 0.55) -> str:
    cost, value = price(row), figure(row)
    if not cost or value is None or not math.isfinite(value):
        return ""
    x, y = chart.x(cost), chart.y(value)
    drawn = f'<path d="M{x - 4:.1f} {y - 7:.1f}h8l-4 6z"/>' if chart.below(value) else shape(name, x, y)
    return f'<g class="{escape(row.kind)}" opacity="{opacity:g}"><title>{escape(words(row))}</title>{drawn}</g>'


def _named(
    chart: Chart, drawn: Drawn, price: Price, figure: Figure, aside: float, *, whiskers: bool
) -> tuple[str, tuple[float, float] | None]:
    """A series with its line, marks and whiskers, and where it ends."""
    places, marks = [], []
    for row in sorted(drawn.series.rows, key=lambda row: price(row) or 0):
        cost, value = price(row), figure(row)
        if not cost or value is None or not math.isfinite(value):
            continue
        x, y = chart.x(cost) + aside, chart.y(value)
        places.append((x, y))
        interval = row.measures["psnr"].interval if whiskers else None
        whisker = ""
        if interval:
            low, high = (chart.y(end) for end in interval)
            whisker = f'<path d="M{x - 3:.1f} {high:.1f}h6m-3 0V{low:.1f}m-3 0h6" fill="none" stroke-width="1.1"/>'
        marks.append(f"<g><title>{escape(words(row))}</title>{whisker}{shape(drawn.mark, x, y)}</g>")
    if not places:
        return "", None
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    text = (
        f'<g class="named" stroke="{drawn.colour}" fill="{drawn.colour}" color="{drawn.colour}"><polyline '
        f'points="{path}" fill="none" stroke-width="1.8" stroke-dasharray="{drawn.dashes}"/>{"".join(marks)}</g>'
    )
    return text, places[-1]


def words(row: Row) -> str:
    """The figures of a row in words."""
    time = "" if row.seconds is None else f", {row.seconds:.3g} s"
    return (
        f"{row.method}: mean {with_interval(row.measures.get('psnr'), '.1f')} dB, worst 5 % "
        f"{number(row.psnr_worst5, '.1f')} dB, worst {number(row.psnr_worst, '.1f')} dB, {evaluations(row)} "
        f"evaluations{time}"
    )


def _short(label: str) -> str:
    return label if len(label) <= 30 else label[:27] + "..."
