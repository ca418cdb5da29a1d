"""The rows as text: for a terminal of 80 columns, and as a rectangle of markdown."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from driftcast.bench import report
from records import RECORDS, both, record


def text_of(table: Any) -> str:
    stream = StringIO()
    Console(width=80, file=stream).print(table)
    return stream.getvalue()


def test_table_fits_a_terminal_and_marks_samplers() -> None:
    text = text_of(report.table(report.summarise(RECORDS)))
    lines = [line.split() for line in text.splitlines() if "◆ plan " in line or "□ euler " in line]
    assert [(line[0], line[2]) for line in lines[:3]] == [("◆", "5"), ("□", "5"), ("□", "10")]
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "10.00x" in text
    assert "taylorseer:order=1 " in text


def test_table_does_not_read_labels_as_markup() -> None:
    (row,) = report.summarise([record("odd:[bold]x[/]", "forecast", 5, 0, 20)])
    assert "odd:[bold]x[/]" in text_of(report.table([row]))


def test_table_says_when_the_evaluations_are_others_than_asked() -> None:
    records = both("taylorseer:evaluations=5", "forecast", 5, 20, 20)
    records[1]["evaluations"] = 6
    assert "| 5.5 (5) |" in report.markdown(report.summarise(records))


def test_markdown_is_rectangular() -> None:
    rows = report.summarise([*RECORDS, record("odd|name", "forecast", 5, 0, 20)])
    lines = [line for line in report.markdown(rows).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(rows)
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert any("□ sampler | `euler:evaluations=5` | 5 | 17.0 | 16.0 |" in line for line in lines)
