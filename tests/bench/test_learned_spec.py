"""Metrics with weights in a sweep: figures by hand, and missing weights refused at their line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from skipcast import report
from skipcast.bench.grid import cells, requested, states
from skipcast.bench.metrics.learned import LEARNED, Learned
from skipcast.bench.spec import read_spec
from skipcast.bench.yamls import SpecError
from support.runs import run

GRID = """\
models: [tiny]
steps: [6]
methods: [euler]
budgets: [4]
prompts: [a red star, a blue ring on black]
seeds: 1
batch: 2
converged_steps: 12
metrics: [psnr, {lpips: weights}, clip_score]
"""


def distance(_weights: Path | None, _device: str) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda a, b: (a - b).abs().mean(dim=(1, 2, 3))


def letters(_weights: Path | None, _device: str) -> Callable[[Tensor, Any], Tensor]:
    return lambda a, prompts: a.new_tensor([float(len(prompt)) for prompt in prompts])


def absent(_weights: Path | None, _device: str) -> Callable[..., Tensor]:
    raise RuntimeError("weights of clip_score: none in the cache of this machine; give their path.")


@pytest.fixture
def spec(write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep with two metrics whose weights are made up."""
    monkeypatch.setitem(LEARNED, "lpips", Learned("lpips", "torch", "pip", False, "images", distance))
    monkeypatch.setitem(LEARNED, "clip_score", Learned("clip_score", "torch", "pip", True, "prompts", letters))
    path = write(GRID)
    (path.parent / "weights").write_bytes(b"12")
    return path


def test_figures_stand_in_the_records_with_their_direction(spec: Path, tmp_path: Path) -> None:
    run(spec, tmp_path / "out")
    records = report.read(tmp_path / "out" / "results.jsonl")
    assert records[0]["metrics"] == {
        "psnr": "higher is better", "lpips": "lower is better", "clip_score": "higher is better",
    }  # fmt: skip
    for record in records:
        assert record["clip_score"] == len(record["prompt"])
        assert (record["lpips"] is None) == (record["kind"] == "reference")
        assert record["lpips_converged"] > 0
    (euler,) = (row for row in report.summarise(records) if row.name == "euler")
    assert euler.measures["lpips"].mean > 0
    assert not euler.measures["lpips"].higher_is_better


def test_other_weights_are_other_cells(spec: Path) -> None:
    def names() -> list[str]:
        found = read_spec(spec)
        (state,) = states(found)
        return [cell.digest for cell in cells(found, state, requested(found, state)[0])]

    before = names()
    (spec.parent / "weights").write_bytes(b"123")
    assert [a == b for a, b in zip(before, names(), strict=True)] == [True, False, False]  # the converged run stays


def test_weights_that_are_not_on_the_machine_are_told_before_anything_is_drawn(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LEARNED, "clip_score", Learned("clip_score", "torch", "pip", True, "prompts", absent))
    with pytest.raises(SpecError, match=r"grid.yaml, line 9: .*none in the cache of this machine"):
        run(spec, tmp_path / "out")
    assert not list((tmp_path / "out").glob("cells/*"))


@pytest.mark.parametrize(
    "given, message",
    [
        ("[{lpips: nowhere}]", "line 9: the weights of lpips are missing: nowhere does not exist"),
        ("[{psnr: weights}]", "line 9: unknown metric with weights: 'psnr'"),
        ("[{lpips: weights}, lpips]", "line 9: metrics holds 'lpips' twice"),
        ("[fid]", "line 9: fid is one figure of a set"),
        ("[lpip]", "line 9: unknown metrics: 'lpip'. Did you mean 'lpips'"),
    ],
)
def test_wrong_ones_are_refused_at_their_line(spec: Path, given: str, message: str) -> None:
    spec.write_text(GRID.replace("[psnr, {lpips: weights}, clip_score]", given))
    with pytest.raises(SpecError, match=message.replace("[", r"\[").replace("]", r"\]")):
        read_spec(spec)


def test_a_missing_package_is_refused_with_its_cure(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Learned("lpips", "no_such_package", 'pip install "skipcast[bench]"', False, "images", distance)
    monkeypatch.setitem(LEARNED, "lpips", missing)
    with pytest.raises(SpecError, match=r"line 9: lpips needs the package 'no_such_package'.*skipcast\[bench\]"):
        read_spec(spec)
