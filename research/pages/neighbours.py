"""docs/results/neighbours.md: a section for each measurement that lies in its folder."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import typer

from research.pages import render
from skipcast.bench.provenance import commit
from skipcast.checkpoint import write_whole

FOLDER = Path(__file__).parents[2] / "docs" / "results" / "neighbours"
_INTRO = """# Neighbours of forecasting

What stands beside forecasting in practice, measured with and without it.
"""


def _sections() -> dict[str, Callable[[Mapping[str, Any]], str]]:
    """The sections in their order, by the name of their measurement."""
    from research.alignment.page import section as alignment
    from research.guidance.page import section as guidance
    from research.quantisation.page import section as quantisation

    return {
        "guidance": guidance,
        "quantisation": quantisation,
        "tuning": lambda found: render("neighbours-tuning", **found),
        "alignment": alignment,
        "alignment-shapes": lambda found: render("neighbours-alignment-shapes", **found),
    }


def page(folder: Path = FOLDER) -> str:
    """The page as Markdown."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    return "\n".join([_INTRO, *(make(found[name]) for name, make in _sections().items() if name in found)])


def keep(out: Path, found: dict[str, Any]) -> None:
    """Write a measurement, and the page anew."""
    write_whole(out, (json.dumps(found, indent=1) + "\n").encode())
    write_whole(out.parent.with_suffix(".md"), page(out.parent).encode())


def begun() -> Callable[[str], None]:
    """Measure on one thread; what is returned prints notes with the seconds since now."""
    torch.set_num_threads(1)
    start = time.monotonic()
    return lambda note: typer.echo(f"{time.monotonic() - start:6.0f} s  {note}", err=True)


def about(module: str) -> dict[str, str | None]:
    """The command that measures, and the revision."""
    return {"command": shlex.join(["python", "-m", module, *sys.argv[1:]]), "commit": commit()}
