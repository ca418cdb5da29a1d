"""`python -m research.chords` measures CHORDS and writes docs/results/parallel.json and .md."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from research.chords.study import STEPS, by_rounds, mixture, shapes_flux
from research.pages import render
from skipcast.bench.provenance import commit
from skipcast.checkpoint import write_whole

RESULTS = Path(__file__).parents[2] / "docs" / "results"
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def page(found: Mapping[str, Any]) -> str:
    """The page from the measurements alone."""
    sections = {name: list(by_rounds(found[name]["rows"])) for name in ("mixture", "shapes-flux") if name in found}
    return render("parallel", found=found, sections=sections, steps=STEPS)


@app.command()
def main(
    samples: Annotated[int, typer.Option(min=1, help="Of the mixture.")] = 128,
    recorded: Annotated[int, typer.Option(min=4, help="Noises that plans of the mixture are solved from.")] = 24,
    images: Annotated[int, typer.Option(min=1, help="Of shapes-flux.")] = 8,
    parts: Annotated[str, typer.Option(help="With a comma between.")] = "mixture,shapes-flux",
    out: Annotated[Path, typer.Option(help="Record, of which other parts are kept; the page lies beside it.")] = RESULTS
    / "parallel.json",
) -> None:
    """Measure everything, and write the page."""
    begun = time.monotonic()

    def report(note: str) -> None:
        typer.echo(f"{time.monotonic() - begun:6.0f} s  {note}", err=True)

    wanted = parts.split(",")
    if unknown := set(wanted) - {"mixture", "shapes-flux"}:
        raise typer.BadParameter(f"{unknown.pop()!r} is none of mixture, shapes-flux.", param_hint="--parts")
    found = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    found["about"] = {"command": "python -m research.chords", "commit": commit(), "torch": version("torch")}
    for name in wanted:
        with torch.no_grad():
            found[name] = mixture(samples, recorded, report) if name == "mixture" else shapes_flux(images, report)
        write_whole(out, (json.dumps(found, indent=1) + "\n").encode())
    write_whole(out.with_suffix(".md"), page(found).encode())


if __name__ == "__main__":
    app()
