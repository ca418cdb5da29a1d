"""`python -m research.guidance` measures guided sampling, for docs/results/neighbours.md."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from research.guidance.study import mixture, spiral, videos
from research.pages.neighbours import FOLDER, about, begun, keep

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    problems: Annotated[int, typer.Option(min=1, help="Mixtures, each with a measurement.")] = 3,
    samples: Annotated[int, typer.Option(min=16, help="Samples per problem.")] = 256,
    clips: Annotated[int, typer.Option(min=1, help="Videos.")] = 5,
    out: Annotated[Path, typer.Option(help="Record; the page lies beside its folder.")] = FOLDER / "guidance.json",
) -> None:
    """Measure everything on one thread, in a minute, and write the page."""
    report = begun()
    found = {
        "about": {**about("research.guidance"), "torch": version("torch")},
        "mixture": mixture(problems, samples, report),
        "videos": videos(clips, report),
        "spiral": spiral(2 * samples, report),
    }
    keep(out, found)


if __name__ == "__main__":
    app()
