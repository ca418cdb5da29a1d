"""Where commands write: looked at before any work, one at a time, never over what is there, whole after a stop."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from typer.testing import CliRunner

from skipcast.bench.run import without_measured
from skipcast.checkpoint import alone
from skipcast.cli import app
from skipcast.plans.profile import Profile
from skipcast.report import read
from support.records import RECORDS, written
from support.reference_model import save_tiny

RUNNER = CliRunner()
#: Of every command what comes before --out, and whether that is a file or a folder.
COMMANDS = {
    "profile": ("profile tiny --pairs 2 --batch 1 --steps 4", "file"),
    "plan": ("plan tiny.profile.safetensors --evaluations 2", "file"),
    "refine": ("plan tiny.profile.safetensors --evaluations 2 --refine tiny --effort low", "file"),
    "curve": ("plan tiny.profile.safetensors --curve --evaluations 2", "file"),
    "report": ("report results.jsonl", "file"),
    "generate": ("generate tiny --prompt x --steps 2", "folder"),
    "prompts": ("generate tiny --prompts prompts.txt --steps 2", "folder"),
    "compare": (
        "compare tiny --steps 4 --evaluations 2 --method euler --seeds 1 --converged-steps 0 --prompts prompts.txt",
        "folder",
    ),
    "bench": ("bench grid.yaml", "folder"),
}
WRITERS = [name for name in COMMANDS if name not in ("refine", "curve")]
GRID = "models: [tiny]\nsteps: [4]\nmethods: [euler]\nbudgets: [2]\nprompts: [a red star, a ring]\nseeds: 1\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a profile of it, a spec, prompts and records."""
    made = tmp_path_factory.mktemp("outputs")
    save_tiny(made / "tiny")
    written(made / "results.jsonl", RECORDS)
    (made / "grid.yaml").write_text(GRID)
    (made / "prompts.txt").write_text("a red star\na ring\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        assert run("profile", Path("tiny.profile.safetensors")).exit_code == 0
    return made


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def run(name: str, out: Path) -> Any:
    return RUNNER.invoke(app, [*COMMANDS[name][0].split(), "--out", str(out)])


def refused(name: str, out: Path) -> str:
    result = run(name, out)
    assert (result.exit_code, type(result.exception)) == (2, SystemExit), result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("error ")]
    return line


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network is called."""
    monkeypatch.setattr(nn.Module, "__call__", lambda *_, **__: pytest.fail("a network was called"))


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_path_that_cannot_be_written_is_refused_before_the_work(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("link")
    os.mkfifo(tmp_path / "pipe")
    before = tree(tmp_path)
    wrong = {
        tmp_path / "file" / "below": "no folder",
        tmp_path / "link" / "below": "is no path",
        tmp_path / ("x" * 300): "is no path",
        Path("/proc/nowhere/it"): "nothing can be written into /proc",
        tmp_path / "pipe": "a device or a pipe" if COMMANDS[name][1] == "file" else "no folder",
        tmp_path if COMMANDS[name][1] == "file" else tmp_path / "file": "folder",
    }
    for path, words in wrong.items():
        assert words in refused(name, path)
    assert tree(tmp_path) == before


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_of_somebody_else_s_is_written_over(name: str, tmp_path: Path) -> None:
    single = {"generate": "0.png", "prompts": "0002-1.png"}
    places = {"file": [""], "folder": [single.get(name, "results.jsonl")]}[COMMANDS[name][1]]
    places += {"prompts": ["images.jsonl", "generate.json"], "compare": ["report.html"]}.get(name, [])
    for number, place in enumerate(places):
        out = tmp_path / str(number)
        (out if not place else out / place).parent.mkdir(exist_ok=True)
        (out / place).write_text("mine")
        assert str(out) in refused(name, out)
        assert (out / place).read_text() == "mine"
        assert sum(path.is_file() and path.name[0] != "." for path in tmp_path.rglob("*")) == number + 1


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("report", "profile")])
def test_a_second_command_at_once_is_refused_by_the_name_of_the_folder(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out" / ("new" if COMMANDS[name][1] == "file" else "")
    with alone(tmp_path / "out"):
        assert f"error {tmp_path / 'out'} is at work already in another process; wait for it" in refused(name, out)


def test_a_second_recording_at_once_is_refused(tmp_path: Path) -> None:
    with alone(tmp_path / "new.partial"):
        assert "new.partial is at work already in another process" in refused("profile", tmp_path / "new")


def failing(count: int, error: Callable[[], BaseException]) -> Callable[[int], None]:
    """An `os.fsync` after which nothing more can be written."""
    left = [count]

    def fsync(_: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise error()

    return fsync


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_and_the_work_goes_on_to_the_same_bytes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of commands that work long also an interruption; what was finished is not made again."""
    full = partial(OSError, errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert run(name, tmp_path / "whole").exit_code == 0
    many = {"profile": 2, "prompts": 4, "compare": 6, "bench": 6}.get(name)  # files before the second failure
    finished = ".png" if name == "prompts" else ".piece"
    times: dict[Path, int] = {}
    for count, error in ((0, full), (many, full), (1, KeyboardInterrupt)) if many else ((0, full),):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing(count, error))
            if error is full:
                assert "No space left on device; make room, then give the command again" in refused(
                    name, tmp_path / "cut"
                )
            else:
                assert run(name, tmp_path / "cut").exit_code == 130
        kept = [path for path in tmp_path.rglob("cut*/**/*") if path.suffix == finished]
        times = {path: path.stat().st_mtime_ns for path in kept}
        assert bool(times) == (count > 0)
        assert not [path for path in tmp_path.rglob(".*") if path.name != ".lock"]
    assert run(name, tmp_path / "cut").exit_code == 0
    assert not [path for path, time in times.items() if path.exists() and path.stat().st_mtime_ns != time]
    if name in ("compare", "bench"):
        one, other = (read(tmp_path / place / "results.jsonl") for place in ("whole", "cut"))
        assert list(map(without_measured, one)) == list(map(without_measured, other))
        assert tree(tmp_path / "cut" / "images") == tree(tmp_path / "whole" / "images")
    elif name in ("generate", "prompts"):
        assert tree(tmp_path / "cut") == tree(tmp_path / "whole")
    elif name == "profile":
        one, other = (Profile.load(tmp_path / place) for place in ("whole", "cut"))
        assert one.origin == other.origin
        assert (one.grams == other.grams).all()
        assert not (tmp_path / "cut.partial").exists()
    else:
        assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_page_of_ours_is_made_anew(tmp_path: Path) -> None:
    assert run("report", tmp_path / "page").exit_code == 0
    before = (tmp_path / "page").read_bytes()
    assert run("report", tmp_path / "page").exit_code == 0
    assert (tmp_path / "page").read_bytes() == before
    assert "results.jsonl is there already" in refused("report", Path("results.jsonl"))
