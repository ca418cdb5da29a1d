"""Finished cells to records: in the grid's order, whatever the order of work."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from driftcast import names
from driftcast.bench.candidates import Candidate, LeftOut
from driftcast.bench.metrics import METRICS
from driftcast.bench.report.records import Record, lines
from driftcast.bench.sweep.cells import CONVERGED_ROW, State, asked, cells, digest, reference_row, row_digest, states
from driftcast.bench.sweep.spec import JUDGE, Spec
from driftcast.bench.sweep.store import CELLS, COUNTS, PREPARED, TIMINGS, Store
from driftcast.bench.sweep.work import field_of
from driftcast.files import write_whole

#: What differs from run to run; the rest of a record is the same to the byte.
MEASURED = ("timing", "seconds", "speedup")
RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Rows:
    """The rows of a state with their thresholds, what cannot run, and what all its records share."""

    rows: list[Candidate]
    left_out: list[LeftOut]
    shared: dict[str, Any]


@dataclass(frozen=True)
class Assembled:
    """What was written."""

    files: list[Path]
    groups: list[tuple[State, list[Record]]]
    missing: int  # cells that are not finished


def preparation_digest(spec: Spec, state: State, rows: Sequence[Candidate]) -> str:
    """What the preparation of a state follows from."""
    told = [[row_digest(state, row), row.dial] for row in rows]
    return digest([state.digest, told, spec.prompts_of(state.model), spec.seeds, spec.seed])


def timing_digest(spec: Spec, state: State, rows: Sequence[Candidate]) -> str:
    """What the timing of a state follows from."""
    return digest([state.digest, [row_digest(state, row) for row in rows], spec.repeats])


def prepared(store: Store, spec: Spec, state: State) -> Rows | None:
    """The rows of a state, None before it is prepared."""
    rows, left = asked(spec, state)
    name = preparation_digest(spec, state, rows)
    if not store.has(PREPARED, name):
        return None
    told = store.read(PREPARED, name)
    left += [LeftOut(entry["label"], entry["budget"], entry["reason"]) for entry in told["left_out"]]
    return Rows([_placed(rows[entry["number"]], entry) for entry in told["rows"]], left, told["shared"])


def _placed(row: Candidate, told: dict[str, Any]) -> Candidate:
    if not row.open:
        return row
    label = told["label"]
    method = row.method if label == row.label else names.method(label)
    return replace(
        row, label=label, method=method, budget=told["budget"], dial=None, calibrated_on=told["calibrated_on"]
    )


def records(store: Store, spec: Spec, state: State) -> tuple[list[Record], int]:
    """The records of a state's finished cells, and how many are not finished."""
    found = prepared(store, spec, state)
    if found is None:
        return [], sum(1 for _ in cells(spec, state, asked(spec, state)[0]))
    everyone = [reference_row(state), *found.rows]
    made, missing, failed = list[Record](), 0, dict[tuple[str, int], LeftOut]()
    per_row = {row.key: _per_row(store, spec, state, everyone, row) for row in everyone}
    for cell in cells(spec, state, found.rows):
        if not store.has(CELLS, cell.digest):
            missing += 1
            continue
        if cell.row.label == CONVERGED_ROW:
            continue
        entry, key = store.read(CELLS, cell.digest), cell.row.key
        if "left_out" in entry:
            failed.setdefault(key, LeftOut(cell.row.label, cell.row.budget, entry["left_out"]))
            continue
        fixed, times, measured = per_row[key]
        own = {"prompt_index": cell.picture.index, "number": cell.picture.number}
        timing = {"timing": {**entry["timing"], **times}}
        made.append(
            {**found.shared, **entry["record"], **own, "metrics": directions(spec), **fixed, **measured, **timing}
        )
    kept = [record for record in made if (record["method"], record["budget"]) not in failed]
    left = [*found.left_out, *failed.values()]
    kept += [{**found.shared, **out.record(), "steps": state.steps} for out in left]
    return kept, missing


def directions(spec: Spec) -> dict[str, str]:
    """Where each metric of the records improves."""
    told = {field_of(name): METRICS[name].higher_is_better for name in spec.metrics if name in METRICS}
    if JUDGE in spec.metrics:
        told[JUDGE] = True
    return {name: "higher is better" if higher else "lower is better" for name, higher in told.items()}


def _per_row(
    store: Store, spec: Spec, state: State, everyone: Sequence[Candidate], row: Candidate
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Operations; times and memory; and what the report reads of them."""
    name, timed = row_digest(state, row), timing_digest(spec, state, everyone)
    fixed = {"flops": store.read(COUNTS, name).get("flops") if store.has(COUNTS, name) else None}
    measured: dict[str, Any] = {"seconds": None, "speedup": None}
    if not spec.repeats or not store.has(TIMINGS, timed):
        return fixed, {}, measured
    rows = store.read(TIMINGS, timed)["rows"]
    own, reference = rows[name], rows[row_digest(state, everyone[0])]
    times = {"repeats": spec.repeats, "peak_bytes": own["peak_bytes"]}
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
    files = [write_whole(store.folder / RESULTS, "".join(lines(found) for _, found in groups).encode())]
    if len(groups) > 1:
        files += list(_by_state(store.folder / "by-state", groups))
    return Assembled(files, groups, missing)


def _by_state(folder: Path, groups: list[tuple[State, list[Record]]]) -> Iterator[Path]:
    for number, (_, found) in enumerate(groups, start=1):
        yield write_whole(folder / str(number) / RESULTS, lines(found).encode())


def without_measured(record: Record) -> Record:
    """A record without what differs from run to run."""
    return {key: value for key, value in record.items() if key not in MEASURED}
