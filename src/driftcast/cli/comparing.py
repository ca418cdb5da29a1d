"""driftcast compare and driftcast report."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer

from driftcast.cli.base import (
    Dtype,
    Guidance,
    Json,
    ModelArgument,
    Offload,
    Size,
    ValuesSideBySide,
    app,
    err,
    load,
    out,
    plain_errors,
    read_prompts,
    say,
)
from driftcast.planning.plan import Plan


def _json_rows(rows: Sequence[Any], paths: Mapping[str, Path], **more: Any) -> str:
    """Rows and files as strict JSON: infinity (identical pictures) becomes the text 'inf'."""
    plain = [
        {k: str(v) if isinstance(v, float) and not isfinite(v) else v for k, v in vars(row).items()} for row in rows
    ]
    files = {name: str(path) for name, path in paths.items()}
    return json.dumps({"rows": plain, "files": files, **more}, allow_nan=False)


@app.command(cls=ValuesSideBySide)
def compare(
    model: ModelArgument,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="A method such as resilphase:alpha=0.4, `plan` for the shipped plans, or `all` for the whole "
            "registry; default: the shipped plans and a dozen methods."
        ),
    ] = None,
    plan: Annotated[list[Path] | None, typer.Option(help="Files of plans to compare too.")] = None,
    evaluations: Annotated[
        list[int] | None, typer.Option(help="Budgets to compare at; default: those of --plan, else 8 10 14.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of the unaccelerated reference run.")] = 50,
    prompts: Annotated[Path | None, typer.Option(help="Text file with one prompt per line.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds per prompt.")] = 4,
    converged_steps: Annotated[
        int, typer.Option(help="Steps of the second, converged reference; 0 leaves it out.")
    ] = 200,
    batch: Annotated[int, typer.Option(help="Pictures per pipeline call.")] = 8,
    per_step: Annotated[
        bool, typer.Option("--per-step", help="Also measure every forecast, in one extra untimed round.")
    ] = False,
    guidance: Guidance = None,
    dtype: Dtype = None,
    size: Size = None,
    offload: Offload = False,
    folder: Annotated[Path, typer.Option("--out", help="Folder for results.jsonl, grid.png, report.html.")] = Path(
        "runs/compare"
    ),
    as_json: Json = False,
) -> None:
    """Reference, plans, methods and fewer-step samplers side by side, at equal evaluations and on the same seeds."""
    with plain_errors():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from driftcast.bench import report
        from driftcast.bench.compare import REFERENCE, Settings, calls, candidates, prompts_for
        from driftcast.bench.compare import compare as measure

        settings = Settings(
            steps=steps,
            evaluations=tuple(evaluations or sorted({len(Plan.load(file)) for file in plan or ()}) or (8, 10, 14)),
            methods=tuple(method or ()),
            prompts=read_prompts(prompts),
            seeds=seeds,
            batch=batch,
            converged_steps=converged_steps,
            per_step=per_step,
            plans=tuple(map(str, plan or ())),
        )
        candidates(settings, model)  # refuse a bad method or plan before the model is loaded
        loaded, call = load(model, guidance, dtype, size, offload)
        settings = Settings(**{**vars(settings), "call": call})
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=err) as progress:
            task = progress.add_task("warm-up", total=calls(settings, len(prompts_for(loaded, settings)), model))
            found = measure(
                loaded,
                settings,
                advance=lambda label: progress.update(task, advance=1, description=label),
                keep=functools.partial(report.write_records, folder),
                command=shlex.join(["driftcast", *sys.argv[1:]]),
            )
        labels = [label for label in found.pictures if label != REFERENCE]
        grid = report.grid(
            [found.pictures[label] for label in labels], labels, found.prompts, reference=found.pictures[REFERENCE]
        )
        paths = report.write(folder, found.records, grid)
        rows = report.summarise(found.records)
        if as_json:
            typer.echo(_json_rows(rows, paths, left_out=found.left_out, notes=found.notes))
            return
        out.print(report.table(rows))
        for line in found.left_out:
            say(f"left out: {line}")
        for line in found.notes:
            say(f"note: {line}")
        for name, path in paths.items():
            out.print(f"{name}: {path}", highlight=False, soft_wrap=True)


@app.command("report")
def rewrite_report(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="A results.jsonl of driftcast compare.")],
    markdown: Annotated[bool, typer.Option(help="Print the table as Markdown and write nothing.")] = False,
    evaluations: Annotated[
        int | None, typer.Option(help="Of the Markdown table, the rows of this budget alone.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The table and report.html again, from the records alone; report.html is written beside them."""
    with plain_errors():
        from driftcast.bench import report

        records = report.read(results)
        rows = report.summarise(records)
        if markdown:
            wanted = [row for row in rows if evaluations in (None, row.budget) or row.kind == "reference"]
            typer.echo(report.markdown(wanted))
            return
        page = report.write_page(results.parent, records)
        if as_json:
            typer.echo(_json_rows(rows, {page.name: page}))
            return
        out.print(report.table(rows))
        out.print(f"{page.name}: {page}", highlight=False, soft_wrap=True)
