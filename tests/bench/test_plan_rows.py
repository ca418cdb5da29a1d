"""Plans in a comparison: shipped ones by name, files by path, and refusals before anything runs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import skipcast as sc
from skipcast import report
from skipcast.bench.compare import compare
from skipcast.bench.grid import derived_seed
from skipcast.bench.prompts import GENERAL_CALIBRATION, SHAPES_PROMPTS, prompts_to_record
from skipcast.bench.rows import Row, planned, selection
from skipcast.bench.run import quiet
from skipcast.bench.spec import METHODS, Spec
from skipcast.methods import names
from skipcast.models import shipped as plans
from skipcast.models.load import load_model
from skipcast.pipelines.recording.record import record
from skipcast.plans.plan import Plan, pair_hash
from support.reference_model import save_tiny
from support.runs import comparison

PROMPTS = ("a large red star on a blue background", "a small green ring on a white background")
STEPS = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    loaded = load_model(str(save_tiny(tmp_path_factory.mktemp("model"))))
    return replace(loaded, name="tiny")


@pytest.fixture(scope="module")
def files(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plans of the tiny model, laid out as shipped ones are."""
    folder = tmp_path_factory.mktemp("plans")
    given = {"seeds": 0, "num_inference_steps": STEPS, "progress": False, "revision": model.revision}
    profile = record(model.pipe, [PROMPTS[0], "a blue ring"], **given, **model.call)
    for evaluations in (3, 5):
        profile.plan(evaluations=evaluations).save(folder / "tiny" / f"default-{evaluations}.plan.json")
    profile.plan(evaluations=4).save(folder / "tiny" / "converged-4.plan.json")
    return folder


@pytest.fixture
def shipped(files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plans, "plans_folder", lambda: files)
    return files / "tiny"


def small(model: Any, *methods: str, **changes: Any) -> Spec:
    return comparison(model, *methods, **{"budgets": (4, 5), "prompts": PROMPTS, **changes})


def rows(*methods: str, name: str = "tiny", **changes: Any) -> list[Row]:
    spec = small(name, *methods, **changes)
    return selection(spec, spec.models[0], spec.steps[0])[0]


def labels(*methods: str, **changes: Any) -> list[tuple[str, int]]:
    return [row.key for row in rows(*methods, **changes)]


def test_the_default_list_begins_with_the_shipped_plans(shipped: Path) -> None:
    assert labels()[0] == ("plan:evaluations=5", 5)
    assert len(labels()) == 1 + 2 * len(METHODS)
    assert not rows()[0].named
    for other in (rows(name="other"), rows(steps=20)):
        assert len(other) == 2 * len(METHODS)


def test_plans_by_name_and_by_path(shipped: Path) -> None:
    assert labels("ab2", "plan", budgets=(3, 5))[:2] == [("plan:evaluations=3", 3), ("plan:evaluations=5", 5)]
    assert labels("plan:evaluations=5") == [("plan:evaluations=5", 5)]
    assert labels("plan:reference=converged", budgets=(4,)) == [("plan:evaluations=4,reference=converged", 4)]
    path = str(shipped / "default-3.plan.json")
    for asked in (labels(path), labels(f"plan:file={path}"), labels(path, plans=(path,))):
        assert asked == [("plan:default-3", 3)]
    assert labels(plans=(path,))[:2] == [("plan:evaluations=5", 5), ("plan:default-3", 3)]


def test_two_plans_of_one_name_stay_two(shipped: Path, tmp_path: Path) -> None:
    path = tmp_path / "default-3.plan.json"
    shutil.copy(shipped / "default-3.plan.json", path)
    same = (str(path), str(shipped / "default-3.plan.json"))
    assert labels("ab2", plans=same)[:1] == [("plan:default-3", 3)]
    plan = Plan.load(path)
    replace(plan, rows=tuple(1.01 * row for row in plan.rows)).save(path)
    assert labels("ab2", plans=same)[:2] == [("plan:default-3", 3), ("plan:default-3-2", 3)]


@pytest.mark.parametrize(
    "spec, words",
    [
        ("plan", r"plan of 4 evaluations.*only of 3, 5"),
        ("plan:reference=exact", r"must be 'default' or 'converged', got 'exact'"),
        ("plan:order=2", r"unknown option 'order'"),
        ("plan:evaluations=many", r"evaluations='many' must be of type int"),
    ],
)
def test_what_is_named_and_not_there_is_refused(shipped: Path, spec: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        labels(spec)


def test_refusals_before_the_model_is_at_hand(shipped: Path, tmp_path: Path) -> None:
    path = str(shipped / "default-3.plan.json")
    with pytest.raises(ValueError, match=r"default-3.plan.json was made for 12 steps; add 12 to `steps`"):
        labels("ab2", plans=(path,), steps=20)
    with pytest.raises(ValueError, match=r"plan:evaluations=5: .* made for 12 steps, not 20"):
        labels("plan", budgets=(5,), steps=20)
    with pytest.raises(FileNotFoundError, match="none"):
        labels("none.plan.json")
    (tmp_path / "odd.plan.json").write_text("[]")
    with pytest.raises(ValueError, match="is not a plan"):
        labels(str(tmp_path / "odd.plan.json"))
    with pytest.raises(ValueError, match="no default plan ships for model 'other'"):
        rows("plan", name="other")
    with pytest.raises(ValueError, match="name its evaluations"):
        planned("plan", "tiny")


def test_names_of_plans() -> None:
    assert all(map(names.means_a_plan, ("plan", "plan:evaluations=8", "runs/a.plan.json", "plan:file=a.json")))
    assert not any(map(names.means_a_plan, ("planar", "resilphase", "a.json")))


def test_rows_of_plans_say_what_ran_and_what_was_promised(model: Any, shipped: Path) -> None:
    pipe = model.pipe
    before = pipe.scheduler
    seen: list[str] = []
    asked = small(model, "ab2", "plan", budgets=(3, 5), plans=(str(shipped / "converged-4.plan.json"),), seeds=2)
    found = compare(asked, model, progress=quiet(seen.append))
    assert pipe.scheduler is before
    lines = {record["method"]: record for record in found.records}
    assert len(found.records) == 6 * 4
    ran = {
        "plan:evaluations=3": planned("plan:evaluations=3", "tiny").plan,
        "plan:evaluations=5": planned("plan:evaluations=5", "tiny").plan,
        "plan:converged-4": Plan.load(shipped / "converged-4.plan.json"),
    }
    for label, plan in ran.items():
        line = lines[label]
        assert (line["kind"], line["name"], line["paper"], line["parts"]) == ("plan", "plan", None, None)
        assert line["evaluations"] == line["budget"] == len(plan)
        assert line["evaluated_steps"] == list(plan.steps)
        assert line["repr"] == repr(plan)
        assert plan.predicted is not None
        assert line["predicted"]["psnr"] == plan.predicted.psnr
        assert line["planned_for"] == "default"
        assert line["speedup"] > 0
        assert line["cached_bytes"] > 0
        assert not line["data_driven"]
    assert "predicted" not in lines["ab2:evaluations=3"]
    assert set(found.images) == {
        "reference", "plan:evaluations=5", "ab2:evaluations=5", "plan:converged-4,evaluations=4",
    }  # fmt: skip
    rows = report.summarise(found.records)
    assert [row.kind for row in rows if row.budget == 4] == ["plan"]
    assert "◆ plan | `plan:converged-4` | 4 |" in report.markdown(rows)
    assert "predicted" in report.html(report.of(found.records))
    assert found.notes == ()


def test_a_plan_solved_on_compared_pictures_or_for_other_weights_is_noted(
    model: Any, shipped: Path, tmp_path: Path
) -> None:
    other = replace(model, revision="0123456789ab")
    plan = Plan.load(shipped / "default-3.plan.json")
    solved = replace(plan.origin, pairs=(pair_hash(PROMPTS[0], derived_seed(1000, PROMPTS[0], 0)),))
    replace(plan, origin=solved).save(tmp_path / "solved.plan.json")
    found = compare(small(other, str(tmp_path / "solved.plan.json")), other)
    weights, shared = found.notes
    assert f"other weights: {model.revision}, these are 0123456789ab" in weights
    assert "solved on 1 of the 2 compared images" in shared


def test_a_plan_for_another_pipeline_is_refused_before_anything_runs(model: Any, shipped: Path, tmp_path: Path) -> None:
    plan = Plan.load(shipped / "default-3.plan.json")
    config = {**plan.origin.config, "max_shift": 3.0}
    seen: list[str] = []
    for origin in (replace(plan.origin, scheduler="DDIMScheduler", config={}), replace(plan.origin, config=config)):
        path = tmp_path / "other.plan.json"
        replace(plan, origin=origin).save(path)
        with pytest.raises(ValueError, match=r"plan:other: this plan was made for"):
            compare(small(model, "ab2", plans=str(path)), model, progress=quiet(seen.append))
    assert seen == []
    replace(plan, timesteps=plan.timesteps * 0.9).save(tmp_path / "moved.plan.json")
    with pytest.raises(ValueError, match=r"plan:moved: the plan was made for other timesteps: step 0 is at 900"):
        compare(small(model, "ab2", plans=str(tmp_path / "moved.plan.json")), model, progress=quiet(seen.append))
    assert seen == []


def test_a_plan_with_knots_runs_at_the_guidance_of_the_comparison(model: Any, tmp_path: Path) -> None:
    given = {"seeds": 0, "num_inference_steps": STEPS, "progress": False}
    plan = record(model.pipe, PROMPTS, guidance=[1.5, 3.0], **given).plan(evaluations=3)
    path = tmp_path / "knots.plan.json"
    plan.save(path)
    found = compare(small(model, "ab2", plans=str(path), guidance=2.0), model).records
    (row, *_) = [record for record in found if record["kind"] == "plan"]
    here = plan.at(2.0)
    assert here.predicted is not None
    assert row["predicted"]["psnr"] == pytest.approx(here.predicted.psnr)
    seen: list[str] = []
    with pytest.raises(ValueError, match=r"plan:knots: true_cfg_scale=4 lies outside the 1.5 to 3"):
        compare(small(model, "ab2", plans=str(path), guidance=4.0), model, progress=quiet(seen.append))
    assert seen == []


def test_a_row_is_what_the_plan_does_alone(model: Any, shipped: Path) -> None:
    found = compare(small(model, "plan:evaluations=5"), model)
    with sc.accelerate(model.pipe, planned("plan:evaluations=5", "tiny").plan):
        noise = [torch.Generator().manual_seed(derived_seed(1000, prompt, 0)) for prompt in PROMPTS]
        images = model.pipe(
            list(PROMPTS), num_inference_steps=STEPS, generator=noise, output_type="pt", **model.call
        ).images
    assert torch.allclose(found.images["plan:evaluations=5"], images.float(), atol=0.51 / 255)


def test_recorded_prompts_are_none_of_the_compared(model: Any) -> None:
    held_out = (Path(__file__).parents[2] / "docs" / "results" / "prompts.txt").read_text().splitlines()
    recorded = prompts_to_record(model, 64)
    assert len(set(recorded)) == 64
    assert not set(recorded) & {*SHAPES_PROMPTS, *held_out}
    assert prompts_to_record(model, 8) == recorded[:8]
    general = prompts_to_record(replace(model, world=None), 8)
    assert general == (*GENERAL_CALIBRATION, *GENERAL_CALIBRATION[:2])
