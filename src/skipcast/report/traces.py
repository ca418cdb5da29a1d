"""The plot step by step: forecast error and weight amplification along a run, a strip per method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from skipcast.report.columns import number
from skipcast.report.labels import mark, without
from skipcast.report.records import TRACE, Record

_SVG = 'xmlns="http://www.w3.org/2000/svg" role="img" fill="currentColor" font-family="sans-serif" font-size="12"'
_WIDTH, _TOP, _STRIP, _PLOT = 900, 40, 116, 78  # pixels: picture, heading, a method, its drawing area
_LEFT, _RIGHT = (58, 462), (530, 886)  # edges of the drawing areas in pixels
_DECADES = 6  # at most; errors further below the largest are drawn at the lower edge


@dataclass(frozen=True)
class _Panel:
    """One drawing area: steps across, a logarithmic scale upwards."""

    left: float
    right: float
    top: float
    steps: int
    low: float
    high: float
    percent: bool

    @property
    def floor(self) -> float:
        return self.top + _PLOT

    def x(self, step: int) -> float:
        return self.left + 8 + step / max(1, self.steps - 1) * (self.right - self.left - 16)

    def y(self, value: float) -> float:
        share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return self.floor - share * _PLOT

    def frame(self, evaluated: Iterable[int]) -> str:
        """Axes, levels with their numbers, and the evaluated steps."""
        parts = [f'<path d="M{self.left} {self.top}V{self.floor}H{self.right}" fill="none" stroke="currentColor"/>']
        for level in _levels(self.low, self.high):
            text = f"{level:.3g}" if not self.percent else f"{100 * level:.3g}%"
            parts.append(
                f'<path d="M{self.left} {self.y(level):.1f}H{self.right}" stroke="currentColor" stroke-width="0.6" '
                f'opacity="0.3"/><text x="{self.left - 6}" y="{self.y(level) + 4:.1f}" font-size="10" '
                f'text-anchor="end">{text}</text>'
            )
        for step in evaluated:
            x = self.x(step)
            parts.append(
                f'<g class="evaluated"><title>step {step}: evaluated</title><path d="M{x:.1f} {self.top}V{self.floor}" '
                f'stroke="currentColor" stroke-width="0.5" opacity="0.4"/>'
                f'<path d="M{x:.1f} {self.floor}l3.5 6h-7z"/></g>'
            )
        return "".join(parts)

    def line(self, points: Sequence[tuple[int, float]], evaluated: Sequence[int], *, dashed: bool) -> str:
        """The values at forecast steps, joined between evaluations; dots when solid, squares when dashed."""
        stretches: dict[int, list[tuple[float, float]]] = {}
        for step, value in points:
            stretches.setdefault(sum(e < step for e in evaluated), []).append((self.x(step), self.y(value)))
        drawn = []
        for stretch in stretches.values():
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in stretch)
            dashes = ' stroke-dasharray="4 3"' if dashed else ""
            drawn.append(f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-width="1.4"{dashes}/>')
            drawn += [
                f'<rect x="{x - 1.8:.1f}" y="{y - 1.8:.1f}" width="3.6" height="3.6"/>'
                if dashed
                else f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2"/>'
                for x, y in stretch
            ]
        return "".join(drawn)


def traces_svg(records: Iterable[Record]) -> str:
    """Inline SVG of the traces at the middle budget, best mean error first; empty where there is no trace."""
    found = [record for record in records if record["kind"] == TRACE]
    if not found:
        return ""
    budgets = sorted({record["budget"] for record in found})
    budget = budgets[len(budgets) // 2]
    shown = sorted((r for r in found if r["budget"] == budget), key=_rank)
    errors = [value for record in shown for _, value in _points(record, "errors") if value > 0]
    growth = [value for record in shown for _, value in _points(record, "amplification") if value > 0]
    error_range, growth_range = _range(errors, (1e-3, 1.0)), _range([1.0, *growth], (1.0, 10.0))
    strips = [_strip(record, _TOP + i * _STRIP, error_range, growth_range) for i, record in enumerate(shown)]
    height = _TOP + len(shown) * _STRIP + 16
    last = max(record["steps"] for record in shown) - 1
    return "\n".join(
        [
            f'<svg {_SVG} viewBox="0 0 {_WIDTH} {height}">',
            "<title>Forecast error and weight amplification along the run</title>",
            f'<text x="{_LEFT[0]}" y="20">● error of the forecast, log scale   ▲ evaluated step</text>',
            f'<text x="{_RIGHT[0]}" y="20">■ sum of |weights|, log scale, dashed</text>',
            *strips,
            *(_step_numbers(left, right, height - 4, last) for left, right in (_LEFT, _RIGHT)),
            "</svg>",
        ]
    )


def _step_numbers(left: float, right: float, y: float, last: int) -> str:
    """What lies across: the first and the last step, and the word between."""
    places = {"0": left + 8, "step": (left + right) / 2, str(last): right - 8}
    return "".join(f'<text x="{x}" y="{y}" text-anchor="middle">{text}</text>' for text, x in places.items())


def _strip(record: Record, top: float, error_range: tuple[float, float], growth_range: tuple[float, float]) -> str:
    steps, evaluated = record["steps"], record["evaluated_steps"]
    errors, growth = _points(record, "errors"), _points(record, "amplification")
    mean, largest = _mean(errors), max((value for _, value in growth), default=None)
    left = _Panel(*_LEFT, top + 18, steps, *error_range, percent=True)
    right = _Panel(*_RIGHT, top + 18, steps, *growth_range, percent=False)
    label = f"{mark('forecast')} {without(record['method'], 'evaluations=' + str(record['budget']))}"
    words = f"{record['evaluations']:.3g} evaluations, mean error {number(mean, '.2%')}"
    words += "" if largest is None else f", largest sum of |weights| {largest:.2f}"
    none = (left.right + left.left) / 2, (right.right + right.left) / 2, left.top + _PLOT / 2
    return "".join(
        [
            f'<g class="trace"><title>{escape(record["method"])}: {words}</title>',
            f'<text x="{_LEFT[0]}" y="{top + 10}"><tspan font-weight="600">{escape(label)}</tspan>  {words}</text>',
            left.frame(evaluated),
            left.line(errors, evaluated, dashed=False) if errors else _nothing(none[0], none[2], "no forecast"),
            right.frame(evaluated),
            right.line(growth, evaluated, dashed=True)
            if growth
            else _nothing(none[1], none[2], "weights or steps follow from the values"),
            "</g>",
        ]
    )


def _nothing(x: float, y: float, words: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="middle" font-style="italic">{words}</text>'


def _points(record: Record, key: str) -> list[tuple[int, float]]:
    """The finite values at forecast steps; an evaluated step forecasts nothing."""
    evaluated = set(record["evaluated_steps"])
    return [
        (step, value)
        for step, value in enumerate(record.get(key) or ())
        if value is not None and math.isfinite(value) and step not in evaluated
    ]


def _mean(points: Sequence[tuple[int, float]]) -> float | None:
    return sum(value for _, value in points) / len(points) if points else None


def _rank(record: Record) -> tuple[float, str]:
    mean = _mean(_points(record, "errors"))
    return math.inf if mean is None else mean, record["method"]


def _range(values: Sequence[float], otherwise: tuple[float, float]) -> tuple[float, float]:
    """From a round number below the values to one above them."""
    if not values:
        return otherwise
    high = max(values)
    low = max(min(values), high / 10**_DECADES)
    low, high = _round(low, up=False), _round(high, up=True)
    return (low, high) if low < high else (low / 2, high * 2)


def _round(value: float, *, up: bool) -> float:
    """The next of 1, 2, 5, 10, 20, ... below or above."""
    decade = 10.0 ** math.floor(math.log10(value) + 1e-9)
    steps = [decade * s for s in (1, 2, 5, 10)]
    if up:
        return next(s for s in steps if s >= value * (1 - 1e-9))
    return [s for s in steps if s <= value * (1 + 1e-9)][-1]


def _levels(low: float, high: float) -> list[float]:
    """Up to five round numbers from low to high."""
    first, last = math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [d * 10.0**e for e in range(first, last) for d in digits]
        inside = [v for v in found if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]
        if len(inside) <= 5:
            return inside
    return inside[:: -(-len(inside) // 4)]
