"""The rows as text: for a terminal of 80 columns, and as a rectangle of markdown."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from skipcast import report
from support.records import RECORDS, both, record


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
    (row,) = report.summarise([record("odd", "forecast", 5, 0, 20, method="odd:[bold]x[/]")])
    assert "odd:[bold]x[/]" in text_of(report.table([row]))


def test_table_says_when_the_evaluations_are_others_than_the_budget() -> None:
    records = both("taylorseer:evaluations=5", "forecast", 5, 20, 20)
    records[1]["evaluations"] = 6
    assert "| 5.5 (5) |" in report.markdown(report.summarise(records))


def test_markdown_is_rectangular() -> None:
    rows = report.summarise([*RECORDS, record("odd|name", "forecast", 5, 0, 20)])
    lines = [line for line in report.markdown(rows).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(rows)
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert any(
        "□ sampler | `euler:evaluations=5` | 5 | 17.0 [16.0, 18.0] | 17.0 | 16.0 | 16.0 | - |" in line for line in lines
    )


def test_a_narrow_terminal_keeps_the_gain_and_a_wide_one_its_sampler() -> None:
    rows = report.summarise(RECORDS)
    assert "gain" in text_of(report.table(rows, 80))
    assert "euler" in text_of(report.table(rows, 80))
    stream = StringIO()
    Console(width=200, file=stream).print(report.table(rows, 200))
    wide = stream.getvalue()
    assert "+3.5 [+3.0, +4.0] euler" in wide
    assert "SSIM" in wide
    assert all(len(line) <= 200 for line in wide.splitlines())


def test_markdown_says_what_is_gained_at_equal_evaluations_and_in_equal_time() -> None:
    records = [
        *both("euler:evaluations=5", "sampler", 5, 18, 16),
        *both("euler:evaluations=10", "sampler", 10, 23, 22),
        *both("resilphase:evaluations=10", "forecast", 10, 26, 24, seconds=5.0),
        *both("fast:evaluations=5", "forecast", 5, 15, 15, seconds=1.0),
    ]
    slow = report.markdown(report.summarise([line | {"seconds": 8.0} if line["name"] == "resilphase" else line
                                             for line in records]))  # fmt: skip
    assert "| +2.5 [+2.0, +3.0] euler | +8.0 [+8.0, +8.0] euler@5 |" in slow
    (fast,) = (line for line in slow.splitlines() if "`fast" in line)
    assert "| -2.0 [-3.0, -1.0] euler | - |" in fast  # no sampler is as fast: euler with 5 takes 5 and 10 s
    assert "95 % interval" in slow
    assert "in its time" not in report.markdown(report.summarise(records))


def test_a_row_is_held_against_all_samplers_where_only_some_rows_are_shown() -> None:
    rows = report.summarise(RECORDS)
    shown = [row for row in rows if row.kind == "plan"]
    assert "+3.5 [+3.0, +4.0] euler" in report.markdown(shown, rows)
    assert "euler" not in report.markdown(shown)
