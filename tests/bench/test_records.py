"""Records survive storage, also where JSON has no number for them; a broken file is named by its line."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from skipcast import report
from skipcast.bench.records import options_of
from support.records import RECORDS, both, written


def test_infinite_psnr_is_stored_as_identical(tmp_path: Path) -> None:
    path = written(tmp_path / "results.jsonl", both("plan:evaluations=5", "plan", 5, math.inf, 30))
    stored = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert [(r["psnr"], r.get("identical")) for r in stored] == [(None, True), (30, None)]
    (row,) = report.summarise(report.read(path))
    assert (row.psnr, row.of("psnr", "worst"), row.identical) == (30, 30, 1)
    assert "left out of the mean" in report.markdown([row])


def test_packed_records_are_read_too(tmp_path: Path) -> None:
    packed = written(tmp_path / "results.jsonl.gz", RECORDS)
    assert report.read(packed) == report.read(written(tmp_path / "results.jsonl", RECORDS)) == RECORDS


def test_numbers_inside_lists_are_strict_json_too(tmp_path: Path) -> None:
    odd = {**RECORDS[0], "errors": [1.0, math.nan, math.inf], "inner": {"x": [-math.inf]}}
    stored = json.loads(written(tmp_path / "results.jsonl", [odd]).read_text(), parse_constant=pytest.fail)
    assert (stored["errors"], stored["inner"]) == ([1.0, None, None], {"x": [None]})


def broken(**changes: Any) -> bytes:
    return json.dumps(RECORDS[0] | changes).encode()


@pytest.mark.parametrize(
    "line, complaint",
    [
        (b'{"method": "eul', "Invalid JSON: EOF while parsing a string at column 15. Remove the line"),
        (b"\x89PNG\r", "Invalid JSON"),
        (b"[" * 100_000, ""),
        (b"[1]", "Input should be an object"),
        (b'{"id": 7, "text": "of another program"}', "lacks kind, method, name, options, budget, evaluations"),
        (json.dumps({key: value for key, value in RECORDS[0].items() if key != "seed"}).encode(), "lacks seed"),
        (broken(psnr="high"), "psnr: Input should be a valid number, got 'high'"),
        (broken(psnr=True), "psnr: Input should be a valid number"),
        (broken(budget=2.5), "budget: Input should be a valid integer"),
        (broken(budget=0), "must be positive"),
        (broken(prompt=None), "lacks prompt"),
        (broken(settings=[1]), "settings: Input should be an object, got [1]"),
        (broken(judge={"shape": "yes"}), "judge.shape: Input should be a valid boolean, got 'yes'"),
        (broken(metrics={"lpips": "down"}), "metrics.lpips: Input should be 'higher is better' or"),
        (broken(metrics={"lpips": "lower is better"}, lpips="0.1"), "lpips must be a number"),
        (broken(image="../../secret.png"), "image: must be the path"),
        (broken(image="/etc/secret.png"), "image: must be the path"),
        (broken(image="images/../../secret.png"), "image: must be the path"),
        (broken(image="../../images/../../secret.png"), "image: must be the path"),
        (broken(image="images/page.html"), "image: must be the path"),
        (broken(kind="trace"), "lacks evaluated_steps"),
        (broken(kind="trace", evaluated_steps=[0], errors=["x"]), "errors.0: Input should be a valid number"),
        (broken(kind="left out"), "lacks reason"),
    ],
)
def test_a_malformed_file_names_the_line(tmp_path: Path, line: bytes, complaint: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(json.dumps(RECORDS[0]).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(ValueError, match=f"{path}, line 3 is not a record: .*{re.escape(complaint)}"):
        report.read(path)


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file_is_told_as_such(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(content)
    for reading in (report.read, lambda path: report.load([path])):
        with pytest.raises(ValueError, match=f"{path} holds no record"):
            reading(path)


def test_options_are_values() -> None:
    given = {"order": "2", "ridge": "0.5", "exact": "true", "schedule": "0.1.2.4", "phase": "balanced", "base": "nan"}
    assert options_of(given) == given | {"order": 2, "ridge": 0.5, "exact": True}


@pytest.mark.parametrize("image", ["images/a.png", "../../images/a b.webp", "images/of/a.PNG"])
def test_the_path_of_an_image_stays_in_the_results(tmp_path: Path, image: str) -> None:
    assert report.read(written(tmp_path / "results.jsonl", [RECORDS[0] | {"image": image}]))[0]["image"] == image


@pytest.mark.parametrize("damage", ["cut", "flipped", "plain"])
def test_a_broken_archive_names_the_line(tmp_path: Path, damage: str) -> None:
    path = written(tmp_path / "results.jsonl.gz", [line | {"repr": str(i) * 50} for i, line in enumerate(RECORDS * 99)])
    packed = path.read_bytes()
    middle = len(packed) // 2
    path.write_bytes({"cut": packed[:middle], "flipped": packed[:-6] + b"abcdef", "plain": b"no archive\n"}[damage])
    with pytest.raises(ValueError, match=rf"{path}, line \d+ cannot be unpacked"):
        report.read(path)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        report.read(tmp_path / "results.jsonl")
