"""The frame of a chart: a logarithmic price across, dB upwards, ticks, and marks that differ in shape."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SVG = 'xmlns="http://www.w3.org/2000/svg" role="img" fill="currentColor" font-family="sans-serif" font-size="12"'


@dataclass(frozen=True)
class Chart:
    """The map from a price and dB to pixels."""

    width: float
    height: float
    left: float  # edges of the drawing area
    right: float
    top: float
    floor: float
    prices: tuple[float, float]
    levels: tuple[float, ...]  # dB of the horizontal lines

    @classmethod
    def fit(
        cls, prices: Iterable[float], figures: Sequence[float], *, width: float, height: float, right: float
    ) -> Chart:
        """A chart with room for all these prices and figures."""
        known = list(prices)
        low, high = min(known) / 1.07, max(known) * 1.07
        bottom, top = min(figures), max(figures)
        step = next((s for s in (0.5, 1, 2, 5, 10, 20, 50) if (top - bottom) / s <= 7), 100)
        levels = tuple(step * i for i in range(math.floor(bottom / step), math.ceil(top / step + 1e-9) + 1))
        return cls(width, height, 46, right, 14, height - 46, (low, high), levels)

    def x(self, price: float) -> float:
        low, high = map(math.log, self.prices)
        return self.left + 10 + (math.log(price) - low) / (high - low) * (self.right - self.left - 20)

    def y(self, figure: float) -> float:
        """Pixels from the upper edge; what is below the axis is drawn on it."""
        low, high = self.levels[0], self.levels[-1]
        return self.floor - (max(figure, low) - low) / (high - low) * (self.floor - self.top)

    def below(self, figure: float) -> bool:
        """Whether a figure lies below the axis."""
        return figure < self.levels[0]

    def frame(self, ticks: Sequence[float], across: str, upwards: str) -> str:
        """Axes, lines at the levels, ticks that keep apart, and units."""
        parts, last = [], -math.inf
        for tick in ticks:
            x, text = self.x(tick), f"{tick:.3g}"
            if x - last < 8 + 7 * len(text):
                continue
            last = x
            parts.append(
                f'<path d="M{x:.1f} {self.floor}v5" stroke="currentColor"/>'
                f'<text x="{x:.1f}" y="{self.floor + 18}" text-anchor="middle">{text}</text>'
            )
        for level in self.levels:
            y = self.y(level)
            parts.append(
                f'<path d="M{self.left} {y:.1f}H{self.right}" stroke="currentColor" stroke-width="0.6" opacity="0.25"/>'
                f'<text x="{self.left - 7}" y="{y + 4:.1f}" text-anchor="end">{level:g}</text>'
            )
        middle = (self.left + self.right) / 2, (self.top + self.floor) / 2
        centred = 'text-anchor="middle"'
        return "".join(
            [
                *parts,
                f'<path d="M{self.left} {self.top}V{self.floor}H{self.right}" fill="none" stroke="currentColor"/>',
                f'<text x="{middle[0]:.1f}" y="{self.floor + 38}" {centred}>{across}</text>',
                f'<text transform="translate(13 {middle[1]:.1f})rotate(-90)" {centred}>{upwards}</text>',
            ]
        )


def round_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... between two prices."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    found = [digit * 10.0**e for e in range(first, last + 1) for digit in (1, 2, 5)]
    return [tick for tick in found if low <= tick <= high]


#: Marks that differ in shape, for the methods of one chart.
SHAPES = ("circle", "up", "down", "cross", "plus", "bar")


def shape(name: str, x: float, y: float) -> str:
    """A mark at a place; `diamond` for plans, `square` for plain samplers."""
    hollow = 'fill="none" stroke="currentColor" stroke-width="1.3"'
    heavy = 'fill="none" stroke-width="2.4"'
    return {
        "circle": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.4"/>',
        "diamond": f'<path d="M{x:.1f} {y - 6.5:.1f}l6.5 6.5-6.5 6.5-6.5-6.5z"/>',
        "open": f'<path d="M{x:.1f} {y - 6:.1f}l6 6-6 6-6-6z" fill="var(--paper,#fff)" stroke-width="1.8"/>',
        "up": f'<path d="M{x:.1f} {y - 5.6:.1f}l5.2 9.4h-10.4z"/>',
        "down": f'<path d="M{x:.1f} {y + 5.6:.1f}l5.2-9.4h-10.4z"/>',
        "cross": f'<path d="M{x - 4:.1f} {y - 4:.1f}l8 8m0-8l-8 8" {heavy}/>',
        "plus": f'<path d="M{x - 5:.1f} {y:.1f}h10m-5-5v10" {heavy}/>',
        "bar": f'<path d="M{x - 5:.1f} {y - 2:.1f}h10v4h-10z"/>',
        "square": f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6" {hollow}/>',
        "dot": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>',
    }[name]
