"""A small nonlinear flow with known everything: its profile and its evaluator, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skipcast.grid import TimeGrid
from skipcast.plans.closed_loop import Pass, Program
from skipcast.plans.plan import Origin
from skipcast.plans.profile import Profile
from skipcast.plans.propagation import Levels

STEPS, SIZE = 20, 12
GRID = TimeGrid.shifted(STEPS, shift=2.0)
SIGMA = np.append(GRID.sigma, 0.0)


def network(x: Tensor, timestep: float) -> Tensor:
    """A velocity that bends with x and time."""
    t = timestep / 1000
    return torch.tanh(x.roll(1, -1) * (1 + t)) - 0.5 * x * (1 - t) + 0.3 * np.cos(3 * t) * x.flip(-1) ** 2


def lead(x: Tensor, timestep: float) -> Tensor:
    """The leading guidance branch of that network, whose guided output it is."""
    return network(x, timestep) + 0.2 * torch.cos(x.roll(2, -1) + timestep / 500)


def noise(pairs: int, seed: int = 0) -> Tensor:
    made = torch.Generator().manual_seed(seed)
    return 0.8 * torch.randn(pairs, SIZE, generator=made, dtype=torch.float64)


def trajectories(start: Tensor) -> tuple[Tensor, Tensor]:
    """States (M, N + 1, D) and outputs (M, N, D) of Euler's run."""
    states, outputs = [start], []
    for i, timestep in enumerate(GRID.timestep):
        outputs.append(network(states[i], float(timestep)))
        states.append(states[i] + (SIGMA[i + 1] - SIGMA[i]) * outputs[i])
    return torch.stack(states, 1), torch.stack(outputs, 1)


def euler() -> np.ndarray:
    """States in the basis (x_0, y_0 .. y_{N-1}), (N + 1, N + 1)."""
    found = np.zeros((STEPS + 1, STEPS + 1))
    found[:, 0] = 1.0
    for i in range(STEPS):
        found[i + 1 :, i + 1] = SIGMA[i + 1] - SIGMA[i]
    return found


def profile(pairs: int = 8, *, keep: bool = True) -> Profile:
    states, outputs = trajectories(noise(pairs))
    basis = torch.cat([states[:, :1], outputs], 1)
    grams = (basis @ basis.transpose(1, 2) / SIZE).numpy()
    origin = Origin("Toy", "Euler", {}, STEPS, prompts=("",) * pairs, seeds=tuple(range(pairs)), shape=(SIZE,))
    return Profile(grams, euler(), GRID.timestep, np.ones(STEPS), np.ones(pairs), origin, states if keep else None)


@dataclass
class ToyEvaluator:
    """The evaluator of the toy's recorded pairs."""

    pairs: int = 8
    batch: int = 8
    evaluations: float = 0
    coarse: bool = False
    calls: int = 0
    branches: str = "first call"

    @property
    def levels(self) -> Levels:
        return Levels(GRID, (1.0, 0.0), "velocity")

    def groups(self, pairs: Sequence[int]) -> list[list[int]]:
        return [list(pairs[i : i + self.batch]) for i in range(0, len(pairs), self.batch)]

    def call(
        self,
        pairs: Sequence[int],
        timesteps: Sequence[float],
        scale: Sequence[float],
        program: Program,
        passes: Sequence[Pass] = (),
    ) -> None:
        assert len(pairs) <= self.batch
        assert len(passes) in (0, len(timesteps))
        self.calls += 1
        running = program(noise(self.pairs)[list(pairs)])
        x = next(running)
        before: tuple[Tensor, float] | None = None  # of a leading pass
        for place, time in enumerate(timesteps):
            self.evaluations += len(pairs) / 2 if passes else len(pairs)
            kind = passes[place] if passes else "whole"
            if kind == "other":
                assert before is not None, "no leading pass before"
                assert torch.equal(before[0], x), "the leading pass had another sample"
                assert before[1] == time, "the leading pass had another time"
            before = (x, time) if kind == "lead" else None
            try:
                x = running.send((lead if kind == "lead" else network)(x, float(time)))
            except StopIteration:
                assert place == len(timesteps) - 1, "the program ended early"
                return
        raise AssertionError("the program wants more evaluations than it has timesteps")
