"""A file is written whole or not at all, a folder is for one process at a time, and finished parts are kept."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipcast.checkpoint import Folder, alone, check_file, check_folder, write_whole


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


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(tmp_path / "a.bin", b"new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a.bin"))
    assert not list(tmp_path.iterdir())


def test_what_a_link_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("deep/a.bin")
    for content in (b"one", b"two"):
        assert write_whole(tmp_path / "link", content).is_symlink()
        assert (tmp_path / "deep" / "a.bin").read_bytes() == content


def test_many_at_once_leave_one_of_their_files_whole(tmp_path: Path) -> None:
    contents = [bytes([n]) * 100_000 for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_whole(tmp_path / "a.bin", content), contents))
    assert (tmp_path / "a.bin").read_bytes() in contents
    assert len(list(tmp_path.iterdir())) == 1


def test_a_path_is_looked_at_before_the_work(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "circle"
    file.touch()
    link.symlink_to(link)
    os.mkfifo(tmp_path / "pipe")
    both = [
        (file / "below" / "it", f"{re.escape(str(file))} is no folder, and (it|below) would lie below it"),
        (Path("/proc/nowhere/it"), "nothing can be written into /proc "),
        (tmp_path / ("x" * 300) / "it", "is no path .*too long"),
        (link / "it", "is no path .*symbolic links"),
        (tmp_path / "\0", "is no path .*null"),
    ]
    for path, words in (*both, (tmp_path, "is a folder; give a file"), (tmp_path / "pipe", "a device or a pipe")):
        with pytest.raises(ValueError, match=words):
            check_file(path)
        if path != tmp_path:
            with pytest.raises((ValueError, OSError)):
                write_whole(path, b"")
    for path, words in (*both, (file, "is no folder; give"), (tmp_path / "pipe", "is no folder")):
        with pytest.raises(ValueError, match=words):
            check_folder(path)
    with pytest.raises(ValueError, match="file is there already; remove it, or give another path"):
        check_file(file, new=True)
    before = sorted(tmp_path.rglob("*"))
    check_file(file)
    check_file(tmp_path / "new" / "file", new=True)
    check_folder(tmp_path / "new" / "folder")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_is_for_one_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with alone(tmp_path), pytest.raises(ValueError, match="at work already"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


IDENTITY = {"prompts": ["a", "b"], "steps": 4, "options": {"scale": 3.5}}


KINDS = {"parts": re.compile(r"(\d+)\.piece")}


def folder_at(path: Path) -> Folder:
    return Folder(path, IDENTITY, "parts", KINDS, manifest="manifest.json")


def filled(path: Path, names: set[str]) -> dict[str, bytes]:
    """Parts as they are written into a folder."""
    parts = {name: bytes(range(int(name) % 3 * 40)) for name in names}
    with folder_at(path).opened() as folder:
        for name, part in parts.items():
            folder.write("parts", name, part)
    return parts


@given(st.sets(st.integers(0, 99).map(str), min_size=1, max_size=4), st.data())
def test_of_a_folder_cut_short_every_whole_part_is_kept(names: set[str], data: st.DataObject) -> None:
    """A part of which the end is missing is refused with its path, a missing one is not there."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "partial"
        parts = filled(path, names)
        name = data.draw(st.sampled_from(sorted(names)))
        victim = path / "parts" / f"{name}.piece"
        if removed := len(names) > 1 and data.draw(st.booleans()):
            victim.unlink()
        else:
            victim.write_bytes(victim.read_bytes()[: data.draw(st.integers(0, victim.stat().st_size - 2))])
        with folder_at(path).opened() as again:
            assert again.has("parts", name) != removed
            if not removed:
                with pytest.raises(ValueError, match=rf"{victim.name}, line \d: half-written"):
                    again.read("parts", name)
            for other in names - {name}:
                assert again.read("parts", other) == parts[other]


def refused(folder: Folder, message: str) -> None:
    with pytest.raises(ValueError, match=message), folder.opened():
        pass


def test_drafts_are_cleared_and_foreign_files_refused(tmp_path: Path) -> None:
    filled(tmp_path, {"1"})
    draft = tmp_path / "parts" / ".2.piece.77"
    draft.write_bytes(b"half")
    with folder_at(tmp_path).opened() as folder:
        assert not draft.exists()
        assert list(folder.files("parts")) == ["1"]
    (tmp_path / "parts" / "mine.txt").touch()
    refused(folder_at(tmp_path), r"mine.txt, line 1: no file of parts")


def test_a_manifest_binds_once_a_part_is_finished(tmp_path: Path) -> None:
    other = Folder(tmp_path, {**IDENTITY, "steps": 5}, "parts", KINDS, manifest="manifest.json")
    filled(tmp_path, set())
    with other.opened():
        pass
    filled(tmp_path, {"1"})
    refused(other, r"json, line 3: the parts were begun with steps 4, now it is 5")


def test_somebody_else_s_file_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"mine": 1}')
    refused(folder_at(tmp_path), r"manifest.json, line 1: does not say what the parts were begun with; restore it, or")
    assert (tmp_path / "manifest.json").read_text() == '{"mine": 1}'


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7), st.booleans())
def test_a_folder_of_damaged_arguments_is_refused(place: float, bit: int, cut: bool) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        filled(folder, {"0"})
        path = folder / "manifest.json"
        content = bytearray(path.read_bytes())
        at = int(place * len(content))
        content[at] ^= 0 if cut else 1 << bit
        path.write_bytes(content[:at] if cut else content)
        try:
            with folder_at(folder).opened():
                pass
        except ValueError as error:
            assert str(folder) in str(error)  # noqa: PT017
        else:  # only white space was hit
            assert path.read_bytes().split() == content.split()
