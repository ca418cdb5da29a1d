"""skipcast compare, bench and report."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer

from skipcast.cli.base import (
    Dtype,
    Guidance,
    Json,
    ModelArgument,
    Offload,
    RayAddress,
    Size,
    Workers,
    app,
    numbers,
    out,
    plain_errors,
    prompts_of,
    say,
)
from skipcast.plans.plan import Plan

REPEATS = 3  # of the timing pass, behind a warm-up


def _json_rows(rows: Sequence[Mapping[str, Any]], paths: Mapping[str, Path], **more: Any) -> str:
    """Return rows and files as strict JSON, in which infinity (identical images) is the text 'inf'."""
    files = {name: str(path) for name, path in paths.items()}
    return json.dumps({"rows": [_strict(row) for row in rows], "files": files, **more}, allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    return str(value) if isinstance(value, float) and not isfinite(value) else value


@app.command()
def compare(
    model: ModelArgument,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="A method such as resilphase:alpha=0.4, `plan` for the shipped plans, or `all` for the whole "
            "registry; may be repeated; default: the shipped plans and a dozen methods."
        ),
    ] = None,
    plan: Annotated[list[Path] | None, typer.Option(help="The file of a plan to compare too; may be repeated.")] = None,
    evaluations: Annotated[
        list[str] | None,
        typer.Option(metavar="N,N,...", help="Budgets to compare at; default: those of --plan, else 8,10,14."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of the unaccelerated reference run.")] = 50,
    prompts: Annotated[Path | None, typer.Option(help="Text file with one prompt per line.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds per prompt.")] = 4,
    converged_steps: Annotated[
        int, typer.Option(help="Steps of the second, converged reference; 0 leaves it out.")
    ] = 200,
    batch: Annotated[int, typer.Option(help="Images per pipeline call.")] = 8,
    per_step: Annotated[
        bool, typer.Option("--per-step", help="Also measure every forecast, in one extra untimed round.")
    ] = False,
    images: Annotated[bool, typer.Option(help="Keep every image next to the results, for the report.")] = True,
    guidance: Guidance = None,
    dtype: Dtype = None,
    size: Size = None,
    offload: Offload = False,
    folder: Annotated[
        Path, typer.Option("--out", help="Folder for results.jsonl, grid.png, report.html and images/.")
    ] = Path("runs/compare"),
    as_json: Json = False,
) -> None:
    """Compare plans, methods and samplers of fewer steps with the unaccelerated run, at equal evaluations and seeds."""
    with plain_errors():
        import torch

        from skipcast import report
        from skipcast.bench.compare import compare as measure
        from skipcast.bench.rows import REFERENCE, check
        from skipcast.bench.spec import Spec
        from skipcast.cli.base import shown

        budgets = numbers("--evaluations", evaluations) or tuple(
            sorted({Plan.load(file).evaluations for file in plan or ()})
        )
        spec = Spec.of(
            models=[{"model": model, "dtype": dtype, "size": size, "offload": offload}],
            steps=steps,
            guidance=guidance,
            methods=method or None,
            plans=tuple(map(str, plan or ())),
            budgets=budgets,
            prompts=prompts_of(prompts),
            seeds=seeds,
            seed=1000,
            batch=batch,
            converged_steps=converged_steps,
            timing={"repeats": REPEATS},
            flops=False,
            images=images,
            per_step=per_step,
            threads=torch.get_num_threads(),
        )
        command = shlex.join(["skipcast", *sys.argv[1:]])
        with shown("preparing") as bar:
            found = measure(check(spec), folder=folder, progress=bar, command=command)
        stills = dict(found.images)
        grid = report.grid(stills, found.prompts, reference=stills.pop(REFERENCE)) if stills else None
        paths = report.write(folder, found.records, grid)
        rows = report.summarise(found.records)
        if as_json:
            typer.echo(_json_rows([row.plain() for row in rows], paths, left_out=found.left_out, notes=found.notes))
            return
        out.print(report.table(rows, out.width))
        for line in found.left_out:
            say(f"left out: {line}")
        for line in found.notes:
            say(f"note: {line}")
        for name, path in paths.items():
            out.print(f"{name}: {path}", highlight=False, soft_wrap=True)


@app.command("report")
def rewrite_report(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULTS...", help="Files of skipcast compare and bench: results.jsonl, or .jsonl.gz."),
    ],
    page: Annotated[
        Path | None, typer.Option("--out", help="The page to write; default: report.html next to the first file.")
    ] = None,
    markdown: Annotated[bool, typer.Option(help="Print the tables as Markdown and write nothing.")] = False,
    evaluations: Annotated[
        int | None, typer.Option(help="Of the Markdown tables, the rows of this budget alone.")
    ] = None,
    megabytes: Annotated[float, typer.Option(min=0, help="Of images in the page, at most.")] = 6,
    as_json: Json = False,
) -> None:
    """Make tables and one self-contained page from records, with a section for each state of the pipeline."""
    with plain_errors():
        from skipcast import report
        from skipcast.checkpoint import check_file

        path = page or results[0].parent / "report.html"
        if not markdown:
            check_file(path)
            check_file(path, new=not report.is_page(path))
        found = report.load(results)
        summaries = {state.title(found.rows): rows for state, rows in found.rows.items()}
        if markdown:
            parts = []
            for title, rows in summaries.items():
                wanted = [row for row in rows if evaluations in (None, row.budget) or row.kind == "reference"]
                parts.append((f"## {title}\n\n" if len(summaries) > 1 else "") + report.markdown(wanted, rows))
            typer.echo("\n".join(parts))
            return
        written = report.write_page(path, found, round(megabytes * 1e6))
        if as_json:
            every = [{"state": title, **row.plain()} for title, rows in summaries.items() for row in rows]
            typer.echo(_json_rows(every, {written.name: written}))
            return
        for title, rows in summaries.items():
            if len(summaries) > 1:
                say(title)
            out.print(report.table(rows, out.width))
        out.print(f"{written.name}: {written}", highlight=False, soft_wrap=True)


@app.command()
def bench(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The YAML spec of a bench run.")],
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder of the bench run; default: runs/ and the name of SPEC.")
    ] = None,
    workers: Workers = None,
    ray: RayAddress = None,
    only_assemble: Annotated[
        bool, typer.Option("--assemble", help="Draw nothing; write results.jsonl from what is finished.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many cells and rows there are; do nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a grid of models, schedulers, steps, methods, budgets, prompts and seeds; an interrupted run is resumed."""
    with plain_errors():
        from functools import partial

        from skipcast import report
        from skipcast.bench.rows import check
        from skipcast.bench.run import assemble, size
        from skipcast.bench.run import bench as work
        from skipcast.bench.spec import read_spec
        from skipcast.bench.store import Store
        from skipcast.bench.work import Worker
        from skipcast.bench.workers import executor
        from skipcast.cli.base import shown

        request = check(read_spec(spec))
        grid = size(request)
        if dry_run:
            if as_json:
                typer.echo(json.dumps(vars(grid)))
            else:
                say(f"{grid.cells} cells: {grid.rows} rows in {grid.states} states of a pipeline")
            return
        command = f"skipcast bench {spec.name}"
        chosen = executor(partial(Worker, request, command), workers, ray)
        folder = folder or Path("runs") / spec.stem

        with Store(folder, request).opened() as store:
            if only_assemble:
                found = assemble(store, request)
            else:
                with shown("preparing") as bar:
                    found = work(store, request, chosen, command, bar)
        if as_json:
            groups = [{"state": state.label, "rows": len(report.summarise(made))} for state, made in found.groups]
            typer.echo(
                json.dumps(
                    {**vars(grid), "missing": found.missing, "groups": groups, "files": [str(p) for p in found.files]}
                )
            )
            return
        for state, made in found.groups:
            say(state.label)
            out.print(report.table(report.summarise(made), out.width))
        if found.missing:
            say(f"{found.missing} cells are not finished; run without --assemble to draw them.")
        for path in found.files:
            say(f"{path.name}: {path}")
