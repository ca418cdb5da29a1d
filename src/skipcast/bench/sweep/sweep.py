"""The order of the work: prepare, draw what others are measured against, draw the rest, count, time, assemble."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from skipcast.bench.draw import Pair
from skipcast.bench.executors import Executor, InProcess
from skipcast.bench.sweep.cells import Cell, State, asked, cells, reference_row, row_digest, states
from skipcast.bench.sweep.results import Assembled, assemble, preparation_digest, preparations, prepared, timing_digest
from skipcast.bench.sweep.spec import Spec
from skipcast.bench.sweep.store import CELLS, COUNTS, PREPARED, TIMINGS, Store
from skipcast.bench.sweep.tasks import Count, Draw, Prepare, Task, Time
from skipcast.bench.sweep.work import METRICS_WRONG, Worker

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
        found, _ = asked(spec, state)
        rows += len(found) + 1
        made += sum(1 for _ in cells(spec, state, found))
    return Size(len(states(spec)), rows, made)


def sweep(store: Store, spec: Spec, executor: Executor, command: str, progress: Progress) -> Assembled:
    """Do what is not yet done, and assemble.

    Args:
        store: where finished work lies; opened.
        spec: the grid.
        executor: who does the work; closed at the end.
        command: how it was asked for, for the records.
        progress: told of every piece of work.

    Raises:
        SpecError: a state cannot be prepared, at the line of the models or the schedulers.
        ValueError, RuntimeError: as of the executor.
    """
    try:
        _prepare(store, spec, executor, progress)
        every = [(state, found) for state in states(spec) if (found := prepared(store, spec, state))]
        grid = [cell for state, found in every for cell in cells(spec, state, found.rows)]
        open_cells = [cell for cell in grid if not store.finished(cell)]
        rows = {row_digest(s, row): (s, row) for s, found in every for row in (reference_row(s), *found.rows)}
        counts = {name: what for name, what in rows.items() if spec.flops and not store.has(COUNTS, name)}
        times = {
            timing_digest(spec, state, everyone): (state, everyone)
            for state, found in every
            if spec.repeats
            for everyone in [[reference_row(state), *found.rows]]
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
    alone = InProcess(partial(Worker, spec, command))  # times are of one process, with nobody beside it
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
        for part in preparations(asked(spec, state)[0]):
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
        raise spec.wrong(place, error) from error


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
    return cell.state.digest, cell.pictures


def quiet() -> Progress:
    """Progress that nobody looks at."""
    return _Quiet()


class _Quiet:
    def total(self, weight: float) -> None:
        pass

    def advance(self, label: str, weight: float) -> None:
        pass
