"""The tableau: the N x N weights of a whole run, found by applying the run to unit vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from skipcast.checks import guarded
from skipcast.controllers import StaticController
from skipcast.grid import TimeGrid, Vector
from skipcast.parts import Method
from skipcast.run import Run
from skipcast.targets import Output

Matrix = NDArray[np.float64]


@guarded()
def tableau(method: Method, grid: TimeGrid) -> Matrix:
    """Row i holds the weights of step i on the evaluated values: (N, N), in the target's own variable.

    Raises:
        ValueError: weights or decisions of the method depend on the values themselves, so no fixed table exists.
    """
    if not method.forecaster.linear:
        raise ValueError(f"{method.forecaster!r} weighs by the values themselves; only a real run has its weights.")
    if not isinstance(method.controller, StaticController):
        raise ValueError(f"{method.controller!r} decides by the values themselves; only a real run has its steps.")
    run = Run(replace(method, target=Output()), grid, forecast_error=False)
    unit = torch.eye(len(grid), dtype=torch.float64)
    return torch.stack([run.advance(row, lambda row=row: row) for row in unit]).numpy()  # type: ignore[misc]


@guarded()
def evaluated_steps(method: Method, grid: TimeGrid) -> tuple[int, ...]:
    """The evaluated steps of a run, where the controller knows them before it.

    Raises:
        ValueError: the controller decides by values, or cannot govern a run of this length.
    """
    if not isinstance(method.controller, StaticController):
        raise ValueError(f"{method.controller!r} decides by the values themselves; only a real run has its steps.")
    return method.controller.evaluated(len(grid))


@guarded(highest=0)
def degree_of_exactness(method: Method, grid: TimeGrid, *, highest: int = 8, tolerance: float = 1e-8) -> int:
    """The largest d up to which polynomials in tau are reproduced wherever the history is full; -1 for none."""
    table = tableau(method, grid)
    evaluated = evaluated_steps(method, grid)
    usable = [i for i in evaluated if i >= method.forecaster.start]
    full = usable[method.forecaster.min_evaluations - 1 :]
    rows = np.array([i for i in range(full[0] if full else len(grid), len(grid)) if i not in evaluated])
    if not len(rows):
        raise ValueError("degree_of_exactness needs forecast steps behind a full history; take a longer grid.")
    tau = method.coordinate(grid)
    scaled = (tau - tau.mean()) / np.abs(tau - tau.mean()).max()
    growth = amplification(table)[rows]
    for degree in range(highest + 1):
        values = scaled**degree
        if (np.abs(table[rows] @ values - values[rows]) > tolerance * growth).any():
            return degree - 1
    return highest


@guarded()
def amplification(table: Matrix) -> Vector:
    """sum_k |w_k| per step: how much an error in the evaluated values can grow, (N,)."""
    growth: Vector = np.abs(table).sum(axis=1)
    return growth
