"""`python -m research.alignment` measures alignment in a miniature, for docs/results/neighbours.md."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from research.alignment.study import NotInstalled, Scale, digits, study
from research.pages.neighbours import FOLDER, about, begun, keep

AT, STOP, ITERATIONS = (300, 600, 900), 300, 400
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    seeds: Annotated[int, typer.Option(min=1, help="Teachers, students and batches.")] = 2,
    samples: Annotated[int, typer.Option(min=100, help="Samples that are compared.")] = 1000,
    out: Annotated[Path, typer.Option(help="Record; the page lies beside its folder.")] = FOLDER / "alignment.json",
) -> None:
    """Measure on one thread, in some twenty minutes, and write the page; needs pip install scikit-learn."""
    report = begun()
    try:
        images, labels = digits()
    except NotInstalled as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    scale = Scale(images, labels, ITERATIONS)
    told = {**about("research.alignment"), "torch": version("torch"), "scikit_learn": version("scikit-learn")}
    found: dict[str, Any] = {
        "about": told, "at": AT, "stop": STOP, "samples": samples,
        "eye": scale.accuracy, "floor": scale.floor, "seeds": [],
    }  # fmt: skip
    given: dict[str, Any] = {"at": AT, "stop": STOP, "samples": samples, "iterations": ITERATIONS, "report": report}
    for seed in range(seeds):
        found["seeds"].append(study(images, labels, seed, scale, **given))
        keep(out, found)


if __name__ == "__main__":
    app()
