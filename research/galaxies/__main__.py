"""`python -m research.galaxies` measures the surveys and writes docs/results/galaxies.json and .md."""

from __future__ import annotations

import json
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from research.galaxies import adaptive
from research.galaxies.page import page
from research.galaxies.reader import SURVEYS, VERSION, NotInstalled, network
from research.galaxies.study import BEGIN, CONVERGED, END, STEPS, study
from skipcast.bench.provenance import commit
from skipcast.checkpoint import write_whole

RESULTS = Path(__file__).parents[2] / "docs" / "results"
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    surveys: Annotated[str, typer.Option(help=f"With commas between, of: {', '.join(SURVEYS)}.")] = ",".join(SURVEYS),
    budgets: Annotated[str, typer.Option(help="Numbers of evaluations, with commas between.")] = "5,6,8,10",
    pairs: Annotated[int, typer.Option(min=1, help="Recorded noises.")] = 64,
    held_out: Annotated[int, typer.Option(min=1, help="Noises that every row is measured on.")] = 128,
    efforts: Annotated[str, typer.Option(help="Of the plans, with commas between.")] = "normal",
    out: Annotated[
        Path, typer.Option(help="Record; surveys that it holds are kept. The page lies beside it.")
    ] = RESULTS / "galaxies.json",
) -> None:
    """Measure what the record does not hold yet, and write the page."""
    wanted, counts = surveys.split(","), [int(budget) for budget in budgets.split(",")]
    if unknown := [name for name in wanted if name not in SURVEYS]:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(SURVEYS)}.", param_hint="--surveys")
    about = {
        "package": VERSION,
        "steps": STEPS,
        "converged": CONVERGED,
        "begin": BEGIN,
        "end": END,
        "budgets": counts,
        "pairs": pairs,
        "held_out": held_out,
        "efforts": efforts.split(","),
    }
    found = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"surveys": {}}
    if found["surveys"] and any(found["about"][key] != value for key, value in about.items()):
        raise typer.BadParameter(f"{out} was measured otherwise; move it away.", param_hint="--out")
    command = shlex.join(["python", "-m", "research.galaxies", *sys.argv[1:]])
    found["about"] = {**about, "command": command, "commit": commit(), "torch": version("torch")}

    def write() -> None:
        found["surveys"] = {key: found["surveys"][key] for key in SURVEYS if key in found["surveys"]}
        write_whole(out, (json.dumps(found, indent=1) + "\n").encode())

    for name in wanted:
        if "adaptive" in found["surveys"].get(name, {}):
            continue
        begun = time.monotonic()

        def report(note: str, name: str = name, begun: float = begun) -> None:
            typer.echo(f"{time.monotonic() - begun:6.0f} s  {name}: {note}", err=True)

        try:
            model = network(name)
        except NotInstalled as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from error
        given: dict[str, Any] = {"pairs": pairs, "held_out": held_out, "report": report}
        with torch.no_grad():
            if name not in found["surveys"]:
                found["surveys"][name] = study(name, model, budgets=counts, efforts=efforts.split(","), **given)
                write()
            found["surveys"][name]["adaptive"] = adaptive.study(name, model, budget=max(counts), **given)
        write()
    write_whole(out.with_suffix(".md"), page(found).encode())


if __name__ == "__main__":
    app()
