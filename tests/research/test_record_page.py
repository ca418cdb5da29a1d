"""The page of the benchmark of record says what its records say, and nothing of rows that do not stand there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from research.pages.record import chosen, grid_rows, main, published, tally
from skipcast import report
from skipcast.bench.prompts import SHAPES_PROMPTS
from skipcast.bench.results import versus
from support.records import both, record, written

RECORDS = [
    *both("reference", "reference", 50, None, None),
    *both("plan:evaluations=10", "plan", 10, 50, 46),  # 20 above the sampler on both prompts
    *both("plan:evaluations=10,reference=converged", "plan", 10, 45, 41, planned_for="converged"),
    *both("good:evaluations=10", "forecast", 10, 31, 27),  # 1 above
    *both("mixed:evaluations=10", "forecast", 10, 40, 14),  # 10 above, 12 below
    *both("bad:evaluations=10", "forecast", 10, 20, 20),
    *both("worse:evaluations=10", "forecast", 10, 19, 19),
    *both("composed:evaluations=10,schedule=even", "forecast", 10, 48, 44),
    *both("ab2:evaluations=10", "sampler", 10, 30, 26),
    *both("unipc:evaluations=10", "sampler", 10, 25, 25),
    *both("heun:evaluations=10", "sampler", 10, 24, 24),
    *both("euler:evaluations=10", "sampler", 10, 15, 15),
]  # fmt: skip


def test_verdicts_are_of_the_intervals_of_paired_gains() -> None:
    rows = report.summarise(RECORDS)
    stand = versus(rows)
    verdicts = {row.name: getattr(stand[row.key].evaluations, "verdict", None) for row in rows if row.key in stand}
    assert verdicts == {"plan": 1, "good": 1, "mixed": 0, "bad": -1, "worse": -1, "composed": 1}
    duels = [stand[row.key].evaluations for row in rows if published(row)]
    assert tally([*duels, None]) == "1 / 1 / 2"


def test_a_budget_shows_plans_the_best_and_euler() -> None:
    section = [row for row in report.summarise(RECORDS) if row.budget == 10]
    names = [row.method.split(":")[0] for row in chosen(section)]
    assert names == ["plan", "composed", "plan", "good", "ab2", "mixed", "unipc", "euler"]
    assert [row.method for row in grid_rows(section)] == [
        "plan:evaluations=10", "composed:evaluations=10,schedule=even", "ab2:evaluations=10",
    ]  # fmt: skip


def test_the_page_and_its_charts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    later = [{**each, "steps": 20, "budget": 20 if each["kind"] == "reference" else 10} for each in RECORDS]
    later = [{**each, "settings": {**each["settings"], "steps": 20}} for each in later]
    first, second = written(tmp_path / "a" / "r.jsonl", RECORDS), written(tmp_path / "b" / "r.jsonl", later)
    main([str(first), str(second), "--out", str(tmp_path / "out")])
    assert "grid.png stays" in capsys.readouterr().out
    text = (tmp_path / "out" / "shapes-flux.md").read_text()
    assert text.index("## 50 steps") < text.index("## 20 steps")
    assert "| 10 | 1 / 1 / 2 |" in text
    assert "`good:evaluations=10` +1.0 [+1.0, +1.0] dB | `plan:evaluations=10` +20.0 [+20.0, +20.0] dB" in text
    assert "| `heun" not in text
    for steps in (50, 20):
        for against in ("evaluations", "seconds"):
            name = f"shapes-flux-{steps}-{against}.svg"
            assert f"]({name})" in text
            assert (tmp_path / "out" / name).read_text().startswith("<svg ")
    main([str(first), str(second), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "shapes-flux.md").read_text() == text


def test_the_grid_is_drawn_of_images_next_to_the_results(tmp_path: Path) -> None:
    records = []
    (tmp_path / "images").mkdir()
    for method, kind, budget in (("reference", "reference", 50), ("ab2:evaluations=10", "sampler", 10)):
        for number, prompt in enumerate(SHAPES_PROMPTS):
            name = f"images/{kind}-{number}.png"
            Image.fromarray(np.full((8, 8, 3), 40 * number, dtype=np.uint8)).save(tmp_path / name)
            psnr = None if kind == "reference" else 30.0
            records.append(record(method, kind, budget, 0, psnr, prompt=prompt, image=name))
    main([str(written(tmp_path / "r.jsonl", records)), "--out", str(tmp_path / "out")])
    with Image.open(tmp_path / "out" / "grid.png") as drawn:
        assert drawn.width > 4 * 96


def test_two_models_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(
        tmp_path / "r.jsonl", [*RECORDS, record("euler:evaluations=10", "sampler", 10, 0, 20.0, model="another")]
    )
    with pytest.raises(SystemExit):
        main([str(path), "--out", str(tmp_path / "out")])
    assert "one model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
