"""The order of the work, and its results as records in the order of the grid."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Protocol, cast

from skipcast.bench.draw import Batch
from skipcast.bench.grid import (
    AGREEMENTS,
    CELLS,
    COUNTS,
    PREPARED,
    TIMINGS,
    TRACES,
    Piece,
    State,
    cells,
    pieces,
    preparations,
    requested,
    row_digest,
    states,
)
from skipcast.bench.metrics import METRICS
from skipcast.bench.records import Record, lines
from skipcast.bench.rows import CONVERGED_ROW, LeftOut, Row
from skipcast.bench.spec import JUDGE, Spec
from skipcast.bench.store import Store
from skipcast.bench.work import METRICS_WRONG, Worker, field_of
from skipcast.bench.workers import Executor, InProcess, Make
from skipcast.checkpoint import write_whole
from skipcast.methods import names

#: What differs from run to run; the rest of a record is the same to the byte.
MEASURED = ("timing", "seconds", "speedup")
RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Rows:
    """The rows of a state with their thresholds, what cannot run, and what all its records share."""

    rows: list[Row]
    left_out: list[LeftOut]
    shared: dict[str, Any]


@dataclass(frozen=True)
class Assembled:
    """What was written."""

    files: list[Path]
    groups: list[tuple[State, list[Record]]]
    missing: int  # cells that are not finished


def prepared(store: Store, spec: Spec, state: State) -> Rows | None:
    """The rows of a state, None before all of them are prepared."""
    rows, left = requested(spec, state)
    parts = list(preparations(spec, state, rows))
    if not all(map(store.finished, parts)):
        return None
    every = [store.read(PREPARED, part.digest) for part in parts]
    found = {
        id(row): entry
        for part, answer in zip(parts, every, strict=True)
        for row, entry in zip(part.rows, answer["rows"], strict=True)
    }
    kept: dict[tuple[str, int], Row] = {}
    for row in rows:
        if "reason" in (entry := found[id(row)]):
            left.append(LeftOut.of(row, entry["reason"]))
        else:  # two thresholds that turn out alike are one row
            placed = _placed(row, entry, state.model.family)
            kept[placed.key] = placed
    return Rows(list(kept.values()), left, every[0]["shared"])


def _placed(row: Row, entry: dict[str, Any], family: str | None) -> Row:
    if not row.open:
        return row
    options = entry["options"]
    method = row.method if options == row.options else names.made(row.name, options, family)
    changes = {"budget": entry["budget"], "threshold": None, "calibrated_on": entry["calibrated_on"]}
    return replace(row, options=options, method=method, **changes)


def records(store: Store, spec: Spec, state: State) -> tuple[list[Record], int]:
    """The records of a state's finished work, and how many cells are not finished."""
    found = prepared(store, spec, state)
    if found is None:
        return [], sum(1 for _ in cells(spec, state, requested(spec, state)[0]))
    every = list(pieces(spec, state, found.rows))
    shared = found.shared
    for piece in every:
        if piece.kind == AGREEMENTS and store.finished(piece):
            shared = {**shared, "settings": {**shared["settings"], **store.read(AGREEMENTS, piece.digest)}}
    improving = directions(spec)
    per_row = {piece.row.key: store.read(COUNTS, piece.digest) for piece in _done(store, every, COUNTS)}
    times = {key: found for piece in _done(store, every, TIMINGS) for key, found in _times(store, spec, piece).items()}
    unmeasured: dict[str, Any] = {"seconds": None, "speedup": None, "timing": {}}
    made, missing, failed = list[Record](), 0, dict[tuple[str, int], LeftOut]()
    for cell in every:
        if cell.kind != CELLS:
            continue
        if not store.drawn(cell):
            missing += 1
            continue
        if cell.row.label == CONVERGED_ROW:
            continue
        entry, key = store.read(CELLS, cell.digest), cell.row.key
        if "left_out" in entry:
            failed.setdefault(key, LeftOut.of(cell.row, entry["left_out"]))
            continue
        measured = times.get(key, unmeasured)
        rest = {"metrics": improving, "flops": None, **per_row.get(key, {}), **measured}
        rest["timing"] = {**entry["timing"], **measured["timing"]}
        for place, (pair, record) in enumerate(zip(cell.pairs, entry["records"], strict=True)):
            own = {"prompt_index": pair.index, "number": pair.number, "image": store.image(cell, place)}
            made.append(cast("Record", {**shared, **record, **own, **rest}))
    kept = [record for record in made if (record["method"], record["budget"]) not in failed]
    left = [out.record() | {"steps": state.steps} for out in (*found.left_out, *failed.values())]
    traces = [store.read(TRACES, piece.digest) for piece in _done(store, every, TRACES)]
    kept += [cast("Record", {**shared, **record}) for record in (*left, *traces)]
    return kept, missing


def _done(store: Store, every: Iterable[Piece], kind: str) -> list[Piece]:
    return [piece for piece in every if piece.kind == kind and store.finished(piece)]


def _times(store: Store, spec: Spec, piece: Piece) -> dict[tuple[str, int], dict[str, Any]]:
    """Seconds, speedup and spread of the rows that were timed together, but for those that cannot run."""
    rows = store.read(TIMINGS, piece.digest)["rows"]
    reference = median(rows[row_digest(piece.state, piece.row)]["call"])
    found = {}
    for row in piece.rows:
        if own := rows.get(row_digest(piece.state, row)):
            timing = {"images": 1, "repeats": spec.timing.repeats, "peak_bytes": own["peak_bytes"]}
            timing |= {kind: _spread(own[kind]) for kind in ("loop", "call")}
            seconds = timing["call"]["median"]
            found[row.key] = {"seconds": seconds, "speedup": reference / seconds, "timing": timing}
    return found


def _spread(seconds: list[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return {"median": median(seconds), "iqr": math.nan}
    low, middle, high = quantiles(seconds, n=4, method="inclusive")
    return {"median": middle, "iqr": high - low}


def directions(spec: Spec) -> dict[str, str]:
    """Where each metric of the records improves."""
    entry = {field_of(name): METRICS[name].higher_is_better for name in spec.metrics if name in METRICS}
    entry |= {metric.name: metric.higher_is_better for metric in spec.learned}
    if JUDGE in spec.metrics:
        entry[JUDGE] = True
    return {name: "higher is better" if higher else "lower is better" for name, higher in entry.items()}


def assemble(store: Store, spec: Spec) -> Assembled:
    """Write `results.jsonl`, and one per state beside it where there are several, for reports are of one state."""
    groups, missing = list[tuple[State, list[Record]]](), 0
    for state in states(spec):
        found, open_cells = records(store, spec, state)
        groups.append((state, found))
        missing += open_cells
    files = [write_whole(store.folder / RESULTS, _text(record for _, found in groups for record in found))]
    for number, (_, found) in enumerate(groups if len(groups) > 1 else (), start=1):
        files.append(write_whole(store.folder / "by-state" / str(number) / RESULTS, _text(map(_from_below, found))))
    return Assembled(files, groups, missing)


def _text(found: Iterable[Record]) -> bytes:
    """The lines of records, one by one: of very many, no two copies fit beside each other."""
    content = io.BytesIO()
    for record in found:
        content.write(lines((record,)).encode())
    return content.getvalue()


def _from_below(record: Record) -> Record:
    """A record whose image is as seen from the folder of its state."""
    return {**record, "image": f"../../{record['image']}"} if record.get("image") else record


def without_measured(record: Record) -> Record:
    """A record without what differs from run to run."""
    return cast("Record", {key: value for key, value in record.items() if key not in MEASURED})


class Progress(Protocol):
    """Told of the work, in evaluations: they are what takes the time."""

    def total(self, weight: float) -> None: ...

    def advance(self, label: str, weight: float) -> None: ...


@dataclass(frozen=True)
class Size:
    """How large a grid is, before thresholds are found."""

    states: int
    rows: int
    cells: int


def size(spec: Spec) -> Size:
    """Cells and rows of a grid, the reference among the rows; nothing is loaded."""
    rows = made = 0
    for state in states(spec):
        found, _ = requested(spec, state)
        rows += len(found) + 1
        made += sum(1 for _ in cells(spec, state, found))
    return Size(len(states(spec)), rows, made)


def bench(
    store: Store, spec: Spec, executor: Executor, command: str, progress: Progress, make: Make | None = None
) -> Assembled:
    """Do what is not yet done, and assemble.

    Args:
        store: where finished work lies; opened.
        spec: the grid.
        executor: who does the work; closed at the end.
        command: as it was typed, for the records.
        progress: told of every piece of work.
        make: makes the worker of the timing pass; None for one that loads the models of the grid.

    Raises:
        SpecError: a state cannot be prepared, at the line of the models or the schedulers.
        ValueError, RuntimeError: as of the executor.
    """
    try:
        _prepare(store, spec, executor, progress)
        grid = [
            piece
            for state in states(spec)
            if (found := prepared(store, spec, state))
            for piece in pieces(spec, state, found.rows)
        ]
        waiting = [piece for piece in grid if not store.finished(piece)]
        progress.total(sum(piece.weight for piece in waiting))
        handed = _with_samples(store, grid)
        for stage in sorted({piece.stage for piece in waiting}):
            ready = (piece for piece in waiting if piece.stage == stage and piece.kind != TIMINGS)
            _do(store, executor, map(handed, ready), progress)
    finally:
        executor.close()
    alone = InProcess(make or partial(Worker, spec, command))  # times are of one process, with nobody beside it
    try:
        _do(store, alone, (piece for piece in waiting if piece.kind == TIMINGS), progress)
    finally:
        alone.close()
    return assemble(store, spec)


def _do(store: Store, executor: Executor, work: Iterable[Piece], progress: Progress) -> None:
    for piece, result in executor.map(work):
        store.keep(piece, result)
        progress.advance(piece.title, piece.weight)


def _prepare(store: Store, spec: Spec, executor: Executor, progress: Progress) -> None:
    work = [piece for state in states(spec) for piece in preparations(spec, state, requested(spec, state)[0])]
    waiting = [piece for piece in work if not store.finished(piece)]
    try:
        _do(store, executor, waiting, progress)
    except ValueError as error:
        named = any(f": {row.label}: " in str(error) for piece in waiting for row in piece.rows)
        place = "metrics" if METRICS_WRONG in str(error) else "methods" if named else "models"
        raise spec.wrong(error, place) from error


def _with_samples(store: Store, grid: Sequence[Piece]) -> Callable[[Piece], Piece]:
    """Adds to a piece the samples that it is measured against, which are read only when it is handed out."""
    earlier: dict[tuple[str, Batch], list[Piece]] = {}
    for cell in grid:
        if cell.kind == CELLS and cell.stage < 2:
            earlier.setdefault((cell.state.digest, cell.pairs), []).append(cell)

    def handed(piece: Piece) -> Piece:
        if piece.kind not in (CELLS, AGREEMENTS):
            return piece
        others = [other for other in earlier[piece.state.digest, piece.pairs] if other.stage < piece.stage]
        return replace(piece, samples={other.row.label: store.sample(other.digest) for other in others})

    return handed


def quiet(advance: Callable[[str], None] = lambda label: None) -> Progress:
    """Progress that nobody looks at, or that is no more than the label of every piece of work."""
    return _Labels(advance)


class _Labels:
    def __init__(self, advance: Callable[[str], None]) -> None:
        self._advance = advance

    def total(self, weight: float) -> None:
        pass

    def advance(self, label: str, weight: float) -> None:
        self._advance(label)
