"""A file is written whole or not at all, and a folder is for one process at a time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from skipcast.checkpoint import alone, write_whole


def test_a_file_and_its_folder_are_written(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "new" / "a.bin", b"one")
    assert write_whole(path, b"two").read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_whole(tmp_path / "a.bin", b"old")

    def fails(*_: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_for_one_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with alone(tmp_path), pytest.raises(ValueError, match="at work already"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass
