"""Labels beside a plot, one at the end of each line."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Protocol


class Framed(Protocol):
    """A drawing area with labels to the right of it."""

    @property
    def right(self) -> float: ...
    @property
    def top(self) -> float: ...
    @property
    def floor(self) -> float: ...


def end_labels(axes: Framed, ends: Sequence[tuple[str, str, float, float]]) -> str:
    """A label per line beside the plot, joined to its last point; labels are moved until none overlaps.

    Args:
        axes: the drawing area.
        ends: text, colour and place of each.
    """
    pitch, x = 15.0, axes.right + 22
    ordered = sorted(ends, key=lambda end: end[3])
    places = [y for *_, y in ordered]
    for _ in range(100):  # neighbours that overlap part by halves, so that labels stay near their lines
        for i in range(len(places) - 1):
            overlap = max(0.0, places[i] + pitch - places[i + 1])
            places[i : i + 2] = places[i] - overlap / 2, places[i + 1] + overlap / 2
    limit = axes.top - pitch
    for i in range(len(places)):
        limit = places[i] = max(places[i], limit + pitch)
    limit = axes.floor + pitch
    for i in reversed(range(len(places))):
        limit = places[i] = min(places[i], limit - pitch)
    return "\n".join(
        f'<path d="M{end_x + 7:.1f} {end_y:.1f}L{x - 4:.1f} {y:.1f}" stroke="{colour}" stroke-width="0.7" '
        f'stroke-dasharray="1 3" fill="none"/><text x="{x:.1f}" y="{y + 4:.1f}" fill="{colour}">{escape(label)}</text>'
        for (label, colour, end_x, end_y), y in zip(ordered, places, strict=True)
    )
