"""L2P: weights per step on all earlier steps, learned on recorded trajectories."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipcast.forecasters.base import RecursiveForecaster
from skipcast.grid import Vector
from skipcast.history import Point


@dataclass(frozen=True, repr=False)
class L2P(RecursiveForecaster):
    """A row of weights for each step, on the values of all steps before it, evaluated or forecast.

    F_i = sum_{j < i} W_ij F_j over a run of N steps; `skipcast.plans.learned.fit_l2p` finds W. The published target is
    the final projected output, that is `Output()`, and any step may be forecast but the first. Every value of the run
    is remembered. Degree of exactness: what W has; of a fit usually -1.

    Reference: L2P, arXiv:2604.26365. The authors' repository, https://github.com/Aredstone/L2P-Cache, held no code at
    commit 9fcffd1; this is its text, and checked against the port nanguoyu/Golden-Path-Hypothesis at commit 41bc4e7,
    `lib/l2p.py` and `flux/l2p_output.py`, in which forecasts enter the history as evaluations do. No weights are
    published, so no name of the command line stands for it; the evaluated steps at the published speeds are not known.

    Args:
        rows: row i has the i weights of step i, oldest first; row 0 is empty and row N - 1 the last.

    Raises:
        ValueError: rows of other lengths, or with numbers that are not finite; in a run, another number of steps.
    """

    rows: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        rows = tuple(tuple(float(weight) for weight in row) for row in self.rows)
        object.__setattr__(self, "rows", rows)
        lengths = [len(row) for row in rows]
        if len(rows) < 2 or lengths != list(range(len(rows))):
            raise ValueError(f"L2P(rows=...) must have 0, 1, 2, ... weights, at least two rows, got {lengths}.")
        if not all(np.isfinite(row).all() for row in rows):
            raise ValueError("L2P(rows=...) must be finite; fit them with a larger ridge or on more pairs.")

    def __repr__(self) -> str:
        digest = hashlib.sha256(np.concatenate([np.array(row) for row in self.rows]).tobytes()).hexdigest()
        return f"L2P(steps={len(self.rows)}, weights={digest[:12]})"

    @classmethod
    def of(cls, matrix: Sequence[Sequence[float]] | NDArray[np.float64]) -> L2P:
        """From W as a square matrix, (N, N), of which what lies below the diagonal counts."""
        return cls(tuple(tuple(row[:i]) for i, row in enumerate(matrix)))

    @property
    def window(self) -> int:
        return len(self.rows)

    def weights(self, nodes: Vector, evaluated: NDArray[np.bool_], point: Point) -> Vector:
        if point.steps != len(self.rows):
            raise ValueError(
                f"{self!r} was learned on runs of {len(self.rows)} steps, this one has {point.steps}; fit it on a "
                "profile of as many steps, or set num_inference_steps."
            )
        return np.array(self.rows[point.step], dtype=np.float64)
