"""Seconds and memory of calls and their loops, and forecasts compared step by step."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from skipcast.bench.draw import Batch, How, draw
from skipcast.bench.records import options_of
from skipcast.bench.rows import Row
from skipcast.grid import TimeGrid
from skipcast.parts import Method
from skipcast.plans.propagation import grid_of
from skipcast.tableaux import amplification, tableau


def taken(pipe: Any, rows: Mapping[str, How], batch: Batch, repeats: int, **given: Any) -> dict[str, dict[str, Any]]:
    """Seconds of the loop and of the call: every row once to warm up, then in turn, none always first.

    A row that cannot run has no times. `given` holds `steps` and `call` of `draw`.
    """
    names = list(rows)
    found: dict[str, dict[str, Any]] = {name: {"call": [], "loop": [], "peak_bytes": None} for name in names}
    for number in range(repeats + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            if name not in found:
                continue
            try:
                made = draw(pipe, batch, rows[name], loop=True, **given)
            except ValueError:
                del found[name]
                continue
            if number:
                times, peak = found[name], made.peak_bytes
                times["call"].append(made.seconds)
                times["loop"].append(made.loop_seconds)
                times["peak_bytes"] = None if peak is None else max(peak, times["peak_bytes"] or 0)
    return found


def trace(pipe: Any, row: Row, batch: Batch, steps: int, call: Mapping[str, Any]) -> dict[str, Any]:
    """The line of a method that forecasts: relative error and weight amplification per step, None where there is none.

    The network is evaluated at every step for it, while the run itself goes on with the forecasts; it is not timed.
    """
    assert isinstance(row.method, Method)
    made = draw(pipe, batch, row.method, steps=steps, call=call, diagnose=True)
    return {
        "kind": "trace",
        "method": row.label,
        "name": row.name,
        "options": options_of(row.options),
        "repr": repr(row.method),
        "budget": row.budget,
        "evaluations": made.evaluations,
        "steps": steps,
        "evaluated_steps": made.evaluated_steps,
        "errors": _per_step(made.errors, steps),
        "amplification": _growth(row.method, grid_of(pipe.scheduler)),
        "images": len(batch),
    }


def _per_step(errors: Mapping[str, Mapping[int, Any]], steps: int) -> list[float | None]:
    """The mean over branches at every step."""
    found = ([float(branch[step]) for branch in errors.values() if step in branch] for step in range(steps))
    return [fmean(values) if values else None for values in found]


def _growth(method: Method, grid: TimeGrid) -> list[float] | None:
    """Sum of |w| per step, None where weights or steps follow from the values."""
    try:
        return [float(value) for value in amplification(tableau(method, grid))]
    except ValueError:
        return None
