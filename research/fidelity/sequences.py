"""What both sides are run on: three grids, random walks in float64, and the library's own run of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipcast import Method, Run, TimeGrid
from skipcast.targets import AlternatingReuse

Array = NDArray[np.float64]
#: The evaluations so far, oldest first.
Known = list[tuple[int, Array]]
#: From the evaluations so far and a step: its forecast.
Rule = Callable[[Known, int], Array]

#: FLUX.1 at 50 steps, and at 28 with mu = 1.15, whose shift is e^mu; Wan at 30.
GRIDS = (TimeGrid.shifted(50, 3.0), TimeGrid.shifted(28, math.exp(1.15)), TimeGrid.shifted(30, 5.0))
#: For rules that were published for 50 steps alone.
GRIDS_OF_50 = (GRIDS[0], TimeGrid.shifted(50, math.exp(1.15)), TimeGrid.shifted(50, 5.0))
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Sequence:
    """A run of N steps: what enters a span of blocks, leaves its first block, and leaves the span.

    Args:
        grid: the steps.
        tokens: the three tensors, (3, N, 1, 16, 6) float64; 16 tokens are a square of 4 by 4.
        errors: of the forecasts, as a verifying block would measure them, (N,).
        gates: of the one module between what enters and what leaves, (N,).
    """

    grid: TimeGrid
    tokens: Tensor
    errors: Array
    gates: Array

    @property
    def entering(self) -> Array:
        """What enters at each step, (N, 1, 16, 6)."""
        return self.tokens[0].numpy()

    @property
    def probes(self) -> Array:
        """What a method may look at before it decides, (N, 1, 16, 6)."""
        return self.tokens[1].numpy()

    @property
    def leaving(self) -> Array:
        """What leaves at each step, (N, 1, 16, 6)."""
        return self.tokens[2].numpy()


def sequence(grid: TimeGrid, seed: int, pace: float = 1.0) -> Sequence:
    """Random walks around 1 whose steps have the standard deviation `pace`."""
    rng = np.random.default_rng(seed)
    walks = 1.0 + pace * rng.standard_normal((3, len(grid), 1, 16, 6)).cumsum(axis=1)
    errors = rng.uniform(0, 8, len(grid))
    return Sequence(grid, torch.from_numpy(walks), errors, np.exp(0.05 * rng.standard_normal(len(grid)).cumsum()))


def random_walk(steps: int, seed: int) -> Array:
    """A batch of one, as norms of released rules run over the whole tensor: (N, 1, 4, 6)."""
    return np.random.default_rng(seed).standard_normal((steps, 1, 4, 6)).cumsum(axis=0)


def alone(rule: Rule, values: Array, evaluated: tuple[int, ...]) -> Array:
    """What a run gives that evaluates these steps and asks the rule at all others, (N, ...)."""
    known: Known = []
    found = []
    for step, value in enumerate(values):
        if step in evaluated:
            known.append((step, value))
        found.append(value if step in evaluated else rule(known, step))
    return np.array(found)


def driven(method: Method, given: Sequence, *, euler: bool = False) -> tuple[tuple[int, ...], Array]:
    """The evaluated steps of the library's run of a method, and what leaves at each step.

    Args:
        method: the parts.
        given: what the network would take and return.
        euler: what enters is the sample of Euler's method instead, which starts where the sequence does.
    """
    run, found = Run(method, given.grid, forecast_error=False), []
    after = np.append(given.grid.sigma[1:], 0.0)
    sample = given.tokens[0, 0]
    for step in range(len(given.grid)):
        entering, probe, leaving = given.tokens[:, step]
        x = sample if euler else entering
        shown = {"none": None, "input": x, "around": torch.stack((x, probe))}.get(method.probe, probe)
        if run.wants_evaluation(shown):
            module = (leaving - x) / given.gates[step]
            found.append(run.observe(x, leaving))
        elif isinstance(method.target, AlternatingReuse) and run.since_evaluation % 2 == 0:
            found.append(run.take(x, x + given.gates[step] * module))  # as the seam does, from modules that stand still
        else:
            found.append(run.forecast(x))
            run.verified = torch.tensor(given.errors[step])
        sample = sample + float(after[step] - given.grid.sigma[step]) * found[-1]
    return tuple(record.step for record in run.trace if record.evaluated), torch.stack(found).numpy()


def single(grid: TimeGrid, seed: int) -> Sequence:
    """A random walk that leaves where nothing enters."""
    walk, zeros = torch.from_numpy(random_walk(len(grid), seed)), np.zeros(len(grid))
    return Sequence(grid, torch.stack((torch.zeros_like(walk), walk, walk)), zeros, zeros + 1)


def largest_difference(method: Method, rule: Rule, grid: TimeGrid, seed: int = 0) -> float:
    """Between a method and a rule on the same random walk and the same evaluated steps."""
    given = single(grid, seed)
    steps, ours = driven(method, given)
    return float(np.abs(ours - alone(rule, given.leaving, steps)).max())
