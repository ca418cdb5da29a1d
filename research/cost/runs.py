"""Runs of the denoising loop under a clock, and what they come to."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

from research.cost.memory import Held, allocated, clear
from research.cost.models import Pipe
from research.cost.rows import Enabled, NotMeasured, Request, Row, predicted

Note = Callable[[str], None]


class Clock:
    """Seconds between marks: the wall's on a CPU, on CUDA those of the stream, read when all is done."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        self._marks: list[Any] = []

    def mark(self) -> None:
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def pairs(self) -> list[float]:
        """Seconds from every odd mark to the even one after it."""
        begun, ended = self._marks[::2], self._marks[1::2]
        if self.cuda:
            return [a.elapsed_time(b) / 1000 for a, b in zip(begun, ended, strict=True)]
        return [b - a for a, b in zip(begun, ended, strict=True)]


@dataclass
class Loop:
    """One run: seconds of the whole loop, seconds of the denoiser calls of every step, and the final latents."""

    seconds: float
    steps: list[float]
    latents: Tensor


@torch.no_grad()
def run(enabled: Enabled, steps: int, device: str, after: Callable[[], None] = lambda: None) -> Loop:
    """The denoising loop: for every step the denoiser calls, guidance, and the scheduler."""
    pipe = enabled.pipe
    enabled.begin()
    scheduler = pipe.scheduler
    scheduler.set_timesteps(steps, device=pipe.noise.device)
    scheduler.set_begin_index(0)
    x, clock = pipe.noise, Clock(device)
    clock.wait()
    begun = time.perf_counter()
    for step, t in enumerate(scheduler.timesteps):
        enabled.before(step)
        clock.mark()
        found = [pipe.call(name, x, t, step, steps) for name in pipe.branches]
        clock.mark()
        y = found[0] if len(found) == 1 else torch.lerp(found[1], found[0], 5.0)
        x = scheduler.step(y, t, x, return_dict=False)[0]
        del found, y  # what is alive now is what somebody keeps
        after()
    clock.wait()
    return Loop(time.perf_counter() - begun, clock.pairs(), x)


@dataclass
class Seen:
    """What a run does besides taking time.

    Args:
        evaluated: the steps at which the middle of the network ran, for whichever branch.
        ran: how often it ran, by the number of branches.
        calls: steps at which the denoiser was called at all; fewer with a plan.
        held: CPU: most bytes alive between two steps. CUDA: peak of the allocator, without what was there before.
        held_by_method: what the library predicts for its own.
    """

    evaluated: list[int]
    ran: float
    calls: int
    held: int
    latents: Tensor = field(repr=False)
    predicted: int | None = None


def look(enabled: Enabled, steps: int, device: str) -> Seen:
    """A run outside the clock that counts evaluations and memory; it warms the row up, too."""
    evaluated: list[int] = []
    step = most = times = 0
    cuda = device.startswith("cuda")
    gc.collect()
    counter = None if cuda else Held()
    before = 0
    if cuda:
        clear(device)
        before = torch.cuda.memory_allocated(device)

    def ran(*_: Any) -> None:
        nonlocal times
        times += 1
        if step not in evaluated:
            evaluated.append(step)

    def after() -> None:
        nonlocal step, most
        step += 1
        if counter is not None:
            most = max(most, counter.bytes())

    hook = enabled.pipe.witness().register_forward_pre_hook(ran)
    try:
        with counter or nullcontext():
            loop = run(enabled, steps, device, after)
    finally:
        hook.remove()
    if cuda:
        most = allocated(device) - before
    return Seen(evaluated, times / len(enabled.pipe.branches), step, most, loop.latents, predicted(enabled, steps))


@dataclass
class Measured:
    """A row of the record; figures of runs are medians over the repeats.

    Args:
        name, label, seam, configured, whose: of the row.
        reason: why it was not measured; then nothing else is there.
        evaluated: steps evaluated.
        ran: evaluations of the network, by the number of branches: as many, unless branches were treated differently.
        steps: of the run.
        loop: seconds of the denoising loop.
        ratio: of the plain run's seconds to it, in the same round.
        spread: least and most of that ratio over the rounds.
        evaluation: seconds of an evaluated step's denoiser calls.
        forecast: seconds of a forecast step's; None without such steps.
        forecast_share: forecast / evaluation of the same run.
        evaluation_share: evaluation / that of the plain run in the same round.
        memory: bytes held beyond the plain run's.
        predicted: what the library predicts.
    """

    name: str
    label: str
    seam: str
    configured: str
    whose: str
    reason: str | None = None
    evaluated: list[int] = field(default_factory=list)
    ran: float = 0.0
    steps: int = 0
    loop: float | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    evaluation: float | None = None
    forecast: float | None = None
    forecast_share: float | None = None
    evaluation_share: float | None = None
    memory: int | None = None
    predicted: int | None = None

    @property
    def ideal(self) -> float:
        """N / evaluations."""
        return self.steps / self.ran

    @property
    def of_ideal(self) -> float | None:
        """Share of what the evaluations saved could give."""
        return None if self.ratio is None else self.ratio / self.ideal


#: A counted run of a row, and the plain run it is compared with.
Pair = tuple[Loop, Loop]


def measure(
    pipe: Pipe,
    rows: Sequence[Row],
    request: Request,
    repeats: int,
    device: str,
    *,
    compiled: bool = False,
    between: int = 3,
    note: Note = lambda note: None,
) -> list[Measured]:
    """All rows, of which the first is the plain run.

    Uncompiled, the rows take turns within every round, `between` of them from one plain run to the next, and each is
    compared with the plain runs on both sides. Compiled, the runs of a row follow each other, because switching a row
    on or off compiles the blocks anew; plain runs stand before and after all others.
    """
    seen: dict[str, Seen] = {}
    reasons: dict[str, str] = {}
    for row in rows:
        try:
            with row.enable(pipe.fresh(), request) as enabled:
                seen[row.name] = look(enabled, request.steps, device)
            note(f"{row.name}: evaluated {seen[row.name].ran:g} of {request.steps}")
        except NotMeasured as reason:
            reasons[row.name] = str(reason)
            note(f"{row.name}: not measured: {reason}")
    timed = [row for row in rows if row.name in seen]
    if compiled:
        pairs = _compiled(pipe, timed, request, repeats, device, note)
    else:
        pairs = _in_turn(pipe, timed, request, repeats, device, between, note)
    held = seen[rows[0].name].held
    return [
        _measured(row, request, seen[row.name], held, pairs[row.name])
        if row.name in seen
        else Measured(row.name, row.label, row.seam, row.configured, row.whose, reasons[row.name])
        for row in rows
    ]


def _in_turn(
    pipe: Pipe, rows: Sequence[Row], request: Request, repeats: int, device: str, between: int, note: Note
) -> dict[str, list[Pair]]:
    """Runs of all rows in turn, nobody always first; the first round is not counted."""
    plain, *others = rows
    pairs: dict[str, list[Pair]] = {row.name: [] for row in rows}

    def once(row: Row) -> Loop:
        with row.enable(pipe.fresh(), request) as enabled:
            return run(enabled, request.steps, device)

    for number in range(repeats + 1):
        shift = number % max(1, len(others))
        turn = [*others[shift:], *others[:shift]]
        base = once(plain)
        if number:
            pairs[plain.name].append((base, base))
        for start in range(0, len(turn), between):
            group = turn[start : start + between]
            loops = [once(row) for row in group]
            after = once(plain)
            if number:
                for row, loop in zip(group, loops, strict=True):
                    pairs[row.name].append((loop, _mean(base, after)))
            base = after
        note(f"round {number} of {repeats}")
    return pairs


def _compiled(
    pipe: Pipe, rows: Sequence[Row], request: Request, repeats: int, device: str, note: Note
) -> dict[str, list[Pair]]:
    """Runs of one row after the other on compiled blocks; the first run of each is not counted."""
    network: Any = pipe.transformer
    found: list[list[Loop]] = []
    for row in (*rows, rows[0]):
        torch._dynamo.reset()
        try:
            with row.enable(pipe.fresh(), request) as enabled:
                network.compile_repeated_blocks()
                found.append([run(enabled, request.steps, device) for _ in range(repeats + 1)][1:])
        finally:
            for module in network.modules():
                module._compiled_call_impl = None
        note(f"compiled {row.name}")
    first, *others, last = found
    base = [_mean(a, b) for a, b in zip(first, last, strict=True)]
    named = zip([row.name for row in rows], [base, *others], strict=True)
    return {name: list(zip(loops, base, strict=True)) for name, loops in named}


def _mean(a: Loop, b: Loop) -> Loop:
    """Two plain runs as one."""
    return Loop((a.seconds + b.seconds) / 2, [*a.steps, *b.steps], a.latents)


def _measured(row: Row, request: Request, seen: Seen, held: int, pairs: Sequence[Pair]) -> Measured:
    full = set(seen.evaluated)
    ratios = [base.seconds / loop.seconds for loop, base in pairs]
    times = [_parted(loop.steps, full, seen.calls) for loop, _ in pairs]
    hooked = [median(evaluated) for evaluated, _ in times]
    forecast = [median(rest) for _, rest in times if rest]
    return Measured(
        name=row.name,
        label=row.label,
        seam=row.seam,
        configured=row.configured,
        whose=row.whose,
        evaluated=[request.places[i] for i in seen.evaluated] if seen.calls < request.steps else seen.evaluated,
        ran=seen.ran,
        steps=request.steps,
        loop=median(loop.seconds for loop, _ in pairs),
        ratio=median(ratios),
        spread=(min(ratios), max(ratios)),
        evaluation=median(hooked),
        forecast=median(forecast) if forecast else None,
        forecast_share=median(f / h for f, h in zip(forecast, hooked, strict=True)) if forecast else None,
        evaluation_share=median(h / median(base.steps) for h, (_, base) in zip(hooked, pairs, strict=True)),
        memory=seen.held - held,
        predicted=seen.predicted,
    )


def _parted(seconds: Sequence[float], full: set[int], calls: int) -> tuple[list[float], list[float]]:
    """Seconds of evaluated and of forecast steps; of plain runs there may be two in a row."""
    evaluated = [s for i, s in enumerate(seconds) if i % calls in full]
    return evaluated, [s for i, s in enumerate(seconds) if i % calls not in full]


def plainly(rows: Sequence[Measured]) -> list[dict[str, Any]]:
    """As JSON values."""
    return [asdict(row) for row in rows]
