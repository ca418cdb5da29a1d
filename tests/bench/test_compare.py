"""The comparison on a tiny model: equal evaluations, honest records, refusal before any work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from skipcast import report
from skipcast.bench.compare import compare
from skipcast.bench.grid import derived_seed
from skipcast.bench.models import ModelSpec
from skipcast.bench.records import images
from skipcast.bench.rows import REFERENCE, check, selection
from skipcast.bench.run import quiet, without_measured
from skipcast.bench.spec import METHODS, Spec
from skipcast.methods import names
from skipcast.models.load import Model, family_at, load_model
from support.reference_model import save_tiny
from support.runs import comparison
from support.tiny_clips import wan_pipeline

PROMPTS = ("a large red star on a blue background", "a small green ring on a white background")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(str(save_tiny(tmp_path_factory.mktemp("model"))))


@pytest.fixture(scope="module")
def found(model: Any) -> Any:
    methods = ("resilphase", "reuse", "euler", "ab2", "taylorseer:interval=3")
    given = {"budgets": (5, 12), "prompts": PROMPTS, "seeds": 2, "batch": 3, "converged_steps": 24}
    return compare(comparison(model, *methods, **given), model)


def test_one_record_per_method_and_picture(found: Any) -> None:
    keys = {(r["method"], r["prompt"], r["seed"]) for r in found.records}
    labels = {r["method"] for r in found.records}
    assert len(keys) == len(found.records) == len(labels) * 4
    assert labels == {
        REFERENCE,
        "taylorseer:interval=3",
        *(f"{name}:evaluations={n}" for name in ("resilphase", "reuse", "euler", "ab2") for n in (5, 12)),
    }


def test_all_steps_evaluated_is_the_reference_itself(found: Any) -> None:
    for record in found.records:
        if record["method"] in ("resilphase:evaluations=12", "reuse:evaluations=12", "euler:evaluations=12"):
            assert record["psnr"] > 90
            assert record["latent_error"] < 1e-5


def test_records_say_what_was_run(found: Any) -> None:
    record = next(r for r in found.records if r["method"] == "resilphase:evaluations=5")
    assert record["evaluations"] == 5
    assert record["evaluated_steps"] == [0, 1, 2, 6, 10]
    assert record["kind"] == "forecast"
    assert record["paper"] == "arXiv:2606.26769"
    assert set(record["judge"]) == {"shape", "colour", "size", "background"}
    assert record["psnr_converged"] is not None
    assert record["seconds"] > 0
    assert record["versions"]["torch"] == torch.__version__
    reference = next(r for r in found.records if r["method"] == REFERENCE)
    assert reference["psnr"] is None
    assert reference["psnr_converged"] is not None
    assert reference["evaluations"] == 12


def test_records_do_not_depend_on_the_batching(model: Any, found: Any) -> None:
    one_by_one = compare(comparison(model, "ab2", budgets=5, prompts=PROMPTS, seeds=2, batch=1), model)
    alone = {(r["prompt"], r["seed"]): r["psnr"] for r in one_by_one.records if r["name"] == "ab2"}
    together = {(r["prompt"], r["seed"]): r["psnr"] for r in found.records if r["method"] == "ab2:evaluations=5"}
    assert alone.keys() == together.keys()
    for key, value in alone.items():
        assert value == pytest.approx(together[key], abs=0.1)


def test_report_reads_what_compare_writes(found: Any, tmp_path: Path) -> None:
    paths = report.write(tmp_path, found.records, None)
    again = report.read(paths["results.jsonl"])
    assert report.markdown(report.summarise(again)) == report.markdown(report.summarise(found.records))


def test_default_table_has_ten_rows_per_budget() -> None:
    found, _ = selection(comparison("other", steps=50), ModelSpec("other", "other", "", world="shapes-flux"), 50)
    for budget in (8, 10, 14):
        assert sum(row.budget == budget for row in found) >= 10
    assert len(METHODS) == len(set(METHODS))


def test_rows_have_the_settings_of_their_model_s_family() -> None:
    """As `accelerate` has them; a bench run took FLUX's on every model."""
    wan = replace(ModelSpec("other", "other", "", world="shapes-wan"), family="wan")
    spec = comparison("other", "taylorseer", "easycache", "freqca", steps=50, budgets=(10, 17))
    found = {(row.name, row.budget): row for row in selection(spec, wan, 50)[0]}
    assert found["taylorseer", 10].method == names.method("taylorseer:evaluations=10", "wan")
    assert found["taylorseer", 10].method != names.method("taylorseer:evaluations=10")
    assert found["easycache", 17].method == names.method("easycache", "wan")
    assert found["easycache", 17].threshold == "threshold"
    assert (
        names.default_threshold("easycache", {}, "hunyuan-video") == 0.025 != names.default_threshold("easycache", {})
    )
    assert "fft" in repr(found["freqca", 10].method)
    assert ModelSpec.of(Model("clips", wan_pipeline())).family == "wan"
    assert Spec.of(models=("shapes-wan",)).models[0].family == family_at("shapes-wan") == "wan"


@pytest.mark.parametrize(
    "change, words",
    [
        ({"budgets": 60}, "a budget of 60 evaluations is more than the 50 steps"),
        ({"seeds": 0}, "seeds must be greater than or equal to 1, got 0"),
        ({"steps": 1}, "steps must be greater than or equal to 2, got 1"),
        ({"converged_steps": 60}, "converged_steps: 60 must be at least twice the 50 steps"),
        ({"call": {"image": object()}}, "image must be a plain value"),
        ({"methods": ("resilphase",), "steps": 4, "budgets": 2}, "warm-up"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check(comparison("tiny", **{"steps": 50, **change}))


def test_a_comparison_is_of_one_state(model: Any) -> None:
    with pytest.raises(ValueError, match="one model, scheduler, steps and guidance, got 2; use `bench`"):
        compare(comparison(model, "euler", steps=(12, 16)), model)


def test_a_coordinate_that_does_not_suit_the_grid_is_refused_before_the_first_timed_call(model: Any) -> None:
    labels: list[str] = []
    with pytest.raises(ValueError, match="HalfLogSNR"):
        compare(comparison(model, "lagrange:coordinate=half-log-snr", budgets=5), model, progress=quiet(labels.append))
    assert labels == []


def test_images_of_the_grid_are_those_of_the_middle_budget(model: Any) -> None:
    found = compare(comparison(model, "euler", steps=8, budgets=(4, 6, 7), prompts=PROMPTS, seeds=2, batch=2), model)
    assert {label: images.shape[0] for label, images in found.images.items()} == {
        REFERENCE: 2,
        "euler:evaluations=6": 2,
    }


def test_pairs_are_those_of_a_bench_run(found: Any) -> None:
    pairs = {(record["prompt"], record["number"], record["seed"]) for record in found.records}
    assert pairs == {(prompt, n, derived_seed(1000, prompt, n)) for prompt in PROMPTS for n in range(2)}


def test_the_records_tell_how_converged_the_converged_run_is(found: Any) -> None:
    assert found.records[0]["settings"]["converged_agreement_db"] > 20
    assert found.records[0]["revision"]


@pytest.fixture(scope="module")
def small(model: Any) -> Spec:
    given = {"steps": 8, "budgets": (4, 6), "prompts": PROMPTS, "seeds": 2, "batch": 2, "converged_steps": 16}
    return comparison(model, "euler", "reuse", per_step=True, **given)


def test_every_image_is_kept_beside_its_record(small: Spec, model: Any, tmp_path: Path) -> None:
    found = compare(small, model, folder=tmp_path)
    assert len(images(found.records)) == 5 * 4
    assert [record["name"] for record in found.records if record["kind"] == "trace"] == ["reuse"] * 2
    assert {f"images/{path.name}" for path in (tmp_path / "images").iterdir()} == {
        r["image"] for r in images(found.records)
    }
    page = report.write(tmp_path, found.records, None)["report.html"].read_text()
    assert "16 of 16 images are embedded" in page


def test_an_interrupted_comparison_goes_on(small: Spec, model: Any, tmp_path: Path) -> None:
    scheduler, labels = model.pipe.scheduler, list[str]()

    def interrupted(label: str) -> None:
        labels.append(label)
        if len(labels) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(small, model, folder=tmp_path / "killed", progress=quiet(interrupted))
    assert model.pipe.scheduler is scheduler
    more, every = list[str](), list[str]()
    found = compare(small, model, folder=tmp_path / "killed", progress=quiet(more.append))
    whole = compare(small, model, folder=tmp_path / "whole", progress=quiet(every.append))
    assert len(more) == len(every) - 5
    assert list(map(without_measured, found.records)) == list(map(without_measured, whole.records))
    nothing = list[str]()
    compare(small, model, folder=tmp_path / "whole", progress=quiet(nothing.append))
    assert nothing == []


def test_images_are_not_kept_unless_requested(found: Any, small: Spec, model: Any, tmp_path: Path) -> None:
    assert {record["image"] for record in found.records} == {None}
    again = compare(small.model_copy(update={"images": False}), model, folder=tmp_path)
    assert {record["image"] for record in images(again.records)} == {None}
    assert not (tmp_path / "images").exists()
    assert again.images == {}
