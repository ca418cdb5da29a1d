"""The README's Python runs as printed, and says true things."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

README = Path(__file__).parents[1] / "README.md"


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 124


def test_code_blocks_run(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for block in re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL):
        exec(compile(block, str(README), "exec"), namespace)
    printed = capsys.readouterr().out
    assert "evaluated 10 of 50" in printed
    assert "trusted: 1 of 1" in printed
    assert "(0, 1, 2, 8, 14, 20, 26, 32, 38, 44)" in printed
    assert np.allclose(
        namespace["sc"].tableau(namespace["method"], namespace["grid"])[11, [2, 8]], [-0.2997, 1.2997], atol=1e-4
    )
    assert namespace["image"].size == (64, 64)


def test_the_table_is_that_of_the_benchmark_of_record() -> None:
    def rows(text: str) -> list[list[str]]:
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]

    page = (README.parent / "docs/results/shapes-flux.md").read_text()
    page = page[page.index("### 10 evaluations of 50") : page.index("### 17 evaluations of 50")]
    (header, *measured), printed = rows(page), rows(README.read_text())
    begin = next(i for i, row in enumerate(printed) if row[:3] == ["kind", "method", "NFE"])
    places = [header.index(name) for name in printed[begin]]
    shown = [row for row in printed[begin + 2 :] if row[0][:1] in "◆●□"]
    assert len(shown) >= 5
    known = [[row[place] for place in places] for row in measured if len(row) == len(header)]
    assert all(row in known for row in shown), shown
