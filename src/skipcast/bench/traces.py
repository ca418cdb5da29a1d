"""Step by step: how far each forecast is from the evaluation it replaces, and how much its weights amplify."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from skipcast.bench.draw import draw
from skipcast.bench.rounds import Batch
from skipcast.bench.rows import Row
from skipcast.bench.settings import Settings
from skipcast.grid import TimeGrid
from skipcast.method import Method
from skipcast.tableaux import amplification, tableau


def trace(pipe: Any, row: Row, batch: Batch, settings: Settings, grid: TimeGrid) -> dict[str, Any]:
    """The line of a method that forecasts: relative error and weight amplification per step, None where there is none.

    The network is evaluated at every step for it, while the run itself goes on with the forecasts; it is not timed.
    """
    assert isinstance(row.method, Method)
    made = draw(pipe, batch, row.method, steps=settings.steps, call=settings.call, diagnose=True)
    return {
        "kind": "trace",
        "method": row.label,
        "name": row.name,
        "options": dict(row.options),
        "repr": repr(row.method),
        "budget": row.budget,
        "evaluations": made.evaluations,
        "steps": settings.steps,
        "evaluated_steps": made.evaluated_steps,
        "errors": _per_step(made.errors, settings.steps),
        "amplification": _growth(row.method, grid),
        "pictures": len(batch),
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
