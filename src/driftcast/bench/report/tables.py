"""The rows as text: for a terminal, and for a document."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from driftcast.bench.report.columns import Column, caption, columns, label, note, sections
from driftcast.bench.report.labels import mark
from driftcast.bench.report.summary import Row


def table(rows: Sequence[Row]) -> Table:
    """The rows for a terminal, a section per budget; plain samplers carry the mark □ and are bold."""
    shown = [column for column in columns(rows) if not column.detail]
    drawn = Table(box=box.SIMPLE_HEAD, collapse_padding=True, caption=caption(rows), caption_justify="left")
    drawn.add_column("method", overflow="fold", min_width=20)
    for column in shown:
        drawn.add_column(column.header.replace(" ", "\n"), justify="right")
    for section in sections(rows):
        for row in section:
            # Text, because a label with brackets is no console markup.
            method = Text(f"{mark(row.kind)} {label(row)}{note(row) and ' ' + note(row)}")
            cells = [Text(column.cell(row), no_wrap=True) for column in shown]
            drawn.add_row(method, *cells, style="bold" if row.kind == "sampler" else None)
        drawn.add_section()
    return drawn


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a GitHub table followed by its caption; the labels are whole, to be copied into a command."""
    shown = [column for column in columns(rows) if not column.detail]
    return f"{lines(rows, shown)}\n\n{caption(rows)}\n"


def lines(rows: Sequence[Row], shown: Sequence[Column]) -> str:
    """The rows as a GitHub table of these columns, without its caption."""
    cells = [
        ["kind", "method", *(column.header for column in shown)],
        ["---", "---", *("---:" for _ in shown)],
        *([f"{mark(row.kind)} {row.kind}", _method(row), *(column.cell(row) for column in shown)] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in cells)


def _method(row: Row) -> str:
    return f"`{row.method}`" + (note(row) and f" {note(row)}")
