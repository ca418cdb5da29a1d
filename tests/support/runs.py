"""Sweeps run to their end in this process or in several, and what they leave in their folder."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from skipcast.bench.models import ModelSpec
from skipcast.bench.rows import check
from skipcast.bench.run import Assembled, bench, quiet, without_measured
from skipcast.bench.spec import Spec, read_spec
from skipcast.bench.store import Store
from skipcast.bench.work import Worker
from skipcast.bench.workers import InProcess, Processes

COMMAND = "skipcast bench grid.yaml"


def comparison(model: Any, *methods: str, **changes: Any) -> Spec:
    """The spec of a small comparison on a model in memory, or on one that there is only the name of."""
    known = ModelSpec(model, model, "", world="shapes-flux") if isinstance(model, str) else ModelSpec.of(model)
    given = {"steps": 12, "seeds": 1, "seed": 1000, "batch": 8, "flops": False, "timing": {"repeats": 1}}
    return Spec.of(**{"models": known, "methods": methods or None, **given, **changes})


def run(spec_file: Path, folder: Path, workers: int = 1, progress: Any = None) -> Assembled:
    spec = check(read_spec(spec_file))
    make = partial(Worker, spec, COMMAND)
    executor = InProcess(make) if workers == 1 else Processes(workers, make)
    with Store(folder, spec).opened() as store:
        return bench(store, spec, executor, COMMAND, progress or quiet())


def metrics(folder: Path) -> str:
    """All records as they are on disk, without times; nor the commit, for a tree may change during a test."""
    records = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    return "\n".join(json.dumps({**without_measured(record), "commit": None}) for record in records)


def files(folder: Path, kind: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / kind).iterdir()}


def same(folder: Path, other: Path) -> None:
    """Records, samples and images are the same to the byte."""
    assert metrics(folder) == metrics(other)
    assert files(folder, "samples") == files(other, "samples")
    assert files(folder, "images") == files(other, "images")
