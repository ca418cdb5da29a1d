"""Charts by matplotlib: each is one deterministic SVG that loads nothing and uses the text colour of its page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from statistics import fmean
from typing import Any, Literal, TypeAlias
from xml.etree import ElementTree

from skipcast.bench.curve import Point, finite, how
from skipcast.bench.results import Row
from skipcast.plans.plan import Plan
from skipcast.report.tables import MARKS, evaluations, number, with_interval

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
except ImportError as error:
    raise ImportError('charts need matplotlib; run: pip install "skipcast[bench]"') from error

Against = Literal["evaluations", "seconds"]
Statistic = Literal["mean", "worst5"]

_INK = "#000000"  # becomes the colour of the text around a chart
_COLOURS = ("#2b7bcb", "#d4551c", "#178a5f", "#b5519c", "#a97800", "#7d62d0", "#2a8c9e")
_DASHES = ("-", (0, (9, 2, 2, 2)), "--", (0, (2, 2)), "-.", (0, (5, 1)), ":")
#: Marks of matplotlib, and as letters: plans are diamonds, forecasters have other shapes.
_PLANS, _FORECASTS = (("D", "◆"), ("d", "◇"), ("d", "◇")), (("o", "●"), ("^", "▲"), ("v", "▼"), ("X", "✖"))
_AXES = {"evaluations": "evaluations (log scale)", "seconds": "seconds per image (log scale)"}
_PSNR = {"mean": "mean PSNR, dB", "worst5": "PSNR of the worst 5 %, dB"}
_SVG = "http://www.w3.org/2000/svg"
_TARGETS = {"default": "the unaccelerated run", "converged": "the converged run"}
#: Of the marks of a group, by its name.
_Titles: TypeAlias = dict[str, list[str]]
ElementTree.register_namespace("", _SVG)


@dataclass(frozen=True)
class Series:
    """The rows of one method at its budgets, the cheapest first."""

    kind: str
    label: str
    rows: tuple[Row, ...]


def series_of(rows: Sequence[Row]) -> list[Series]:
    """Group by method the rows with a finite mean PSNR, without the unaccelerated run."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.evaluations, row.method)):
        if row.kind != "reference" and row.psnr is not None and math.isfinite(row.psnr):
            groups.setdefault((row.kind, row.series), []).append(row)
    return [Series(kind, label, tuple(group)) for (kind, label), group in groups.items()]


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


def _chosen(rows: Sequence[Row]) -> tuple[list[tuple[Series, str, str]], list[Series], list[Series]]:
    """Divide the series into those drawn large, plain samplers, and others; the same in all charts of a state."""
    every = series_of(rows)
    line = frontier((row.evaluations, row.psnr) for row in rows if row.kind == "sampler")
    named = [
        (each, *mark)
        for kind, marks in (("plan", _PLANS), ("forecast", _FORECASTS))
        for each, mark in zip(
            best([each for each in every if each.kind == kind], line, len(marks)), marks, strict=False
        )
    ]
    large = [each for each, *_ in named]
    samplers = [each for each in every if each.kind == "sampler"]
    return named, samplers, [each for each in every if each not in large and each not in samplers]


def pareto_svg(
    rows: Sequence[Row], against: Against = "evaluations", statistic: Statistic = "mean", *, narrow: bool = False
) -> str:
    """Draw PSNR in dB against a price, with whiskers for the 95 % interval of the mean.

    Rows without a finite mean PSNR, such as the unaccelerated run, are not drawn.

    Args:
        rows: of one state.
        against: the price.
        statistic: the mean, or the mean of the worst 5 %.
        narrow: with a legend below instead of labels next to the lines, and without hints, for small screens.
    """
    named, samplers, others = _chosen(rows)

    def point(row: Row) -> tuple[float | None, float | None]:
        return getattr(row, against), row.of("psnr", statistic)

    def known(series: Series) -> list[tuple[float, float, Row]]:
        found = ((*point(row), row) for row in series.rows)
        return sorted((x, y, row) for x, y, row in found if x and y is not None and math.isfinite(y))

    figure, axes = _axes(3.9 if narrow else 9.0, 4.4 if narrow else 4.6)
    every = [each for each, *_ in named] + samplers + others
    points = [found for each in every for found in known(each)]
    if not points:
        return f'<svg xmlns="{_SVG}" viewBox="0 0 900 40"><text x="8" y="24">no finite PSNR to draw</text></svg>'
    line = frontier(point(row) for row in rows if row.kind == "sampler")
    floor, top = _limits([found[1] for each, *_ in named for found in known(each)] + [y for _, y in line], points)
    left, right = min(x for x, *_ in points) / 1.07, max(x for x, *_ in points) * 1.07
    axes.set(xscale="log", xlim=(left, right), ylim=(floor, top), xlabel=_AXES[against], ylabel=_PSNR[statistic])
    _ticks(axes, sorted({row.budget for *_, row in points}) if against == "evaluations" else _round(left, right))
    titles: _Titles = {}
    ends: list[tuple[float, float, str, str]] = []
    if line:
        xs, ys = [x for x, _ in line] + [right], [y for _, y in line] + [line[-1][1]]
        axes.step(xs, ys, where="post", color=_INK, linewidth=2.6, label="□ best plain sampler", gid="line-0")
        axes.fill_between(xs, [floor] * len(xs), [max(y, floor) for y in ys], step="post", color=_INK, alpha=0.07, lw=0)
        ends.append((right, line[-1][1], "□ best plain sampler", _INK))
    for group, mark in ((samplers, "s"), (others, "o")):
        _marks(axes, [each for series in group for each in known(series)], mark, floor, titles)
    for place, (series, mark, letter) in enumerate(named):
        shown = known(series)
        if not shown:
            continue
        aside = 1.012 ** (place - (len(named) - 1) / 2) if against == "evaluations" else 1.0
        xs, ys = [x * aside for x, *_ in shown], [y for _, y, _ in shown]
        colour, text = _COLOURS[place], f"{letter} {_short(series.label)}"
        axes.plot(xs, ys, marker=mark, color=colour, linestyle=_DASHES[place], label=text, markersize=6,
                  fillstyle="none" if mark == "d" else "full", gid=f"named-{place}")  # fmt: skip
        if statistic == "mean":
            whiskers = [row.measures["psnr"].interval or (y, y) for _, y, row in shown]
            spans = [[max(0.0, y - low) for y, (low, _) in zip(ys, whiskers, strict=True)],
                     [max(0.0, high - y) for y, (_, high) in zip(ys, whiskers, strict=True)]]  # fmt: skip
            axes.errorbar(xs, ys, yerr=spans, fmt="none", ecolor=colour, capsize=3, elinewidth=1)
        _marks(axes, [(x, y, row) for x, y, (*_, row) in zip(xs, ys, shown, strict=True)], "", floor, titles)
        ends.append((xs[-1], ys[-1], text, colour))
    if narrow:
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.16), frameon=False, fontsize=8, handlelength=4)
    else:
        _end_labels(axes, ends, right)
    return _svg(figure, f"{_PSNR[statistic].removesuffix(', dB')} against {against}", {} if narrow else titles)


def _marks(axes: Axes, points: Sequence[tuple[float, float, Row]], mark: str, floor: float, titles: _Titles) -> None:
    """Draw marks with hints, invisible ones if the mark is empty; points below the axis are drawn on the axis."""
    style: dict[str, Any] = {"s": 22 if mark == "s" else 9, "facecolors": "none" if mark == "s" else _INK}
    style |= {"edgecolors": _INK, "linewidths": 0.8, "alpha": 0.55} if mark else {"s": 70, "alpha": 0.0}
    for low in (False, True):
        found = [(x, max(y, floor), row) for x, y, row in points if (y < floor) is low]
        if found:
            name = f"hints-{len(titles)}"
            titles[name] = [hint(row) for *_, row in found]
            xs, ys = [x for x, *_ in found], [y for _, y, _ in found]
            axes.scatter(xs, ys, marker="v" if low else mark or "o", gid=name, **style)


def hint(row: Row) -> str:
    """Describe the figures of a row in words."""
    time = "" if row.seconds is None else f", {row.seconds:.3g} s"
    return (
        f"{row.method}: mean {with_interval(row.measures.get('psnr'), '.1f')} dB, worst 5 % "
        f"{number(row.of('psnr', 'worst5'), '.1f')} dB, worst {number(row.of('psnr', 'worst'), '.1f')} dB, "
        f"{evaluations(row)} evaluations{time}"
    )


def has_seconds(rows: Sequence[Row]) -> bool:
    """Return whether any row has measured seconds."""
    return any(row.seconds for row in rows if row.kind != "reference" and row.psnr is not None)


def multiples_svg(rows: Sequence[Row]) -> str:
    """Draw a small chart for every method that the large charts do not name; empty if there is none."""
    *_, others = _chosen(rows)
    if not others:
        return ""
    line = frontier((row.evaluations, row.psnr) for row in rows if row.kind == "sampler")
    points = [(row.evaluations, row.psnr or 0.0, row) for each in series_of(rows) for row in each.rows]
    highest = max(row.psnr or 0.0 for each in others for row in each.rows)
    floor, top = _limits([*(y for _, y in line), highest], points)
    left, right = min(x for x, *_ in points) / 1.07, max(x for x, *_ in points) * 1.07
    down = -(-len(others) // 5)
    figure = _figure(9.0, 0.3 + 1.15 * down)
    for place, each in enumerate(sorted(others, key=lambda each: each.label)):
        axes = figure.add_axes((0.04 + place % 5 / 5.1, 1 - (place // 5 + 0.8) / down, 0.155, 0.6 / down))
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(xscale="log", xlim=(left, right), ylim=(floor, top))
        first, last = place % 5 == 0, place >= len(others) - 5
        _ticks(axes, [min(row.budget for *_, row in points), max(row.budget for *_, row in points)] if last else [], 6)
        axes.yaxis.set_major_locator(
            FixedLocator([math.ceil(floor / 10) * 10, math.floor(top / 10) * 10] if first else [])
        )
        if line:
            axes.step([x for x, _ in line] + [right], [y for _, y in line] + [line[-1][1]], where="post", color=_INK)
        xs, ys = [row.evaluations for row in each.rows], [max(row.psnr or 0.0, floor) for row in each.rows]
        axes.plot(xs, ys, "--o", color=_COLOURS[0], markersize=3, linewidth=1)
        label = re.sub(r"(?<=[:,])", "\n", each.label, count=1) if len(each.label) > 24 else each.label
        axes.set_title(label, fontsize=6.5, pad=3, loc="left")
    return _svg(figure, "The other methods one by one, against the best plain sampler")


def traces_svg(traces: Iterable[Mapping[str, Any]]) -> str:
    """Draw forecast error and weight amplification per step at the middle budget; empty if there is no trace."""
    found = list(traces)
    if not found:
        return ""
    budgets = sorted({trace["budget"] for trace in found})
    shown = sorted((t for t in found if t["budget"] == budgets[len(budgets) // 2]), key=_rank)
    figure = _figure(9.0, 0.4 + 1.35 * len(shown))
    for place, trace in enumerate(shown):
        mean, growth = _mean(trace), [v for v in _forecast(trace, "amplification") if math.isfinite(v)]
        for side, (key, unit, none) in enumerate(_TRACED):
            values = _forecast(trace, key)
            bottom = 1 - (place + 0.85) / len(shown)
            axes = figure.add_axes((0.07 + 0.49 * side, bottom, 0.42, 0.55 / len(shown)))
            axes.set_facecolor("none")
            axes.spines[["top", "right"]].set_visible(False)
            axes.set(xlim=(-0.5, trace["steps"] - 0.5), yscale="log")
            axes.tick_params(labelsize=7)
            axes.yaxis.set_minor_locator(NullLocator())
            for step in trace["evaluated_steps"]:
                axes.axvline(step, color=_INK, linewidth=0.5, alpha=0.4)
            axes.plot(trace["evaluated_steps"], [0] * len(trace["evaluated_steps"]), "^", color=_INK, markersize=4,
                      transform=axes.get_xaxis_transform())  # fmt: skip
            if any(map(math.isfinite, values)):
                axes.plot(range(len(values)), values, ("-o", "--s")[side], color=_INK, markersize=2.5, linewidth=1)
            else:
                axes.text(0.5, 0.5, none, transform=axes.transAxes, ha="center", style="italic", fontsize=8)
                axes.yaxis.set_major_locator(NullLocator())
            axes.set_ylabel(unit, fontsize=7)
        label = f"{MARKS['forecast']} {trace['method']}: {trace['evaluations']:.3g} evaluations, mean error "
        label += number(mean, ".2%") + (f", largest sum of |weights| {max(growth):.2f}" if growth else "")
        figure.text(0.07, 1 - (place + 0.2) / len(shown), label, fontsize=8, gid=f"trace-{place}")
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
    figure, axes = _axes(9.0, 4.6)
    figure.set_facecolor("white")
    every = [point for points in known for point in points]
    target = _TARGETS[every[0].plan.origin.reference]
    low, high = min(len(point.plan) for point in every) / 1.1, max(len(point.plan) for point in every) * 1.1
    axes.set(xscale="log", xlim=(low, high), xlabel=_AXES["evaluations"], ylabel=f"PSNR to {target}, dB")
    _ticks(axes, sorted({len(point.plan) for point in every}))
    ends, titles = [], _Titles()
    for place, points in enumerate(known):
        closed, colour = points[0].predicted.closed, "#1c1c1e"
        xs = [len(point.plan) * 1.015 ** (place - (len(known) - 1) / 2) for point in points]
        ys = [point.predicted.psnr for point in points]
        axes.plot(xs, ys, color=colour, linestyle="-" if closed else "--", gid=f"curve-{place}")
        titles[f"hints-{place}"] = list(map(_words, points))
        axes.scatter(xs, ys, marker="D", s=36, edgecolors=colour, zorder=3, facecolors=colour if closed else "white",
                     gid=f"hints-{place}")  # fmt: skip
        for x, point in zip(xs, points, strict=True):
            if math.isfinite(point.predicted.worst5) and math.isfinite(point.predicted.worst):
                axes.vlines(x, point.predicted.worst, point.predicted.psnr, color=colour, linewidth=0.8)
                axes.plot([x, x], [point.predicted.worst5, point.predicted.worst], "_", color=colour, markersize=6)
        ends.append((xs[-1], ys[-1], f"{'◆' if closed else '◇'} {how(points[0].predicted)}", colour))
    _end_labels(axes, ends, high)
    return _svg(figure, "Predicted PSNR of plans against evaluations", titles) + "\n"


def _words(point: Point) -> str:
    made = point.predicted
    return (
        f"{len(point.plan)} evaluations: mean {made.psnr:.1f} dB, 5 % worst {made.worst5:.1f}, worst {made.worst:.1f} "
        f"({how(made)})"
    )


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=72, facecolor="none")


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Make a figure with one drawing area, and with room for labels on the right if it is wide."""
    figure = _figure(width, height)
    wide = width > 5
    axes = figure.add_axes((0.07, 0.11, 0.63, 0.86) if wide else (0.13, 0.38, 0.85, 0.6))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=_INK, alpha=0.2, linewidth=0.6)
    axes.set_facecolor("none")
    return figure, axes


def _limits(wanted: Sequence[float], points: Sequence[tuple[float, float, Row]]) -> tuple[float, float]:
    """Return limits of the vertical axis that fit the named series; other points far below are drawn on the axis."""
    every = [y for _, y, _ in points]
    low, high = min(wanted or every), max(wanted or every)
    margin = 0.12 * (high - low) or 1.0
    return max(low - margin, min(every) - 0.3 * margin), high + 0.6 * margin


def _ticks(axes: Axes, places: Sequence[float], size: float = 9) -> None:
    axes.xaxis.set_major_locator(FixedLocator([float(place) for place in places]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.tick_params(labelsize=size)


def _round(low: float, high: float) -> list[float]:
    """Return round numbers between two prices: 1, 2, 5, 10, ..., or a denser set if there are few of these."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        found = [tick for e in decades for digit in digits if low <= (tick := digit * 10.0**e) <= high]
        if len(found) > 2:
            break
    return found


def _end_labels(axes: Axes, ends: Sequence[tuple[float, float, str, str]], right: float) -> None:
    """Write labels right of the drawing area, at the height of their lines but without overlap, with thin leaders."""
    bottom, top = axes.get_ylim()
    gap, free = (top - bottom) / 22, top
    overflow = max(0.0, bottom + gap * (len(ends) - 1) - top)
    for x, y, text, colour in sorted(ends, key=lambda end: -end[1]):
        free = min(y, free)
        axes.annotate(text, (x, y), (right * 1.03, free + overflow), color=colour, fontsize=9, va="center",
                      annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.35, "lw": 0.7})  # fmt: skip
        free -= gap


def _short(label: str) -> str:
    return label if len(label) <= 34 else label[:31] + "..."


def _svg(figure: Figure, title: str, titles: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return a figure as an SVG element of a page: with the ids it needs only, no clipping, and hints on the marks."""
    for artist in figure.findobj():
        artist.set_clip_on(False)
    content = StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(content, format="svg", metadata=nothing)
    root = ElementTree.fromstring(content.getvalue())
    for name in ("width", "height"):
        del root.attrib[name]
    root.attrib["role"] = "img"
    linked = dict.fromkeys(v for each in root.iter() for k, v in each.attrib.items() if k.endswith("href"))
    digest = sha256(content.getvalue().encode()).hexdigest()[:6]  # charts of one page must not share ids
    ids = {name: f"c{digest}-{number}" for number, name in enumerate(linked)}
    for each in list(root.iter()):
        for child in list(each):
            if child.tag.endswith(("metadata", "style")):
                each.remove(child)
        for key in [key for key in each.attrib if key.endswith("href")]:
            each.attrib["href"] = f"#{ids[each.attrib.pop(key)]}"
        for place in {"d", "x", "y", "transform"} & each.attrib.keys():  # a tenth of a point is enough
            each.attrib[place] = re.sub(r"(?<=\.\d)\d+", "", " ".join(each.attrib[place].split()))
        name = each.attrib.pop("id", "")
        if f"#{name}" in ids:
            each.attrib["id"] = ids[f"#{name}"]
        elif re.fullmatch(r"(line|named|curve|trace|hints)-\d+", name):
            each.attrib["class"] = name.partition("-")[0]
        if titles and name in titles:
            marks = each.findall(f".//{{{_SVG}}}use") or each.findall(f".//{{{_SVG}}}path")
            for mark, words in zip(marks, titles[name], strict=True):
                ElementTree.SubElement(mark, f"{{{_SVG}}}title").text = words
        uses = each.findall(f"{{{_SVG}}}use")
        if len({use.get("style") for use in uses}) == 1 and len(uses) > 1:
            each.attrib["style"] = uses[0].get("style", "")
            for use in uses:
                use.attrib.pop("style", None)
    heading = ElementTree.Element(f"{{{_SVG}}}title")
    heading.text = title
    root.insert(0, heading)
    text = ElementTree.tostring(root, encoding="unicode").replace(_INK, "currentColor")
    text = re.sub(r"font: (\w+ )?([\d.]+px)[^;\"]*", r"font: \1\2 sans-serif", text)
    return re.sub(r">\s+<", "><", text).replace("<svg ", '<svg fill="currentColor" ', 1)
