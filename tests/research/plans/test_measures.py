"""Every measurement runs in small, is stored, and is printed by the page; what is missing is said to be missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from research.plans import ablation, bars, cost, loop, retry, seam, store, transfer, variants
from research.plans.__main__ import main
from research.plans.meter import metered, network_of
from research.plans.page import page
from research.plans.study import Study
from skipcast.bench.records import read

SMALL: dict[str, dict[str, Any]] = {
    "loop": {"rounds": 2, "batches": (1,), "evaluations": 4},
    "cost": {"pairs": (2, 4), "draws": 1, "evaluations": 4, "others": ("ab2",)},
    "transfer": {
        "evaluations": 4, "guidance": (1.0,), "sides": (), "shares": (), "counts": (), "resolved": (3,),
        "plain": ("ab2",), "unseen": 1, "scales": (1.5, 3.0), "pairs": 4,
    },
    "retry": {"first": (3,), "again": (4,)},
    "seam": {"evaluations": 4, "specs": ("lagrange:order=1", "resilphase")},
    "ablation": {"pairs": 4, "evaluations": 3, "candidates": 2, "sweeps": 1},
    "variants": {"pairs": 4, "evaluations": 4, "kinds": variants.KINDS[:3], "ridges": (1e-6, 1e-3)},
}  # fmt: skip
MEASURES = {
    "loop": loop.measure, "cost": cost.measure, "transfer": transfer.measure, "retry": retry.measure,
    "seam": seam.measure,
    "ablation": ablation.measure, "variants": variants.measure,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("measured")
    for kind, given in SMALL.items():
        store.write(out / f"{kind}.json", kind, MEASURES[kind](study, **given), store.about(study), 1.0)
    found = bars.measure(
        study, records=out / "bars.jsonl.gz", others=("ab2", "resilphase"), further=("ab2",), driven=(), budgets=(4,),
        more=(6,), converged_steps=24, judged=3, resamples=3,
    )  # fmt: skip
    store.write(out / "bars.json", "bars", found, store.about(study), 1.0)
    return out


def test_bars_hold_every_row_and_keep_the_records(folder: Path) -> None:
    data = store.read(folder)["bars"]
    rows = {(row["method"], row["budget"]): row for row in data["rows"]}
    assert set(rows) == {
        ("reference", 12), ("plan:default-3", 3), ("plan:default-4", 4), ("plan:converged-4", 4),
        ("ab2:evaluations=4", 4), ("resilphase:evaluations=4", 4), ("ab2:evaluations=6", 6),
    }  # fmt: skip
    assert rows["reference", 12]["default"] is None
    assert rows["reference", 12]["converged"]["images"] == 2
    records = [record for record in read(folder / "bars.jsonl.gz") if record["method"] == "plan:default-4"]
    mean = sum(record["psnr"] for record in records) / len(records)
    assert rows["plan:default-4", 4]["default"]["mean"] == pytest.approx(mean, abs=1e-3)
    assert data["adherence"]["evaluations"] == data["frechet"]["evaluations"] == 3
    assert data["adherence"]["images"] == 2
    assert data["frechet"]["same_seeds"] >= 0


def test_loop_counts_rounds(folder: Path) -> None:
    (row,) = store.read(folder)["loop"]["rows"]
    assert row["least"] <= row["ratio"] <= row["most"]
    assert row["full_seconds"] > row["plan_seconds"] > 0


def test_cost_counts_generations(folder: Path) -> None:
    data = store.read(folder)["cost"]
    for row in data["rows"]:
        # A recording is its pairs, and two more evaluations each to see what the decoder makes of an error.
        assert row["recording"] == pytest.approx(row["pairs"] * (12 + 2) / 12)
        assert row["generations"] == pytest.approx(row["recording"] + row["solving"])
        assert row["seconds_outside"] < row["seconds_solving"]
    assert [row["pairs"] for row in data["means"]] == [2, 4]


def test_ablation_adds_a_part_at_a_time(folder: Path) -> None:
    rows = store.read(folder)["ablation"]["rows"]
    assert len(rows) == 7
    assert [row["generations"] == 0 for row in rows] == [True, True, *[False] * 5]
    assert rows[0]["steps"] == rows[2]["steps"]


def test_an_oracle_never_loses(folder: Path) -> None:
    data = store.read(folder)["variants"]
    assert data["rows"][0]["gain"] == {"mean": 0, "worst5": 0, "worst": 0}
    reached = [data["choice"]["single"]["mean"], *(row["held_out"]["mean"] for row in data["choice"]["oracle"])]
    assert reached == sorted(reached)


def test_seam_places_by_three_rules() -> None:
    steps = (0, 2, 5)
    assert seam.placed("resilphase", "own", steps) == "resilphase:evaluations=3"
    assert seam.placed("lagrange:order=1", "even", steps) == "lagrange:order=1,schedule=even,evaluations=3"
    assert seam.placed("resilphase", "plan", steps) == "resilphase:schedule=0.2.5"
    with pytest.raises(ValueError, match="placement='odd'"):
        seam.placed("resilphase", "odd", steps)


def test_the_page_tells_all_of_it_from_the_files_alone(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "plans.md"
    main(["page", str(folder), "--out", str(out)])
    text = out.read_text()
    assert "Not measured." not in text
    assert text.count("python -m research.plans test") == len(store.KINDS)
    assert f"python -m research.plans page {folder} --out {out}" in text
    assert "nan" not in text.lower().split()
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")


def test_a_missing_measurement_is_said_to_be_missing(folder: Path, tmp_path: Path) -> None:
    empty = page({}, "command")
    assert empty.count("Not measured.") == len(store.KINDS)
    assert "| not measured | - |" in empty
    (tmp_path / "loop.json").write_bytes((folder / "loop.json").read_bytes())
    assert page(store.read(tmp_path), "command").count("Not measured.") == len(store.KINDS) - 1


def test_files_that_are_no_measurement_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cost.json").write_bytes((folder / "loop.json").read_bytes())
    with pytest.raises(ValueError, match="holds no measurement 'cost'"):
        store.read(tmp_path)
    (tmp_path / "cost.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        store.read(tmp_path)
    found = store.read(folder)
    other = json.loads(json.dumps(found["loop"]))
    other["about"]["revision"] = "0"
    with pytest.raises(ValueError, match="one model"):
        page({**found, "loop": other}, "command")


def test_plans_that_are_not_there_are_named(study: Study, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="default-4"):
        loop.measure(replace(study, plans=tmp_path), evaluations=4)
    with pytest.raises(FileNotFoundError, match="make plans"):
        bars.measure(replace(study, plans=tmp_path), others=("ab2",), further=(), budgets=(4,), converged_steps=24)
    with pytest.raises(SystemExit):
        main(["loop", "--prompts", str(tmp_path / "none.txt")])


def test_the_meter_counts_branches_and_leaves(study: Study) -> None:
    pipe = study.model.pipe
    with metered(pipe) as meter:
        pipe(["a star", "a ring"], num_inference_steps=3, output_type="latent", true_cfg_scale=2.0, negative_prompt="")
    assert meter.rows == 2 * 2 * 3
    assert meter.seconds > 0
    assert not network_of(pipe)._forward_hooks
    assert not network_of(pipe)._forward_pre_hooks
