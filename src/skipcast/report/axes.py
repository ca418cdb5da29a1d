"""The axes of the curve of plans: PSNR in dB against evaluations on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

WIDTH = 900  # of the whole picture, in pixels
LEFT, RIGHT, TOP = 58, 650, 44  # edges of the drawing area in pixels; its labels stand to the right of it
_BELOW = 52  # pixels between the drawing area and the lower edge


class Drawn(Protocol):
    """What has a place on the axes: a PSNR, and that of the worst picture, at a number of evaluations."""

    @property
    def budget(self) -> int: ...
    @property
    def evaluations(self) -> float: ...
    @property
    def psnr(self) -> float | None: ...
    @property
    def psnr_worst(self) -> float | None: ...


@dataclass(frozen=True)
class Axes:
    """The map from (evaluations, dB) to pixels."""

    height: int
    log_span: tuple[float, float]
    levels: tuple[float, ...]  # dB of the horizontal lines
    spread: float  # pixels over which the methods of one budget are set apart

    @classmethod
    def fit(cls, rows: Sequence[Drawn], series: int) -> Axes:
        """Axes on which all rows, drawn as so many series, have room."""
        values = [v for row in rows for v in (row.psnr, row.psnr_worst) if v is not None and math.isfinite(v)]
        low, high = min(values), max(values)
        step = next((s for s in (0.5, 1, 2, 5, 10, 20) if (high - low) / s <= 7), 50)
        levels = tuple(step * i for i in range(math.floor(low / step), math.ceil(high / step + 1e-9) + 1))
        logs = [math.log(n) for row in rows for n in (row.budget, row.evaluations)]
        budgets = sorted({math.log(row.budget) for row in rows})
        span = (min(logs), max(logs)) if min(logs) < max(logs) else (logs[0] - 1, logs[0] + 1)
        gaps = [(b - a) / (span[1] - span[0]) * (RIGHT - LEFT) for a, b in pairwise(budgets)]
        spread = min(0.45 * min(gaps, default=200.0), 8.0 * series, 90.0)
        return cls(max(420, 16 * series + TOP + _BELOW), span, levels, spread)

    @property
    def right(self) -> float:
        """Right edge of the drawing area in pixels."""
        return RIGHT

    @property
    def top(self) -> float:
        """Upper edge of the drawing area in pixels."""
        return TOP

    @property
    def floor(self) -> int:
        """Lower edge of the drawing area in pixels."""
        return self.height - _BELOW

    def x(self, evaluations: float) -> float:
        """Pixels from the left edge of the picture."""
        low, high = self.log_span
        inset = self.spread / 2 + 14
        share = (math.log(evaluations) - low) / (high - low)
        return LEFT + inset + share * (RIGHT - LEFT - 2 * inset)

    def y(self, decibels: float) -> float:
        """Pixels from the upper edge of the picture."""
        low, high = self.levels[0], self.levels[-1]
        return TOP + (high - decibels) / (high - low) * (self.floor - TOP)

    def svg(self, budgets: Sequence[int], upwards: str = "PSNR to the unaccelerated run, dB") -> str:
        """Lines, ticks at these budgets, and units."""
        floor, wide = self.floor, self.spread + 16
        parts = []
        for budget in budgets:
            x = self.x(budget)
            parts.append(
                f'<rect x="{x - wide / 2:.1f}" y="{TOP}" width="{wide:.1f}" height="{floor - TOP}" opacity="0.05"/>'
                f'<text x="{x:.1f}" y="{floor + 18}" text-anchor="middle">{budget}</text>'
            )
        for level in self.levels:
            y = self.y(level)
            parts.append(
                f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="currentColor" stroke-width="0.6" opacity="0.3"/>'
                f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{level:g}</text>'
            )
        across, down = (LEFT + RIGHT) / 2, (TOP + floor) / 2
        centred = 'text-anchor="middle"'
        parts += [
            f'<path d="M{LEFT} {TOP}V{floor}H{RIGHT}" fill="none" stroke="currentColor"/>',
            f'<text x="{across}" y="{floor + 40}" {centred}>evaluations of the denoiser (log scale)</text>',
            f'<text transform="translate(16 {down})rotate(-90)" {centred}>{upwards}</text>',
        ]
        return "\n".join(parts)
