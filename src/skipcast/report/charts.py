"""Charts by matplotlib: each is one deterministic SVG that loads nothing and uses the text colour of its page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from io import StringIO
from statistics import fmean
from typing import Any, Literal, NamedTuple

from skipcast.bench.curve import TARGETS, finite, how
from skipcast.bench.results import Row
from skipcast.plans.plan import Plan
from skipcast.report.tables import MARKS, evaluations, number, with_interval

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FormatStrFormatter, LogLocator, MaxNLocator, NullLocator
except ImportError as error:
    raise ImportError('charts need matplotlib; run: pip install "skipcast[bench]"') from error

Against = Literal["evaluations", "seconds"]
Statistic = Literal["mean", "worst5"]
_Span = tuple[float, float]

_INK = "#000000"  # becomes the colour of the text around a chart
_COLOURS = ("#2b7bcb", "#d4551c", "#178a5f", "#b5519c", "#a97800", "#7d62d0", "#2a8c9e")
_DASHES = ("-", (0, (9, 2, 2, 2)), "--", (0, (2, 2)), "-.", (0, (5, 1)), ":")
_SHAPES = {"plan": ("D", "d", "d"), "forecast": ("o", "^", "v", "X")}
_AXES = {"evaluations": "evaluations (log scale)", "seconds": "seconds per image (log scale)"}
_PSNR = {"mean": "mean PSNR", "worst5": "PSNR of the worst 5 %"}


class Series(NamedTuple):
    """The rows of one method at its budgets, the cheapest first."""

    kind: str
    label: str
    rows: Sequence[Row]


def series_of(rows: Sequence[Row]) -> list[Series]:
    """Group by method the rows with a finite mean PSNR, without the unaccelerated run."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.evaluations, row.method)):
        if row.kind != "reference" and row.psnr is not None and math.isfinite(row.psnr):
            groups.setdefault((row.kind, row.series), []).append(row)
    return [Series(kind, label, group) for (kind, label), group in groups.items()]


def frontier(points: Iterable[tuple[float | None, float | None]]) -> list[tuple[float, float]]:
    """Return the (price, figure) points that are better than every cheaper one, the cheapest first."""
    found: list[tuple[float, float]] = []
    known = [(price, figure) for price, figure in points if price and figure is not None and math.isfinite(figure)]
    for price, figure in sorted(known, key=lambda point: (point[0], -point[1])):
        if not found or figure > found[-1][1]:
            found.append((price, figure))
    return found


def reached(line: Sequence[tuple[float, float]], price: float) -> float | None:
    """Return the figure of the frontier at a price, or None if nothing is as cheap as that."""
    return max((figure for cost, figure in line if cost <= price + 1e-9), default=None)


def best(series: Sequence[Series], line: Sequence[tuple[float, float]], most: int) -> list[Series]:
    """Return the series with the largest gain over the frontier of samplers, averaged over their budgets.

    Half of the places are kept for series that were measured at every budget, for one that was measured at a single
    favourable one says less.
    """
    start = line[0][1] if line else 0.0
    gains: dict[str, dict[int, float]] = {}
    for each in series:
        levels = ((row, reached(line, row.evaluations)) for row in each.rows)
        gains[each.label] = {row.budget: (row.psnr or 0.0) - (start if at is None else at) for row, at in levels}
    budgets = {budget for found in gains.values() for budget in found}
    ranked = sorted(series, key=lambda each: (-fmean(gains[each.label].values()), each.label))
    complete = [each for each in ranked if gains[each.label].keys() == budgets][: -(-most // 2)]
    return [*complete, *[each for each in ranked if each not in complete][: most - len(complete)]]


def _chosen(rows: Sequence[Row]) -> tuple[list[tuple[Series, str]], list[Series], list[Series]]:
    """Divide the series into those with a shape of their own, plain samplers, and others, for all charts of a state."""
    every = series_of(rows)
    line = frontier((row.evaluations, row.psnr) for row in rows if row.kind == "sampler")
    named = [
        (series, shape)
        for kind, shapes in _SHAPES.items()
        for series, shape in zip(best([s for s in every if s.kind == kind], line, len(shapes)), shapes, strict=False)
    ]
    large = [series for series, _ in named]
    samplers = [series for series in every if series.kind == "sampler"]
    return named, samplers, [series for series in every if series not in large and series not in samplers]


def pareto_svg(rows: Sequence[Row], against: Against = "evaluations", statistic: Statistic = "mean") -> str:
    """Draw PSNR in dB against a price, with whiskers for the 95 % interval of the mean.

    Rows without a finite mean PSNR, such as the unaccelerated run, are not drawn.

    Args:
        rows: of one state.
        against: the price.
        statistic: the mean, or the mean of the worst 5 %.
    """
    named, samplers, others = _chosen(rows)

    def known(series: Iterable[Series]) -> list[tuple[float, float, Row]]:
        found = ((getattr(row, against), row.of("psnr", statistic), row) for each in series for row in each.rows)
        return sorted(
            ((x, y, row) for x, y, row in found if x and y is not None and math.isfinite(y)),
            key=lambda point: point[:2],
        )

    points = known([*(series for series, _ in named), *samplers, *others])
    if not points:
        text = '<text x="8" y="24">no finite PSNR to draw</text>'
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 40">{text}</svg>'
    line = frontier((x, y) for x, y, _ in known(samplers))
    wanted = [y for _, y, _ in known(series for series, _ in named)] + [y for _, y in line]
    figure, axes = _axes(points, wanted)
    right, floor = axes.get_xlim()[1], axes.get_ylim()[0]
    axes.set(xlabel=_AXES[against], ylabel=f"{_PSNR[statistic]}, dB")
    if against == "evaluations":
        axes.xaxis.set_major_locator(FixedLocator(sorted({row.budget for *_, row in points})))
    if line:
        xs, ys = map(list, zip(*line, (right, line[-1][1]), strict=True))
        axes.step(xs, ys, where="post", color=_INK, linewidth=2.6, label="best plain sampler", gid="line-0")
        axes.fill_between(xs, floor, [max(y, floor) for y in ys], step="post", color=_INK, alpha=0.07, lw=0)
    style: dict[str, Any] = {"edgecolors": _INK, "linewidths": 0.8, "alpha": 0.55}
    _marks(axes, known(samplers), "s", s=22, facecolors="none", **style)
    _marks(axes, known(others), "o", s=9, facecolors=_INK, **style)
    for place, (series, shape) in enumerate(named):
        aside = 1.012 ** (place - (len(named) - 1) / 2) if against == "evaluations" else 1.0
        shown = [(x * aside, y, row) for x, y, row in known([series])]
        xs, ys = [x for x, *_ in shown], [y for _, y, _ in shown]
        axes.plot(xs, ys, marker=shape, color=_COLOURS[place], linestyle=_DASHES[place], label=_short(series.label),
                  markersize=6, fillstyle="none" if shape == "d" else "full", gid=f"named-{place}")  # fmt: skip
        if statistic == "mean":
            whiskers = [row.measures["psnr"].interval or (y, y) for _, y, row in shown]
            axes.vlines(xs, *zip(*whiskers, strict=True), color=_COLOURS[place], linewidth=1)
        _marks(axes, shown, "o", s=70, alpha=0.0)  # larger than what is seen, to be pointed at
    _legend(axes)
    return _svg(figure, f"{_PSNR[statistic]} against {against}")


def _marks(axes: Axes, points: Sequence[tuple[float, float, Row]], shape: str, **style: Any) -> None:
    """Draw marks with hints; points below the axis are drawn on the axis as triangles."""
    floor, _ = axes.get_ylim()
    for low in (False, True):
        found = [(x, max(y, floor), row) for x, y, row in points if (y < floor) == low]
        xs, ys = [x for x, *_ in found], [y for _, y, _ in found]
        axes.scatter(xs, ys, marker="v" if low else shape, urls=[hint(row) for *_, row in found], **style)


def hint(row: Row) -> str:
    """Describe the figures of a row in words."""
    time = "" if row.seconds is None else f", {row.seconds:.3g} s"
    return (
        f"{row.method}: mean {with_interval(row.measures.get('psnr'), '.1f')} dB, worst 5 % "
        f"{number(row.of('psnr', 'worst5'), '.1f')} dB, worst {number(row.of('psnr', 'worst'), '.1f')} dB, "
        f"{evaluations(row)} evaluations{time}"
    )


def multiples_svg(rows: Sequence[Row]) -> str:
    """Draw a small chart for every method that the large charts do not name; empty if there is none."""
    *_, others = _chosen(rows)
    if not others:
        return ""
    line = frontier((row.evaluations, row.psnr) for row in rows if row.kind == "sampler")
    points = [(row.evaluations, row.psnr or 0.0, row) for series in series_of(rows) for row in series.rows]
    highest = max(row.psnr or 0.0 for series in others for row in series.rows)
    (left, right), (floor, top) = _limits(points, [*(y for _, y in line), highest])
    down = -(-len(others) // 5)
    height = 1.15 * down + 0.3
    figure = Figure(figsize=(9.0, height), dpi=72, facecolor="none")  # a layout of so many areas would take seconds
    room = {"left": 0.04, "right": 0.99, "top": 1 - 0.35 / height, "bottom": 0.25 / height, "hspace": 0.7}
    grid = figure.subplots(down, 5, sharex=True, sharey=True, squeeze=False, gridspec_kw=room)
    grid[0, 0].set(xscale="log", xlim=(left, right), ylim=(floor, top))
    _ticks(grid[0, 0], FixedLocator([min(row.budget for *_, row in points), max(row.budget for *_, row in points)]))
    grid[0, 0].yaxis.set_major_locator(MaxNLocator(2))
    for axes, series in zip(grid.flat, sorted(others, key=lambda series: series.label), strict=False):
        _bare(axes, 6.5)
        if line:
            xs, ys = zip(*line, (right, line[-1][1]), strict=True)
            axes.step(xs, ys, where="post", color=_INK)
        prices, figures = [row.evaluations for row in series.rows], [max(row.psnr or 0.0, floor) for row in series.rows]
        axes.plot(prices, figures, "--o", color=_COLOURS[0], markersize=3, linewidth=1)
        axes.set_title(re.sub(r"(?<=[:,])", "\n", series.label, count=1), fontsize=6.5, pad=3, loc="left")
    for axes in grid.flat[len(others) :]:
        axes.set_axis_off()
    return _svg(figure, "The other methods one by one, against the best plain sampler")


def traces_svg(traces: Iterable[Mapping[str, Any]]) -> str:
    """Draw forecast error and weight amplification per step at the middle budget; empty if there is no trace."""
    found = list(traces)
    if not found:
        return ""
    budgets = sorted({trace["budget"] for trace in found})
    shown = sorted((t for t in found if t["budget"] == budgets[len(budgets) // 2]), key=_rank)
    figure = _figure(0.4 + 1.35 * len(shown))
    for place, (trace, pair) in enumerate(zip(shown, figure.subplots(len(shown), 2, squeeze=False), strict=True)):
        growth = [value for value in _forecast(trace, "amplification") if math.isfinite(value)]
        largest = f", largest sum of |weights| {max(growth):.2f}" if growth else ""
        pair[0].set_title(
            f"{MARKS['forecast']} {trace['method']}: {trace['evaluations']:.3g} evaluations, mean error "
            f"{number(_mean(trace), '.2%')}{largest}",
            fontsize=8, loc="left", gid=f"trace-{place}",
        )  # fmt: skip
        for axes, form, (key, unit, none) in zip(pair, ("-o", "--s"), _TRACED, strict=True):
            _bare(axes, 7)
            axes.set(xlim=(-0.5, trace["steps"] - 0.5), yscale="log")
            axes.set_ylabel(unit, fontsize=7)
            axes.yaxis.set_minor_locator(NullLocator())
            for step in trace["evaluated_steps"]:
                axes.axvline(step, color=_INK, linewidth=0.5, alpha=0.4)
            axes.plot(trace["evaluated_steps"], [0] * len(trace["evaluated_steps"]), "^", color=_INK, markersize=4,
                      transform=axes.get_xaxis_transform())  # fmt: skip
            values = _forecast(trace, key)
            if any(map(math.isfinite, values)):
                axes.plot(values, form, color=_INK, markersize=2.5, linewidth=1)
            else:
                axes.text(0.5, 0.5, none, transform=axes.transAxes, ha="center", style="italic", fontsize=8)
                axes.yaxis.set_major_locator(NullLocator())
    return _svg(figure, "Forecast error and weight amplification along the run")


_TRACED = (
    ("errors", "relative error", "no forecast"),
    ("amplification", "sum of |weights|", "weights or steps follow from the values"),
)


def _forecast(trace: Mapping[str, Any], key: str) -> list[float]:
    """Return one value per step, with NaN at evaluated steps, where nothing is forecast and lines are interrupted."""
    evaluated = set(trace["evaluated_steps"])
    values = trace.get(key) or [None] * trace["steps"]
    return [
        value if value is not None and math.isfinite(value) and value > 0 and step not in evaluated else math.nan
        for step, value in enumerate(values)
    ]


def _mean(trace: Mapping[str, Any]) -> float | None:
    known = [value for value in _forecast(trace, "errors") if math.isfinite(value)]
    return fmean(known) if known else None


def _rank(trace: Mapping[str, Any]) -> tuple[float, str]:
    mean = _mean(trace)
    return math.inf if mean is None else mean, trace["method"]


def curve_svg(curves: Sequence[Sequence[Plan]]) -> str:
    """Draw the predicted PSNR of plans: the mean (mark), the 5 % worst (tick) and the worst pair (end of whisker).

    Curves of closed loops are solid with filled marks, those of open loops dashed with hollow ones.

    Raises:
        ValueError: no plan has a finite predicted PSNR.
    """
    known = finite(curves)
    points = [(plan.evaluations, predicted.psnr) for plans in known for plan, predicted in plans]
    figure, axes = _axes(points)
    figure.set_facecolor("white")
    target = TARGETS[known[0][0][0].origin.reference]
    axes.set(xlabel=_AXES["evaluations"], ylabel=f"PSNR to {target}, dB")
    axes.set_ylim(auto=True)
    axes.xaxis.set_major_locator(FixedLocator(sorted({budget for budget, _ in points})))
    ink = "#1c1c1e"
    for place, plans in enumerate(known):
        closed = plans[0][1].closed
        xs = [plan.evaluations * 1.015 ** (place - (len(known) - 1) / 2) for plan, _ in plans]
        axes.plot(xs, [made.psnr for _, made in plans], "D-" if closed else "D--", color=ink, gid=f"curve-{place}",
                  fillstyle="full" if closed else "none", label=how(plans[0][1]))  # fmt: skip
        hints = [
            f"{plan.evaluations} evaluations: mean {made.psnr:.1f} dB, 5 % worst {made.worst5:.1f}, "
            f"worst {made.worst:.1f} ({how(made)})"
            for plan, made in plans
        ]
        axes.scatter(xs, [made.psnr for _, made in plans], s=70, alpha=0.0, urls=hints)
        for x, (_, made) in zip(xs, plans, strict=True):
            if math.isfinite(made.worst5) and math.isfinite(made.worst):
                axes.vlines(x, made.worst, made.psnr, color=ink, linewidth=0.8)
                axes.plot([x, x], [made.worst5, made.worst], "_", color=ink, markersize=6)
    _legend(axes)
    return _svg(figure, "Predicted PSNR of plans against evaluations") + "\n"


def _figure(height: float) -> Figure:
    return Figure(figsize=(9.0, height), dpi=72, facecolor="none", layout="constrained")


def _axes(points: Sequence[Sequence[Any]], wanted: Sequence[float] = ()) -> tuple[Figure, Axes]:
    """Make a figure with one drawing area that fits the points, whose legend stands at its right."""
    figure = _figure(4.6)
    axes = figure.subplots()
    _bare(axes, 9)
    axes.grid(axis="y", color=_INK, alpha=0.2, linewidth=0.6)
    across, up = _limits(points, wanted)
    axes.set(xscale="log", xlim=across, ylim=up)
    _ticks(axes, LogLocator(subs=(1, 2, 3, 5)))
    return figure, axes


def _limits(points: Sequence[Sequence[Any]], wanted: Sequence[float]) -> tuple[_Span, _Span]:
    """Return limits of both axes that fit the wanted heights; points far below are drawn on the axis."""
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    low, high = min(wanted or ys), max(wanted or ys)
    margin = 0.12 * (high - low) or 1.0
    floor = max(low - margin, min(ys) - 0.3 * margin)
    return (min(xs) / 1.07, max(xs) * 1.07), (floor, high + 0.6 * margin)


def _bare(axes: Axes, size: float) -> None:
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=size)


def _ticks(axes: Axes, locator: Any) -> None:
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FormatStrFormatter("%.3g"))


def _legend(axes: Axes) -> None:
    axes.figure.legend(loc="outside right upper", frameon=False, fontsize=9, handlelength=4, labelcolor="linecolor")


def _short(label: str) -> str:
    return label if len(label) <= 34 else label[:31] + "..."


#: From the SVG of matplotlib to an element of a page.
_EDITS = (
    (r"^.*?(?=<svg )", ""),
    (r"<(metadata|style|!--).*?(</\1>|-->)", ""),
    (r'(<svg [^>]*?) width="[^"]*" height="[^"]*"', r'\1 role="img" fill="currentColor"'),
    (r'<g id="(line|named|curve|trace)-\d+"', r'<g class="\1"'),
    (r'<g id="[^"]*"', "<g"),
    (r"""<a xlink:href=(["'])(.*?)\1[^>]*>(.*?)</a>""", r"<g><title>\2</title>\3</g>"),  # hints are given as links
    (r"xlink:href", "href"),
    (r' xmlns:xlink="[^"]*"', ""),
    (_INK, "currentColor"),
    (r">\s+<", "><"),
)


def _svg(figure: Figure, title: str) -> str:
    """Return a figure as an SVG element of a page: with the ids it needs only, no clipping, and hints on the marks."""
    for artist in figure.findobj():
        artist.set_clip_on(False)
    content = StringIO()
    options: Any = {"svg.fonttype": "none", "svg.hashsalt": title, "font.sans-serif": ["Arial", "DejaVu Sans"]}
    with matplotlib.rc_context(options):
        figure.savefig(content, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = content.getvalue()
    for pattern, replacement in _EDITS:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    # A tenth of a point is enough; and charts of one page must not share ids.
    text = re.sub(r' (d|x|y|transform)="[^"]*"', lambda found: re.sub(r"(?<=\.\d)\d+|\n", "", found[0]), text)
    text = re.sub(r'(id="|href="#)(?=[mC])', rf"\g<1>c{sha256(text.encode()).hexdigest()[:6]}-", text)
    return re.sub(r"(?<=>)", f"<title>{title}</title>", text, count=1)
