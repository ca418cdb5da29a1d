"""Records survive storage, also where JSON has no number for them; a broken file is named by its line."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest

from driftcast.bench import report
from records import RECORDS, both


def test_infinite_psnr_is_stored_as_identical(tmp_path: Path) -> None:
    records = both("plan:evaluations=5", "plan", 5, math.inf, 30)
    path = report.write(tmp_path, records, None)["results.jsonl"]
    stored = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert [(r["psnr"], r.get("identical")) for r in stored] == [(None, True), (30, None)]
    (row,) = report.summarise(report.read(path))
    assert (row.psnr, row.psnr_worst, row.identical) == (30, 30, 1)
    assert "left out of the mean" in report.markdown([row])


def test_packed_records_are_read_too(tmp_path: Path) -> None:
    path = report.write(tmp_path, RECORDS, None)["results.jsonl"]
    packed = tmp_path / "results.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert report.read(packed) == report.read(path)


def test_numbers_inside_lists_are_strict_json_too(tmp_path: Path) -> None:
    odd = {**RECORDS[0], "errors": [1.0, math.nan, math.inf], "inner": {"x": [-math.inf]}}
    path = report.write(tmp_path, [odd], None)["results.jsonl"]
    stored = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert (stored["errors"], stored["inner"]) == ([1.0, None, None], {"x": [None]})


@pytest.mark.parametrize(
    "line, complaint", [('{"method": "eul', "not JSON"), ("[1]", "object"), ("{}", "lacks method")]
)
def test_a_malformed_file_names_the_line(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(RECORDS[0]) + "\n\n" + line + "\n")
    with pytest.raises(ValueError, match=f"line 3 .*{complaint}"):
        report.read(path)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        report.read(tmp_path / "results.jsonl")
