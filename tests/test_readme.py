"""The README's Python runs as printed, and says true things."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

README = Path(__file__).parents[1] / "README.md"


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 120


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
        namespace["dc"].tableau(namespace["method"], namespace["grid"])[11, [2, 8]], [-0.2997, 1.2997], atol=1e-4
    )
    assert namespace["image"].size == (64, 64)
