"""Spec -> states -> pieces of work, each known by a digest of everything that determines its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from skipcast.bench.draw import Batch, Pair
from skipcast.bench.models import ModelSpec
from skipcast.bench.rows import CONVERGED_ROW, REFERENCE, LeftOut, Row, converged_row, reference_row, selection
from skipcast.bench.spec import SchedulerSpec, Spec
from skipcast.parts import Method
from skipcast.plans.plan import Plan

FORMAT = 3  # of everything that a bench run stores; part of every digest

#: What there is to do: rows checked and thresholds found, images drawn and measured, operations counted, the converged
#: run compared with one of half its steps, forecasts compared step by step, calls timed.
PREPARED, CELLS, COUNTS, AGREEMENTS, TRACES, TIMINGS = "prepared", "cells", "counts", "agreements", "traces", "timings"
_LAST = 3  # stage of what is neither a converged run, nor an unaccelerated run, nor a row


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
class Piece:
    """A piece of work of one state; it holds all that its result follows from.

    Args:
        kind: what is done, and the folder that keeps the result.
        state: of the pipeline.
        rows: that it is about; a single one but for what is prepared or timed together.
        pairs: the images of one call. They are always the same ones, because the last bit and every decision that
            follows from values depend on the others of the call: whoever draws them, and whenever, gets the same.
        digest: what the result is known by.
        weight: its share of the work, in evaluations.
        samples: what is measured against, by the labels of their rows; added when the piece is handed out.
    """

    kind: str
    state: State
    rows: tuple[Row, ...]
    pairs: Batch
    digest: str = field(compare=False)
    weight: float = field(compare=False)
    samples: Mapping[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    @property
    def row(self) -> Row:
        """The first of its rows, mostly the only one."""
        return self.rows[0]

    @property
    def stage(self) -> int:
        """Cells are measured against those of earlier stages."""
        return {CONVERGED_ROW: 0, REFERENCE: 1}.get(self.row.label, 2) if self.kind == CELLS else _LAST

    @property
    def title(self) -> str:
        """What is done, for a progress bar."""
        if self.kind == PREPARED:
            return f"preparing {self.row.label}" if len(self.rows) == 1 else "preparing"
        label = self.row.label
        return {
            CELLS: label,
            COUNTS: f"operations of {label}",
            AGREEMENTS: "converged, half the steps",
            TRACES: f"step by step: {label}",
            TIMINGS: "timing",
        }[self.kind]

    def __str__(self) -> str:
        if self.kind == PREPARED:
            return self.state.label
        if self.kind != CELLS:
            return f"{self.title} ({self.state.label})"
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
    return selection(spec, state.model, state.steps)


def pairs(spec: Spec, model: ModelSpec) -> Batch:
    """Every prompt with every number, prompt by prompt."""
    return pairs_of(spec.prompts_of(model), spec.seeds, spec.seed)


def pairs_of(prompts: Sequence[str], seeds: int, run_seed: int) -> Batch:
    """Every prompt with this many seeds, which follow from the seed of the run, prompt by prompt."""
    return tuple(
        Pair(prompt, derived_seed(run_seed, prompt, number), index, number)
        for index, prompt in enumerate(prompts)
        for number in range(seeds)
    )


def in_calls(every: Batch, size: int) -> list[Batch]:
    """The images of every call: consecutive ones, `size` each, fewer in the last."""
    return [every[start : start + size] for start in range(0, len(every), size)]


def groups(spec: Spec, model: ModelSpec) -> list[Batch]:
    """The images of every call of a bench run."""
    return in_calls(pairs(spec, model), spec.batch)


def preparations(spec: Spec, state: State, rows: Sequence[Row]) -> Iterator[Piece]:
    """What needs no threshold in one piece, and every row that does in one of its own."""
    for part in (tuple(row for row in rows if not row.open), *((row,) for row in rows if row.open)):
        entry = [[row_digest(state, row), row.threshold] for row in part]
        what = [state.digest, entry, spec.prompts_of(state.model), spec.seeds, spec.seed, spec.batch]
        yield Piece(PREPARED, state, part, (), digest(what), 0)


def cells(spec: Spec, state: State, rows: Sequence[Row]) -> Iterator[Piece]:
    """The images of a state: group by group, the converged run and the unaccelerated run before the rows."""
    first = [converged_row(spec.converged_steps)] if spec.converged_steps else []
    known = [(row, row_digest(state, row)) for row in (*first, reference_row(state.steps), *rows)]
    for group in groups(spec, state.model):
        for row, name in known:
            # A little for text, decoding and measuring of every image.
            weight = len(group) * ((row.budget or state.steps) + 1.0)
            yield Piece(CELLS, state, (row,), group, _cell_digest(spec, state, row, name, group), weight)


def pieces(spec: Spec, state: State, rows: Sequence[Row]) -> Iterator[Piece]:
    """All work of a state once its rows are prepared."""
    everyone = (reference_row(state.steps), *rows)
    first = groups(spec, state.model)[0]
    for cell in cells(spec, state, rows):
        if cell.row.label == CONVERGED_ROW and cell.pairs == first:
            half = converged_row(spec.converged_steps // 2)
            yield Piece(AGREEMENTS, state, (half,), first, digest(["agreement", cell.digest]), half.budget)
        yield cell
    for row in everyone:
        evaluations, name = row.budget or state.steps, row_digest(state, row)
        if spec.flops:
            yield Piece(COUNTS, state, (row,), first[:1], name, evaluations)
        if spec.per_step and isinstance(row.method, Method):
            yield Piece(TRACES, state, (row,), first, trace_digest(state, row, first), state.steps)
    if spec.timing.repeats:
        weight = (spec.timing.repeats + 1) * sum(row.budget or state.steps for row in everyone)
        yield Piece(TIMINGS, state, everyone, first[:1], timing_digest(spec, state, everyone), weight)


def row_digest(state: State, row: Row) -> str:
    """What a row is known by within its state, whatever the images."""
    if isinstance(row.method, Plan):
        identity: Any = row.method.as_dict()
    else:
        identity = [repr(row.method), dict(row.calibrated_on) if row.calibrated_on else None]
    return digest([state.digest, row.label, row.budget, identity])


def trace_digest(state: State, row: Row, pairs: Batch) -> str:
    """What the errors of a row step by step are known by."""
    return digest(["trace", row_digest(state, row), [[pair.prompt, pair.seed] for pair in pairs]])


def timing_digest(spec: Spec, state: State, rows: Sequence[Row]) -> str:
    """What the times of the rows of a state are known by."""
    return digest([state.digest, [row_digest(state, row) for row in rows], spec.timing.repeats])


def _cell_digest(spec: Spec, state: State, row: Row, name: str, group: Batch) -> str:
    measured: list[Any] = [] if row.label == CONVERGED_ROW else [list(spec.metrics), spec.converged_steps]
    if spec.learned and measured:
        measured.append([metric.identity for metric in spec.learned])
    if state.model.video:
        measured.append(spec.fps)  # which is written into its files
    return digest([name, [[pair.prompt, pair.seed] for pair in group], measured])
