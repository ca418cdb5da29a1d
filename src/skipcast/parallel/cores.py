"""CHORDS: cores that start at different steps of one trajectory, and correct one another."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from skipcast.forecasters import LinearForecaster, Reuse
from skipcast.grid import Vector
from skipcast.history import History
from skipcast.parallel.schedule import Schedule
from skipcast.plans.plan import Plan

Matrix = NDArray[np.float64]
#: (step, output there, sample there) -> the sampler's next sample.
Fine = Callable[[int, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Answer:
    """A final sample; the last one of a run is the sequential sampler's.

    Args:
        samples: (M, *shape), of the noise's kind; of a pipeline its final latents.
        core: whose answer it is, 0 the exact one; None for the jump from the last start.
        rounds: evaluations that were made one after the other until then, the wall clock of one device per core.
        evaluations: network calls of all cores until then.
        change: root mean square of the difference to the answer before, relative to that of this one, (M,): an
            estimate of the error of the one before. None for the first.
        output: what the pipeline returned, of the answer that its call ended with.
    """

    samples: Any
    core: int | None
    rounds: int
    evaluations: int
    change: Tensor | None = None
    output: Any = None


class Call(NamedTuple):
    """An evaluation that a run waits for: of the sample x at a step of the grid, told this timestep."""

    x: Tensor
    step: int
    timestep: float


@dataclass(frozen=True, eq=False)
class Coarse:
    """How cores jump over steps.

    From start to start the outputs between are forecast, and the sampler takes its own steps on them; or a plan's rows
    lead there. A correction compares two jumps, which hold the newest output as published: over a correction outputs
    are not smooth, and forecasts from both sides of it make answers worse.

    Args:
        rows: (1 + a, b) of every step of the sampler, x <- (1 + a) x + b y, (N, 2).
        timesteps: of the grid, (N,).
        taus: coordinate of every step, (N,).
        forecaster: of the outputs between starts; `Reuse` holds the newest, which is Euler's jump of a flow and DDIM's
            of a noise prediction.
        plan: whose rows lead from start to start instead, told its own timesteps.
    """

    rows: Matrix
    timesteps: Vector
    taus: Vector
    forecaster: LinearForecaster
    plan: Plan | None = None

    def held(self, begin: int, end: int) -> Vector:
        """Weights on the sample and the output at `begin`, to reach `end` with this output held: (2,)."""
        return self._over((begin,), end, Reuse())

    def lead(self, starts: Sequence[int], end: int) -> Vector:
        """Weights on the sample at the newest of the first starts, and on the newest outputs, to reach `end`."""
        place = len(starts) - 1
        if self.plan is None or (*self.plan.steps, self.plan.origin.steps)[place + 1] != end:
            return self._over(starts, end, self.forecaster)
        row = self.plan.rows[place].copy()
        row[0] += 1.0
        return row

    def _over(self, steps: Sequence[int], end: int, forecaster: LinearForecaster) -> Vector:
        kept = [step for step in steps if step >= forecaster.start] or [steps[-1]]
        kept = kept[-forecaster.window :]
        nodes, weights = self.taus[kept], np.zeros(1 + len(kept))
        weights[0] = 1.0
        for step in range(steps[-1], end):
            guess = np.eye(len(kept))[-1] if step == steps[-1] else forecaster.weights(nodes, float(self.taus[step]))
            weights *= self.rows[step, 0]
            weights[1:] += self.rows[step, 1] * guess
        return weights

    def told(self, place: int, step: int) -> float:
        """What the network is told at the start of this place."""
        times = self.timesteps if self.plan is None else self.plan.evaluation_timesteps
        return float(times[step if self.plan is None else place])


class Within:
    """Mail of one process."""

    def __init__(self) -> None:
        self._box: dict[int, Tensor] = {}

    def send(self, core: int, value: Tensor) -> None:
        """Give a value to a core."""
        self._box[core] = value

    def receive(self, core: int, like: Tensor) -> Tensor:
        """Take the value that a core sent."""
        return self._box.pop(core + 1)


class Neighbours:
    """Mail over `torch.distributed`, where every process is a core."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self._pending: list[tuple[Any, Tensor]] = []

    def send(self, core: int, value: Tensor) -> None:
        """Give a value to a core, without waiting for it."""
        value = value.contiguous()
        work = dist.isend(value, dist.get_global_rank(self._group, core), self._group)
        self._pending = [(one, kept) for one, kept in self._pending if not one.is_completed()] + [(work, value)]

    def receive(self, core: int, like: Tensor) -> Tensor:
        """Wait for a core's value."""
        value = torch.empty_like(like, memory_format=torch.contiguous_format)
        dist.recv(value, dist.get_global_rank(self._group, core), self._group)
        return value

    def finish(self) -> None:
        """Wait until all is received."""
        for work, _ in self._pending:
            work.wait()


class Core:
    """The state of one core.

    Args:
        number: k.
        schedule: of all cores.
        coarse: how it jumps.
        fine: the sampler's step.
        x: the noise.
        mail: to and from its neighbours; receives by the number of the sender, sends by that of the receiver.
        limit: rounds after which all cores stop.
    """

    def __init__(
        self,
        number: int,
        schedule: Schedule,
        coarse: Coarse,
        fine: Fine,
        x: Tensor,
        mail: Within | Neighbours,
        limit: int,
    ) -> None:
        self.number, self.schedule, self.coarse, self.fine, self.mail = number, schedule, coarse, fine, mail
        self.x, self.round, self.guess = x, 0, x
        self.history = History(len(schedule))
        self._course = schedule.course(number)
        self._received = {one.round: one for one in schedule.corrections(number) if one.round < limit}
        self._arrivals = {one.begin: one.arrival for one in self._received.values()}
        after = schedule.corrections(number + 1) if number + 1 < len(schedule) else ()
        self._sent = {one.round: one for one in after if one.round < limit}

    @property
    def call(self) -> Call:
        """What it evaluates next."""
        step = self._course[self.round]
        leads = self.round < self.number
        return Call(self.x, step, self.coarse.told(self.round, step) if leads else float(self.coarse.timesteps[step]))

    @property
    def done(self) -> bool:
        """Whether its sample is the answer."""
        return self.round == len(self._course)

    def advance(self, y: Tensor) -> None:
        """Take the output of its call, and move on by one step; or to the next start, before its own."""
        place, step = self.round, self._course[self.round]
        if place <= self.number:  # what jumps from start to start weigh
            self.history.push(step, float(step), y)
        if place < self.number:
            self.x = self._moved(self.coarse.lead(self._course[: place + 1], self._course[place + 1]))
        else:
            if place == self.number == len(self.schedule) - 1:
                self.guess = self._moved(self.coarse.lead(self.schedule.starts, self.schedule.steps))
            if step in self._arrivals:
                self._own = self._jumped(step, y, self._arrivals[step])
            if place in self._sent:
                self.mail.send(self.number + 1, self._jumped(step, y, self._sent[place].arrival))
            self.x = self.fine(step, y, self.x)
            if place in self._received:
                self.x = self.x + (self.mail.receive(self.number - 1, self.x) - self._own).to(self.x.dtype)
        self.round += 1

    def _jumped(self, begin: int, y: Tensor, end: int) -> Tensor:
        of_x, of_y = self.coarse.held(begin, end).tolist()
        moved: Tensor = (self.x * of_x).add_(y, alpha=of_y)
        return moved

    def _moved(self, weights: Vector) -> Tensor:
        return self.x * float(weights[0]) + self.history.combine(weights[1:])


Run = Generator[Call | Answer, Tensor | None, None]


def together(schedule: Schedule, coarse: Coarse, fine: Fine, x: Tensor, limit: int) -> Run:
    """All cores in one process, round by round: yields calls, is sent their outputs, and yields answers between."""
    mail, last = Within(), len(schedule) - 1
    lead = Core(last, schedule, coarse, fine, x, mail, limit)
    cores: list[Core] = []
    before: Tensor | None = None
    evaluations = 0
    for place in range(limit):
        if place < last:
            made = Core(place, schedule, coarse, fine, lead.x, mail, limit)
            made.round = place
            cores.append(made)
        elif place == last:
            cores.append(lead)
        for core in cores:
            if core.done:
                continue
            call = core.call
            y = yield call
            evaluations += 1
            assert y is not None
            core.advance(y)
            if core.number == place < last:
                if lead.call.timestep != call.timestep:
                    y = yield lead.call
                    evaluations += 1
                    assert y is not None
                lead.advance(y)
        if place == last:
            before = lead.guess
            yield Answer(before, None, place + 1, evaluations)
        for core in reversed(cores):
            if core.done and schedule.rounds(core.number) == place + 1:
                yield Answer(core.x, core.number, place + 1, evaluations, change(core.x, before))
                before = core.x


def apart(number: int, schedule: Schedule, coarse: Coarse, fine: Fine, x: Tensor, mail: Neighbours, limit: int) -> Run:
    """One core of many processes; as `together`, with its own answers alone.

    Raises:
        ValueError: the processes have not begun with the same noise.
    """
    own = torch.stack([x.double().sum(), x.double().square().sum()])
    if number + 1 < len(schedule):
        mail.send(number + 1, own)
    if number and not torch.allclose(mail.receive(number - 1, own), own, rtol=1e-9):
        raise ValueError(
            f"chords(...): the noise of core {number} is not that of core {number - 1}; seed all processes alike."
        )
    core = Core(number, schedule, coarse, fine, x, mail, limit)
    while not core.done and core.round < limit:
        y = yield core.call
        assert y is not None
        core.advance(y)
        if core.round == len(schedule) == number + 1:
            yield Answer(core.guess, None, core.round, schedule.evaluations(core.round))
    if core.done:
        if number and schedule.rounds(number - 1) <= limit:
            mail.send(number - 1, core.x)
        before = mail.receive(number + 1, core.x) if number + 1 < len(schedule) else core.guess
        yield Answer(core.x, number, core.round, schedule.evaluations(core.round), change(core.x, before))
    mail.finish()


def change(x: Tensor, before: Tensor | None) -> Tensor | None:
    """||x - before|| / ||x|| of every sample, (M,)."""
    if before is None:
        return None
    moved: Tensor = (x - before).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    return moved
