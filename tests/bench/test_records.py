"""Records survive storage, also where JSON has no number for them; a broken file is named by its line."""

from __future__ import annotations

import gzip
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipcast import report
from skipcast.bench import records
from skipcast.bench.records import options_of
from support.fuzz import JSON, damage, places, replaced
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
    sys.set_int_max_str_digits(0)  # to write what nobody should
    try:
        return json.dumps(RECORDS[0] | changes).encode()
    finally:
        sys.set_int_max_str_digits(4300)


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
        (broken(psnr=2**63), "psnr: Input should be less than or equal to 1000"),
        (broken(psnr=math.inf), "psnr: Input should be less than or equal to 1000"),
        (broken(psnr=math.nan), "psnr"),
        (broken(seconds=1e308), "seconds: Input should be less than or equal to"),
        (broken(evaluations=10**400), "evaluations"),
        (broken(budget=10**5000), "number out of range"),
        (broken(cached_bytes=1e19), "cached_bytes"),
        (broken(seed=2**63), "seed is out of range, got 9223372036854775808"),
        (broken(steps=10**9), "steps: Input should be less than"),
        (broken(timing={"peak_bytes": "1"}), "timing.peak_bytes must be a number of bytes, got '1'"),
        (broken(settings={"a": [{"b": math.inf}]}), "settings is out of range, got {'a': [{...}]}"),
        (broken(metrics={"m": "lower is better"}, m=1e300), "m is out of range, got 1e+300"),
        (broken(predicted={"psnr": "x"}), "predicted.psnr: Input should be a valid number"),
        (broken(psnr="x" * 10**6), "psnr: Input should be a valid number, got 'xxx"),
        (broken(metrics={"k" * 10**6: 1}), "metrics.kkk"),
        (broken(prompt="\ud800"), "hex escape"),
    ],
)
def test_a_malformed_file_names_the_line(tmp_path: Path, line: bytes, complaint: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(json.dumps(RECORDS[0]).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(ValueError, match=f"{path}, line 3 is not a record: .*{re.escape(complaint)}") as caught:
        report.read(path)
    assert len(str(caught.value)) < 600 + len(str(path))
    assert "\n" not in str(caught.value)


WHOLE = RECORDS[0] | {
    "metrics": {"lpips": "lower is better"}, "lpips": 0.1, "timing": {"peak_bytes": 4, "loop": [1.0]}, "fps": 8.0,
    "scheduler": {"label": "x", "shift": 3.0}, "guidance": 2.0, "predicted": {"psnr": 40.0}, "parts": {"target": "x"},
    "calibrated_on": {"threshold": 0.1}, "flops": 1e12, "errors": [None, 0.1], "evaluated_steps": [0], "revision": "a",
    "planned_for": "default", "image": "images/a.png", "amplification": [None, 1.0], "data_driven": True,
}  # fmt: skip


@given(st.sampled_from(places(WHOLE)), JSON, st.sampled_from(["forecast", "trace", "left out"]))
def test_any_other_entry_is_told_by_line_or_read(tmp_path: Path, place: tuple[Any, ...], value: Any, kind: str) -> None:
    path = tmp_path / "results.jsonl"
    odd = replaced(WHOLE | {"kind": kind, "reason": "x"}, place, value)
    path.write_text("".join(json.dumps(each) + "\n" for each in (WHOLE | {"seed": 5}, odd)))
    try:
        found = report.load([path])
        for rows in found.rows.values():
            report.markdown(rows)
            json.dumps([row.plain() for row in rows], default=str)
    except ValueError as error:
        assert str(error).startswith(f"{path}, line "), error  # noqa: PT017
        assert len(str(error)) < 600 + 2 * len(str(path))  # noqa: PT017


@given(st.data(), st.booleans())
def test_a_damaged_file_is_read_or_told_by_line(tmp_path: Path, data: st.DataObject, packed: bool) -> None:
    path = written(tmp_path / ("results.jsonl.gz" if packed else "results.jsonl"), RECORDS)
    path.write_bytes(data.draw(damage(path.read_bytes())))
    try:
        report.read(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}"), error  # noqa: PT017


def test_lines_and_archives_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"\n" + b" " * 2**24 + b"1\n")
    with pytest.raises(ValueError, match=f"{path}, line 2 is too long"):
        report.read(path)
    monkeypatch.setattr(records, "_MOST_OF_A_FILE", 2**16)
    packed = tmp_path / "results.jsonl.gz"
    packed.write_bytes(gzip.compress(b"\n" * 10**6))
    with pytest.raises(ValueError, match=f"{packed}, line 65537 is too long"):
        report.read(packed)


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
