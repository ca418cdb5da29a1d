"""The documents' Python runs as printed, and says true things."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import test_conformance as conformance
from families.all import FAMILIES
from skipcast.pipelines.seams.layouts import LAYOUTS
from support.cases import ALL_COORDINATES, Case

DOCS = Path(__file__).parents[1] / "docs"


def run_blocks(page: Path) -> dict[str, Any]:
    """Every Python block of a page in one namespace, in order."""
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        exec(compile(block, str(page), "exec"), namespace)
    return namespace


@pytest.fixture(scope="module")
def extending() -> dict[str, Any]:
    return run_blocks(DOCS / "extending.md")


def test_a_forecaster_takes_eight_lines() -> None:
    text = (DOCS / "extending.md").read_text()
    found = re.search(r"(@dataclass.*?)```", text, flags=re.DOTALL)
    assert found is not None
    assert len([line for line in found[1].splitlines() if line.strip()]) <= 8


def test_what_the_page_prints(extending: dict[str, Any]) -> None:
    sc, method, grid = (extending[name] for name in ("sc", "method", "grid"))
    table = sc.tableau(method, grid)
    assert table[11, [2, 8]].tolist() == pytest.approx([-0.25, 1.25])
    assert sc.degree_of_exactness(method, grid) == 0
    assert sc.amplification(table).max() == pytest.approx(6.0)
    assert extending["acceleration"].summary().evaluations == 10


@pytest.mark.parametrize(
    "promise",
    [
        value
        for name, value in vars(conformance).items()
        if name.startswith("test_") and "case" in value.__annotations__
    ],
    ids=lambda promise: promise.__name__,
)
def test_the_page_s_row_keeps_every_promise(extending: dict[str, Any], promise: Any) -> None:
    case = Case(*extending["row"])
    extra = [{}]
    if "coordinate" in promise.__annotations__:
        extra = [{"coordinate": coordinate} for coordinate in ALL_COORDINATES]
    if "dtype" in promise.__annotations__:
        import torch

        extra = [{"dtype": dtype} for dtype in (torch.bfloat16, torch.float64)]
    if "scale" in promise.__annotations__:
        extra = [{"scale": 1000.0, "shift": -3.0}]
    for arguments in extra:
        promise(case=case, **arguments)


def test_any_pipeline_works_as_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = DOCS / "pipelines.md"
    found = run_blocks(page)
    printed = capsys.readouterr().out
    assert "evaluated 10 of 50" in printed
    steps = re.search(r"print\(velocity.evaluated_steps\)  # (.*)", page.read_text())
    assert steps is not None
    assert steps[1] in printed
    assert len(found["plan"]) == 6


def test_the_support_page_knows_every_family_and_the_readme_quotes_it() -> None:
    page, readme = (DOCS / "support.md").read_text(), (DOCS.parent / "README.md").read_text()
    for family in FAMILIES:
        assert f"| {family.name} ({family.example}) |" in page
    assert ", ".join(sorted(LAYOUTS)) in page
    assert "failed" not in page
    short = page[page.index("| tested pipelines") : page.index("\n\n## Modes")]
    assert short in readme
