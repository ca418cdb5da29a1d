"""Refinement: step sets closed on the pipeline and moved, the best tables' numbers moved together, all validated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from skipcast.checks import Checked
from skipcast.grid import Vector
from skipcast.plans.closed_loop import Evaluator, Local, Table, close, final_errors, linearise, sweep_evaluations
from skipcast.plans.open_loop import Steps
from skipcast.plans.plan import worst_twentieth

#: Damping of the joint step, relative to the diagonal of its normal matrix, and shares of it; the pairs try all.
DAMPINGS = (1e-4, 1e-2)
SHARES = (1.0, 0.5, 0.25)
#: Weight of the worst in what the choosing pairs judge by: (1 - w) mean + w mean of the worst twentieth, in dB, ...
WORST = 0.25
#: ... or of so many of the worst, where a twentieth are fewer: one or two pairs are luck.
LEAST = 4
#: Differences in the timestep, as a share of the range of the timesteps.
TIMESTEP_CHANGE = 2e-3
#: Share of the cost that closing sets may take, which leaves the rest for sweeps.
MOVING = 0.4
#: Sweeps of a table end when so many in a row, each on other pairs, gained less than so many dB.
PATIENCE, ENOUGH = 2, 0.05
#: A table that is so many dB behind another one's end after `PATIENCE` sweeps gets no more.
BEHIND = 1.0

#: Told a note, such as the newest table, and the share of the most that the work may cost that is spent.
Advance = Callable[[str, float], None]


@dataclass(frozen=True)
class Effort(Checked):
    """How much a refinement may cost.

    Args:
        candidates: step sets whose loop is closed to begin with.
        moves: further sets, each the best so far with one step moved, whose loop is closed.
        starts: tables, the best on the choosing pairs, that joint sweeps begin from.
        sweeps: joint Gauss-Newton sweeps over all rows and timesteps at most; they end where they stop helping.
        sweep_pairs: pairs of every group that one sweep linearises on, taken in turn; None for all fitted ones. A group
            has numbers of its own, so that fewer pairs would not determine them.
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
    power: float = 0.0
    free_timesteps: bool = True

    def evaluations(self, evaluations: int, steps: int, pairs: int, groups: int = 1) -> int:
        """Network evaluations that a plan of m evaluations of N steps may take at most, on so many pairs in groups."""
        m, tried, image = evaluations, len(DAMPINGS) * len(SHARES), self.sweeps > 0  # decoding costs one more
        sweep = sweep_evaluations(range(m)) * min((self.sweep_pairs or pairs) * groups, pairs)
        sweep += tried * (m + image) * pairs
        sets = self.candidates + self.moves + _PLAIN  # the loop in several calls takes up to two per evaluation
        whole = sets * (2 * m + image) * pairs + self.sweeps * sweep
        return int(min(whole, max(self.generations * steps * pairs, 2 * (self.candidates + _PLAIN) * m * pairs)))


#: "low" costs m evaluations per pair and candidate.
EFFORTS = {
    "low": Effort(),
    "normal": Effort(candidates=4, moves=8, sweeps=4, sweep_pairs=24, generations=15),
    "high": Effort(candidates=6, moves=40, starts=3, sweeps=16, sweep_pairs=32, generations=40),
}
#: Samplers and extrapolated outputs that compete, at most.
_PLAIN = 11


@dataclass(frozen=True)
class Split:
    """The pairs of a recording by their use: rows are fitted on some, tables chosen by others, and judged by a third.

    Below 32 pairs the chosen table is judged by the pairs that chose it, below 4 by those that it was fitted on.
    """

    fit: list[int]
    choose: list[int]
    judge: list[int]

    @classmethod
    def of(cls, pairs: int | Sequence[int]) -> Split:
        """Of these pairs, or of so many; what is recorded beyond 96 fitted ones goes to choosing and judging."""
        everyone = list(range(pairs)) if isinstance(pairs, int) else list(pairs)
        if len(everyone) < 4:
            return cls(everyone, everyone, everyone)
        if len(everyone) < 32:
            choose = everyone[3::4]
            return cls([pair for i, pair in enumerate(everyone) if i % 4 != 3], choose, choose)
        fit = everyone[::2][:96]
        rest = [pair for pair in everyone if pair not in set(fit)]
        return cls(fit, rest[::2], rest[1::2])

    @classmethod
    def joined(cls, splits: Iterable[Split]) -> Split:
        """All pairs of several."""
        each = list(splits)
        uses = ([pair for split in each for pair in getattr(split, use)] for use in ("fit", "choose", "judge"))
        return cls(*uses)


@dataclass(frozen=True)
class Refined:
    """Refined tables on the same steps.

    Args:
        tables: one per group of pairs.
        errors: squared errors of the final samples, (M,), NaN where a pair was not run.
        locals: what sweeps have found around each table; () before the first.
    """

    tables: tuple[Table, ...]
    errors: Vector
    locals: tuple[Local, ...] = ()

    @property
    def steps(self) -> Steps:
        """The evaluated ones."""
        return self.tables[0].steps

    @property
    def cost(self) -> float:
        """Network evaluations of one run."""
        return self.tables[0].cost


@dataclass(frozen=True)
class Recorded:
    """What a refinement needs of a profile of M pairs.

    Args:
        trajectory: the states to reach, (M, N + 1, *shape).
        gain: squared error of the decoded image over that of the final sample, (M,).
        timesteps: of the N steps, (N,).
        scale: factors of the network's input, (N,).
        groups: pairs that get a table of their own on the common steps, by the value that sets them apart; by default
            all pairs share one.
        branches: of tables of passes, as in `Table`; the step sets are then those of passes.
    """

    trajectory: Tensor
    gain: Vector
    timesteps: Vector
    scale: Vector
    groups: Mapping[float, Sequence[int]] | None = None
    branches: str = ""

    def __len__(self) -> int:
        return len(self.gain)

    @property
    def shared_out(self) -> list[list[int]]:
        """The pairs of every group."""
        return [list(pairs) for pairs in (self.groups or {0.0: range(len(self))}).values()]


def refine(
    recorded: Recorded,
    evaluator: Evaluator,
    candidates: Iterable[Steps],
    effort: Effort,
    *,
    plain: Sequence[Table] = (),
    start: Sequence[Table] = (),
    advance: Advance = lambda note, share: None,
) -> Refined:
    """The best tables that `effort` finds, by mean and 5 % worst of pairs that they were not fitted on.

    Args:
        recorded: the states to reach.
        evaluator: the network.
        candidates: step sets, the most promising first; as many as `effort` closes are asked for, and repeated ones
            skipped.
        effort: what it may cost.
        plain: further tables: plain samplers, which the result is never behind on the choosing pairs.
        start: tables to go on from, one for each group of pairs, which it is never behind either.
        advance: called after every table.
    """
    return _Refinement(recorded, evaluator, effort, advance).run(candidates, plain, start)


class _Refinement:
    def __init__(self, recorded: Recorded, evaluator: Evaluator, effort: Effort, advance: Advance) -> None:
        self.recorded, self.evaluator, self.effort, self.told = recorded, evaluator, effort, advance
        self.groups = [Split.of(pairs) for pairs in recorded.shared_out]
        self.split = Split.joined(self.groups)
        self.trajectory = recorded.trajectory.float()
        self.begun, self.sweeps = evaluator.evaluations, 0
        # Tables are judged by what the decoder makes of their errors; a pair's gain is that of one direction alone.
        self.images = effort.sweeps > 0 and getattr(evaluator, "decodes", False)
        self.gain = np.ones(len(recorded)) if self.images else recorded.gain

    def run(self, candidates: Iterable[Steps], plain: Sequence[Table], start: Sequence[Table]) -> Refined:
        given = [self.chosen_by((table,) * len(self.groups)) for table in plain]
        given += [self.chosen_by(start)] if start else []
        closed, left = dict[Steps, Refined](), iter(candidates)
        while len(closed) < self.effort.candidates and (steps := next(left, None)) is not None:
            if steps not in closed:
                closed[steps] = self.closed(steps)
        if closed:
            self.move(closed)
        ranked = sorted([*closed.values(), *given], key=self.score, reverse=True)
        best, swept = ranked[0], {ranked[0].steps}
        if self.effort.sweeps and len(best.steps) > 1:
            best = self.polished(best)
            for other in ranked[1 : self.effort.starts]:
                best = max(best, self.polished(other, best), key=self.score)
                swept.add(other.steps)
            while (beside := self.neighbour(best, closed, swept)) is not None:
                swept.add(beside.steps)
                best = max(best, self.polished(beside, best), key=self.score)
        for table, split in zip(best.tables, self.groups, strict=True):
            missing = [pair for pair in split.judge if np.isnan(best.errors[pair])]
            if missing:
                best.errors[missing] = self.errors(table, missing)
        return replace(best, errors=best.errors * self.gain / np.maximum(self.recorded.gain, 1e-30))

    def move(self, closed: dict[Steps, Refined]) -> None:
        """Close further sets, each the best so far with one of its steps moved: far moves first, then near ones."""
        left, extra = self.effort.moves, self.images * len(self.split.choose)
        for distance in (4, 2, 1):
            moved = True
            while moved:
                best = max(closed, key=lambda steps: self.score(closed[steps]))
                moved = False
                for steps in self.neighbours(best, distance):
                    if steps in closed:
                        continue
                    if not left or not self.affords(closed[best].cost * self.run_along + extra, MOVING):
                        return
                    closed[steps] = self.closed(steps)
                    left -= 1
                    if self.score(closed[steps]) > self.score(closed[best]):
                        moved = True
                        break

    def neighbour(self, best: Refined, closed: dict[Steps, Refined], swept: set[Steps]) -> Refined | None:
        """The best closed set that has not been swept and differs from the best swept one in one step, by one place."""
        beside = [steps for steps in self.neighbours(best.steps, 1) if steps in closed and steps not in swept]
        found = max((closed[steps] for steps in beside), key=self.score, default=None)
        return found if self.effort.starts > 1 else None

    def neighbours(self, steps: Steps, distance: int) -> Iterator[Steps]:
        """Sets that differ a little; far ones from sets of passes in which steps have both branches, too."""
        return neighbours(steps, distance, len(self.recorded.timesteps), passes=bool(self.recorded.branches))

    def advance(self, note: str, found: Refined) -> None:
        size = len(self.recorded.timesteps), len(self.recorded), len(self.groups)
        most = self.effort.evaluations(math.ceil(found.cost), *size)
        self.told(note, min(1.0, (self.evaluator.evaluations - self.begun) / most))

    @property
    def run_along(self) -> int:
        """Pairs that a closed loop takes."""
        return len({*self.split.fit, *self.split.choose})

    def affords(self, evaluations: float, share: float = 1.0) -> bool:
        """Whether so many evaluations more stay within a share of what the refinement may cost."""
        spent = self.evaluator.evaluations - self.begun + evaluations
        return spent <= share * self.effort.generations * len(self.recorded.timesteps) * len(self.recorded)

    def score(self, found: Refined) -> float:
        """What the choosing pairs say, in dB: mean and worst together, each group as much as the others."""
        return float(np.mean([self.scored(split, found.errors[split.choose]) for split in self.groups]))

    def scored(self, split: Split, errors: Vector) -> float:
        """What the choosing pairs of a group say of squared errors of theirs, in dB."""
        rising = np.sort(-10 * np.log10(np.maximum(self.gain[split.choose] * errors, 1e-30)))
        worst = rising[: max(LEAST, len(worst_twentieth(rising)))]
        value = float((1 - WORST) * rising.mean() + WORST * worst.mean())
        return value if math.isfinite(value) else -math.inf  # a run that overflowed compares with nothing

    def chosen_by(self, tables: Sequence[Table]) -> Refined:
        """Tables, one for each group, with their errors on the choosing pairs."""
        errors = np.full(len(self.recorded), np.nan)
        uses = [(table, split.choose) for table, split in zip(tables, self.groups, strict=True)]
        if all(table is tables[0] for table in tables):  # one call for all
            uses = [(tables[0], self.split.choose)]
        for table, pairs in uses:
            errors[pairs] = self.errors(table, pairs)
        found = Refined(tuple(tables), errors)
        self.advance(f"{tables[0].label}: {self.score(found):.2f} dB", found)
        return found

    def errors(self, table: Table, pairs: Sequence[int]) -> Vector:
        """Squared errors of the final samples, from running a table."""
        return final_errors(table, self.evaluator, self.trajectory[:, -1], pairs, images=self.images)

    def closed(self, steps: Steps) -> Refined:
        """The rows of a step set, closed group by group."""
        times, scale = self.recorded.timesteps[list(steps)], self.recorded.scale[list(steps)]
        tables, errors = list[Table](), np.full(len(self.recorded), np.nan)
        for split in self.groups:
            pairs, how = (split.fit, split.choose), {"branches": self.recorded.branches, "images": self.images}
            table, some = close(steps, times, scale, self.evaluator, self.trajectory, *pairs, **how)  # type: ignore[arg-type]
            tables.append(table)
            errors = np.where(np.isnan(some), errors, some)
        found = Refined(tuple(tables), errors)
        self.advance(f"{steps}: {self.score(found):.2f} dB", found)
        return found

    def polished(self, start: Refined, rival: Refined | None = None) -> Refined:
        """Tables after sweeps, as many as help; given up early where they stay behind a rival."""
        best, idle, count = start, 0, 0
        while idle < PATIENCE and (found := self.swept(best)) is not None:
            idle = 0 if self.score(found) - self.score(best) >= ENOUGH else idle + 1
            best, count = found, count + 1
            if rival is not None and count == PATIENCE and self.score(best) < self.score(rival) - BEHIND:
                break
        return best

    def swept(self, start: Refined) -> Refined | None:
        """The best of the damped joint steps from each table, or the table itself.

        What earlier sweeps found on other pairs counts as well: a quadratic is moved along with its table. None where
        sweeps are used up or would cost too much.
        """
        number, kind = self.sweeps, start.tables[0]
        shares = [min(self.effort.sweep_pairs or len(split.fit), len(split.fit)) for split in self.groups]
        free = self.effort.free_timesteps and not self.evaluator.coarse  # half precision rounds such differences away
        tried = len(DAMPINGS) * len(SHARES) * (kind.cost + self.images) * len(self.split.choose)
        cost = sweep_evaluations(kind.steps, kind.branches, timesteps=free) * sum(shares) + tried
        if number == self.effort.sweeps or not self.affords(cost):
            return None
        self.sweeps += 1
        difference = TIMESTEP_CHANGE * float(np.ptp(self.recorded.timesteps)) if free else None
        tables, errors, found = list[Table](), np.full(len(self.recorded), np.nan), list[Local]()
        for g, (table, split) in enumerate(zip(start.tables, self.groups, strict=True)):
            count = shares[g]
            pairs = [split.fit[(number * count + i) % len(split.fit)] for i in range(count)]
            local = linearise(table, self.evaluator, self.trajectory[:, -1], pairs, timestep_change=difference)
            local = local.joined(start.locals[g] if start.locals else None)
            known = start.errors[split.choose]
            options = [(self.scored(split, known), table, known, local)]
            for damping in DAMPINGS:
                for share in SHARES:
                    step = share * local.step(damping, self.effort.power)
                    moved = local.applied(table, step)
                    some = self.errors(moved, split.choose)
                    options.append((self.scored(split, some), moved, some, local.moved(step)))
            value, table, errors[split.choose], local = max(options, key=lambda option: option[0])
            tables.append(table)
            found.append(local)
            self.advance(f"sweep {number + 1}: {value:.2f} dB", start)
        return Refined(tuple(tables), errors, tuple(found))


def neighbours(steps: Steps, distance: int, count: int, *, passes: bool = False) -> Iterator[Steps]:
    """The sets with one step, other than the first, so far away from where it is, the last step first.

    Of passes: a step is moved with all its passes; a second pass goes to the step before or behind, or makes room for a
    new step in the widest gap; or a step with one pass is left out for a second pass of a step beside it.
    """
    distinct = sorted(set(steps))
    both = {step for step in distinct if steps.count(step) > 1}
    for k in range(len(distinct) - 1, 0, -1):
        for place in (distinct[k] - distance, distinct[k] + distance):
            if 0 < place < count and place not in distinct:
                moved = [*distinct[:k], place, *distinct[k + 1 :]]
                again = [place if step == distinct[k] else step for step in both]
                yield tuple(sorted((*moved, *again)))
    if not passes:
        return
    widest, start = max((b - a, a) for a, b in zip(distinct, [*distinct[1:], count], strict=True))
    for k in range(len(distinct) - 1, -1, -1):
        beside = [distinct[j] for j in (k - 1, k + 1) if 0 <= j < len(distinct) and distinct[j] not in both]
        if distinct[k] in both:
            rest = both - {distinct[k]}
            yield from (tuple(sorted((*distinct, *rest, other))) for other in beside)
            if widest > 1 and rest:
                yield tuple(sorted((*distinct, *rest, start + widest // 2)))
        elif k:
            others = [*distinct[:k], *distinct[k + 1 :]]
            yield from (tuple(sorted((*others, *both, other))) for other in beside)
