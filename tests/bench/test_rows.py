"""`all`, methods that decide by values, step by step, and other step counts in a comparison."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from research.shapes_flux.evaluate import prompts_of
from skipcast import report
from skipcast.bench.compare import compare
from skipcast.bench.prompts import GENERAL_CALIBRATION, GENERAL_PROMPTS, SHAPES_CALIBRATION, SHAPES_PROMPTS
from skipcast.bench.records import LEFT_OUT
from skipcast.bench.rows import REFERENCE, check
from skipcast.bench.run import quiet
from skipcast.bench.spec import METHODS, Spec
from skipcast.forecasters import HighBand, Lagrange, Within
from skipcast.methods import names
from skipcast.methods.published import Shared
from skipcast.models.load import load_model
from skipcast.models.scenes import COLOURS, HELD_OUT, SHAPES, read_caption
from skipcast.parts import Method
from support.driven import ENTRY
from support.reference_model import save_tiny
from support.runs import comparison

PROMPTS = ("a large red star on a blue background", "a small green ring on a white background")
FILE = Path(__file__).parents[2] / "docs" / "results" / "prompts.txt"


KEPT = ("reuse", "resilphase", "ab2", "lagrange", "taylorseer")
UNSUITED = Shared(warmup=1, coordinate="half-log-snr")


def unsuited(shared: Shared) -> Method:
    """A flow grid begins at pure noise, where the log-SNR is infinite."""
    return shared.method(Lagrange(0))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(str(save_tiny(tmp_path_factory.mktemp("model"))))


@pytest.fixture(autouse=True)
def few_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {name: replace(names.REGISTRY[name], variants=(name,)) for name in KEPT}
    samplers = {name: names.REGISTRY[name] for name in ("euler", "heun", "ab3", "dpmpp2m", "unipc")}
    extra = {"patience": ENTRY, "unsuited": names.Named(unsuited, "none", "", UNSUITED, ("unsuited",))}
    monkeypatch.setattr(names, "REGISTRY", {**kept, **samplers, **extra})


def breaking(shared: Shared) -> Method:
    """It suits the pipeline and its grid, and is refused by what it sees in a run."""
    return shared.method(Within(Lagrange(1), HighBand(grid=(1, 1))))


def small(model: Any, *methods: str, **changes: Any) -> Spec:
    return comparison(model, *methods, **{"budgets": 5, "prompts": PROMPTS, **changes})


def test_a_row_of_all_that_breaks_in_a_run_is_left_out_also_where_operations_are_counted(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = names.Named(breaking, "none", "", Shared(warmup=1, target="hidden"), ("breaking",))
    monkeypatch.setattr(names, "REGISTRY", {"reuse": names.REGISTRY["reuse"], "breaking": entry})
    found = compare(small(model, "all", flops=True), model)
    left = [record for record in found.records if record["kind"] == LEFT_OUT]
    assert [(record["name"], "HighBand" in record["reason"]) for record in left] == [("breaking", True)]
    assert {record["name"] for record in found.records if record.get("flops")} == {REFERENCE, "reuse"}
    with pytest.raises(ValueError, match="HighBand"):
        compare(small(model, "breaking", flops=True), model)


def test_all_holds_the_registry_and_leaves_out_what_cannot_run(model: Any) -> None:
    found = compare(small(model, "all", "reuse:warmup=2", budgets=(2, 5)), model)
    rows = {(record["method"], record["budget"]) for record in found.records if record["kind"] != "left out"}
    assert ("resilphase:evaluations=5", 5) in rows
    assert ("reuse:evaluations=5,warmup=2", 5) in rows
    assert ("unipc:evaluations=2", 2) in rows
    left = {record["method"]: record["reason"] for record in found.records if record["kind"] == "left out"}
    assert "warm-up" in left["resilphase:evaluations=2"]
    assert "HalfLogSNR" in left["unsuited:evaluations=5"]
    assert not rows & {(method, 2) for method in left}
    assert {line.partition(": ")[0].partition(":")[0] for line in found.left_out} == {m.split(":")[0] for m in left}
    page = report.html(report.of(found.records))
    assert "<code>resilphase:evaluations=2</code>" in page


def test_what_the_user_names_fails_loudly(model: Any) -> None:
    with pytest.raises(ValueError, match=r"resilphase:evaluations=2.*warm-up"):
        check(small("tiny", "all", "resilphase", budgets=(2,)))
    with pytest.raises(ValueError, match=r"patience.*no threshold brings it to 3"):
        compare(small(model, "patience:warmup=6", budgets=(3,)), model)


def test_a_method_that_decides_by_values_is_calibrated_on_other_pictures(model: Any) -> None:
    labels: list[str] = []
    asked = small(model, "patience", "patience:threshold=0.001", "ab2", budgets=(3, 6), seeds=2)
    found = compare(asked, model, progress=quiet(labels.append))
    calibrated = [r for r in found.records if r["calibrated_on"]]
    assert {r["budget"] for r in calibrated} == {3, 6}
    for record in calibrated:
        assert record["method"].startswith("patience:threshold=")
        assert record["data_driven"]
        assert record["evaluations"] == len(record["evaluated_steps"])
        assert abs(record["evaluations"] - record["budget"]) <= 2  # other pictures than those calibrated on
        assert record["calibrated_on"] == {"threshold": "threshold", "images": 4, "prompts": 4, "seeds": 4}
        assert record["decided_with"] == 4
    given = [r for r in found.records if r["method"] == "patience:threshold=0.001"]
    assert len(given) == 4
    assert {r["budget"] for r in given} == {12}
    assert not any(r["calibrated_on"] for r in given)
    text = report.markdown(report.summarise(found.records))
    assert "` †" in text
    assert "`patience:threshold=0.001` ‡" in text
    assert "† decides by values, threshold found on other images" in text


def test_step_by_step_adds_a_line_per_forecasting_method(model: Any, tmp_path: Path) -> None:
    asked = small(model, "resilphase", "patience", "ab2", per_step=True)
    labels: list[str] = []
    found = compare(asked, model, progress=quiet(labels.append))
    lines = [record for record in found.records if record["kind"] == "trace"]
    assert [line["name"] for line in lines] == ["resilphase", "patience"]
    assert lines[0]["evaluated_steps"] == [0, 1, 2, 6, 10]
    errors = lines[0]["errors"]
    assert [step for step, error in enumerate(errors) if error is None] == [0, 1, 2, 6, 10]
    assert all(error > 0 for error in errors if error is not None)
    growth = lines[0]["amplification"]
    assert len(growth) == 12
    assert growth[0] == 1
    assert growth[3] > 1
    assert lines[1]["amplification"] is None
    path = report.write(tmp_path, found.records, None)["results.jsonl"]
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    again = report.read(path)
    assert next(r for r in again if r["kind"] == "trace") == lines[0]
    assert report.summarise(again)[0].method == REFERENCE
    assert "Step by step" in report.html(report.of(again))


def test_twenty_steps(model: Any) -> None:
    found = compare(small(model, *METHODS, steps=20, budgets=(8, 10), converged_steps=40), model)
    rows = report.summarise(found.records)
    assert {row.budget for row in rows} == {8, 10, 20}
    assert len(rows) == 1 + 2 * len(METHODS)
    assert all(row.of("psnr_converged", "mean") is not None for row in rows)


def test_calibration_prompts_are_not_those_compared() -> None:
    assert not set(SHAPES_CALIBRATION) & {*SHAPES_PROMPTS, *FILE.read_text().splitlines()}
    assert not set(GENERAL_CALIBRATION) & set(GENERAL_PROMPTS)


def test_the_prompts_of_the_results_are_held_out() -> None:
    prompts = FILE.read_text().splitlines()
    assert prompts == [*prompts_of(1, 502)[0], *prompts_of(1, 502, held_out=True)[0]]
    assert not set(prompts) & set(SHAPES_PROMPTS)
    asked = [read_caption(prompt) for prompt in prompts]
    assert all(words.keys() == {"shape", "colour", "size", "background"} for words in asked)
    assert sum((SHAPES[words["shape"]], COLOURS[words["colour"]]) in HELD_OUT for words in asked) == 1
