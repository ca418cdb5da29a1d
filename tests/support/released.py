"""What transcriptions of released rules share: grids, random sequences, and a run in which a rule stands alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from skipcast import Method, TimeGrid, evaluated_steps
from support.cases import drive

#: FLUX.1 at 50 and at 28 steps, Wan at 30.
RELEASED_GRIDS = [TimeGrid.shifted(50, 3.0), TimeGrid.shifted(28, 3.16), TimeGrid.shifted(30, 5.0)]

#: From the evaluations so far, (step, value) oldest first, and a step: its forecast.
Rule = Callable[[list[tuple[int, np.ndarray]], int], np.ndarray]


def random_walk(steps: int, seed: int) -> np.ndarray:
    """A batch of one, as norms of released rules run over the whole tensor: (N, 1, 4, 6)."""
    return np.random.default_rng(seed).standard_normal((steps, 1, 4, 6)).cumsum(axis=0)


def alone(rule: Rule, values: np.ndarray, evaluated: tuple[int, ...]) -> np.ndarray:
    """What a run gives that evaluates these steps and asks the rule at all others, (N, ...)."""
    known: list[tuple[int, np.ndarray]] = []
    found = []
    for step, value in enumerate(values):
        if step in evaluated:
            known.append((step, value))
        found.append(value if step in evaluated else rule(known, step))
    return np.array(found)


def largest_difference(method: Method, rule: Rule, grid: TimeGrid, seed: int = 0) -> float:
    """Between a method and a rule on the same random walk and the same evaluated steps."""
    values = random_walk(len(grid), seed)
    ours = drive(method, grid, torch.from_numpy(values)).numpy()
    theirs = alone(rule, values, evaluated_steps(method, grid))
    return float(np.abs(ours - theirs).max())
