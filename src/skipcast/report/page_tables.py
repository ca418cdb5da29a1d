"""The tables of a page: a foldable one per budget, one per further metric, one of costs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from skipcast.report.columns import COST, JUDGE, MAIN, Column, columns, evaluations, label, note, sections
from skipcast.report.labels import mark
from skipcast.report.measures import CONVERGED, label_of
from skipcast.report.summary import Row

_FEW = 60  # rows that may all lie open
_INTERVAL = re.compile(r"(\[[^\]]*\])")


def tables(rows: Sequence[Row]) -> str:
    """All tables of a state."""
    groups: dict[str, list[Column]] = {}
    for column in columns(rows):
        groups.setdefault(column.group, []).append(column)
    groups.pop("", None)
    main = groups.pop(MAIN, [])
    cost, judge = groups.pop(COST, []), groups.pop(JUDGE, [])
    parts = [*_by_budget(rows, main)]
    further = {_title(key): shown for key, shown in groups.items()}
    further |= {"Time and memory": cost, "What the judge sees, by attribute": judge}
    # On paper, which cannot be folded, these would bury the others where there are many rows.
    printed = len(rows) <= _FEW
    for title, shown in further.items():
        if shown:
            parts.append(_details(title, _table(sections(rows), [_nfe(), *shown]), printed=printed))
    if not printed:
        parts.append('<p class="note paper">The tables of further metrics are left to the screen.</p>')
    return "\n".join(parts)


def _nfe() -> Column:
    return Column("NFE", evaluations)


def _title(key: str) -> str:
    words = label_of(key)
    if key.endswith(CONVERGED):
        words = f"{words.removeprefix('conv. ')} to the converged run"
    return words[0].upper() + words[1:]


def _by_budget(rows: Sequence[Row], shown: Sequence[Column]) -> Iterable[str]:
    """A table for each budget with the reference on top; where there are many rows only the middle one lies open."""
    groups = sections(rows)
    reference = [group for group in groups if group[0].kind == "reference"]
    budgets = [group for group in groups if group[0].kind != "reference"]
    if not budgets and reference:
        yield f'<div class="wide">{_table(reference, shown)}</div>'
    for i, group in enumerate(budgets):
        open_ = len(rows) <= _FEW or i == len(budgets) // 2
        title = f"{group[0].budget} evaluations ({len(group)} rows)"
        yield _details(title, _table([*reference, group], shown, named=False), open_=open_)


def _details(title: str, inside: str, *, open_: bool = False, printed: bool = True) -> str:
    screen = "" if printed else ' class="screen"'
    return (
        f"<details{screen}{' open' if open_ else ''}><summary>{escape(title)}</summary>\n"
        f'<div class="wide">{inside}</div>\n</details>'
    )


def _table(groups: Sequence[Sequence[Row]], shown: Sequence[Column], *, named: bool = True) -> str:
    """Rows in groups, each under its budget unless a title says it already."""
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in ("method", *(c.header for c in shown)))
    bodies = []
    for group in groups:
        first = group[0]
        lines = []
        if named and first.kind != "reference":
            heading = f"{first.budget} evaluations"
            lines.append(f'<tr><th class="budget" colspan="{1 + len(shown)}" scope="rowgroup">{heading}</th></tr>')
        for row in group:
            paper = f"<small>{escape(row.paper)}</small>" if row.paper else ""
            cells = "".join(_cell(column.header, column.cell(row)) for column in shown)
            method = escape(label(row)).replace(":", ":<wbr>").replace(",", ",<wbr>")
            method = f"{mark(row.kind)}&nbsp;<code>{method}</code>{note(row)}{paper}"
            lines.append(f'<tr class="{escape(row.kind)}"><th scope="row">{method}</th>{cells}</tr>')
        bodies.append("<tbody>\n" + "\n".join(lines) + "\n</tbody>")
    return f"<table>\n<thead><tr>{head}</tr></thead>\n" + "\n".join(bodies) + "\n</table>"


def _cell(header: str, text: str) -> str:
    """A cell; intervals are faint, and what wins or loses beyond doubt against a sampler carries a mark."""
    content = _INTERVAL.sub(r"<span>\1</span>", escape(text))
    if header not in ("vs sampler", "in its time") or text == "-":
        return f"<td>{content}</td>"
    value, _, rest = content.partition(" ")
    interval, _, name = rest.rpartition(" ")
    return f'<td class="{_verdict(text)}"><b>{value}</b> {interval}<small>{name}</small></td>'


def _verdict(text: str) -> str:
    """ "win" or "lose" where the whole interval lies on one side of zero."""
    found = re.search(r"\[([^,]+), ([^\]]+)\]", text)
    if found is None:
        return ""
    low, high = float(found[1]), float(found[2])
    return "win" if low > 0 else "lose" if high < 0 else ""
