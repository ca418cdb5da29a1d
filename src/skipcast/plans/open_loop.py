"""The open loop: weight rows, and a search for the evaluated steps, from the Gram matrix of a profile alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from skipcast.grid import Vector

Matrix = NDArray[np.float64]
Steps = tuple[int, ...]

#: Ridge of every least-squares fit, relative to the mean diagonal of its normal matrix.
RIDGE = 1e-6
#: Exponents p of the starts (k / (m - 1))^p (N - 1) of the search; 1 is even placement.
STARTS = (1.0, 0.7, 1.5)


class OpenLoop:
    """Least-squares rows in the inner product of a Gram matrix.

    For the segment from s_n to s_{n+1} (s_m = N), with X the reference states in the basis, target t = X[s_{n+1}] -
    X[s_n] and regressors F = (X[s_n], y_{s_0}, .., y_{s_n}):

        row = (F' G F + ridge I)^-1 F' G t,      residual r_n = F row - t

    The predicted error of the final sample is sum_n r_n.

    Args:
        gram: G, (K, K).
        states: X, (N + 1, K).
        ridge: relative to the mean diagonal of F' G F.
    """

    def __init__(self, gram: Matrix, states: Matrix, ridge: float = RIDGE) -> None:
        self.gram, self.states, self.ridge = gram, states, ridge
        self.steps = len(states) - 1
        # A swap of one step leaves the segments before it as they are.
        self._segment = lru_cache(maxsize=200_000)(self._fit)

    def rows(self, steps: Steps) -> tuple[Vector, ...]:
        """One row (a, b_0, .., b_n) per evaluated step."""
        return tuple(row for row, _ in self._segments(steps))

    def residual(self, steps: Steps) -> Vector:
        """The predicted error of the final sample in the basis, (K,)."""
        total: Vector = np.sum([residual for _, residual in self._segments(steps)], axis=0)
        return total

    def error(self, steps: Steps) -> float:
        """Its mean squared size, the objective of the search."""
        r = self.residual(steps)
        return float(r @ self.gram @ r)

    def _segments(self, steps: Steps) -> list[tuple[Vector, Vector]]:
        targets = (*steps[1:], self.steps)
        return [self._segment(steps[: n + 1], end) for n, end in enumerate(targets)]

    def _fit(self, steps: Steps, end: int) -> tuple[Vector, Vector]:
        regressors = np.zeros((len(steps) + 1, self.states.shape[1]))
        regressors[0] = self.states[steps[-1]]
        regressors[np.arange(1, len(steps) + 1), 1 + np.array(steps)] = 1.0
        target = self.states[end] - self.states[steps[-1]]
        weighted = regressors @ self.gram
        normal = weighted @ regressors.T
        row = np.linalg.solve(ridged(normal, self.ridge), weighted @ target)
        return row, row @ regressors - target


def ridged(normal: Matrix, ridge: float) -> Matrix:
    """`normal` with `ridge` times its mean diagonal added to the diagonal."""
    damped: Matrix = normal + ridge * np.trace(normal) / len(normal) * np.eye(len(normal))
    return damped


def placed(evaluations: int, steps: int, power: float = 1.0) -> Steps:
    """m distinct steps from 0 to N - 1 near (k / (m - 1))^power (N - 1)."""
    if evaluations == 1:
        return (0,)
    wanted = np.linspace(0.0, 1.0, evaluations) ** power * (steps - 1)
    found: list[int] = []
    for k, place in enumerate(np.rint(wanted).astype(int)):
        lowest, highest = (found[-1] + 1 if found else 0), steps - (evaluations - k)
        found.append(int(min(max(place, lowest), highest)))
    return tuple(found)


def improve(steps: Steps, loop: OpenLoop) -> tuple[Steps, float]:
    """The set that swaps of single steps lead to, nearest places first, until none lowers the error."""
    best = loop.error(steps)
    moved = True
    while moved:
        moved = False
        for k in range(1, len(steps)):
            for place in sorted(range(1, loop.steps), key=lambda step, at=steps[k]: abs(step - at)):  # type: ignore[misc]
                if place in steps:
                    continue
                swapped = tuple(sorted((*steps[:k], place, *steps[k + 1 :])))
                error = loop.error(swapped)
                if error < best * (1 - 1e-9):
                    steps, best, moved = swapped, error, True
                    break
    return steps, best


def search(loop: OpenLoop, evaluations: int, starts: Iterable[float] = STARTS) -> list[Steps]:
    """Distinct sets of m evaluated steps, the least predicted error first.

    Raises:
        ValueError: more evaluations than steps, or none.
    """
    if not 1 <= evaluations <= loop.steps:
        raise ValueError(f"evaluations={evaluations} must lie between 1 and the {loop.steps} recorded steps.")
    found = dict(improve(placed(evaluations, loop.steps, power), loop) for power in starts)
    return sorted(found, key=lambda steps: found[steps])


def forecasts(gram: Matrix, steps: Sequence[int], ridge: float = RIDGE) -> tuple[Vector, ...]:
    """Row n forecasts y_{s_n} from the outputs before it by least squares in the Gram matrix, (n,) each."""
    rows: list[Vector] = [np.zeros(0)]
    for n in range(1, len(steps)):
        known, new = 1 + np.array(steps[:n]), 1 + steps[n]
        rows.append(np.linalg.solve(ridged(gram[np.ix_(known, known)], ridge), gram[known, new]))
    return tuple(rows)
