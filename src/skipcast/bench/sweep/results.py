"""Finished cells to records: in the grid's order, whatever the order of work."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from skipcast import names
from skipcast.bench.metrics import METRICS
from skipcast.bench.rows import LeftOut, Row
from skipcast.bench.sweep.cells import CONVERGED_ROW, State, asked, cells, digest, reference_row, row_digest, states
from skipcast.bench.sweep.spec import JUDGE, Spec
from skipcast.bench.sweep.store import CELLS, COUNTS, PREPARED, TIMINGS, Store
from skipcast.bench.sweep.work import field_of
from skipcast.checkpoint import write_whole
from skipcast.report.records import Record, lines

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
    told = [[row_digest(state, row), row.threshold] for row in rows]
    return digest([state.digest, told, spec.prompts_of(state.model), spec.seeds, spec.seed, spec.batch])


def timing_digest(spec: Spec, state: State, rows: Sequence[Row]) -> str:
    """What the timing of a state follows from."""
    return digest([state.digest, [row_digest(state, row) for row in rows], spec.repeats])


def preparations(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of a state in parts that are prepared apart: what needs no threshold, and every row that does."""
    return [[row for row in rows if not row.open], *([row] for row in rows if row.open)]


def prepared(store: Store, spec: Spec, state: State) -> Rows | None:
    """The rows of a state, None before all of them are prepared."""
    rows, left = asked(spec, state)
    parts = preparations(rows)
    names = [preparation_digest(spec, state, part) for part in parts]
    if not all(store.has(PREPARED, name) for name in names):
        return None
    every = [store.read(PREPARED, name) for name in names]
    place = {id(row): number for number, row in enumerate(rows)}
    found = [
        (place[id(part[entry["number"]])], _placed(part[entry["number"]], entry))
        for part, told in zip(parts, every, strict=True)
        for entry in told["rows"]
    ]
    # Two thresholds that turn out alike are one row.
    kept = {row.key: row for _, row in sorted(found, key=lambda pair: pair[0])}
    left += [LeftOut(**entry) for told in every for entry in told["left_out"]]
    return Rows(list(kept.values()), left, every[0]["shared"])


def _placed(row: Row, told: dict[str, Any]) -> Row:
    if not row.open:
        return row
    options = told["options"]
    method = row.method if options == row.options else names.made(row.name, options)
    changes = {"budget": told["budget"], "threshold": None, "calibrated_on": told["calibrated_on"]}
    return replace(row, options=options, method=method, **changes)


def records(store: Store, spec: Spec, state: State) -> tuple[list[Record], int]:
    """The records of a state's finished cells, and how many are not finished."""
    found = prepared(store, spec, state)
    if found is None:
        return [], sum(1 for _ in cells(spec, state, asked(spec, state)[0]))
    everyone = [reference_row(state), *found.rows]
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
        for place, (picture, record) in enumerate(zip(cell.pictures, entry["records"], strict=True)):
            own = {
                "prompt_index": picture.index, "number": picture.number, "picture": store.picture(cell, place)
            }  # fmt: skip
            made.append({**found.shared, **record, **own, **rest})
    kept = [record for record in made if (record["method"], record["budget"]) not in failed]
    left = [*found.left_out, *failed.values()]
    kept += [{**found.shared, **out.record(), "steps": state.steps} for out in left]
    return kept, missing


def directions(spec: Spec) -> dict[str, str]:
    """Where each metric of the records improves."""
    told = {field_of(name): METRICS[name].higher_is_better for name in spec.metrics if name in METRICS}
    told |= {metric.name: metric.higher_is_better for metric in spec.learned}
    if JUDGE in spec.metrics:
        told[JUDGE] = True
    return {name: "higher is better" if higher else "lower is better" for name, higher in told.items()}


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
    """A record whose picture is told as seen from the folder of its state."""
    return {**record, "picture": f"../../{record['picture']}"} if record.get("picture") else record


def without_measured(record: Record) -> Record:
    """A record without what differs from run to run."""
    return {key: value for key, value in record.items() if key not in MEASURED}
