"""skipcast bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from skipcast.cli.base import Json, RayAddress, Workers, app, out, plain_errors, say


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
