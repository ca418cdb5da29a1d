"""Records survive storage, also where JSON has no number for them; a broken file is named by its line."""

from __future__ import annotations

import gzip
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from skipcast import report
from skipcast.bench.records import options_of
from support.records import RECORDS, both


def test_infinite_psnr_is_stored_as_identical(tmp_path: Path) -> None:
    records = both("plan:evaluations=5", "plan", 5, math.inf, 30)
    path = report.write(tmp_path, records, None)["results.jsonl"]
    stored = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert [(r["psnr"], r.get("identical")) for r in stored] == [(None, True), (30, None)]
    (row,) = report.summarise(report.read(path))
    assert (row.psnr, row.of("psnr", "worst"), row.identical) == (30, 30, 1)
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


def broken(**changes: Any) -> str:
    return json.dumps(RECORDS[0] | changes)


@pytest.mark.parametrize(
    "line, complaint",
    [
        ('{"method": "eul', "not JSON"),
        ("[1]", "the line must be an object"),
        ("{}", "lacks kind"),
        ('{"id": 7, "text": "of another program"}', "lacks kind, method, name, options, budget, evaluations"),
        (json.dumps({key: value for key, value in RECORDS[0].items() if key != "seed"}), "lacks seed"),
        (broken(psnr="high"), "psnr must be a number, got 'high'"),
        (broken(psnr=True), "psnr must be a number"),
        (broken(budget=2.5), "budget must be a whole number"),
        (broken(budget=0), "must be positive"),
        (broken(prompt=None), "lacks prompt"),
        (broken(settings=[1]), "settings must be an object"),
        (broken(judge={"shape": "yes"}), "judge.shape must be true or false, got 'yes'"),
        (broken(metrics={"lpips": "down"}), 'metrics.lpips must be "higher is better" or'),
        (broken(metrics={"lpips": "lower is better"}, lpips="0.1"), "lpips must be a number"),
        (broken(image="../../secret.png"), "image must be the path"),
        (broken(image="/etc/secret.png"), "image must be the path"),
        (broken(image="images/../../secret.png"), "image must be the path"),
        (broken(image="../../images/../../secret.png"), "image must be the path"),
        (broken(image="images/page.html"), "image must be the path"),
        (broken(kind="trace"), "lacks evaluated_steps"),
        (broken(kind="trace", evaluated_steps=[0], errors=["x"]), "errors.0 must be a number"),
        (broken(kind="left out"), "lacks reason"),
        ("[" * 100_000, "line 3"),
    ],
)
def test_a_malformed_file_names_the_line(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(RECORDS[0]) + "\n\n" + line + "\n")
    for reading in (report.read, lambda path: report.load([path])):
        with pytest.raises(
            ValueError, match=f"{path}, line 3 .*{re.escape(complaint) if line != '[' * 100000 else ''}"
        ):
            reading(path)


def test_a_line_written_in_half_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    whole = json.dumps(RECORDS[0])
    path.write_text(whole + "\n" + whole[:100])
    with pytest.raises(ValueError, match=r"line 2 is not JSON: it was written in half"):
        report.read(path)
    path.write_text(whole)  # whole, but for the end of its line
    assert len(report.read(path)) == 1


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\x00\x00", b"\xff\xfe\x00", b"hello\n"])
def test_a_foreign_file_is_told_as_such(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path}, line 1 is not"):
        report.read(path)


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file_is_told_as_such(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(content)
    for reading in (report.read, lambda path: report.load([path])):
        with pytest.raises(ValueError, match=f"{path}.* holds no record"):
            reading(path)


def test_options_are_values() -> None:
    given = {"order": "2", "ridge": "0.5", "exact": "true", "schedule": "0.1.2.4", "phase": "balanced", "base": "nan"}
    assert options_of(given) == given | {"order": 2, "ridge": 0.5, "exact": True}


def test_the_path_of_an_image_stays_in_the_results(tmp_path: Path) -> None:
    for path in ("images/a.png", "../../images/a b.webp", "images/of/a.PNG"):
        report.write_records(tmp_path, [RECORDS[0] | {"image": path}])
        assert report.read(tmp_path / "results.jsonl")[0]["image"] == path


@pytest.mark.parametrize("damage", ["cut", "flipped", "plain"])
def test_a_broken_archive_names_the_line(tmp_path: Path, damage: str) -> None:
    lines = "".join(json.dumps(line | {"repr": str(i) * 50}) + "\n" for i, line in enumerate(RECORDS * 200)).encode()
    packed = gzip.compress(lines)
    middle = len(packed) // 2
    path = tmp_path / "results.jsonl.gz"
    path.write_bytes({"cut": packed[:middle], "flipped": packed[:-6] + b"abcdef", "plain": b"no archive\n"}[damage])
    with pytest.raises(ValueError, match=rf"{path}, line \d+ cannot be unpacked"):
        report.read(path)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        report.read(tmp_path / "results.jsonl")
