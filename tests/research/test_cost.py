"""The cost benchmark runs every row, counts evaluations and bytes exactly, and writes its page; no time is judged."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from research.cost import __main__ as cost
from research.cost import page as cost_page
from research.cost import rows as cost_rows
from research.cost import runs as cost_runs
from research.cost.memory import Held
from research.cost.models import ARCHITECTURES, Pipe
from research.cost.rows import ROWS, Enabled, NotMeasured, Request, Row

REQUEST = Request(6, 3)
NAMED = {row.name: row for row in ROWS}


def pipe_of(model: str, dtype: torch.dtype = torch.float32) -> Pipe:
    return Pipe(ARCHITECTURES[model].tiny(), "cpu", dtype)


@pytest.fixture(scope="module")
def flux() -> Pipe:
    return pipe_of("flux-depth")


@pytest.fixture(scope="module")
def plain(flux: Pipe) -> cost_runs.Seen:
    return cost_runs.look(Enabled(flux), REQUEST.steps, "cpu")


def looked(pipe: Pipe, row: Row) -> cost_runs.Seen:
    try:
        with row.enable(pipe.fresh(), REQUEST) as enabled:
            return cost_runs.look(enabled, REQUEST.steps, "cpu")
    except NotMeasured as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("row", ROWS[1:], ids=lambda row: row.name)
def test_a_row_evaluates_what_it_was_told_and_leaves_nothing_behind(
    flux: Pipe, plain: cost_runs.Seen, row: Row
) -> None:
    seen = looked(flux, row)
    assert seen.ran == REQUEST.evaluations
    if row.name == "plan":
        assert seen.calls == REQUEST.evaluations
    else:
        assert (seen.evaluated, seen.calls) == ([0, 2, 4], REQUEST.steps)
    assert not torch.equal(seen.latents, plain.latents)
    again = cost_runs.look(Enabled(flux), REQUEST.steps, "cpu")
    assert torch.equal(again.latents, plain.latents)
    assert again.held == plain.held
    flux.fresh()
    assert not any({"forward", "_diffusers_hook"} & set(vars(module)) for module in flux.transformer.modules())
    assert next(iter(flux.transformer._modules)) == "pos_embed"
    assert list(flux.transformer._modules)[-2:] == ["norm_out", "proj_out"]


@pytest.mark.parametrize("model", ["wan-1.3b", pytest.param("hunyuan-video", marks=pytest.mark.slow)])
def test_video_models_on_the_numbers_of_a_gpu(model: str) -> None:
    pipe = pipe_of(model, torch.bfloat16)
    for name in ("lagrange", "plan", "fbc", "magcache", "seacache", "dbcache"):
        try:
            with NAMED[name].enable(pipe.fresh(), REQUEST) as enabled:
                assert cost_runs.look(enabled, REQUEST.steps, "cpu").ran == REQUEST.evaluations, name
        except NotMeasured as reason:
            assert (name, str(reason)) == ("dbcache", cost_rows.CACHE_DIT)  # noqa: PT017
    if model == "wan-1.3b":  # diffusers hooks nothing there
        assert looked(pipe, NAMED["diffusers-taylorseer"]).ran == REQUEST.steps


def test_a_gpu_is_waited_for(monkeypatch: pytest.MonkeyPatch, flux: Pipe) -> None:
    """The calls that a GPU is timed and weighed by, with a stand-in for it."""
    calls: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = time.perf_counter()

        def elapsed_time(self, other: Event) -> float:
            assert calls[-1] == "synchronize"  # an event that has not happened yet cannot be read
            return 1000 * (other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    for name, value in {"max_memory_allocated": 700, "memory_allocated": 500}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *given, name=name: calls.append(name))
    with NAMED["lagrange"].enable(flux.fresh(), REQUEST) as enabled:
        seen = cost_runs.look(enabled, REQUEST.steps, "cuda")
    assert seen.held == 200
    assert seen.ran == REQUEST.evaluations
    calls.clear()
    loop = cost_runs.run(Enabled(flux), REQUEST.steps, "cuda")
    assert calls == ["synchronize", "synchronize"]
    assert 0 < sum(loop.steps) <= loop.seconds


def test_published_sizes() -> None:
    tokens = {name: (shape.tokens(), shape.width()) for name, shape in ARCHITECTURES.items()}
    assert tokens == {
        "flux-depth": (256, 256),
        "flux-dev": (4096, 3072),
        "wan-1.3b": (21 * 30 * 52, 1536),
        "wan-14b": (21 * 45 * 80, 5120),
        "hunyuan-video": (33 * 45 * 80, 3072),
    }


def test_memory_counts_storages_not_tensors() -> None:
    old = torch.ones(100)
    with Held() as held:
        assert held.bytes() == 0
        old.add_(1)
        view = (old * 2)[:10]
        twin = view.t()
        assert held.bytes() == 400
        other = twin + 1
        assert held.bytes() == 440
        del view
        assert held.bytes() == 440
        del twin, other
        assert held.bytes() == 0


def keeping(count: int) -> Row:
    """A row that keeps copies of the newest inputs."""

    @contextmanager
    def enable(pipe: Pipe, request: Request) -> Iterator[Enabled]:
        kept: list[torch.Tensor] = []

        def keep(module: object, given: object, named: dict[str, torch.Tensor]) -> None:
            kept.append(named["hidden_states"].clone())
            del kept[:-count]

        hook = pipe.transformer.register_forward_pre_hook(keep, with_kwargs=True)
        yield Enabled(pipe)
        hook.remove()

    return Row("keeping", "keeping", "-", "", enable)


KEPT = [(NAMED["reuse"], 1, 100), (NAMED["lagrange"], 3, 100), (keeping(1), 1, 1), (keeping(3), 3, 1)]


@pytest.mark.parametrize("row, outputs, besides", KEPT, ids=lambda value: getattr(value, "name", str(value)))
def test_what_a_row_keeps_to_the_byte(flux: Pipe, plain: cost_runs.Seen, row: Row, outputs: int, besides: int) -> None:
    """A method keeps one number per evaluation besides, its error in hindsight; a row that nobody knows nothing."""
    held = looked(flux, row).held - plain.held
    assert held // flux.noise.nbytes == outputs
    assert held % flux.noise.nbytes < besides


def test_a_peer_that_is_absent_says_so(monkeypatch: pytest.MonkeyPatch, flux: Pipe) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        cost_rows.importlib.util, "find_spec", lambda name, *a: None if name == "cache_dit" else find(name, *a)
    )
    found = cost_runs.measure(flux, [NAMED["plain"], NAMED["dbcache"]], REQUEST, 1, "cpu")
    assert found[1].reason == cost_rows.CACHE_DIT
    assert found[1].ratio is None


@pytest.mark.slow
def test_compiled_rows(monkeypatch: pytest.MonkeyPatch, flux: Pipe) -> None:
    compiled = type(flux.transformer).compile_repeated_blocks
    times: list[None] = []

    def simply(self: torch.nn.Module) -> None:
        times.append(None)
        compiled(self, backend="eager")

    monkeypatch.setattr(type(flux.transformer), "compile_repeated_blocks", simply)
    rows = [NAMED["plain"], NAMED["lagrange"]]
    found = cost_runs.measure(flux, rows, REQUEST, 1, "cpu", compiled=True)
    assert len(times) == 3  # the plain run stands before and after
    assert [row.ran for row in found] == [6, 3]
    assert all(module._compiled_call_impl is None for module in flux.transformer.modules())


def test_the_record_and_the_page(tmp_path: Path) -> None:
    record = tmp_path / "cost.json"
    words = ["--tiny", "--steps", "6", "--evaluations", "3", "--repeats", "1", "--between", "1", "--out", str(record)]
    runner = CliRunner()
    done = runner.invoke(cost.app, [*words, "--rows", "lagrange,plan"])
    assert done.exit_code == 0, done.output
    done = runner.invoke(cost.app, [*words, "--rows", "lagrange", "--model", "hunyuan-video"])
    assert done.exit_code == 0, done.output
    found = json.loads(record.read_text())
    assert list(found["runs"]) == ["tiny flux-depth on cpu, eager", "tiny hunyuan-video on cpu, eager"]
    first = {row["name"]: row for row in found["runs"]["tiny flux-depth on cpu, eager"]["rows"]}
    assert list(first) == ["plain", "lagrange", "plan"]
    assert first["lagrange"]["evaluated"] == first["plan"]["evaluated"] == [0, 2, 4]
    assert first["lagrange"]["forecast_share"] > 0
    assert first["plan"]["forecast_share"] is None
    assert first["plain"]["ratio"] == 1

    assert runner.invoke(cost.app, ["page", str(record)]).exit_code == 0
    text = (tmp_path / "cost.md").read_text()
    assert text.count("not measured: no GPU was at hand") == 8
    assert "not measured: not run yet" in text  # the full CPU run
    assert "3 of 6" in text


def test_an_unmeasured_row_on_the_page() -> None:
    row = cost_runs.Measured("dbcache", "DBCache", "-", "", "cache-dit", "cannot | be")
    lines = cost_page._table([row], 1)
    assert lines[2].count("|") == lines[0].count("|")
    assert "not measured: cannot / be" in lines[2]


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["--model", "nothing"], "unknown model"),
        (["--rows", "plain,nothing"], "unknown rows nothing"),
        (["--steps", "4", "--evaluations", "5"], "do not fit"),
        (["--size", "12"], "not like"),
    ],
)
def test_mistakes_are_named(words: list[str], complaint: str) -> None:
    done = CliRunner().invoke(cost.app, words)
    assert done.exit_code == 2
    assert complaint in " ".join(done.output.split())


def test_a_size_of_ones_own() -> None:
    shape = cost._resized(ARCHITECTURES["wan-14b"], "480x832x33")
    assert shape == replace(ARCHITECTURES["wan-14b"], size=(480, 832, 33))
    assert cost._resized(shape, "64x64").size == (64, 64, 33)
