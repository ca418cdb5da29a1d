"""The benchmark of record as a page: `python -m research.pages.record RESULTS... --out FOLDER`.

Writes FOLDER/MODEL.md, its charts and, where the images lie next to the results, the grid of the README.
"""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from research.pages import files, origins, render
from skipcast.bench.prompts import SHAPES_PROMPTS
from skipcast.bench.results import Results, Row, State, load, versus
from skipcast.checkpoint import write_whole
from skipcast.report.charts import Against, pareto_svg
from skipcast.report.grid import grid
from skipcast.report.tables import caption, columns, gain, legend, lines, sections

_FORECASTS, _SAMPLERS = 3, 2  # of a budget that the page shows, besides every plan and Euler's method
_SHOWN_BUDGET = 10
_FACTS = ("command", "settings", "scheduler", "versions", "hardware", "commit")
_CHARTS: tuple[Against, ...] = ("evaluations", "seconds")


def page(results: Results, command: str, made_by: str) -> tuple[str, dict[str, str]]:
    """The page as Markdown, and its charts by file name.

    Args:
        results: of one model.
        command: that makes this page.
        made_by: that makes the results.

    Raises:
        ValueError: no images, or several models.
    """
    states = sorted(results.rows.items(), key=lambda pair: -int(pair[0].steps))
    charts = {_chart(state, against): _file(pareto_svg(rows, against)) for state, rows in states for against in _CHARTS}
    text = render(
        "record",
        **origins(results, _FACTS),
        made_by=made_by,
        command=command,
        states=[_state(state, rows) for state, rows in states],
        sources=results.sources,
        prompts=results.prompts,
    )
    return text, charts


def _chart(state: State, against: str) -> str:
    return f"{state.model}-{state.steps}-{against}.svg"


def _state(state: State, rows: Sequence[Row]) -> dict[str, Any]:
    """What the template shows of one state of the pipeline."""
    reference = next(row for row in rows if row.kind == "reference")
    others = [row for row in rows if row is not reference]
    return {
        "steps": state.steps,
        "rows": len({row.method for row in others}),
        "images": reference.images,
        "legend": legend(rows),
        "judge": reference.judge,
        "converged": reference.of("psnr_converged", "mean"),
        "charts": {against: _chart(state, against) for against in _CHARTS},
        "budgets": [_budget(section, rows) for section in sections(others)],
        "caption": caption(others, [column for column in columns(others, rows) if not column.detail]),
    }


def _budget(section: Sequence[Row], rows: Sequence[Row]) -> dict[str, Any]:
    """One budget: how published forecasts stand against samplers, and the rows that the page shows."""
    found = versus(rows)
    authors = [row for row in section if published(row)]
    shown = chosen(section)

    def gained(row: Row | None) -> str:
        if row is None:
            return "-"
        duel = found[row.key].evaluations if row.key in found else None
        return f"`{row.method}`" + (f" {gain(duel)} dB" if duel else "")

    return {
        "evaluations": section[0].budget,
        "equal": tally(found[row.key].evaluations for row in authors),
        "timed": tally(found[row.key].seconds for row in authors),
        "forecast": gained(next(iter(authors), None)),
        "plan": gained(next((row for row in section if row.kind == "plan" and row.planned_for != "converged"), None)),
        "table": lines(shown, [column for column in columns(shown, rows) if not column.detail]),
    }


def tally(duels: Iterable[Any]) -> str:
    """How many rows win, how many are undecided, how many lose; those without a sampler as cheap are not counted."""
    found = [duel.verdict for duel in duels if duel is not None]
    return f"{found.count(1)} / {found.count(0)} / {found.count(-1)}"


def published(row: Row) -> bool:
    """Whether a forecast evaluates where its authors evaluate."""
    return row.kind == "forecast" and "schedule" not in row.options


def chosen(section: Sequence[Row]) -> list[Row]:
    """The rows of one budget that the page shows, in their order: best mean first."""
    forecasts = [row for row in section if row.kind == "forecast"][:_FORECASTS]
    samplers = [row for row in section if row.kind == "sampler"][:_SAMPLERS]
    kept = {row.key for row in (*forecasts, *samplers)}
    return [row for row in section if row.key in kept or row.kind == "plan" or row.name == "euler"]


def _file(svg: str) -> str:
    """An SVG to be shown as an image on any background."""
    opening, _, rest = svg.partition(">")
    return f'{opening} style="background:#fff;color:#1c1c1e">{rest}\n'


def grid_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of the README's grid: the plan, the best forecast, the best sampler, and the published ResilPhase."""
    section = [row for row in rows if row.budget == _SHOWN_BUDGET and row.psnr is not None and not math.isnan(row.psnr)]
    firsts = [next((row for row in section if row.kind == kind), None) for kind in ("plan", "forecast", "sampler")]
    known = next((row for row in section if row.name == "resilphase" and published(row)), None)
    return list({row.key: row for row in (*firsts, known) if row is not None}.values())


def images(results: Results, state: State, prompts: Sequence[str]) -> Image.Image | None:
    """The grid of some rows of a state on these prompts; None where an image is not there."""
    rows = results.rows[state]
    wanted = [row for row in rows if row.kind == "reference"] + grid_rows(rows)
    found = {(method, prompt): path for (method, prompt, _), path in files(results, state, wanted).items()}
    tensors: dict[str, Tensor] = {}
    for row in wanted:
        paths = [found.get((row.method, prompt)) for prompt in prompts]
        if not all(path is not None and path.is_file() for path in paths):
            return None
        tensors[row.label] = torch.stack([_tensor(path) for path in paths if path])
    reference = tensors.pop(wanted[0].label)
    return grid(tensors, prompts, reference=reference, heading=f"methods at {_SHOWN_BUDGET} evaluations")


def _tensor(path: Path) -> Tensor:
    with Image.open(path) as opened:
        return torch.from_numpy(np.asarray(opened.convert("RGB")).copy()).permute(2, 0, 1).float() / 255


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page, its charts and its grid."""
    parser = argparse.ArgumentParser(prog="python -m research.pages.record", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="results of skipcast bench")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="the folder of the page")
    parser.add_argument("--made-by", default="make benchmark", help="the command that makes the results")
    given = parser.parse_args(arguments)
    command = shlex.join([*parser.prog.split(), *map(str, given.results), "--out", str(given.out)])
    try:
        results = load(given.results)
        text, charts = page(results, command, given.made_by)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    state = max(results.rows, key=lambda state: int(state.steps))
    write_whole(given.out / f"{state.model}.md", text.encode())
    for name, chart in charts.items():
        write_whole(given.out / name, chart.encode())
    drawn = images(results, state, SHAPES_PROMPTS)
    if drawn is None:
        print("the images do not lie next to the results: grid.png stays as it is")
        return
    buffer = BytesIO()
    drawn.save(buffer, "PNG", optimize=True)
    write_whole(given.out / "grid.png", buffer.getvalue())


if __name__ == "__main__":
    main()
