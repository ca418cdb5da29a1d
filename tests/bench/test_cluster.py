"""A bench run and a batch of pictures by the actors of a cluster: the same bytes, though one is killed half-way."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from skipcast.bench import provenance
from skipcast.bench.run import bench, quiet, without_measured
from skipcast.bench.spec import read_spec
from skipcast.bench.store import Store
from skipcast.bench.work import Worker
from skipcast.bench.workers import Ray, WorkerError, executor
from skipcast.cli import comparing  # noqa: F401  (registers its command)
from skipcast.cli.base import app
from support.clusters import CPUS, actors, local_cluster
from support.reference_model import save_tiny
from support.runners import Adder, Sum

GRID = """\
models: [tiny]
steps: [6]
methods: [resilphase, euler]
budgets: [4]
prompts:
  - a large red star on a blue background
  - a small green ring on a white background
seeds: 2
"""
COMMAND = "skipcast bench grid.yaml"
MAKE = partial(Adder, 0)


@pytest.fixture(scope="module")
def started() -> Iterator[None]:
    with local_cluster():
        yield


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster")
    save_tiny(folder / "tiny")
    (folder / "grid.yaml").write_text(GRID)
    return folder / "grid.yaml"


class Killer:
    """Kills an actor after the third piece of drawn work."""

    seen = killed = 0

    def total(self, weight: float) -> None:
        pass

    def advance(self, label: str, weight: float) -> None:
        self.seen += 1
        if self.seen == 4:
            self.killed = actors()[0]
            os.kill(self.killed, signal.SIGKILL)


def swept(grid: Path, folder: Path, address: str | None, progress: Any) -> dict[str, Any]:
    """Everything that a sweep leaves, without times; nor the commit, for a tree may change beside a test."""
    spec = read_spec(grid)
    work = executor(partial(Worker, spec, COMMAND), 2 if address else 1, address)
    with Store(folder, spec).opened() as store:
        made = bench(store, spec, work, COMMAND, progress)
    assert made.missing == 0
    records = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    lines = [json.dumps({**without_measured(record), "commit": None}) for record in records]
    files = {path.name: path.read_bytes() for kind in ("samples", "images") for path in (folder / kind).glob("*")}
    return {"results": lines, **files}


@pytest.mark.usefixtures("started")
@pytest.mark.slow  # every actor starts a Python of its own: minutes on two busy cores
def test_a_cluster_that_loses_a_worker_makes_the_same_bytes(grid: Path, tmp_path: Path) -> None:
    killer = Killer()
    found = swept(grid, tmp_path / "ray", "local", killer)
    assert killer.killed
    assert found == swept(grid, tmp_path / "alone", None, quiet())
    assert len(found["results"]) == 12
    assert len(found) >= 5  # samples


@pytest.mark.slow
@pytest.mark.usefixtures("started")
def test_more_actors_than_the_cluster_has_room_for() -> None:
    """Those that there are do all the work."""
    work = Ray("local", CPUS + 1, MAKE)
    try:
        found = [result for _, result in work.map(Sum(n, seconds=0.01) for n in range(8))]
    finally:
        work.close()
    assert sorted(result.number for result in found) == list(range(8))
    assert len({result.place for result in found}) <= CPUS


installed = provenance.versions


@pytest.mark.usefixtures("started")
def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "versions", lambda: {**installed(), "torch": "0.0.7"})
    work = Ray("local", 1, MAKE)
    try:
        with pytest.raises(WorkerError, match=r"of the cluster has torch [\d.a-z+]+ instead of 0.0.7; images would"):
            list(work.map([Sum(1)]))
    finally:
        work.close()


@pytest.mark.slow
@pytest.mark.usefixtures("started")
def test_the_command_takes_a_cluster(grid: Path, tmp_path: Path) -> None:
    options = ["--ray", "local", "--workers", "2", "--json", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["bench", str(grid), *options])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["cells"], document["missing"]) == (12, 0)
    result = CliRunner().invoke(app, ["bench", str(grid), "--ray", "here"])
    assert result.exit_code == 2
    assert "give local, auto, HOST:PORT" in result.output
