"""Every measurement runs in small, is stored, and is printed by the page; what is missing is said to be missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from research.plans import (
    ablation,
    bars,
    cost,
    guidance,
    limit,
    loop,
    retry,
    seam,
    store,
    tails,
    transfer,
    variants,
)
from research.plans.__main__ import main
from research.plans.gradients import Descent
from research.plans.meter import metered, network_of
from research.plans.page import page
from research.plans.study import Study
from skipcast.bench.records import read

SMALL: dict[str, dict[str, Any]] = {
    "tails": {
        "budgets": (4,), "alone": (3,), "rivals": ("ab2",),
        "leads": ((4, 4, "mean", "mean", 6.0), (4, 4, "worst5", "worst5", 3.0)),
        "resamples": 10,
    },
    "loop": {"rounds": 2, "batches": (1,), "evaluations": 4},
    "cost": {"pairs": (2, 4), "draws": 1, "evaluations": 4, "others": ("ab2",)},
    "transfer": {
        "evaluations": 4, "guidance": (1.0,), "sides": (), "shares": (), "counts": (), "resolved": (3,),
        "plain": ("ab2",), "unseen": 1,
    },
    "guidance": {"evaluations": 4, "knots": (1.5, 3.0), "between": (2.0,), "pairs": 4, "plain": ("ab2", "euler")},
    "retry": {"first": (3,), "again": (4,), "pairs": 32, "rivals": ("resilphase:evaluations=4",)},
    "seam": {"evaluations": 4, "specs": ("lagrange:order=1", "resilphase")},
    "ablation": {"pairs": 4, "evaluations": 3, "candidates": 2, "sweeps": 1},
    "variants": {"pairs": 4, "evaluations": 4, "kinds": variants.KINDS[:3], "ridges": (1e-6, 1e-3)},
    "limit": {"pairs": 4, "budgets": (3,), "effort": "low", "start": "closed", "descent": Descent(iterations=2)},
}  # fmt: skip
MEASURES = {
    "tails": tails.measure,
    "loop": loop.measure, "cost": cost.measure, "transfer": transfer.measure, "guidance": guidance.measure,
    "retry": retry.measure, "seam": seam.measure,
    "ablation": ablation.measure, "variants": variants.measure,
    "limit": limit.measure,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("measured")
    for kind, given in SMALL.items():
        store.write(out / f"{kind}.json", kind, MEASURES[kind](study, **given), store.about(study), 1.0)
    found = bars.measure(
        study, records=out / "bars.jsonl.gz", others=("ab2", "resilphase"), further=("ab2",), driven=(), budgets=(4,),
        more=(6,), converged_steps=16, judged=3, resamples=3,
    )  # fmt: skip
    store.write(out / "bars.json", "bars", found, store.about(study), 1.0)
    return out


def test_bars_hold_every_row_and_keep_the_records(folder: Path) -> None:
    data = store.read(folder)["bars"]
    rows = {(row["method"], row["budget"]): row for row in data["rows"]}
    assert set(rows) == {
        ("reference", 8), ("plan:default-3", 3), ("plan:default-4", 4), ("plan:converged-4", 4),
        ("ab2:evaluations=4", 4), ("resilphase:evaluations=4", 4), ("ab2:evaluations=6", 6),
    }  # fmt: skip
    assert rows["reference", 8]["default"] is None
    assert rows["reference", 8]["converged"]["images"] == 2
    found = [record["psnr"] for record in read(folder / "bars.jsonl.gz") if record["method"] == "plan:default-4"]
    assert rows["plan:default-4", 4]["default"]["mean"] == pytest.approx(sum(found) / len(found), abs=1e-3)
    assert data["adherence"]["evaluations"] == data["frechet"]["evaluations"] == 3
    assert data["adherence"]["images"] == 2
    assert data["frechet"]["same_seeds"] >= 0


def test_what_the_measurements_count(folder: Path) -> None:
    found = store.read(folder)
    (row,) = found["loop"]["rows"]
    assert row["least"] <= row["ratio"] <= row["most"]
    assert row["full_seconds"] > row["plan_seconds"] > 0
    for row in found["cost"]["rows"]:
        # A recording is its pairs, and two more evaluations each to see what the decoder makes of an error.
        assert row["recording"] == pytest.approx(row["pairs"] * (8 + 2) / 8)
        assert row["generations"] == pytest.approx(row["recording"] + row["solving"])
        assert row["seconds_outside"] < row["seconds_solving"]
    assert [row["pairs"] for row in found["cost"]["means"]] == [2, 4]
    parts = found["ablation"]["rows"]  # one more each
    assert [row["generations"] == 0 for row in parts] == [True, True, *[False] * 5]
    assert parts[0]["steps"] == parts[2]["steps"]
    kinds, choice = found["variants"]["rows"], found["variants"]["choice"]
    assert kinds[0]["gain"] == {"mean": 0, "worst5": 0, "worst": 0}
    reached = [choice["single"]["mean"], *(row["held_out"]["mean"] for row in choice["oracle"])]
    assert reached == sorted(reached)  # an oracle never loses


def test_leads_are_between_the_rows_that_they_name(folder: Path) -> None:
    data = store.read(folder)["tails"]
    rows = {row["method"]: row["held_out"] for row in data["rows"]}
    assert [row["planned"] for row in data["rows"]] == [True, True, False]
    assert [row["predicted"] is None for row in data["rows"]] == [False, False, True]
    for lead in data["leads"]:
        assert (lead["plan"], lead["rival"]) == ("plan:default-4", "ab2:evaluations=4")
        assert lead["ours"] == pytest.approx(rows[lead["plan"]][lead["key"]], abs=2e-3)
        assert lead["interval"][0] <= lead["ours"] - lead["theirs"] <= lead["interval"][1]


@pytest.mark.parametrize(
    "spec, placement, expected",
    [
        ("resilphase", "own", "resilphase:evaluations=3"),
        ("lagrange:order=1", "even", "lagrange:order=1,schedule=even,evaluations=3"),
        ("resilphase", "plan", "resilphase:schedule=0.2.5"),
    ],
)
def test_seam_places_by_three_rules(spec: str, placement: Any, expected: str) -> None:
    assert seam.placed(spec, placement, (0, 2, 5)) == expected
    with pytest.raises(ValueError, match="placement='odd'"):
        seam.placed(spec, "odd", (0, 2, 5))


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


def test_files_that_are_missing_or_no_measurement(folder: Path, tmp_path: Path) -> None:
    empty = page({}, "command")
    assert empty.count("Not measured.") == len(store.KINDS)
    assert "| not measured | - |" in empty
    (tmp_path / "loop.json").write_bytes((folder / "loop.json").read_bytes())
    assert page(store.read(tmp_path), "command").count("Not measured.") == len(store.KINDS) - 1
    for content, message in ((folder / "loop.json").read_text(), "holds no measurement 'cost'"), ("{", "is no JSON"):
        (tmp_path / "cost.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            store.read(tmp_path)
    found = store.read(folder)
    other = {**found["loop"], "about": {**found["loop"]["about"], "revision": "0"}}
    with pytest.raises(ValueError, match="one model"):
        page({**found, "loop": other}, "command")


def test_plans_that_are_not_there_are_named(study: Study, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="default-4"):
        loop.measure(replace(study, plans=tmp_path), evaluations=4)
    with pytest.raises(FileNotFoundError, match="make plans"):
        bars.measure(replace(study, plans=tmp_path), others=("ab2",), further=(), budgets=(4,), converged_steps=16)
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
