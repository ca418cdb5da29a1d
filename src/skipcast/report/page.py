"""The page: how to read it, a section for each state of the pipeline, and where the numbers come from."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from skipcast.bench.records import LEFT_OUT, TRACE
from skipcast.bench.results import CONVERGED, FACTS, Results, Row, State
from skipcast.report.charts import Against, Statistic, has_seconds, multiples_svg, pareto_svg, traces_svg
from skipcast.report.gallery import EACH, ROOM, SIDE, gallery
from skipcast.report.tables import (
    COST,
    JUDGE,
    MAIN,
    MARKS,
    Column,
    caption,
    columns,
    evaluations,
    label_of,
    note,
    rival,
    sections,
)

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup, escape
except ImportError as error:
    raise ImportError('pages need jinja2; run: pip install "skipcast[bench]"') from error

_FEW = 60  # rows that may all lie open
_BEST = 8  # forecasts of a budget in tables of further metrics, where there are more rows than that


@cache
def _environment() -> Environment:
    made = Environment(loader=PackageLoader("skipcast.report"), autoescape=True, undefined=StrictUndefined)
    made.filters["breakable"] = lambda text: Markup(str(escape(text)).replace(":", ":<wbr>").replace(",", ",<wbr>"))
    made.globals.update(marks=MARKS, note=note, rival=rival, each=EACH, side=SIDE)
    return made


def html(results: Results, grid_png: bytes | None = None, folder: Path = Path(), room: int = ROOM) -> str:
    """Return the page as HTML that loads nothing from elsewhere.

    Args:
        results: of any number of states; images that their records name are embedded.
        grid_png: a grid of images, shown where records name none.
        folder: of the page, from which files are named.
        room: bytes of embedded images, shared by the states.
    """
    here = Path(__file__).parent
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    rows = results.rows
    with_images = sum(bool(results.images(state)["image"].count()) for state in rows)
    share = room // max(1, with_images)
    models = ", ".join(dict.fromkeys(state.model or "unknown model" for state in rows))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    facts = {name: "; ".join(results.facts[name]) for name in FACTS if name in results.facts}
    seeds = ranges(sorted(set(results.frame["seed"].to_list())))
    prompts = results.frame.select("prompt_index", "prompt").unique().sort("prompt_index", "prompt").rows()
    full = {row.method: row.repr for found in rows.values() for row in found if row.repr != row.method}
    return _environment().get_template("page.html.j2").render(
        title=f"skipcast: {models or 'no records'} at equal evaluations",
        allowed=Markup(f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"),
        style=style,
        script=script,
        sections=[_section(results, state, share) for state in rows],
        room=share,
        grid=grid_png and base64.b64encode(grid_png).decode(),
        facts=facts | ({"seeds": seeds} if seeds else {}),
        prompts=[(index or 0, prompt) for index, prompt in prompts if prompt],
        full=list(full.items()),
        files=[(_from(folder, source.path), source) for source in results.sources],
        repeated=results.repeated,
    )  # fmt: skip


def _section(results: Results, state: State, room: int) -> dict[str, Any]:
    """Return what the template shows for one state of the pipeline."""
    rows = results.rows[state]
    shown = columns(rows)
    groups: dict[str, list[Column]] = {}
    for column in shown:
        groups.setdefault(column.group, []).append(column)
    groups.pop("", None)
    main, cost, judge = groups.pop(MAIN, []), groups.pop(COST, []), groups.pop(JUDGE, [])
    further = {_title(key): found for key, found in groups.items()}
    further |= {"Time and memory": cost, "What the judge sees, by attribute": judge}
    budgets = [group for group in sections(rows) if group[0].kind != "reference"]
    few = len(rows) <= _FEW
    return {
        "title": state.title(results.rows),
        "evaluations": _charts(rows, "evaluations", "mean"),
        "seconds": _charts(rows, "seconds", "mean") if has_seconds(rows) else None,
        "worst5": _charts(rows, "evaluations", "worst5"),
        "multiples": Markup(multiples_svg(rows)),
        "main": main,
        "further": {title: [Column("NFE", evaluations), *found] for title, found in further.items() if found},
        "reference": [group for group in sections(rows) if group[0].kind == "reference"],
        "budgets": budgets,
        "kept": budgets if few else [_kept(group) for group in budgets],
        "few": few,
        "best": _BEST,
        "caption": caption(rows, shown),
        "left_out": results.of_kind(LEFT_OUT, state),
        "traces": Markup(traces_svg(results.of_kind(TRACE, state))),
        "gallery": gallery(results, state, rows, room),
    }


def _kept(group: Sequence[Row]) -> list[Row]:
    """Choose the rows of one budget for the tables of further metrics: of the forecasts only the best."""
    best = [row for row in group if row.kind == "forecast"][:_BEST]
    return [row for row in group if row.kind != "forecast" or row in best]


def _charts(rows: Sequence[Row], against: Against, statistic: Statistic) -> dict[str, Markup]:
    """Return a chart for wide screens and paper and one for narrow screens, as escaped markup."""
    return {
        "wide": Markup(pareto_svg(rows, against, statistic)),
        "narrow": Markup(pareto_svg(rows, against, statistic, narrow=True)),
    }


def _title(key: str) -> str:
    found = label_of(key)
    if key.endswith(CONVERGED):
        found = f"{found.removeprefix('conv. ')} to the converged run"
    return found[0].upper() + found[1:]


def _from(folder: Path, path: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive
        return path.name


def ranges(numbers: Sequence[int]) -> str:
    """Write [1, 2, 3, 7] as '1-3, 7'; if there are many gaps, only the count, the first and the last."""
    runs: list[list[int]] = []
    for value in numbers:
        if runs and value == runs[-1][-1] + 1:
            runs[-1][1:] = [value]
        else:
            runs.append([value])
    if len(runs) > 12:
        return f"{len(numbers)} from {numbers[0]} to {numbers[-1]}"
    return ", ".join("-".join(map(str, run)) for run in runs)
