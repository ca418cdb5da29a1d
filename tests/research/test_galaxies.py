"""The study of survey galaxies: reader, grid and page on a network of its own; the real ones where installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from research.galaxies import __main__ as galaxies
from research.galaxies import adaptive, reader
from research.galaxies.page import page, verdicts
from research.galaxies.reader import ARRAYS, BLOCKS, SURVEYS, NotInstalled, ScoreNet, network
from research.galaxies.study import (
    BEGIN,
    END,
    levels,
    noise_predictor,
    psnr,
    sampled,
    sampler_plan,
    study,
    unaccelerated,
)


def saved(path: Path, side: int = 8, width: int = 6, hidden: int = 5, patch: int = 4) -> list[np.ndarray]:
    """A small mixer of random weights, written as Equinox would."""
    rng, patches = np.random.default_rng(0), (side // patch) ** 2
    shapes: list[tuple[int, ...]] = [(width, 2, patch, patch), (width, 1, 1), (1, width, patch, patch), (1, 1, 1)]
    for _ in range(BLOCKS):
        for size in (patches, width):
            shapes += [(hidden, size), (hidden,), (size, hidden), (size,)]
        shapes += [(width, patches)] * 2 + [(patches, width)] * 2
    shapes += [(width, patches)] * 2
    arrays = [0.3 * rng.standard_normal(shape).astype(np.float32) for shape in shapes] + [np.array(10.0)]
    with path.open("wb") as file:
        for array in arrays:
            np.save(file, array)
    return arrays


@pytest.fixture
def small(tmp_path: Path) -> ScoreNet:
    saved(tmp_path / "net.eqx")
    return ScoreNet(tmp_path / "net.eqx")


def test_the_reader_computes_the_published_network(small: ScoreNet, tmp_path: Path) -> None:
    """The module of galaxygrad's models_eqx.py, image by image and index by index, in NumPy."""
    *arrays, last = saved(tmp_path / "again.eqx")
    rng = np.random.default_rng(1)
    x, t = rng.standard_normal((3, 1, 8, 8)).astype(np.float32), 2.5
    found = small(torch.from_numpy(x), t).numpy()

    def norm(y: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        return (y - y.mean()) / np.sqrt(y.var() + 1e-5) * weight + bias

    def mlp(y: np.ndarray, one: np.ndarray, b: np.ndarray, two: np.ndarray, c: np.ndarray) -> np.ndarray:
        return np.stack([two @ np.maximum(one @ row + b, 0) + c for row in y])

    for image, expected in zip(x, found, strict=True):
        w = iter(arrays)
        filters, bias, back, back_bias = (next(w) for _ in range(4))
        z = np.concatenate([image, np.full((1, 8, 8), t / float(last))])
        corners = [(i, j) for i in (0, 4) for j in (0, 4)]
        y = np.stack([(filters * z[:, i : i + 4, j : j + 4]).sum((1, 2, 3)) for i, j in corners], 1) + bias[:, :, 0]
        for _ in range(BLOCKS):
            one, two, before, after = ([next(w) for _ in range(k)] for k in (4, 4, 2, 2))
            y = y + mlp(norm(y, *before), *one)
            y = (y.T + mlp(norm(y.T, *after), *two)).T
        y = norm(y, next(w), next(w))
        image_out = np.zeros((8, 8))
        for place, (i, j) in enumerate(corners):  # a dilated convolution meets the kernel from its other end
            image_out[i : i + 4, j : j + 4] = np.einsum("c,cij->ij", y[:, place], back[0, :, ::-1, ::-1])
        np.testing.assert_allclose(expected[0], image_out + back_bias[0], rtol=1e-4, atol=1e-5)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    arrays = saved(tmp_path / "net.eqx")
    with (tmp_path / "net.eqx").open("ab") as file:
        np.save(file, arrays[0])
    with pytest.raises(ValueError, match=f"holds more than the {ARRAYS} arrays"):
        ScoreNet(tmp_path / "net.eqx")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reader.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    with pytest.raises(NotInstalled, match=r"pip install --no-deps galaxygrad==0\.2\.1"):
        network("HSC")
    done = CliRunner().invoke(galaxies.app, ["--out", str(tmp_path / "x.json")])
    assert done.exit_code == 1
    assert "galaxygrad is not installed" in done.output


@pytest.mark.parametrize("survey", SURVEYS)
def test_the_networks_are_scores(survey: str) -> None:
    """At t = 10 data are noise, whose score is -x."""
    try:
        net = network(survey)
    except NotInstalled as reason:
        pytest.skip(str(reason))
    side = SURVEYS[survey][1]
    x = torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(0))
    assert net.last_time == BEGIN
    assert float(F.cosine_similarity(net(x, BEGIN).flatten(), -x.flatten(), dim=0)) > 0.99


def test_the_grid_runs_from_ten_down() -> None:
    at = levels(50)
    times = np.log1p(np.exp(-2 * at.grid.timestep))
    assert times[0] == pytest.approx(BEGIN)
    np.testing.assert_allclose(at.grid.alpha, np.exp(-times / 2))
    np.testing.assert_allclose(at.grid.sigma, np.sqrt(1 - np.exp(-times)))
    np.testing.assert_allclose(at.end, (np.exp(-END / 2), np.sqrt(1 - np.exp(-END))), rtol=1e-9)
    assert len(set(np.diff(at.grid.timestep).round(9))) == 1


def test_ddim_as_a_plan_is_the_unaccelerated_run(small: ScoreNet) -> None:
    denoiser, start = noise_predictor(small), torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    profile = unaccelerated(denoiser, start, 6)
    plan = sampler_plan("euler", 6)
    found = sampled(denoiser, plan, start)
    torch.testing.assert_close(found, profile.trajectory[:, -1], rtol=1e-4, atol=1e-4)


def test_psnr_is_over_the_range_of_each_image() -> None:
    goal = torch.tensor([[0.0, 1.0], [0.0, 10.0]])
    assert psnr(goal + 0.1, goal) == {"mean": 30.0, "worst5": 20.0, "worst": 20.0}


def test_a_study_makes_its_page(small: ScoreNet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(SURVEYS, "HSC", ("net.eqx", 8))
    monkeypatch.setattr(galaxies, "network", lambda survey: small)
    for name, value in {"cheap": (4,), "dear": (7,), "fitted": 40}.items():
        monkeypatch.setitem(adaptive.study.__kwdefaults__, name, value)
    out = tmp_path / "galaxies.json"
    options = ["--surveys", "HSC", "--budgets", "4,6", "--pairs", "8", "--held-out", "6", "--efforts", "low"]
    done = CliRunner().invoke(galaxies.app, [*options, "--out", str(out)])
    assert done.exit_code == 0, done.output
    text = out.with_suffix(".md").read_text()
    for words in (
        "## HSC",
        "### HSC, 4 evaluations",
        "`dpmpp2m`",
        "8 recorded noises",
        "`plan, effort low`",
        "## Beginning again",
        "40 further recorded",
    ):
        assert words in text
    before = out.read_bytes()
    assert CliRunner().invoke(galaxies.app, [*options, "--out", str(out)]).exit_code == 0
    assert out.read_bytes() == before  # nothing is measured twice
    assert CliRunner().invoke(galaxies.app, ["--surveys", "HSC", "--out", str(out)]).exit_code == 2
    direct = study("HSC", small, budgets=[4], pairs=8, held_out=6, efforts=["low"])
    assert {row["kind"] for row in direct["rows"]} == {"sampler", "forecaster", "plan"}


def test_the_lead_is_over_the_best_other_row() -> None:
    def row(kind: str, name: str, mean: float, worst5: float) -> dict[str, Any]:
        return {"kind": kind, "name": name, "budget": 5, "default": {"mean": mean, "worst5": worst5}}

    given = [("plan", "a", 50, 30), ("plan", "b", 51, 35), ("sampler", "c", 45, 33), ("sampler", "d", 44, 34)]
    rows = [row(*each) for each in (*given, ("forecaster", "e", 46, 20))]
    (found,) = verdicts("HSC", rows)
    assert (found["plan"]["name"], found["ahead"]) == ("a", {"mean": 4, "worst5": -4})
    assert (found["sampler"]["mean"]["name"], found["sampler"]["worst5"]["name"]) == ("c", "d")


def test_the_page_is_that_of_its_record() -> None:
    record = galaxies.RESULTS / "galaxies.json"
    text = record.with_suffix(".md").read_text(encoding="utf-8")
    assert page(json.loads(record.read_text(encoding="utf-8"))) == text
