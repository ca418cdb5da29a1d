"""The command line on a tiny model."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from driftcast import names
from driftcast.card import decides_by_values
from driftcast.cli import app
from reference_model import save_tiny

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("model")))


def run(*args: str) -> str:
    result = RUNNER.invoke(app, list(args))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_compare_takes_budgets_side_by_side(model: str, tmp_path: Path) -> None:
    command = ["compare", model, "--evaluations", "4", "6", "--method", "resilphase", "ab2", "--steps", "12"]
    document = json.loads(run(*command, "--seeds", "1", "--converged-steps", "24", "--out", str(tmp_path), "--json"))
    assert {row["method"] for row in document["rows"]} == {
        "reference",
        *(f"{name}:evaluations={n}" for name in ("resilphase", "ab2") for n in (4, 6)),
    }
    assert {path.name for path in tmp_path.iterdir()} == {"results.jsonl", "grid.png", "report.html"}
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 5 * 4


def test_compare_takes_the_whole_registry_and_measures_step_by_step(model: str, tmp_path: Path) -> None:
    known = {name: replace(names.REGISTRY[name], variants=(name,)) for name in ("resilphase", "reuse", "ab2")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "REGISTRY", known)
        text = run(
            "compare", "--method", "all", model, "--evaluations", "2", "--steps", "8", "--seeds", "1",
            "--converged-steps", "0", "--per-step", "--out", str(tmp_path),
        )  # fmt: skip
    assert "left out: resilphase:evaluations=2: " in text
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert Counter(kinds) == {"reference": 4, "forecast": 4, "sampler": 4, "left out": 1, "trace": 1}


def test_compare_prints_a_table(model: str, tmp_path: Path) -> None:
    text = run(
        "compare", model, "--evaluations", "4", "--method", "euler", "--steps", "8", "--seeds", "1",
        "--converged-steps", "0", "--out", str(tmp_path),
    )  # fmt: skip
    assert "euler" in text
    assert "report.html" in text


def test_report_is_made_from_the_records_alone(model: str, tmp_path: Path) -> None:
    run("compare", model, "--evaluations", "4", "--method", "euler", "--steps", "8", "--seeds", "1",
        "--converged-steps", "0", "--out", str(tmp_path))  # fmt: skip
    before = (tmp_path / "report.html").read_text()
    assert "euler" in run("report", str(tmp_path / "results.jsonl"))
    assert (tmp_path / "report.html").read_text() == before
    assert run("report", str(tmp_path / "results.jsonl"), "--markdown").startswith("|")
    result = RUNNER.invoke(app, ["report", str(tmp_path / "none.jsonl")])
    assert result.exit_code == 2


def test_generate_writes_pictures(model: str, tmp_path: Path) -> None:
    prompt = "a small red ring on a black background"
    text = run(
        "generate",
        model,
        "--prompt",
        prompt,
        "--method",
        "resilphase:interval=3",
        "--steps",
        "8",
        "--out",
        str(tmp_path),
    )
    assert (tmp_path / "0.png").exists()
    assert "evaluated 4 of 8" in text
    document = json.loads(run("generate", model, "--prompt", prompt, "--steps", "3", "--out", str(tmp_path), "--json"))
    assert document["evaluations"] == 3


def test_methods_lists_all() -> None:
    listing = json.loads(run("methods", "--json"))
    assert set(listing) == set(names.REGISTRY)
    assert listing["resilphase"]["options"]["alpha"] == 0.55
    assert "taylorseer" in run("methods")
    found = listing["teacache"]
    assert (found["decides_by_values"], found["needs_calibration"], found["weighs_by_values"]) == (True, True, False)
    assert listing["tc-pade"]["weighs_by_values"]
    assert not listing["resilphase"]["decides_by_values"]
    memory = {"tensors": 2, "of": "image tokens x width", "bytes_per_token_and_channel": 4}
    assert listing["resilphase"]["memory"] == memory
    assert listing["euler"]["memory"] is None


@pytest.mark.parametrize("spec", names.EVERYTHING)
def test_show_gives_a_card_for_every_method(spec: str) -> None:
    driven = decides_by_values(names.method(spec))
    document = json.loads(run("show", spec if driven else names.with_evaluations(spec, 10), "--json"))
    assert document["data_driven"] == driven
    if not driven:
        assert document["evaluations"] == 10
    assert document["paper"] == names.REGISTRY[names.split(spec)[0]].paper
    run("show", spec, "--steps", "20")


def test_show_prints_the_published_weights() -> None:
    document = json.loads(run("show", "resilphase", "--json"))
    assert document["evaluated_steps"] == [0, 1, 2, 8, 14, 20, 26, 32, 38, 44]
    assert document["weights"]["11"] == pytest.approx({"2": -0.2997, "8": 1.2997}, abs=1e-4)
    assert document["cached_tensors"] == 2


@pytest.mark.parametrize(
    "args, words",
    [
        (("show", "resilfase"), "resilphase"),
        (("show", "resilphase:alfa=1"), "alpha"),
        (("show", "resilphase", "--steps", "2"), "warm-up"),
        (("compare", "no-such-model"), "shapes-flux"),
        (("compare", "x", "--prompts", "missing.txt"), "missing.txt"),
        (("compare", "x", "--method", "nonsense"), "nonsense"),
        (("generate", "no-such-model", "--prompt", "x"), "neither"),
    ],
)
def test_errors_are_one_clear_line(args: tuple[str, ...], words: str) -> None:
    result = RUNNER.invoke(app, list(args))
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output
