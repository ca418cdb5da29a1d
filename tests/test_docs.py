"""The README's and two pages' Python runs as printed, and says true things."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import test_conformance as conformance
from families.all import FAMILIES
from skipcast.pipelines.seams.layouts import LAYOUTS
from support.cases import ALL_COORDINATES, Case

ROOT = Path(__file__).parents[1]
DOCS, README = ROOT / "docs", ROOT / "README.md"


def run_blocks(page: Path) -> dict[str, Any]:
    """Every Python block of a page in one namespace, in order."""
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        exec(compile(block, str(page), "exec"), namespace)
    return namespace


@pytest.fixture(scope="module")
def extending() -> dict[str, Any]:
    return run_blocks(DOCS / "extending.md")


def test_the_readme_is_short_and_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(README.read_text().splitlines()) <= 124
    monkeypatch.chdir(tmp_path)
    found = run_blocks(README)
    printed = capsys.readouterr().out
    for words in ("evaluated 10 of 50", "trusted: 1 of 1", "(0, 1, 2, 8, 14, 20, 26, 32, 38, 44)"):
        assert words in printed
    row = found["sc"].tableau(found["method"], found["grid"])[11, [2, 8]]
    assert row.tolist() == pytest.approx([-0.2997, 1.2997], abs=1e-4)
    assert {image.size for image in (found["image"], *found["firmer"], found["edited"])} == {(64, 64)}
    assert found["pipe"].scheduler.guidance == 2.0


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]


def test_the_readme_s_table_is_that_of_the_benchmark_of_record() -> None:
    page = (DOCS / "results/shapes-flux.md").read_text()
    page = page[page.index("### 10 evaluations of 50") : page.index("### 17 evaluations of 50")]
    (header, *measured), printed = rows(page), rows(README.read_text())
    begin = next(i for i, row in enumerate(printed) if row[:3] == ["kind", "method", "NFE"])
    places = [header.index(name) for name in printed[begin]]
    shown = [row for row in printed[begin + 2 :] if row[0][:1] in "◆●□"]
    assert len(shown) >= 5
    stills = [row for row in shown if not row[0].endswith(", clips")]
    known = [[row[place] for place in places] for row in measured if len(row) == len(header)]
    assert all(row in known for row in stills), stills
    page = (DOCS / "results/shapes-wan.md").read_text()
    header, *measured = rows(page[page.index("## 10 evaluations of 50") : page.index("## 13 evaluations of 50")])
    places = [header.index(name) for name in printed[begin]]
    known = [[row[place] for place in places] for row in measured]
    clips = [[row[0].removesuffix(", clips"), *row[1:]] for row in shown if row not in stills]
    assert len(clips) >= 2
    assert all(row in known for row in clips), clips


def test_a_forecaster_takes_eight_lines() -> None:
    (found,) = re.findall(r"(@dataclass.*?)```", (DOCS / "extending.md").read_text(), flags=re.DOTALL)
    assert len([line for line in found.splitlines() if line.strip()]) <= 8


def test_what_the_page_prints(extending: dict[str, Any]) -> None:
    sc, method, grid = (extending[name] for name in ("sc", "method", "grid"))
    table = sc.tableau(method, grid)
    assert table[11, [2, 8]].tolist() == pytest.approx([-0.25, 1.25])
    assert sc.degree_of_exactness(method, grid) == 0
    assert sc.amplification(table).max() == pytest.approx(6.0)
    assert extending["acceleration"].summary().evaluations == 10


PROMISES = {
    name: promise
    for name, promise in vars(conformance).items()
    if name.startswith("test_") and "case" in promise.__annotations__
}
#: What each further argument of a promise stands for.
ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "coordinate": [{"coordinate": coordinate} for coordinate in ALL_COORDINATES],
    "dtype": [{"dtype": dtype} for dtype in (torch.bfloat16, torch.float64)],
    "scale": [{"scale": 1000.0, "shift": -3.0}],
}


@pytest.mark.parametrize("name", PROMISES)
def test_the_page_s_row_keeps_every_promise(extending: dict[str, Any], name: str) -> None:
    (further,) = [ARGUMENTS[key] for key in PROMISES[name].__annotations__ if key in ARGUMENTS] or [[{}]]
    for arguments in further:
        PROMISES[name](case=Case(*extending["row"]), **arguments)


@pytest.mark.slow
def test_any_pipeline_works_as_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = DOCS / "pipelines.md"
    found = run_blocks(page)
    printed = capsys.readouterr().out
    assert "evaluated 10 of 50" in printed
    assert "[8, 6]" in printed  # of two requests in threads
    (steps,) = re.findall(r"print\(velocity.evaluated_steps\)  # (.*)", page.read_text())
    assert steps in printed
    assert len(found["plan"]) == 6


def test_the_support_page_knows_every_family_and_the_readme_quotes_it() -> None:
    page = (DOCS / "support.md").read_text()
    for family in FAMILIES:
        assert f"| {family.name} ({family.example}) |" in page
    assert ", ".join(sorted(LAYOUTS)) in page
    assert "failed" not in page
    assert page[page.index("| tested pipelines") : page.index("\n\n## Modes")] in README.read_text()
