"""A run as a strip of its steps, the evaluated ones filled."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_CELL, _GAP, _HEIGHT = 10, 2, 18


def strip(evaluated: Sequence[int], steps: int) -> str:
    """An SVG of `steps` cells; the evaluated ones are filled and taller, so that they are told without colour."""
    chosen = set(evaluated)
    width = steps * _CELL
    cells = []
    for step in range(steps):
        tall = step in chosen
        y, height = (0, _HEIGHT) if tall else (_HEIGHT - 6, 6)
        cells.append(
            f'<rect class="{"on" if tall else "off"}" x="{step * _CELL + _GAP / 2:g}" y="{y}" '
            f'width="{_CELL - _GAP}" height="{height}" rx="1"/>'
        )
    listed = ", ".join(map(str, sorted(chosen)))
    title = f"evaluated {len(chosen)} of {steps} steps: {listed}"
    return (
        f'<svg class="sc-strip" viewBox="0 0 {width} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>{"".join(cells)}</svg>'
    )
