"""Several files together: every cell once, odds named by both places, little kept in memory."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from skipcast import report
from support.records import RECORDS, both


def written(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def test_files_are_read_together(tmp_path: Path) -> None:
    first = written(tmp_path / "a.jsonl", RECORDS[:6])
    second = written(tmp_path / "b.jsonl.gz", RECORDS[6:])
    found = report.load([first, second])
    assert report.markdown(report.summarise(found.records)) == report.markdown(report.summarise(RECORDS))
    assert [(source.path, source.lines) for source in found.sources] == [(first, 6), (second, 6)]


def test_what_is_given_twice_counts_once(tmp_path: Path) -> None:
    first = written(tmp_path / "a.jsonl", RECORDS)
    second = written(tmp_path / "b.jsonl", [line | {"seconds": 99.0, "command": "again"} for line in RECORDS[2:4]])
    found = report.load([first, first, second])
    assert (len(found.records), found.repeated) == (len(RECORDS), len(RECORDS) + 2)
    assert report.summarise(found.records) == report.summarise(RECORDS)
    assert "lines of cells that were there already" in report.html(found)


def test_what_differs_is_refused_by_both_places(tmp_path: Path) -> None:
    first = written(tmp_path / "a.jsonl", RECORDS)
    second = written(tmp_path / "b.jsonl", [RECORDS[0], RECORDS[3] | {"psnr": 33.0}])
    with pytest.raises(ValueError, match=rf"{second}, line 2 and {first}, line 4 are both resilphase.*differ in psnr"):
        report.load([first, second])
    with pytest.raises(ValueError, match=rf"{second}, line 2 and {second}, line 1 "):
        report.load([written(second, [RECORDS[3], RECORDS[3] | {"psnr": 33.0}])])


def test_other_states_are_other_cells(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.jsonl",
        [line for steps in (50, 20) for line in both("euler:evaluations=5", "sampler", 5, steps, steps, steps=steps)],
    )
    assert len(report.by_state(report.load([path]).records)) == 2


def test_shared_parts_are_in_memory_once(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [line | {"image_sha256": "0" * 64} for line in RECORDS])
    found = report.load([path]).records
    assert len({id(line["settings"]) for line in found}) == 1
    assert len({id(line["prompt"]) for line in found}) == 2
    assert not any("image_sha256" in line for line in found)


def test_metrics_that_records_name_are_kept_with_their_direction(tmp_path: Path) -> None:
    told = {"psnr": "higher is better", "lpips": "lower is better"}
    lines = both("euler:evaluations=5", "sampler", 5, 20, 30, metrics=told)
    for line, value in zip(lines, (0.1, 0.5), strict=True):
        line["lpips"] = value
    (row,) = report.summarise(report.load([written(tmp_path / "a.jsonl", lines)]).records)
    made = row.measures["lpips"]
    assert (made.mean, made.worst, made.worst5, made.higher_is_better) == (pytest.approx(0.3), 0.5, 0.5, False)
    assert "| LPIPS |" in report.markdown([row])
    assert "<summary>LPIPS</summary>" in report.html(lines)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a folder; give the results.jsonl in it"):
        report.load([tmp_path])
