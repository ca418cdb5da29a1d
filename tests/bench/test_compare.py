"""The comparison on a tiny model: equal evaluations, honest records, refusal before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from skipcast import report
from skipcast.bench.compare import compare
from skipcast.bench.grid import derived_seed
from skipcast.bench.rows import REFERENCE, rows
from skipcast.bench.run import quiet, without_measured
from skipcast.bench.spec import METHODS, Settings
from skipcast.models.load import load_model
from support.reference_model import save_tiny

PROMPTS = ("a large red star on a blue background", "a small green ring on a white background")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(str(save_tiny(tmp_path_factory.mktemp("model"))))


@pytest.fixture(scope="module")
def found(model: Any) -> Any:
    settings = Settings(
        steps=12,
        evaluations=(5, 12),
        methods=("resilphase", "reuse", "euler", "ab2", "taylorseer:interval=3"),
        prompts=PROMPTS,
        seeds=2,
        batch=3,
        converged_steps=24,
        call=dict(model.call),
    )
    return compare(model, settings)


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
    settings = Settings(12, (5,), ("ab2",), PROMPTS, 2, batch=1, converged_steps=0, call=dict(model.call))
    alone = {(r["prompt"], r["seed"]): r["psnr"] for r in compare(model, settings).records if r["name"] == "ab2"}
    together = {(r["prompt"], r["seed"]): r["psnr"] for r in found.records if r["method"] == "ab2:evaluations=5"}
    assert alone.keys() == together.keys()
    for key, value in alone.items():
        assert value == pytest.approx(together[key], abs=0.1)


def test_report_reads_what_compare_writes(found: Any, tmp_path: Path) -> None:
    paths = report.write(tmp_path, found.records, None)
    again = report.read(paths["results.jsonl"])
    assert report.markdown(report.summarise(again)) == report.markdown(report.summarise(found.records))


def test_default_table_has_ten_rows_per_budget() -> None:
    found = rows(Settings())
    for budget in (8, 10, 14):
        assert sum(row.budget == budget for row in found) >= 10
    assert len(METHODS) == len(set(METHODS))


@pytest.mark.parametrize(
    "change, word",
    [
        ({"evaluations": (60,)}, "evaluations=60"),
        ({"seeds": 0}, "seeds=0"),
        ({"steps": 1}, "steps=1"),
        ({"converged_steps": 60}, "converged_steps=60"),
    ],
)
def test_settings_refuse_what_makes_no_sense(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Settings(**change)


def test_a_bad_method_is_refused_before_any_work() -> None:
    with pytest.raises(ValueError, match="warm-up"):
        rows(Settings(steps=4, evaluations=(2,), methods=("resilphase",)))


def test_a_coordinate_that_does_not_suit_the_grid_is_refused_before_the_first_timed_call(model: Any) -> None:
    settings = Settings(12, (5,), ("lagrange:coordinate=half-log-snr",), PROMPTS, 1, converged_steps=0)
    labels: list[str] = []
    with pytest.raises(ValueError, match="HalfLogSNR"):
        compare(model, settings, progress=quiet(labels.append))
    assert labels == []


def test_images_of_the_grid_are_those_of_the_middle_budget(model: Any) -> None:
    found = compare(model, Settings(8, (4, 6, 7), ("euler",), PROMPTS, 2, batch=2, converged_steps=0))
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


SMALL = Settings(8, (4, 6), ("euler",), PROMPTS, 2, batch=2, converged_steps=16, per_step=True)


def test_every_image_is_kept_beside_its_record(model: Any, tmp_path: Path) -> None:
    found = compare(model, SMALL, folder=tmp_path)
    assert len(found.records) == 3 * 4
    assert {f"images/{path.name}" for path in (tmp_path / "images").iterdir()} == {r["image"] for r in found.records}
    page = report.write(tmp_path, found.records, None)["report.html"].read_text()
    assert "8 of 8 images are embedded" in page


def test_an_interrupted_comparison_goes_on(model: Any, tmp_path: Path) -> None:
    scheduler, labels = model.pipe.scheduler, list[str]()

    def interrupted(label: str) -> None:
        labels.append(label)
        if len(labels) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(model, SMALL, folder=tmp_path / "killed", progress=quiet(interrupted))
    assert model.pipe.scheduler is scheduler
    more, every = list[str](), list[str]()
    found = compare(model, SMALL, folder=tmp_path / "killed", progress=quiet(more.append))
    whole = compare(model, SMALL, folder=tmp_path / "whole", progress=quiet(every.append))
    assert len(more) == len(every) - 5
    assert list(map(without_measured, found.records)) == list(map(without_measured, whole.records))
    nothing = list[str]()
    compare(model, SMALL, folder=tmp_path / "whole", progress=quiet(nothing.append))
    assert nothing == []


def test_images_are_not_kept_unless_requested(found: Any, model: Any, tmp_path: Path) -> None:
    assert {record["image"] for record in found.records} == {None}
    again = compare(model, SMALL, folder=tmp_path, keep_images=False)
    assert {record["image"] for record in again.records} == {None}
    assert not list((tmp_path / "images").iterdir())
