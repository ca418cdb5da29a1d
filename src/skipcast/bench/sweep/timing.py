"""Seconds and memory of one call, and of its loop from the first evaluation to the last step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skipcast.bench.draw import How, draw
from skipcast.bench.rounds import Batch
from skipcast.bench.settings import Settings


def taken(
    pipe: Any, rows: Mapping[str, How], batch: Batch, settings: Settings, repeats: int
) -> dict[str, dict[str, Any]]:
    """Seconds of the loop and of the call: everybody once to warm up, then in turn, nobody always first."""
    names = list(rows)
    found: dict[str, dict[str, Any]] = {name: {"call": [], "loop": [], "peak_bytes": None} for name in names}
    for number in range(repeats + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            made = draw(pipe, batch, rows[name], steps=settings.steps, call=settings.call, loop=True)
            if number:
                times, peak = found[name], made.peak_bytes
                times["call"].append(made.seconds)
                times["loop"].append(made.loop_seconds)
                times["peak_bytes"] = None if peak is None else max(peak, times["peak_bytes"] or 0)
    return found
