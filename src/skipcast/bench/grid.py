"""State x row x pairs -> cells, each known by a digest of everything that determines its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from skipcast.bench.draw import Batch, Pair
from skipcast.bench.models import ModelSpec
from skipcast.bench.rows import (
    CONVERGED_ROW,
    REFERENCE,
    LeftOut,
    Row,
    converged_row,
    reference_row,
    selection,
)
from skipcast.bench.spec import SchedulerSpec, Settings, Spec
from skipcast.plans.plan import Plan

FORMAT = 2  # of everything that a bench run stores; part of every digest


def derived_seed(run_seed: int, prompt: str, number: int) -> int:
    """The seed of an image: the same whatever the order, the worker and the other prompts; below 2^48."""
    text = json.dumps([run_seed, prompt, number])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def digest(what: Any) -> str:
    """32 hexadecimal digits for plain values."""
    text = json.dumps(what, sort_keys=True, allow_nan=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class State:
    """What a pipeline is in while it draws: model, scheduler, steps, guidance."""

    model: ModelSpec
    scheduler: SchedulerSpec
    steps: int
    guidance: float | None
    digest: str

    @property
    def label(self) -> str:
        own = "" if self.guidance is None else f", guidance {self.guidance:g}"
        return f"{self.model.name}, {self.scheduler.label} scheduler, {self.steps} steps{own}"


@dataclass(frozen=True)
class Cell:
    """The images of one call by one method.

    They are always the same ones, because the last bit and every decision that follows from values depend on the
    others of the call: whoever draws them, and whenever, gets the same.
    """

    state: State
    row: Row
    pairs: tuple[Pair, ...]
    digest: str = field(compare=False)

    @property
    def stage(self) -> int:
        """Cells are measured against those of earlier stages."""
        return {CONVERGED_ROW: 0, REFERENCE: 1}.get(self.row.label, 2)

    @property
    def weight(self) -> float:
        """Its share of the work: evaluations, and a little for text, decoding and measuring, of every image."""
        return len(self.pairs) * ((self.row.budget or self.state.steps) + 1.0)

    def __str__(self) -> str:
        first, more = self.pairs[0], len(self.pairs) - 1
        more_pairs = f" and {more} more" if more else ""
        return f"{self.row.label} on {first.prompt!r}, seed {first.seed}{more_pairs} ({self.state.label})"


def states(spec: Spec) -> list[State]:
    """Every state of the grid, in its order."""
    found = []
    for model, scheduler, steps, guidance in product(spec.models, spec.schedulers, spec.steps, spec.guidance):
        own = {
            "format": FORMAT,
            "model": model.identity,
            "scheduler": [scheduler.class_name, dict(scheduler.changes)],
            "steps": steps,
            "guidance": guidance,
            "call": dict(spec.call),
            "threads": spec.threads,
        }
        found.append(State(model, scheduler, steps, guidance, digest(own)))
    return found


def requested(spec: Spec, state: State) -> tuple[list[Row], list[LeftOut]]:
    """The rows that are requested in a state, before their thresholds are found, and what cannot run."""
    settings = spec.settings(state.model, state.steps)
    if spec.methods is not None and not settings.methods:  # which would stand for the usual ones
        return [], []
    return selection(settings, state.model.name)


def pairs(spec: Spec, model: ModelSpec) -> Iterator[Pair]:
    """Every prompt with every number, prompt by prompt."""
    return pairs_of(spec.prompts_of(model), spec.seeds, spec.seed)


def pairs_of(prompts: Sequence[str], seeds: int, run_seed: int) -> Iterator[Pair]:
    """Every prompt with this many seeds, which follow from the seed of the run, prompt by prompt."""
    for index, prompt in enumerate(prompts):
        for number in range(seeds):
            yield Pair(prompt, derived_seed(run_seed, prompt, number), index, number)


def groups(spec: Spec, model: ModelSpec) -> list[tuple[Pair, ...]]:
    """The images of every call: consecutive ones, as many as `batch` says, fewer in the last."""
    return list(_in_calls(tuple(pairs(spec, model)), spec.batch))


def _in_calls(every: Batch, size: int) -> Iterator[Batch]:
    return (every[start : start + size] for start in range(0, len(every), size))


def cells(spec: Spec, state: State, rows: Sequence[Row]) -> Iterator[Cell]:
    """The cells of a state: group by group, the converged run and the reference before the rows."""
    first = [converged_row(spec.converged_steps)] if spec.converged_steps else []
    known = [(row, row_digest(state, row)) for row in (*first, reference_row(state.steps), *rows)]
    for group in groups(spec, state.model):
        for row, name in known:
            yield Cell(state, row, group, _digest(spec, state, row, name, group))


def row_digest(state: State, row: Row) -> str:
    """What a row is known by within its state, whatever the images."""
    return digest([state.digest, row.label, row.budget, _identity(row)])


def _digest(spec: Spec, state: State, row: Row, name: str, group: Sequence[Pair]) -> str:
    measured: list[Any] = [] if row.label == CONVERGED_ROW else [list(spec.metrics), spec.converged_steps]
    if spec.learned and measured:
        measured.append([metric.identity for metric in spec.learned])
    if state.model.video:
        measured.append(spec.fps)  # which is written into its files
    return digest([name, [[pair.prompt, pair.seed] for pair in group], measured])


def _identity(row: Row) -> Any:
    if isinstance(row.method, Plan):
        return row.method.as_dict()
    return [repr(row.method), dict(row.calibrated_on) if row.calibrated_on else None]


def batches(settings: Settings, prompts: Sequence[str]) -> Iterator[Batch]:
    """The pairs of settings as a comparison draws them, call by call."""
    return _in_calls(tuple(pairs_of(prompts, settings.seeds, settings.seed)), settings.batch)
