"""Refinement: step sets closed on the pipeline and moved, the best tables' numbers moved together, all validated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from skipcast.grid import Vector
from skipcast.plans.closed_loop import Evaluator, Table, close, final_errors, linearise, sweep_evaluations
from skipcast.plans.open_loop import Steps
from skipcast.plans.plan import worst_twentieth

#: Damping of the joint step, relative to the diagonal of its normal matrix, and shares of it; the pairs try all.
DAMPINGS = (1e-6, 1e-5, 1e-4, 1e-3)
SHARES = (1.0, 0.5)
#: Weight of the 5 % worst in what the choosing pairs judge by: (1 - w) mean + w mean of the worst twentieth, in dB.
WORST = 0.25
#: Differences in the timestep, as a share of the range of the timesteps.
TIMESTEP_CHANGE = 2e-3
#: Share of the cost that closing sets may take, which leaves the rest for sweeps.
MOVING = 0.4
#: Sweeps end when so many in a row, each on other pairs, gained less than so many dB.
PATIENCE, ENOUGH = 2, 0.05


@dataclass(frozen=True)
class Effort:
    """How much a refinement may cost.

    Args:
        candidates: step sets whose loop is closed to begin with.
        moves: further sets, each the best so far with one step moved, whose loop is closed.
        starts: tables, the best on the choosing pairs, that a joint sweep is tried on.
        sweeps: joint Gauss-Newton sweeps over all rows and timesteps at most; they end where they stop helping.
        sweep_pairs: pairs that one sweep linearises on, taken in turn; None for all fitted ones.
        generations: what all of it may cost, in unaccelerated runs per pair; work that would exceed it is left out.
        power: sweeps minimise the mean of error^power over pairs, which for 0 is the mean PSNR; the more, the more the
            worst pairs count.
        free_timesteps: whether the timesteps are free.
    """

    candidates: int = 2
    moves: int = 0
    starts: int = 1
    sweeps: int = 0
    sweep_pairs: int | None = None
    generations: float = math.inf
    power: float = 0.25
    free_timesteps: bool = True


#: "low" costs m evaluations per pair and candidate.
EFFORTS = {
    "low": Effort(),
    "normal": Effort(candidates=4, moves=8, sweeps=2, sweep_pairs=24, generations=15),
    "high": Effort(candidates=6, moves=40, starts=3, sweeps=12, sweep_pairs=32, generations=40),
}


@dataclass(frozen=True)
class Split:
    """The pairs of a recording by their use: rows are fitted on some, tables chosen by others, and judged by a third.

    Below 32 pairs the chosen table is judged by the pairs that chose it, below 4 by those that it was fitted on.
    """

    fit: list[int]
    choose: list[int]
    judge: list[int]

    @classmethod
    def of(cls, pairs: int) -> Split:
        """Initial noise is free, so what is recorded beyond 64 fitted pairs goes to choosing and judging."""
        everyone = range(pairs)
        if pairs < 4:
            return cls(list(everyone), list(everyone), list(everyone))
        if pairs < 32:
            choose = [i for i in everyone if i % 4 == 3]
            return cls([i for i in everyone if i % 4 != 3], choose, choose)
        fit = [i for i in everyone if i % 2 == 0][:64]
        rest = [i for i in everyone if i not in set(fit)]
        return cls(fit, rest[::2], rest[1::2])


@dataclass(frozen=True)
class Refined:
    """A refined table and the squared errors of its final samples, (M,), NaN where a pair was not run."""

    table: Table
    errors: Vector


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
    plain: Sequence[Table] = (),
    advance: Callable[[str], None] = lambda note: None,
) -> Refined:
    """The best table that `effort` finds, by mean and 5 % worst of pairs that it was not fitted on.

    Args:
        recorded: the states to reach.
        evaluator: the network.
        candidates: step sets, the most promising first.
        effort: what it may cost.
        plain: further tables: plain samplers, which the result is never behind on the choosing pairs.
        advance: called with a note after every table.
    """
    found = _Refinement(recorded, evaluator, effort, advance).run(candidates, plain)
    missing = [pair for pair in Split.of(len(recorded)).judge if np.isnan(found.errors[pair])]
    if missing:
        found.errors[missing] = final_errors(found.table, evaluator, recorded.trajectory[:, -1].float(), missing)
    return found


class _Refinement:
    def __init__(
        self, recorded: Recorded, evaluator: Evaluator, effort: Effort, advance: Callable[[str], None]
    ) -> None:
        self.recorded, self.evaluator, self.effort, self.advance = recorded, evaluator, effort, advance
        self.split = Split.of(len(recorded))
        self.trajectory = recorded.trajectory.float()
        self.begun, self.sweeps = evaluator.evaluations, 0

    def run(self, candidates: Sequence[Steps], plain: Sequence[Table]) -> Refined:
        closed = {steps: self.closed(steps) for steps in candidates[: self.effort.candidates]}
        samplers = [self.chosen_by(table) for table in plain]
        self.move(closed)
        ranked = sorted([*closed.values(), *samplers], key=self.score, reverse=True)
        if not self.effort.sweeps or len(ranked[0].table.steps) == 1:
            return ranked[0]
        starts = [found for start in ranked[: self.effort.starts] if (found := self.swept(start)) is not None]
        best = max([ranked[0], *starts], key=self.score)
        idle = 0
        while idle < PATIENCE and (found := self.swept(best)) is not None:
            idle = 0 if self.score(found) - self.score(best) >= ENOUGH else idle + 1
            best = max(best, found, key=self.score)
        return best

    def move(self, closed: dict[Steps, Refined]) -> None:
        """Close further sets, each the best so far with one of its steps moved: far moves first, then near ones."""
        left = self.effort.moves
        for distance in (4, 2, 1):
            moved = True
            while moved:
                best = max(closed, key=lambda steps: self.score(closed[steps]))
                moved = False
                for steps in neighbours(best, distance, len(self.recorded.timesteps)):
                    if steps in closed:
                        continue
                    if not left or not self.affords(len(steps) * len(self.recorded), MOVING):
                        return
                    closed[steps] = self.closed(steps)
                    left -= 1
                    if self.score(closed[steps]) > self.score(closed[best]):
                        moved = True
                        break

    def affords(self, evaluations: int, share: float = 1.0) -> bool:
        """Whether so many evaluations more stay within a share of what the refinement may cost."""
        spent = self.evaluator.evaluations - self.begun + evaluations
        return spent <= share * self.effort.generations * len(self.recorded.timesteps) * len(self.recorded)

    def score(self, found: Refined) -> float:
        """What the choosing pairs say, in dB: mean and 5 % worst together."""
        errors = np.maximum(self.recorded.gain[self.split.choose] * found.errors[self.split.choose], 1e-30)
        rising = np.sort(-10 * np.log10(errors))
        value = float((1 - WORST) * rising.mean() + WORST * worst_twentieth(rising).mean())
        return value if math.isfinite(value) else -math.inf  # a run that overflowed compares with nothing

    def chosen_by(self, table: Table, note: str = "") -> Refined:
        """A table with its errors on the choosing pairs."""
        errors = np.full(len(self.recorded), np.nan)
        errors[self.split.choose] = final_errors(table, self.evaluator, self.trajectory[:, -1], self.split.choose)
        found = Refined(table, errors)
        self.advance(f"{note or table.label}: {self.score(found):.2f} dB")
        return found

    def closed(self, steps: Steps) -> Refined:
        """The rows of a step set, closed."""
        times, scale = self.recorded.timesteps[list(steps)], self.recorded.scale[list(steps)]
        found = Refined(*close(steps, times, scale, self.evaluator, self.trajectory, self.split.fit))
        self.advance(f"{steps}: {self.score(found):.2f} dB")
        return found

    def swept(self, start: Refined) -> Refined | None:
        """The best of the damped joint steps from a table; None where sweeps are used up or would cost too much."""
        table, fit = start.table, self.split.fit
        count = min(self.effort.sweep_pairs or len(fit), len(fit))
        free = self.effort.free_timesteps and not self.evaluator.coarse  # half precision rounds such differences away
        tried = len(DAMPINGS) * len(SHARES) * len(table.steps) * len(self.split.choose)
        cost = sweep_evaluations(len(table.steps), timesteps=free) * count + tried
        if self.sweeps == self.effort.sweeps or not self.affords(cost):
            return None
        pairs = [fit[(self.sweeps * count + i) % len(fit)] for i in range(count)]
        self.sweeps += 1
        difference = TIMESTEP_CHANGE * float(np.ptp(self.recorded.timesteps)) if free else None
        local = linearise(table, self.evaluator, self.trajectory[:, -1], pairs, timestep_change=difference)
        note = f"sweep {self.sweeps}"
        return max(
            (
                self.chosen_by(local.applied(table, share * local.step(damping, self.effort.power)), note)
                for damping in DAMPINGS
                for share in SHARES
            ),
            key=self.score,
        )


def neighbours(steps: Steps, distance: int, count: int) -> Iterator[Steps]:
    """The sets with one step, other than the first, so far away from where it is, the last step first."""
    for k in range(len(steps) - 1, 0, -1):
        for place in (steps[k] - distance, steps[k] + distance):
            if 0 < place < count and place not in steps:
                yield tuple(sorted((*steps[:k], place, *steps[k + 1 :])))
