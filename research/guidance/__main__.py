"""`python -m research.guidance` measures guided sampling and writes docs/results/neighbours.json and .md."""

from __future__ import annotations

import json
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import torch
import typer

from research.guidance.page import page
from research.guidance.study import mixture, spiral, videos
from skipcast.bench.provenance import commit
from skipcast.checkpoint import write_whole

RESULTS = Path(__file__).parents[2] / "docs" / "results"
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    problems: Annotated[int, typer.Option(min=1, help="Mixtures, each with a measurement.")] = 3,
    samples: Annotated[int, typer.Option(min=16, help="Samples per problem.")] = 256,
    clips: Annotated[int, typer.Option(min=1, help="Videos.")] = 5,
    out: Annotated[Path, typer.Option(help="Record; the page lies beside it.")] = RESULTS / "neighbours.json",
) -> None:
    """Measure everything on one thread, in some minutes, and write the page."""
    torch.set_num_threads(1)
    begun = time.monotonic()

    def report(note: str) -> None:
        typer.echo(f"{time.monotonic() - begun:6.0f} s  {note}", err=True)

    command = shlex.join(["python", "-m", "research.guidance", *sys.argv[1:]])
    found = {
        "about": {"command": command, "commit": commit(), "torch": version("torch")},
        "mixture": mixture(problems, samples, report),
        "videos": videos(clips, report),
        "spiral": spiral(2 * samples, report),
    }
    write_whole(out, (json.dumps(found, indent=1) + "\n").encode())
    write_whole(out.with_suffix(".md"), page(found).encode())


if __name__ == "__main__":
    app()
