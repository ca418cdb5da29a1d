"""`skipcast report`: one or several files, one page, and one clear error before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from skipcast.cli import comparing  # noqa: F401  (registers its command)
from skipcast.cli.base import app
from support.records import RECORDS, both, written

RUNNER = CliRunner()
OTHERS = both("euler:evaluations=5", "sampler", 5, 10, 12, steps=20)


def ran(*args: object) -> str:
    result = RUNNER.invoke(app, ["report", *map(str, args)])
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*args: object) -> str:
    result = RUNNER.invoke(app, ["report", *map(str, args)])
    assert result.exit_code == 2
    return " ".join(result.output.split())


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return written(tmp_path / "results.jsonl", RECORDS)


def test_the_page_lies_beside_the_first_file_or_where_it_is_asked_for(results: Path) -> None:
    assert "report.html: " in ran(results)
    page = results.with_name("report.html")
    text = page.read_text()
    page.unlink()
    ran(results, "--out", results.parent / "pages" / "mine.html")
    assert not page.exists()
    assert (results.parent / "pages" / "mine.html").read_text().replace("../results", "results") == text


def test_several_files_and_states(results: Path, tmp_path: Path) -> None:
    more = written(tmp_path / "more" / "results.jsonl", OTHERS)
    document = json.loads(ran(results, more, "--json"))
    assert {row["state"] for row in document["rows"]} == {"shapes-flux, 50 steps", "shapes-flux, 20 steps"}
    assert [row["psnr"] for row in document["rows"] if row["state"].endswith("20 steps")] == [11]
    text = ran(results, more, "--markdown", "--evaluations", 5)
    assert text.count("## shapes-flux, ") == 2
    assert "`taylorseer" not in text
    assert "| 11.0 [10.0, 12.0] |" in text
    assert "## " not in ran(results, "--markdown")


def test_an_error_names_the_line_and_nothing_is_written(results: Path) -> None:
    with results.open("a") as file:
        file.write(json.dumps(RECORDS[0])[:50])
    assert "line 13 is not a record: Invalid JSON" in refused(results)
    assert not results.with_name("report.html").exists()
    assert "is a folder" in refused(results.parent)
    results.with_name("report.html").write_text("<title>skipcast: old")
    results.write_bytes(b"\x89PNG\r\n\x1a\n")
    assert "line 1 is not" in refused(results)
    assert results.with_name("report.html").read_text().endswith("old")


def test_markdown_of_one_budget_is_held_against_cheaper_samplers_too(results: Path) -> None:
    records = [line for line in RECORDS if line["method"] != "euler:evaluations=10"]
    written(results, records)
    assert "euler@5" in ran(results, "--markdown", "--evaluations", 10)
