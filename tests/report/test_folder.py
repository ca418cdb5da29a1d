"""The files of a report: all there, or the old ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from skipcast import report
from support.records import RECORDS


def test_write_and_read_round_trip(tmp_path: Path) -> None:
    paths = report.write(tmp_path / "new" / "folder", RECORDS, Image.new("RGB", (8, 4), "red"))
    assert (
        set(paths)
        == {"results.jsonl", "report.html", "grid.png"}
        == {p.name for p in paths["grid.png"].parent.iterdir()}
    )
    assert report.read(paths["results.jsonl"]) == RECORDS
    with Image.open(paths["grid.png"]) as image:
        assert image.size == (8, 4)
    assert "grid.png" not in report.write(tmp_path / "plain", RECORDS, None)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = report.write(tmp_path, RECORDS, None)["results.jsonl"]

    def fail(*_: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk"):
        report.write(tmp_path, RECORDS[:2], None)
    assert report.read(path) == RECORDS
    assert {p.name for p in tmp_path.iterdir()} == {"results.jsonl", "report.html"}
