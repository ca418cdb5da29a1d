"""A tiny model in a folder and specs beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.reference_model import save_tiny

GRID = """\
models: [tiny]
steps: [6]
methods: [resilphase, euler, teacache]
budgets: [4]
prompts:
  - a large red star on a blue background
  - a small green ring on a white background
seeds: 2
converged_steps: 12
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the model `tiny`."""
    folder = tmp_path_factory.mktemp("sweep")
    save_tiny(folder / "tiny")
    (folder / "grid.yaml").write_text(GRID)
    return folder


@pytest.fixture
def write(tiny: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Write a spec from which the model is found."""

    def write(text: str) -> Path:
        if not (tmp_path / "tiny").exists():
            (tmp_path / "tiny").symlink_to(tiny / "tiny")
        path = tmp_path / "grid.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def grid(write: Callable[[str], Path]) -> Path:
    return write(GRID)
