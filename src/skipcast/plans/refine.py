"""Refinement: candidate step sets closed on the pipeline, the best one's numbers moved together, the validated kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from skipcast.grid import Vector
from skipcast.plans.closed_loop import Evaluator, Table, close, final_errors, linearise, sweep_evaluations
from skipcast.plans.open_loop import Steps

#: Damping of the joint step, relative to the diagonal of its normal matrix, and shares of it; the pairs try all.
DAMPINGS = (1e-6, 1e-5, 1e-4)
SHARES = (1.0, 0.5)
#: Validation pairs judge by the mean of error^JUDGED: nearly the mean PSNR, with some weight on the worst.
JUDGED = 0.25
#: Differences in the timestep, as a share of the range of the timesteps.
TIMESTEP_CHANGE = 2e-3


@dataclass(frozen=True)
class Effort:
    """How much a refinement may cost.

    Args:
        candidates: step sets whose loop is closed; the best on the validation pairs goes on.
        sweeps: joint Gauss-Newton sweeps over all rows and timesteps.
        sweep_pairs: pairs that one sweep linearises on, taken in turn; None for all fitted ones.
        sweep_cost: sweeps are left out where one would cost more than so many unaccelerated runs per pair.
        power: sweeps minimise the mean of error^power over pairs, which for 0 is the mean PSNR; the more, the more the
            worst pairs count.
        free_timesteps: whether the timesteps are free.
    """

    candidates: int = 2
    sweeps: int = 0
    sweep_pairs: int | None = None
    sweep_cost: float = math.inf
    power: float = 0.25
    free_timesteps: bool = True


#: "low" costs m evaluations per pair and candidate.
EFFORTS = {
    "low": Effort(),
    "normal": Effort(candidates=3, sweeps=1, sweep_pairs=24, sweep_cost=12),
    "high": Effort(candidates=4, sweeps=2, sweep_pairs=40, sweep_cost=20),
}


@dataclass(frozen=True)
class Refined:
    """A refined table and the squared errors of its final samples, (M,), NaN where a pair was not run."""

    table: Table
    errors: Vector


def split(pairs: int) -> tuple[list[int], list[int]]:
    """Indices to fit on and to validate on: every fourth pair validates; below four pairs none does."""
    validate = [i for i in range(pairs) if i % 4 == 3]
    return [i for i in range(pairs) if i not in validate], validate


@dataclass(frozen=True)
class Recorded:
    """What a refinement needs of a profile of M pairs.

    Args:
        trajectory: the states to reach, (M, N + 1, *shape).
        gain: squared error of the decoded image over that of the final sample, (M,).
        timesteps: of the N steps, (N,).
        scale: factors of the network's input, (N,).
    """

    trajectory: Tensor
    gain: Vector
    timesteps: Vector
    scale: Vector

    def __len__(self) -> int:
        return len(self.gain)


def refine(
    recorded: Recorded,
    evaluator: Evaluator,
    candidates: Sequence[Steps],
    effort: Effort,
    *,
    advance: Callable[[str], None] = lambda note: None,
) -> Refined:
    """The best table that `effort` finds, judged by the mean of error^JUDGED on pairs that it was not fitted on."""
    fit, validate = split(len(recorded))
    return _Refinement(recorded, evaluator, effort, fit, validate or fit, advance).run(candidates)


class _Refinement:
    def __init__(
        self,
        recorded: Recorded,
        evaluator: Evaluator,
        effort: Effort,
        fit: list[int],
        judge: list[int],
        advance: Callable[[str], None],
    ) -> None:
        self.recorded, self.evaluator, self.effort, self.advance = recorded, evaluator, effort, advance
        self.fit, self.judge = fit, judge
        self.trajectory = recorded.trajectory.float()

    def run(self, candidates: Sequence[Steps]) -> Refined:
        best = max((self.closed(steps) for steps in candidates[: self.effort.candidates]), key=self.score)
        for sweep in range(self.effort.sweeps if self.affordable(len(best.table.steps)) else 0):
            swept = self.swept(best, sweep)
            if swept is best:
                break
            best = swept
        return best

    def affordable(self, evaluations: int) -> bool:
        """Whether a sweep costs no more than it may."""
        return sweep_evaluations(evaluations) <= self.effort.sweep_cost * len(self.recorded.timesteps)

    def score(self, found: Refined) -> float:
        """What the validation pairs say, in dB."""
        errors = np.maximum(self.recorded.gain[self.judge] * found.errors[self.judge], 1e-30)
        return float(-10 / JUDGED * np.log10(np.mean(errors**JUDGED)))

    def judged(self, table: Table, note: str) -> Refined:
        errors = np.full(len(self.recorded), np.nan)
        errors[self.judge] = final_errors(table, self.evaluator, self.trajectory[:, -1], self.judge)
        found = Refined(table, errors)
        self.advance(f"{note}: {self.score(found):.2f} dB")
        return found

    def closed(self, steps: Steps) -> Refined:
        timesteps, scale = self.recorded.timesteps[list(steps)], self.recorded.scale[list(steps)]
        found = Refined(*close(steps, timesteps, scale, self.evaluator, self.trajectory, self.fit))
        self.advance(f"{steps}: {self.score(found):.2f} dB")
        return found

    def swept(self, best: Refined, sweep: int) -> Refined:
        """The best of the damped joint steps, or `best` itself where none helps."""
        count = min(self.effort.sweep_pairs or len(self.fit), len(self.fit))
        pairs = [self.fit[(sweep * count + i) % len(self.fit)] for i in range(count)]
        free = self.effort.free_timesteps and not self.evaluator.coarse  # half precision rounds such differences away
        difference = TIMESTEP_CHANGE * float(np.ptp(self.recorded.timesteps)) if free else None
        start = best.table
        local = linearise(start, self.evaluator, self.trajectory[:, -1], pairs, timestep_change=difference)
        for damping in DAMPINGS:
            step = local.step(damping, self.effort.power)
            for share in SHARES:
                table = local.applied(start, share * step)
                found = self.judged(table, f"sweep {sweep + 1}, damping {damping:g}, share {share:g}")
                if self.score(found) > self.score(best):
                    best = found
        return best
