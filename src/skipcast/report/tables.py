"""The rows as text: for a terminal, and for a document."""

from __future__ import annotations

from collections.abc import Sequence

import rich
from rich import box
from rich.table import Table
from rich.text import Text

from skipcast.report.columns import Column, caption, columns, label, note, sections
from skipcast.report.labels import mark
from skipcast.report.summary import Row

_METHOD, _BETWEEN = 18, 2  # characters of a method that stay on one line, and between two columns


def table(rows: Sequence[Row], width: int | None = None) -> Table:
    """The rows for a terminal, a section per budget; plain samplers carry the mark □ and are bold.

    Args:
        rows: of one state.
        width: of the terminal in characters; columns that do not fit are left out, the least needed first.
    """
    shown = _fitting([column for column in columns(rows) if not column.detail], rows, width or rich.get_console().width)
    drawn = Table(box=box.SIMPLE_HEAD, collapse_padding=True, caption=caption(rows, shown), caption_justify="left")
    drawn.add_column("method", overflow="fold", min_width=_METHOD)
    for column in shown:
        drawn.add_column(_folded(column.header), justify="right")
    for section in sections(rows):
        for row in section:
            # Text, because a label with brackets is no console markup.
            method = Text(f"{mark(row.kind)} {label(row)}{note(row) and ' ' + note(row)}")
            cells = [Text(column.cell(row), no_wrap=True) for column in shown]
            drawn.add_row(method, *cells, style="bold" if row.kind == "sampler" else None)
        drawn.add_section()
    return drawn


def _folded(header: str) -> str:
    """A header over several short lines."""
    return header.replace("5 %", "5\N{NO-BREAK SPACE}%").replace(" ", "\n")


def _fitting(shown: list[Column], rows: Sequence[Row], width: int) -> list[Column]:
    """As many columns as there is room for beside the method, those that weigh least first."""

    def needed(column: Column) -> int:
        return max(map(len, [*_folded(column.header).split("\n"), *map(column.cell, rows)])) + _BETWEEN

    kept, left = dict[int, Column](), width - _METHOD - 2 * _BETWEEN
    for place, column in sorted(enumerate(shown), key=lambda pair: pair[1].weight):
        fitting = next((form for form in (column, column.short) if form and needed(form) <= left), None)
        if fitting is not None:
            kept[place] = fitting
            left -= needed(fitting)
    return [kept[place] for place in sorted(kept)]


def markdown(rows: Sequence[Row], beside: Sequence[Row] | None = None) -> str:
    """The rows as a GitHub table followed by its caption; the labels are whole, to be copied into a command.

    Args:
        rows: that the table shows.
        beside: all rows of the state, where plain samplers are looked for; those of the table if not given.
    """
    shown = [column for column in columns(rows, beside) if not column.detail]
    return f"{lines(rows, shown)}\n\n{caption(rows, shown)}\n"


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
