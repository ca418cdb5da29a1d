"""Bench runs of a tiny model: resumed, sharded and broken, with the same results to the byte."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm.std import TqdmDefaultWriteLock
from typer.testing import CliRunner

import skipcast as sc
from research.shapes_flux.text import TEXT_TOKENS
from skipcast import report
from skipcast.bench.grid import cells, requested, states
from skipcast.bench.run import assemble, bench, size
from skipcast.bench.spec import read_spec
from skipcast.bench.store import Store
from skipcast.bench.work import Worker
from skipcast.bench.workers import Processes
from skipcast.cli import comparing  # noqa: F401  (registers its command)
from skipcast.cli.base import app
from skipcast.forecasters import Lagrange
from skipcast.methods import names
from skipcast.methods.published import Shared
from skipcast.models.load import load_model
from skipcast.parts import Method
from skipcast.plans.propagation import grid_of
from support.kills import killed
from support.runs import COMMAND, files, metrics, run, same
from support.tiny import latents

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def undisturbed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished bench run."""
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    run(tiny / "grid.yaml", folder)
    return folder


def test_records_hold_what_was_run(undisturbed: Path) -> None:
    records = report.read(undisturbed / "results.jsonl")
    assert len(records) == 4 * 4  # the converged run is no row
    rows = report.summarise(records)
    assert next(row.method.partition(":")[0] for row in rows) == "reference"
    assert {row.images for row in rows} == {4}
    record = next(r for r in records if r["method"] == "resilphase:evaluations=4")
    assert record["evaluations"] == len(record["evaluated_steps"]) == 4
    assert record["metrics"] == {
        "psnr": "higher is better",
        "ssim": "higher is better",
        "latent_error": "lower is better",
        "judge": "higher is better",
    }
    assert record["psnr_converged"] is not None
    assert record["revision"]
    assert record["versions"]["torch"]
    assert record["hardware"]
    assert record["scheduler"]["class"] == "FlowMatchEulerDiscreteScheduler"
    assert record["repr"].startswith("Method(")
    reference = next(r for r in records if r["method"] == "reference")
    assert 0 < record["flops"] < reference["flops"]
    calibrated = [r for r in records if r["name"] == "teacache"]
    assert all(r["calibrated_on"]["threshold"] == "threshold" for r in calibrated)


def test_operations_are_those_of_every_layer_and_of_attention(tiny: Path, undisturbed: Path) -> None:
    """Two evaluations fewer are two of both branches fewer: text and decoding are the same in both."""
    flops = {r["method"].partition(":")[0]: r["flops"] for r in report.read(undisturbed / "results.jsonl")}
    pipe = load_model(str(tiny / "tiny")).pipe
    seen: list[int] = []
    for layer in pipe.transformer.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(lambda layer, given, _: seen.append(2 * given[0].numel() * layer.out_features))
    latents(pipe, steps=1, true_cfg_scale=1.0)
    tokens, width, blocks = 16 + TEXT_TOKENS, 32, 3
    attention = blocks * 2 * 2 * tokens**2 * width
    assert flops["reference"] - flops["euler"] == 2 * 2 * (sum(seen) + attention)
    assert flops["euler"] <= flops["resilphase"] < flops["reference"]  # forecasts are sums of few tensors


def test_finished_cells_are_never_run_again(grid: Path, tmp_path: Path, undisturbed: Path) -> None:
    folder = tmp_path / "out"
    run(grid, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*")}
    again = run(grid, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/*")} == before
    assert again.missing == 0
    assert metrics(folder) == metrics(undisturbed)
    (victim, *_) = sorted((folder / "cells").iterdir())
    content = victim.read_bytes()
    victim.unlink()
    run(grid, folder)
    changed = {path for path, when in before.items() if path.stat().st_mtime_ns != when}
    assert {path.name[:32] for path in changed} == {victim.stem}
    again, first = (json.loads(lines.splitlines()[1]) for lines in (victim.read_bytes(), content))
    assert again.pop("timing").keys() == first.pop("timing").keys()
    assert again == first


def test_a_grid_may_grow(write: Callable[[str], Path], tmp_path: Path) -> None:
    text = "models: [tiny]\nsteps: [4]\nmethods: [euler]\nbudgets: [2]\nflops: false\nprompts: [a red star]\n"
    folder = tmp_path / "out"
    run(write(f"{text}seeds: 1\n"), folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    run(write(f"{text}seeds: 2\n"), folder)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(report.read(folder / "results.jsonl")) == 4


def disturbed(grid: Path, folder: Path, undisturbed: Path, kills: int, seconds: float) -> None:
    """Kill bench runs at random moments and resume them; finished cells stay, and the end is as if undisturbed."""
    kept: dict[Path, int] = {}

    def check(finished: bool) -> None:
        now = {path: path.stat().st_mtime_ns for path in (folder / "cells").glob("[!.]*")}
        assert kept.items() <= now.items()
        kept.update(now)
        if finished:  # it was faster: the next kills are for a bench run that begins
            same(folder, undisturbed)
            shutil.rmtree(folder)
            kept.clear()

    killed(lambda: run(grid, folder), kills, seconds, check)
    same(folder, undisturbed)


@pytest.fixture
def unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress bars share a lock between processes, which a child that is killed with it would keep for ever."""
    for action in ("acquire", "release"):
        monkeypatch.setattr(TqdmDefaultWriteLock, action, lambda *_, **__: None)


@pytest.mark.usefixtures("unlocked")
def test_a_killed_sweep_goes_on_to_the_same_bytes(
    grid: Path, tmp_path: Path, undisturbed: Path, longer: int, tried: Callable[[int], None]
) -> None:
    disturbed(grid, tmp_path / "out", undisturbed, 4 * longer, 0.8)
    tried(4 * longer)


class Killer:
    """Kills a worker of the executor after the third piece of drawn work."""

    def __init__(self, executor: Processes) -> None:
        self.executor, self.seen, self.killed = executor, 0, 0

    def total(self, weight: float) -> None:
        pass

    def advance(self, label: str, weight: float) -> None:
        self.seen += 1
        if self.seen == 4:
            self.killed = self.executor.pids[0]
            os.kill(self.killed, signal.SIGKILL)


def test_two_workers_one_of_which_dies_make_the_same_bytes(grid: Path, tmp_path: Path, undisturbed: Path) -> None:
    spec = read_spec(grid)
    executor = Processes(2, partial(Worker, spec, COMMAND))
    killer = Killer(executor)
    with Store(tmp_path / "out", spec).opened() as store:
        found = bench(store, spec, executor, COMMAND, killer)
    assert killer.killed
    assert found.missing == 0
    same(tmp_path / "out", undisturbed)


@pytest.mark.slow
def test_four_workers_make_the_same_bytes(grid: Path, tmp_path: Path, undisturbed: Path) -> None:
    run(grid, tmp_path / "out", workers=4)
    same(tmp_path / "out", undisturbed)


def damaged(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of the finished bench run, to be damaged."""
    return Path(shutil.copytree(undisturbed, tmp_path / "out"))


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda text: text[: len(text) // 2], "line 2: half-written"),
        (lambda text: text[:20], "line 1: half-written or foreign"),
        (lambda text: "", "line 1: half-written or foreign"),
        (lambda text: '{"something": "else"}\n', "line 1: half-written or foreign"),
        (lambda text: text.replace('"evaluations": ', '"evaluations": 1'), "line 2: half-written or changed"),
    ],
)
def test_a_broken_file_is_named_and_nothing_is_lost(
    grid: Path, tmp_path: Path, undisturbed: Path, damage: Callable[[str], str], words: str
) -> None:
    folder = damaged(undisturbed, tmp_path)
    (victim, *_) = sorted((folder / "cells").iterdir())
    victim.write_text(damage(victim.read_text()))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=words) as caught:
        run(grid, folder)
    assert str(caught.value).startswith(f"{victim}, ")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    victim.unlink()
    run(grid, folder)
    assert metrics(folder) == metrics(undisturbed)


def test_a_file_of_another_cell_or_of_nobody_is_refused(grid: Path, tmp_path: Path, undisturbed: Path) -> None:
    folder = damaged(undisturbed, tmp_path)
    first, second, *_ = sorted((folder / "cells").iterdir())
    second.write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match="belongs to other work"):
        run(grid, folder)
    second.unlink()
    (folder / "cells" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes.txt, line 1: no file of cells of a bench run"):
        run(grid, folder)


def test_a_half_written_sample_is_named(grid: Path, tmp_path: Path, undisturbed: Path) -> None:
    folder = damaged(undisturbed, tmp_path)
    for path in (folder / "samples").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    (folder / "cells").joinpath(next(iter(_cells_of(folder, "euler")))).unlink()
    with pytest.raises(ValueError, match=r"samples/.*safetensors: .* no whole sample"):
        run(grid, folder)


def _cells_of(folder: Path, name: str) -> list[str]:
    return [path.name for path in (folder / "cells").iterdir() if f'"name": "{name}"' in path.read_text()]


def test_drafts_of_a_killed_sweep_are_cleared(grid: Path, tmp_path: Path, undisturbed: Path) -> None:
    folder = damaged(undisturbed, tmp_path)
    draft = folder / "cells" / f".{'0' * 32}.piece.77"
    draft.write_text("half")
    run(grid, folder)
    assert not draft.exists()


def test_other_folders_and_machines_are_refused(grid: Path, tmp_path: Path, undisturbed: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "results.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="something else than cells of a bench run"):
        run(grid, other)
    assert (other / "results.jsonl").read_text() == "{}\n"
    folder = damaged(undisturbed, tmp_path)
    manifest = folder / "bench.json"
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**told, "torch": "1.0"}, indent=1))
    with pytest.raises(ValueError, match=r"bench.json, line \d+: .* torch '1.0'"):
        run(grid, folder)
    manifest.write_text("half")
    with pytest.raises(ValueError, match=r"bench.json, line 1: "):
        run(grid, folder)


def test_one_sweep_at_a_time_works_on_a_folder(grid: Path, tmp_path: Path, undisturbed: Path) -> None:
    folder, spec = damaged(undisturbed, tmp_path), read_spec(grid)
    with Store(folder, spec).opened(), pytest.raises(ValueError, match="at work already"):
        run(grid, folder)


def test_what_is_finished_can_be_assembled(grid: Path, tmp_path: Path, undisturbed: Path) -> None:
    folder, spec = damaged(undisturbed, tmp_path), read_spec(grid)
    (folder / "cells" / _cells_of(folder, "euler")[0]).unlink()
    with Store(folder, spec).opened() as store:
        found = assemble(store, spec)
    assert found.missing == 1
    assert len(report.read(folder / "results.jsonl")) == 15


def test_several_states_times_and_the_command(write: Callable[[str], Path], tmp_path: Path) -> None:
    spec = write(
        "models: [tiny]\nsteps: [4, 6]\nmethods: [euler]\nbudgets: [3]\nprompts: [a red star]\nseeds: 1\n"
        "guidance: [1.0, 2.0]\nmetrics: [psnr]\ntiming: {repeats: 2}\nschedulers: [{shift: 2.0}]\n"
    )
    told = RUNNER.invoke(app, ["bench", str(spec), "--dry-run", "--json"]).stdout
    assert json.loads(told) == {"states": 4, "rows": 8, "cells": 8} == vars(size(read_spec(spec)))
    folder = tmp_path / "out"
    result = RUNNER.invoke(app, ["bench", str(spec), "--out", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["missing"], len(document["groups"])) == (0, 4)
    for number in range(1, 5):
        rows = report.summarise(report.read(folder / "by-state" / str(number) / "results.jsonl"))
        assert [row.method for row in rows] == ["reference", "euler:evaluations=3"]
        assert all(row.seconds for row in rows)
    for record in report.read(folder / "results.jsonl"):
        assert record["timing"]["loop"]["median"] < record["timing"]["call"]["median"] == record["seconds"]
        assert record["timing"]["call"]["iqr"] >= 0
        assert "ssim" not in record
        assert record["scheduler"]["config"]["shift"] == 2.0
    text = RUNNER.invoke(app, ["bench", str(spec), "--out", str(folder)])
    assert "euler" in text.output
    wrong = RUNNER.invoke(app, ["bench", str(tmp_path / "none.yaml")])
    assert wrong.exit_code == 2
    assert "Traceback" not in wrong.output


def unsuited(shared: Shared) -> Method:
    """A flow grid begins at pure noise, where the log-SNR is infinite."""
    return shared.method(Lagrange(0))


def test_all_leaves_out_what_cannot_run(
    write: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Shared(warmup=1, coordinate="half-log-snr")
    kept = {name: replace(names.REGISTRY[name], variants=(name,)) for name in ("resilphase", "ab2")}
    monkeypatch.setattr(
        names, "REGISTRY", {**kept, "unsuited": names.Named(unsuited, "none", "", shared, ("unsuited",))}
    )
    spec = write("models: [tiny]\nsteps: [6]\nbudgets: [2, 4]\nmethods: [all]\nprompts: [a red star]\nseeds: 1\n")
    run(spec, tmp_path / "out")
    records = report.read(tmp_path / "out" / "results.jsonl")
    reasons = {(r["method"], r["budget"]): r["reason"] for r in records if r["kind"] == "left out"}
    assert "warm-up" in reasons["resilphase:evaluations=2", 2]
    assert "HalfLogSNR" in reasons["unsuited:evaluations=4", 4]
    assert [row.method for row in report.summarise(records)][1:] == [
        "ab2:evaluations=2",
        *sorted(("ab2:evaluations=4", "resilphase:evaluations=4"), key=lambda m: -psnr_of(records, m)),
    ]


def psnr_of(records: list[dict[str, Any]], method: str) -> float:
    return next(float(r["psnr"]) for r in records if r["method"] == method)


def test_plans_of_files_run_where_they_are_made_for(tiny: Path, write: Callable[[str], Path], tmp_path: Path) -> None:
    pipe = load_model(str(tiny / "tiny")).pipe
    latents(pipe, steps=6)
    method = names.method("lagrange:order=1,evaluations=3")
    sc.compile_plan(method, grid_of(pipe.scheduler)).save(tmp_path / "mine.plan.json")
    text = (
        "models: [tiny]\nsteps: [6, 4]\nmethods: []\nplans: [mine.plan.json]\nprompts: [a red star]\nseeds: 1\n"
        "samples: all\nbudgets: [3]\n"
    )
    spec_file = write(text)
    spec = read_spec(spec_file)
    rows = [[row.label for row in requested(spec, state)[0]] for state in states(spec)]
    assert rows == [["plan:mine"], []]
    cell = list(cells(spec, states(spec)[0], requested(spec, states(spec)[0])[0]))[-1]
    assert pickle.loads(pickle.dumps(cell)).digest == cell.digest
    run(spec_file, tmp_path / "out")
    records = report.read(tmp_path / "out" / "results.jsonl")
    assert [(r["method"], r["kind"], r["evaluations"]) for r in records][:2] == [
        ("reference", "reference", 6),
        ("plan:mine", "plan", 3),
    ]
    assert len(files(tmp_path / "out", "samples")) == 3
    other = write(text.replace("samples: all", "schedulers: [{shift: 2.0, use_dynamic_shifting: false}]"))
    with pytest.raises(ValueError, match=r"grid.yaml, line \d+: .*plan:mine: the plan was made for other timesteps"):
        run(other, tmp_path / "other")


def test_a_metric_that_does_not_suit_names_its_cell(write: Callable[[str], Path], tmp_path: Path) -> None:
    spec = write(
        "models: [tiny]\nsteps: [4]\nbudgets: [2]\nmethods: [euler]\nprompts: [a red star]\nseeds: 1\n"
        "metrics: [ms_ssim]\n"
    )
    with pytest.raises(ValueError, match=r"euler:evaluations=2 on 'a red star', seed \d+ .*176"):
        run(spec, tmp_path / "out")
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 1  # the reference is not lost
