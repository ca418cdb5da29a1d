"""The page says what its records say: numbers, gains over plain samplers, what each part is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from research.pages.factors import effects, weights
from research.pages.methods import main
from research.pages.methods import page as made_of
from skipcast import report
from support.records import both

COMMAND = "python -m research.pages.methods results.jsonl"


def page(records: list[dict[str, Any]], command: str = COMMAND) -> str:
    return made_of(report.of(records), command)


REFERENCE = both("reference", "reference", 50, None, None)


def crossed(forecaster: str, target: str, schedule: str, psnr: float, name: str = "x") -> list[dict[str, Any]]:
    """A row on a set schedule; its worst image is 2 dB below the mean."""
    parts = {"forecaster": forecaster, "controller": "C()", "coordinate": "StepIndex()", "target": target}
    label = f"{name}:evaluations=10,of={forecaster}/{target},schedule={schedule}"
    return both(label, "forecast", 10, psnr + 2, psnr - 2, parts=parts)


# Drift is worth 3 dB everywhere, golden 5 dB, order 1 instead of reuse 1 dB with drift and -2 dB with output.
CROSSED = [
    *crossed("Reuse()", "Output()", "even", 20),
    *crossed("Reuse()", "GlobalDrift()", "even", 23),
    *crossed("Reuse()", "Output()", "golden", 25),
    *crossed("Reuse()", "GlobalDrift()", "golden", 28),
    *crossed("Lagrange(order=1)", "GlobalDrift()", "golden", 29),
    *crossed("Lagrange(order=1)", "Output()", "golden", 23),
]
CALIBRATED = {"data_driven": True, "calibrated_on": {"images": 8, "prompts": 4, "seeds": 8}}
PUBLISHED = [
    *REFERENCE,
    *both("ab2:evaluations=10", "sampler", 10, 30, 26),
    *both("winner:evaluations=10", "forecast", 10, 31, 27),
    *both("uneven:evaluations=10", "forecast", 10, 40, 20),
    *both("loser:evaluations=10", "forecast", 10, 29, 27, **CALIBRATED),
    *both("spender:evaluations=10", "forecast", 10, 41, 31, evaluations=11),
    *both("lazy:evaluations=10", "forecast", 10, 12, 10, evaluations=8),
]  # fmt: skip


def test_effects_of_a_known_example() -> None:
    rows = report.summarise(CROSSED)
    found = {(e.factor, e.level, e.base): e for e in effects(rows)}
    drift = found["target", "Output", "GlobalDrift"]
    assert (drift.mean, drift.worst, drift.pairs, drift.better) == (pytest.approx(-4), pytest.approx(-4), 3, 0)
    golden = found["schedule", "even", "golden"]
    assert (golden.mean, golden.pairs) == (pytest.approx(-5), 2)
    order = found["forecaster", "Lagrange(order=1)", "Reuse"]
    assert (order.mean, order.pairs, order.better) == (pytest.approx(-0.5), 2, 1)
    assert not any(factor == "coordinate" for factor, _, _ in found)
    assert [(w.factor, w.mean, w.pairs) for w in weights(rows)] == [
        ("schedule", pytest.approx(5), 2),
        ("target", pytest.approx(4), 3),
        ("forecaster", pytest.approx(1.5), 2),
    ]


def test_pairs_need_equal_evaluations() -> None:
    other = crossed("Reuse()", "GlobalDrift()", "even", 23)
    for record in other:
        record["evaluations"] = 9
    assert not effects(report.summarise([*CROSSED[:2], *other]))


def tables(text: str) -> list[list[dict[str, str]]]:
    """The tables of a page: a line by its headers."""
    found: list[list[dict[str, str]]] = []
    for block in text.split("\n\n"):
        lines = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if line[:1] == "|"
        ]
        if lines:
            found.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    return found


def test_the_page_gives_the_numbers_of_the_records() -> None:
    text = page([*PUBLISHED, *CROSSED])
    published, factorial = tables(text)[:2]
    figures = {line["method"]: list(line.values())[2:9] for line in published}
    assert figures["`ab2:evaluations=10`"] == ["10", "28.0 [26.0, 30.0]", "26.0", "26.0", "-", "-", "50%"]
    assert "`loser:evaluations=10` †" in figures
    assert not [method for method in figures if "schedule=" in method]
    parts = ("schedule", "forecaster", "target", "coordinate", "NFE", "PSNR dB", "vs sampler")
    crossed = [tuple(line[name] for name in parts) for line in factorial]
    assert crossed[-1][:5] == ("-", "-", "-", "-", "10")
    assert (
        "`golden`", "`Lagrange(order=1)`", "`GlobalDrift`", "`StepIndex`", "10", "29.0 [27.0, 31.0]",
        "+1.0 [+1.0, +1.0] ab2",
    ) in crossed  # fmt: skip
    assert "schedule 5.0 dB (2 pairs), target 4.0 dB (3 pairs), forecaster 1.5 dB (2 pairs)" in text
    assert "schedule `even` instead of `golden`: -5.0 dB of mean PSNR, -5.0 dB of the worst image" in text
    verdicts = dict(line[2:].split(": ", 1) for line in text.splitlines() if line.startswith(("- Better", "- Neither")))
    better, neither = verdicts.values()
    assert "`winner:evaluations=10` (+1.0 [+1.0, +1.0] dB, better on 2 of 2)" in better
    assert "`uneven:evaluations=10` (+2.0 [-6.0, +10.0] dB, better on 1 of 2)" in neither
    assert "`loser:evaluations=10` (+0.0 [-1.0, +1.0] dB" in neither
    assert "No plain sampler makes as few evaluations as: `lazy:evaluations=10`." in text


def test_the_page_says_where_its_numbers_come_from() -> None:
    _, _, origins = page(PUBLISHED).partition("## Where the numbers come from")
    facts = (COMMAND, "skipcast compare <shapes-flux>", "abc1234", "torch 2.13.0", "2 CPU cores", "100-101")
    assert [fact for fact in facts if fact not in origins] == []
    assert "1. a red star" in origins
    assert "found on 8 images (4 prompts, 8 seeds)" in origins


def test_step_counts_have_sections_and_repetitions_count_once() -> None:
    short = both("ab2:evaluations=10", "sampler", 10, 33, 31, steps=20)
    text = page([*PUBLISHED, *PUBLISHED, *short])
    assert text.index("## 50 steps") < text.index("## 20 steps")
    assert "2 images of 2 prompts per row, which are so few" in text
    assert "| `ab2:evaluations=10` | 10 | 32.0 [31.0, 33.0] |" in text


def test_rows_of_other_images_are_refused() -> None:
    strange = both("strange:evaluations=10", "forecast", 10, 30, 30)
    strange[0]["seed"] = 1
    with pytest.raises(ValueError, match=r"strange:evaluations=10 .* different prompts or seeds"):
        page([*PUBLISHED, *strange])
    with pytest.raises(ValueError, match="one model"):
        page([*PUBLISHED, *both("x", "forecast", 10, 1, 1, model="other")])
    with pytest.raises(ValueError, match="no image"):
        page([])


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    records = report.write(tmp_path, PUBLISHED, None)["results.jsonl"]
    out = tmp_path / "pages" / "methods.md"
    main([str(records), "--out", str(out)])
    text = out.read_text(encoding="utf-8")
    assert f"python -m research.pages.methods {records} --out {out}" in text
    with pytest.raises(SystemExit):
        main([str(tmp_path / "none.jsonl"), "--out", str(out)])
