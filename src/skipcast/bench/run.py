"""The order of the work, and its results as records in the order of the grid."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Protocol, cast

from skipcast.bench.draw import Pair
from skipcast.bench.grid import Cell, State, cells, digest, requested, row_digest, states
from skipcast.bench.metrics import METRICS
from skipcast.bench.records import Record, lines
from skipcast.bench.rows import CONVERGED_ROW, LeftOut, Row, reference_row
from skipcast.bench.spec import JUDGE, Spec
from skipcast.bench.store import CELLS, COUNTS, PREPARED, TIMINGS, Store
from skipcast.bench.work import METRICS_WRONG, Count, Draw, Prepare, Task, Time, Worker, field_of
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


def preparation_digest(spec: Spec, state: State, rows: Sequence[Row]) -> str:
    """What the preparation of a state follows from."""
    entry = [[row_digest(state, row), row.threshold] for row in rows]
    return digest([state.digest, entry, spec.prompts_of(state.model), spec.seeds, spec.seed, spec.batch])


def timing_digest(spec: Spec, state: State, rows: Sequence[Row]) -> str:
    """What the timing of a state follows from."""
    return digest([state.digest, [row_digest(state, row) for row in rows], spec.repeats])


def preparations(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of a state in parts that are prepared apart: what needs no threshold, and every row that does."""
    return [[row for row in rows if not row.open], *([row] for row in rows if row.open)]


def prepared(store: Store, spec: Spec, state: State) -> Rows | None:
    """The rows of a state, None before all of them are prepared."""
    rows, left = requested(spec, state)
    parts = preparations(rows)
    names = [preparation_digest(spec, state, part) for part in parts]
    if not all(store.has(PREPARED, name) for name in names):
        return None
    every = [store.read(PREPARED, name) for name in names]
    place = {id(row): number for number, row in enumerate(rows)}
    found = [
        (place[id(part[entry["number"]])], _placed(part[entry["number"]], entry))
        for part, answer in zip(parts, every, strict=True)
        for entry in answer["rows"]
    ]
    # Two thresholds that turn out alike are one row.
    kept = {row.key: row for _, row in sorted(found, key=lambda pair: pair[0])}
    left += [LeftOut(**entry) for answer in every for entry in answer["left_out"]]
    return Rows(list(kept.values()), left, every[0]["shared"])


def _placed(row: Row, entry: dict[str, Any]) -> Row:
    if not row.open:
        return row
    options = entry["options"]
    method = row.method if options == row.options else names.made(row.name, options)
    changes = {"budget": entry["budget"], "threshold": None, "calibrated_on": entry["calibrated_on"]}
    return replace(row, options=options, method=method, **changes)


def records(store: Store, spec: Spec, state: State) -> tuple[list[Record], int]:
    """The records of a state's finished cells, and how many are not finished."""
    found = prepared(store, spec, state)
    if found is None:
        return [], sum(1 for _ in cells(spec, state, requested(spec, state)[0]))
    everyone = [reference_row(state.steps), *found.rows]
    improving = directions(spec)
    made, missing, failed = list[Record](), 0, dict[tuple[str, int], LeftOut]()
    per_row = {row.key: _per_row(store, spec, state, everyone, row) for row in everyone}
    for cell in cells(spec, state, found.rows):
        if not store.drawn(cell):
            missing += 1
            continue
        if cell.row.label == CONVERGED_ROW:
            continue
        entry, key = store.read(CELLS, cell.digest), cell.row.key
        if "left_out" in entry:
            failed.setdefault(key, LeftOut.of(cell.row, entry["left_out"]))
            continue
        fixed, times, measured = per_row[key]
        rest = {"metrics": improving, **fixed, **measured, "timing": {**entry["timing"], **times}}
        for place, (picture, record) in enumerate(zip(cell.pairs, entry["records"], strict=True)):
            own = {
                "prompt_index": picture.index, "number": picture.number, "image": store.picture(cell, place)
            }  # fmt: skip
            made.append(cast("Record", {**found.shared, **record, **own, **rest}))
    kept = [record for record in made if (record["method"], record["budget"]) not in failed]
    left = [*found.left_out, *failed.values()]
    kept += [cast("Record", {**found.shared, **out.record(), "steps": state.steps}) for out in left]
    return kept, missing


def directions(spec: Spec) -> dict[str, str]:
    """Where each metric of the records improves."""
    entry = {field_of(name): METRICS[name].higher_is_better for name in spec.metrics if name in METRICS}
    entry |= {metric.name: metric.higher_is_better for metric in spec.learned}
    if JUDGE in spec.metrics:
        entry[JUDGE] = True
    return {name: "higher is better" if higher else "lower is better" for name, higher in entry.items()}


def _per_row(
    store: Store, spec: Spec, state: State, everyone: Sequence[Row], row: Row
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Operations; times and memory; and what the report reads of them."""
    name, timed = row_digest(state, row), timing_digest(spec, state, everyone)
    fixed = {"flops": store.read(COUNTS, name).get("flops") if store.has(COUNTS, name) else None}
    measured: dict[str, Any] = {"seconds": None, "speedup": None}
    if not spec.repeats or not store.has(TIMINGS, timed):
        return fixed, {}, measured
    rows = store.read(TIMINGS, timed)["rows"]
    if name not in rows:  # it cannot run
        return fixed, {}, measured
    own, reference = rows[name], rows[row_digest(state, everyone[0])]
    times = {"pictures": 1, "repeats": spec.repeats, "peak_bytes": own["peak_bytes"]}
    times |= {kind: _spread(own[kind]) for kind in ("loop", "call")}
    seconds = times["call"]["median"]
    measured = {"seconds": seconds, "speedup": median(reference["call"]) / seconds}
    return fixed, times, measured


def _spread(seconds: list[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return {"median": median(seconds), "iqr": math.nan}
    low, middle, high = quantiles(seconds, n=4, method="inclusive")
    return {"median": middle, "iqr": high - low}


def assemble(store: Store, spec: Spec) -> Assembled:
    """Write `results.jsonl`, and one per state beside it where there are several, for reports are of one state."""
    groups, missing = list[tuple[State, list[Record]]](), 0
    for state in states(spec):
        found, open_cells = records(store, spec, state)
        groups.append((state, found))
        missing += open_cells
    files = [write_whole(store.folder / RESULTS, _text(record for _, found in groups for record in found))]
    if len(groups) > 1:
        files += list(_by_state(store.folder / "by-state", groups))
    return Assembled(files, groups, missing)


def _by_state(folder: Path, groups: list[tuple[State, list[Record]]]) -> Iterator[Path]:
    for number, (_, found) in enumerate(groups, start=1):
        yield write_whole(folder / str(number) / RESULTS, _text(map(_from_below, found)))


def _text(found: Iterable[Record]) -> bytes:
    """The lines of records, one by one: of very many, no two copies fit beside each other."""
    content = io.BytesIO()
    for record in found:
        content.write(lines((record,)).encode())
    return content.getvalue()


def _from_below(record: Record) -> Record:
    """A record whose image is entry as seen from the folder of its state."""
    return {**record, "image": f"../../{record['image']}"} if record.get("image") else record


def without_measured(record: Record) -> Record:
    """A record without what differs from run to run."""
    return cast("Record", {key: value for key, value in record.items() if key not in MEASURED})


STAGES = 3  # converged runs, references, rows


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
        progress: entry of every piece of work.
        make: makes the worker of the timing pass; None for one that loads the models of the grid.

    Raises:
        SpecError: a state cannot be prepared, at the line of the models or the schedulers.
        ValueError, RuntimeError: as of the executor.
    """
    try:
        _prepare(store, spec, executor, progress)
        every = [(state, found) for state in states(spec) if (found := prepared(store, spec, state))]
        grid = [cell for state, found in every for cell in cells(spec, state, found.rows)]
        open_cells = [cell for cell in grid if not store.finished(cell)]
        rows = {row_digest(s, row): (s, row) for s, found in every for row in (reference_row(s.steps), *found.rows)}
        counts = {name: what for name, what in rows.items() if spec.flops and not store.has(COUNTS, name)}
        times = {
            timing_digest(spec, state, everyone): (state, everyone)
            for state, found in every
            if spec.repeats
            for everyone in [[reference_row(state.steps), *found.rows]]
        }
        times = {name: what for name, what in times.items() if not store.has(TIMINGS, name)}
        turns = spec.repeats + 1
        progress.total(
            sum(cell.weight for cell in open_cells)
            + sum(_weight(state, row.budget) for state, row in counts.values())
            + sum(turns * _weight(state, row.budget) for state, everyone in times.values() for row in everyone)
        )
        for stage in range(STAGES):
            drawing = _drawing(store, grid, [cell for cell in open_cells if cell.stage == stage])
            for task, result in executor.map(drawing):
                assert isinstance(task, Draw)
                store.keep(CELLS, task.cell.digest, result)
                progress.advance(task.cell.row.label, task.cell.weight)
        for task, result in executor.map(Count(*what) for what in counts.values()):
            assert isinstance(task, Count)
            store.keep(COUNTS, row_digest(task.state, task.row), result)
            progress.advance(f"operations of {task.row.label}", _weight(task.state, task.row.budget))
    finally:
        executor.close()
    alone = InProcess(make or partial(Worker, spec, command))  # times are of one process, with nobody beside it
    try:
        for task, result in alone.map(Time(*what) for what in times.values()):
            assert isinstance(task, Time)
            store.keep(TIMINGS, timing_digest(spec, task.state, task.rows), result)
            progress.advance("timing", sum(turns * _weight(task.state, row.budget) for row in task.rows))
    finally:
        alone.close()
    return assemble(store, spec)


def _prepare(store: Store, spec: Spec, executor: Executor, progress: Progress) -> None:
    waiting = {}
    for state in states(spec):
        for part in preparations(requested(spec, state)[0]):
            name = preparation_digest(spec, state, part)
            if not store.has(PREPARED, name):
                waiting[name] = Prepare(state, tuple(part))
    try:
        for task, result in executor.map(waiting.values()):
            assert isinstance(task, Prepare)
            store.keep(PREPARED, preparation_digest(spec, task.state, task.rows), result)
            progress.advance(f"preparing {task.rows[0].label}" if len(task.rows) == 1 else "preparing", 0)
    except ValueError as error:
        named = any(f": {row.label}: " in str(error) for task in waiting.values() for row in task.rows)
        place = "metrics" if METRICS_WRONG in str(error) else "methods" if named else "models"
        raise spec.wrong(error, place) from error


def _weight(state: State, budget: int) -> float:
    return float(budget or state.steps)


def _drawing(store: Store, grid: Iterable[Cell], chosen: Iterable[Cell]) -> Iterator[Task]:
    """The tasks of these cells; samples are read as workers get free."""
    earlier: dict[tuple[str, tuple[Pair, ...]], list[Cell]] = {}
    for cell in grid:
        if cell.stage < STAGES - 1:
            earlier.setdefault(_of(cell), []).append(cell)
    for cell in chosen:
        others = [other for other in earlier[_of(cell)] if other.stage < cell.stage]
        yield Draw(cell, {other.row.label: store.sample(other.digest) for other in others})


def _of(cell: Cell) -> tuple[str, tuple[Pair, ...]]:
    return cell.state.digest, cell.pairs


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
