"""driftcast bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from driftcast.cli.base import Json, app, err, out, plain_errors, say


@app.command()
def bench(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The YAML file of a sweep.")],
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder of the sweep; default: runs/ and the name of SPEC.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes, each on a GPU of its own as far as there are any.")
    ] = 1,
    only_assemble: Annotated[
        bool, typer.Option("--assemble", help="Draw nothing; write results.jsonl from what is finished.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many cells and rows there are; do nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """A grid of models, schedulers, steps, methods, budgets, prompts and seeds; goes on where it was interrupted."""
    with plain_errors():
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        from driftcast.bench import report
        from driftcast.bench.sweep.executors import Executor, InProcess, Processes
        from driftcast.bench.sweep.results import assemble
        from driftcast.bench.sweep.spec import read_spec
        from driftcast.bench.sweep.store import Store
        from driftcast.bench.sweep.sweep import size, sweep

        asked = read_spec(spec)
        grid = size(asked)
        if dry_run:
            if as_json:
                typer.echo(json.dumps(vars(grid)))
            else:
                say(f"{grid.cells} cells: {grid.rows} rows in {grid.states} states of a pipeline")
            return
        command = f"driftcast bench {spec.name}"
        folder = folder or Path("runs") / spec.stem

        def executor() -> Executor:
            return InProcess(asked, command) if workers == 1 else Processes(workers, asked, command)

        columns = (
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(),
        )  # fmt: skip
        with Store(folder, asked).opened() as store:
            if only_assemble:
                found = assemble(store, asked)
            else:
                with Progress(*columns, console=err, speed_estimate_period=300) as bar:
                    found = sweep(store, asked, executor(), command, _Bar(bar))
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
            out.print(report.table(report.summarise(made)))
        if found.missing:
            say(f"{found.missing} cells are not finished; run without --assemble to draw them.")
        for path in found.files:
            say(f"{path.name}: {path}")


class _Bar:
    """Progress as a bar that knows how long the rest takes."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._task = bar.add_task("preparing", total=None)

    def total(self, weight: float) -> None:
        self._bar.update(self._task, total=weight)

    def advance(self, label: str, weight: float) -> None:
        self._bar.update(self._task, advance=weight, description=label)
