"""The page: how to read it, a section for each state of the pipeline, and where the numbers come from; its files."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from skipcast.bench.records import LEFT_OUT, TRACE, lines
from skipcast.bench.results import CONVERGED, Results, Row, State, load, of
from skipcast.checkpoint import write_whole
from skipcast.reading import read_regular
from skipcast.report.charts import multiples_svg, pareto_svg, traces_svg
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

RESULTS, PAGE, GRID = "results.jsonl", "report.html", "grid.png"
_TITLE = "skipcast: "  # the beginning of that of every page
_FEW = 60  # rows that may all lie open
_BEST = 8  # forecasts of a budget in tables of further metrics, where there are more rows than that


def write(
    folder: str | os.PathLike[str], records: Sequence[Mapping[str, Any]], grid_image: Image.Image | None
) -> dict[str, Path]:
    """Write results.jsonl, report.html and, if given, grid.png, each atomically; return the paths by file name."""
    folder = Path(folder)
    paths = {RESULTS: write_whole(folder / RESULTS, lines(records).encode())}
    if grid_image is not None:
        buffer = BytesIO()
        grid_image.save(buffer, "PNG", optimize=True)
        paths[GRID] = write_whole(folder / GRID, buffer.getvalue())
    results = load([paths[RESULTS]]) if records else of([])
    return paths | {PAGE: write_page(folder / PAGE, results)}


def write_page(path: str | os.PathLike[str], results: Results, room: int = ROOM) -> Path:
    """Write only a page, atomically; if the records name no images, it shows the grid.png next to the first file.

    Args:
        path: of the page.
        results: that it shows.
        room: bytes of embedded images.
    """
    path = Path(path)
    grid = results.sources[0].path.parent / GRID if results.sources else None
    page = html(results, _grid(grid) if grid and not grid.is_symlink() else None, path.parent, room)
    return write_whole(path, page.encode())


def is_page(path: Path) -> bool:
    """Whether there is a page that was made here, which may be made anew."""
    try:
        with path.open("rb") as file:
            return f"<title>{_TITLE}".encode() in file.read(2000)
    except (OSError, ValueError):  # nothing, or nothing that can be read
        return False


def _grid(path: Path) -> bytes | None:
    try:
        return read_regular(path, 2 * ROOM)
    except (FileNotFoundError, ValueError):  # a page is none the worse without it
        return None


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
    share = room // max(1, sum(bool(results.images(state)["image"].count()) for state in rows))
    models = ", ".join(dict.fromkeys(state.model for state in rows))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    facts = {name: "; ".join(found) for name, found in results.facts.items()}
    return _environment().get_template("page.html.j2").render(
        title=f"{_TITLE}{models or 'no records'} at equal evaluations",
        allowed=Markup(f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"),
        style=style,
        script=script,
        sections=[_section(results, state, share) for state in rows],
        room=share,
        grid=grid_png and base64.b64encode(grid_png).decode(),
        facts=facts | ({"seeds": results.seeds} if results.seeds else {}),
        prompts=list(filter(None, results.prompts)),
        full={row.method: row.repr for found in rows.values() for row in found if row.repr != row.method},
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
        "evaluations": Markup(pareto_svg(rows)),
        "seconds": Markup(pareto_svg(rows, "seconds")) if any(row.seconds for row in rows) else None,
        "worst5": Markup(pareto_svg(rows, statistic="worst5")),
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
