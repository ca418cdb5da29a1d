"""What goes wrong from outside or goes on for long: kills, values that are not finite, many runs in one process."""

from __future__ import annotations

import gc
import os
import resource
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm.std import TqdmDefaultWriteLock

import skipcast as sc
from skipcast.bench.compare import compare
from skipcast.bench.generate import Painter, Request, generate, pairs
from skipcast.bench.workers import InProcess
from skipcast.models.load import load_model
from support.kills import killed
from support.reference_model import save_tiny
from support.runs import comparison, metrics
from support.seams import state
from support.tiny import latents

PROMPTS = ["a large red star on a blue background", "a small green ring on a white background", "a blue square", "x"]
STEPS = 8
Tried = Callable[[int], None]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(str(save_tiny(tmp_path_factory.mktemp("model"))))


@pytest.fixture
def unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress bars share a lock between processes, which a child that is killed with it would keep for ever."""
    for action in ("acquire", "release"):
        monkeypatch.setattr(TqdmDefaultWriteLock, action, lambda *_, **__: None)


def images_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.png")}


def drawn(model: Any, folder: Path) -> None:
    request = Request(model.name, "reuse:interval=2", sc.method("reuse:interval=2"), steps=STEPS)
    every = pairs(list(enumerate(PROMPTS, start=1)), seeds=2, seed=0)
    generate(folder, request, every, InProcess(partial(Painter, request)))


def recorded(model: Any, folder: Path) -> None:
    path = folder / "some.profile.safetensors"
    sc.record(model.pipe, PROMPTS * 2, seeds=0, num_inference_steps=STEPS, batch=1, path=path, progress=False)


def compared(model: Any, folder: Path) -> None:
    spec = comparison(model, "reuse:interval=2", "euler", budgets=4, prompts=PROMPTS[:2], steps=STEPS, seeds=2, batch=1)
    compare(spec, model, folder=folder)


def records_of(folder: Path) -> dict[str, bytes]:
    return {**images_of(folder), "results.jsonl": metrics(folder).encode()}


def profile_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("unlocked")
@pytest.mark.parametrize(
    ("work", "left"),
    [(drawn, images_of), (recorded, profile_of), (compared, records_of)],
    ids=["generate", "profile", "compare"],
)
def test_killed_work_goes_on_to_the_same_bytes(
    work: Callable[[Any, Path], None],
    left: Callable[[Path], dict[str, bytes]],
    model: Any,
    tmp_path: Path,
    longer: int,
    tried: Tried,
) -> None:
    work(model, tmp_path / "whole")
    expected = left(tmp_path / "whole")
    assert expected
    folder, kills = tmp_path / "killed", 2 * longer

    def check(finished: bool) -> None:
        if finished:  # it was faster: the next kills are for work that begins
            assert left(folder) == expected
            shutil.rmtree(folder)

    killed(lambda: work(model, folder), kills, 0.8, check)
    assert left(folder) == expected
    tried(kills)


@pytest.fixture(scope="module")
def plan(pipe: Any) -> sc.Plan:
    recording = {"num_inference_steps": STEPS, "progress": False, "true_cfg_scale": 2.0, "negative_prompt": ""}
    return sc.record(pipe, PROMPTS, seeds=0, **recording).plan(evaluations=4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "method",
    ["plan", "compiled", "euler:evaluations=4", "lagrange:order=1,interval=3,target=output", "resilphase:interval=3"],
)
def test_no_value_that_is_not_finite_stays_unsaid(
    method: str, value: float, pipe: Any, plan: sc.Plan, tried: Tried
) -> None:
    """At whatever call of the network: final samples are finite, or the run is refused, not trusted or warned of."""
    calls: list[int] = []
    plans = {"plan": plan, "compiled": replace(plan, forecasts=(), expected=None)}

    def break_one(_module: Any, _given: Any, output: Any, at: int) -> None:
        calls.append(1)
        if len(calls) == at + 1:
            output.view(-1)[:3] = value

    latents(pipe, STEPS)  # leaves on its scheduler what any run does
    before, place = state(pipe), 0
    while True:
        calls.clear()
        handle = pipe.transformer.proj_out.register_forward_hook(partial(break_one, at=place))
        try:
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                with sc.accelerate(pipe, plans.get(method, method)) as acceleration:
                    found = latents(pipe, STEPS)
                    told = acceleration.summary()
        finally:
            handle.remove()
        if place >= len(calls):
            break
        said = any("not finite" in str(warning.message) for warning in heard)
        assert bool(found.isfinite().all()) or said, f"call {place}"
        if not bool(found.isfinite().all()):
            trusted = told.trusted == (False,) if method == "plan" else told.trusted is None
            assert trusted
            assert method == "plan" or any("not finite" in w for w in told.warnings)
        place += 1
    assert place >= 4
    assert bool(found.isfinite().all())  # of the run without a broken call: nothing has reached it
    assert state(pipe) == before
    tried(place)


def handles() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="handles are counted as Linux lists them")
def test_many_runs_leave_nothing_behind(pipe: Any, plan: sc.Plan, longer: int, tried: Tried) -> None:
    methods = [plan, "resilphase:interval=3", "taylorseer:interval=3", "teacache:threshold=0.3", "ab2:evaluations=4"]

    def turn() -> list[torch.Tensor]:
        out = []
        for method in methods:
            with warnings.catch_warnings(), sc.accelerate(pipe, method):
                warnings.simplefilter("ignore")
                out.append(latents(pipe, STEPS))
        return out

    plain, before = latents(pipe, STEPS), state(pipe)
    first = turn()
    turn()
    gc.collect()
    tensors, opened = sum(isinstance(one, torch.Tensor) for one in gc.get_objects()), handles()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3 * longer):
        assert all(map(torch.equal, turn(), first))
    gc.collect()
    assert sum(isinstance(one, torch.Tensor) for one in gc.get_objects()) == tensors
    assert handles() == opened
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 64 * 1024  # KB
    assert state(pipe) == before
    assert torch.equal(latents(pipe, STEPS), plain)
    tried((3 * longer + 2) * len(methods))
