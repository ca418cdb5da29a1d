"""A file is written whole or not at all, a folder is for one process at a time, and finished parts are kept."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipcast.checkpoint import Partial, alone, write_whole


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


IDENTITY = {"prompts": ["a", "b"], "steps": 4, "options": {"scale": 3.5}}
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def filled(folder: Path, numbers: set[int]) -> dict[int, Any]:
    """Parts as they are written into a folder."""
    parts = {number: {"x": torch.randn(number % 3, 2, dtype=torch.float64), "y": torch.ones(1)} for number in numbers}
    partial = Partial(folder, IDENTITY)
    for number, part in parts.items():
        partial[number] = part
    return parts


@quick
@given(st.sets(st.integers(0, 99), min_size=1, max_size=4), st.data())
def test_of_a_folder_cut_short_every_whole_part_is_kept(numbers: set[int], data: st.DataObject) -> None:
    """A part of which the end is missing is refused with its path, a missing one is not there."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "partial"
        parts = filled(folder, numbers)
        number = data.draw(st.sampled_from(sorted(numbers)))
        path = folder / f"part-{number:05d}.safetensors"
        if data.draw(st.booleans()):
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: data.draw(st.integers(0, path.stat().st_size - 1))])
        again = Partial(folder, IDENTITY)
        assert (number in again) == path.exists()
        if number in again:
            with pytest.raises(ValueError, match=f"{path.name} is damaged"):
                again[number]
        for other in numbers - {number}:
            assert other in again
            assert all(torch.equal(again[other][name], tensor) for name, tensor in parts[other].items())


@quick
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7), st.booleans())
def test_a_folder_of_damaged_arguments_is_refused(place: float, bit: int, cut: bool) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        filled(folder, {0})
        path = folder / "arguments.json"
        content = bytearray(path.read_bytes())
        at = int(place * len(content))
        content[at] ^= 0 if cut else 1 << bit
        path.write_bytes(content[:at] if cut else content)
        try:
            Partial(folder, IDENTITY)
        except ValueError as error:
            assert str(folder) in str(error)  # noqa: PT017
        else:  # only white space was hit
            assert path.read_bytes().split() == content.split()
