"""`skipcast generate --prompts FILE`: resumed, shared out and refused, with the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import skipcast as sc
from skipcast.bench import generate as painter
from skipcast.bench.generate import Painter, Request, generate, pairs
from skipcast.bench.prompts import read_prompts
from skipcast.bench.workers import InProcess
from skipcast.cli import generating  # noqa: F401  (registers its command)
from skipcast.cli.base import app
from skipcast.methods import names
from skipcast.models.load import load_model
from skipcast.plans.propagation import grid_of
from support.clusters import local_cluster
from support.reference_model import save_tiny
from support.tiny import latents

RUNNER = CliRunner()
PROMPTS = "a large red star on a blue background\n\na small green ring on a white background\na blue square\n"
NAMES = ["0001-1.png", "0001-2.png", "0003-1.png", "0003-2.png", "0004-1.png", "0004-2.png"]
METHOD = "resilphase:interval=3"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text(PROMPTS)
    return path


def command(model: str, prompts: Path, out: Path, *more: str, method: str = METHOD) -> list[str]:
    return ["generate", model, "--prompts", str(prompts), "--seeds", "2", "--batch", "2", "--steps", "8",
            *(["--method", method] if method else []), "--out", str(out), *more]  # fmt: skip


def run(*args: str) -> str:
    result = RUNNER.invoke(app, list(args))
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*args: str) -> str:
    result = RUNNER.invoke(app, list(args))
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("[!.]*") if path.is_file()}


@pytest.fixture(scope="module")
def made(model: str, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All images, by this process."""
    folder = tmp_path_factory.mktemp("made") / "out"
    run(*command(model, prompts, folder))
    return folder


def listed(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]


def test_every_image_has_a_file_and_a_record(made: Path) -> None:
    pieces = [name.replace(".png", ".piece") for name in NAMES]
    assert sorted(content(made)) == sorted([*NAMES, *pieces, "generate.json", "images.jsonl"])
    records = listed(made)
    assert [record["file"] for record in records] == NAMES
    for record in records:
        assert record["sha256"] == hashlib.sha256((made / record["file"]).read_bytes()).hexdigest()
        assert (record["evaluations"], record["trusted"], record["drawn_again"]) == (4, None, False)
    assert len({record["sha256"] for record in records}) == len(NAMES)
    told = json.loads((made / "generate.json").read_text())
    assert (told["method"], told["steps"], told["batch"], told["seed"]) == (METHOD, 8, 2, 0)
    assert told["how"].startswith("Method(")


def test_two_workers_draw_the_same_bytes(model: str, prompts: Path, made: Path, tmp_path: Path) -> None:
    document = json.loads(run(*command(model, prompts, tmp_path / "out", "--workers", "2", "--json")))
    assert (document["images"], document["drawn"], document["kept"]) == (6, 6, 0)
    assert document["images_per_second"] > 0
    assert content(tmp_path / "out") == content(made)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with local_cluster():
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_cluster_draws_the_same_bytes(model: str, prompts: Path, made: Path, tmp_path: Path) -> None:
    text = run(*command(model, prompts, tmp_path / "out", "--workers", "2", "--ray", "local"))
    assert "6 images in" in text
    assert content(tmp_path / "out") == content(made)


def test_what_is_finished_is_not_drawn_again(
    model: str, prompts: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is stopped within a portion goes on, though half a file is left of it."""
    folder = tmp_path / "out"
    revision = json.loads((made / "generate.json").read_text())["revision"]
    request = Request(model, METHOD, names.method(METHOD), 8, batch=2, revision=revision)
    every = pairs(read_prompts(prompts), 2, 0)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(folder, request, every, InProcess(partial(Painter, request)), stop)
    assert len(list((folder / "records").iterdir())) == 2
    (folder / NAMES[1]).unlink()  # then its portion is drawn whole, and the other image stays
    (folder / "records" / ".0003-1.piece.77").write_text("half")
    before = (folder / NAMES[0]).stat().st_mtime_ns
    document = json.loads(run(*command(model, prompts, folder, "--json")))
    assert (document["drawn"], document["kept"]) == (5, 1)
    assert (folder / NAMES[0]).stat().st_mtime_ns == before
    assert content(folder) == content(made)
    monkeypatch.setattr(painter, "load_model", None)  # nothing is loaded for nothing
    assert "all 6 images were finished already" in run(*command(model, prompts, folder))
    assert content(folder) == content(made)


def test_more_prompts_and_seeds_may_follow(model: str, prompts: Path, made: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("\n".join(PROMPTS.split("\n")[:3]))
    folder = tmp_path / "out"
    run(*command(model, short, folder))
    document = json.loads(run(*command(model, prompts, folder, "--json")))
    assert (document["drawn"], document["kept"]) == (2, 4)
    assert content(folder) == content(made)


def test_other_work_is_refused_and_nothing_is_lost(model: str, prompts: Path, made: Path, tmp_path: Path) -> None:
    before = content(made)
    words = refused(*command(model, prompts, made, "--seed", "4"))
    assert "generate.json, line" in words
    assert "begun with seed 0, now it is 4; go on as it was begun, remove the folder, or give another path" in words
    assert "begun with method" in refused(*command(model, prompts, made, method="ab2"))
    changed = tmp_path / "changed.txt"
    changed.write_text(PROMPTS.replace("ring", "cross"))
    words = refused(*command(model, changed, made))
    assert "0003-1.piece, line 2: 0003-1.png shows 'a small green ring" in words
    assert content(made) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "0003-1.png").write_bytes(b"mine")
    assert "is there already" in refused(*command(model, prompts, tmp_path / "mine"))
    assert (tmp_path / "mine" / "0003-1.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("generate.json", "{", "generate.json, line 1: does not say"),
        ("records/0003-1.piece", "half\n", "0003-1.piece, line 1: half-written or foreign"),
    ],
)
def test_broken_files_are_named(
    model: str, prompts: Path, made: Path, tmp_path: Path, name: str, text: str, words: str
) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "out"))
    (folder / name).write_text(text)
    before = content(folder)
    assert words in refused(*command(model, prompts, folder))
    assert content(folder) == before


def test_a_first_try_that_fails_leaves_the_folder_free(model: str, prompts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    text = refused(*command(model, prompts, folder, "--steps", "2"))
    assert "0001-1 (" in text
    run(*command(model, prompts, folder))
    assert len(listed(folder)) == 6


def test_images_that_a_plan_is_not_trusted_on_are_drawn_again(model: str, prompts: Path, tmp_path: Path) -> None:
    pipe = load_model(model).pipe
    latents(pipe, steps=8)
    plan = sc.compile_plan(names.method("lagrange:order=1,evaluations=4"), grid_of(pipe.scheduler))
    last = tuple(np.eye(n)[-1] if n else np.zeros(0) for n in range(len(plan)))  # each output is expected once more
    plan, expected = replace(plan, forecasts=last), np.full((len(plan), 2), 1e-9)
    strict, lax = (tmp_path / f"{name}.plan.json" for name in ("strict", "lax"))
    replace(plan, expected=expected).save(strict)
    dear = sc.compile_plan(names.method("lagrange:order=1,evaluations=6"), grid_of(pipe.scheduler))
    dear.save(lax)
    found = {}
    for name, options in {"strict": (), "retry": ("--retry", str(lax))}.items():
        document = json.loads(
            run(*command(model, prompts, tmp_path / name, "--plan", str(strict), *options, "--json", method=""))
        )
        found[name] = document["drawn_again"], listed(tmp_path / name)
    assert (found["strict"][0], found["retry"][0]) == (0, 6)
    shared = sc.AdaptivePlan([replace(plan, expected=expected), dear]).shared
    cost = max(2, shared) + len(dear) - shared  # doubted behind the second evaluation
    assert {(r["evaluations"], r["trusted"], r["drawn_again"]) for r in found["strict"][1]} == {(4, False, False)}
    assert {(r["evaluations"], r["trusted"], r["drawn_again"]) for r in found["retry"][1]} == {(cost, False, True)}


def test_videos_are_drawn(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Videos:
        def __call__(self, prompt: list[str], callback_on_step_end: Any, **_: Any) -> Any:
            callback_on_step_end(self, 0, 0, {"latents": torch.zeros(len(prompt), 4)})
            return SimpleNamespace(frames=np.full((len(prompt), 3, 16, 16, 3), 0.5, np.float32))

    monkeypatch.setattr(painter, "load_model", lambda *_, **__: SimpleNamespace(pipe=Videos(), call={}, revision=None))
    run(*command("owner/name", prompts, tmp_path, method=""))
    assert [record["file"] for record in listed(tmp_path)] == [name.replace(".png", ".webp") for name in NAMES]


@pytest.mark.parametrize(
    "options, words",
    [
        ((), "give --prompt with a text, or --prompts with a file"),
        (("--prompt", "a", "--prompts", "b.txt"), "one of the two"),
        (("--prompts", "none.txt"), "none.txt: no such file"),
        (("--prompt", "a", "--workers", "2"), "--workers is for --prompts FILE"),
        (("--prompt", "a", "--ray", "local"), "--ray is for --prompts FILE"),
        (("--prompts", "none.txt", "--dtype", "float8"), "float8"),
    ],
)
def test_options_that_do_not_go_together(model: str, options: tuple[str, ...], words: str) -> None:
    assert words in refused("generate", model, *options)
