"""What acceleration costs: time of a forecast step, latency against the ideal, and memory.

`python -m research.cost` measures, `python -m research.cost page` writes docs/results/cost.md from the record.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from research.cost.models import ARCHITECTURES, Architecture, Pipe, Size
from research.cost.page import key_of, page
from research.cost.rows import ROWS, Request
from research.cost.runs import measure, plainly
from skipcast.bench.provenance import commit, hardware
from skipcast.checkpoint import write_whole

RESULTS = Path(__file__).parents[1] / "docs" / "results"
app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)


class Device(StrEnum):
    """Where the network runs."""

    cpu = "cpu"
    cuda = "cuda"


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    rows: Annotated[
        str, typer.Option(help=f"Rows by name, with commas between; 'all', or of: {', '.join(r.name for r in ROWS)}.")
    ] = "all",
    repeats: Annotated[int, typer.Option(min=1, help="Counted runs of every row, after one of warm-up.")] = 5,
    device: Annotated[Device, typer.Option(help="cpu: float32. cuda: bfloat16.")] = Device.cpu,
    model: Annotated[
        str, typer.Option(help=f"One of: {', '.join(ARCHITECTURES)}. Default: flux-depth on cpu, flux-dev on cuda.")
    ] = "",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the repeated blocks.")] = False,
    steps: Annotated[int, typer.Option(min=2, help="Steps of the plain run.")] = 50,
    evaluations: Annotated[int, typer.Option(min=1, help="Steps that every row evaluates.")] = 10,
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH or HEIGHTxWIDTHxFRAMES, where memory asks for less.")] = "",
    tiny: Annotated[
        bool, typer.Option(help="Shrink the model to a few blocks and tokens, to try the commands.")
    ] = False,
    between: Annotated[int, typer.Option(min=1, help="Rows from one plain run to the next; 1 is the steadiest.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
    out: Annotated[
        Path, typer.Option(help="Record; other measurements in it stay.", show_default="docs/results/cost.json")
    ] = RESULTS / "cost.json",
) -> None:
    """Measure what acceleration costs, on a network of published shape with random weights."""
    if context.invoked_subcommand is not None:
        return
    torch.set_num_threads(threads)
    name = model or ("flux-dev" if device is Device.cuda else "flux-depth")
    shape = ARCHITECTURES.get(name)
    if shape is None:
        raise typer.BadParameter(f"unknown model {name!r}; known: {', '.join(ARCHITECTURES)}.", param_hint="--model")
    if device is Device.cuda and not torch.cuda.is_available():
        raise typer.BadParameter("no CUDA device is at hand; use --device cpu.", param_hint="--device")
    if tiny:
        shape = shape.tiny()
    if size:
        shape = _resized(shape, size)
    wanted = [row.name for row in ROWS] if rows == "all" else [name.strip() for name in rows.split(",")]
    unknown = set(wanted) - {row.name for row in ROWS}
    if unknown:
        raise typer.BadParameter(
            f"unknown rows {', '.join(sorted(unknown))}; known: {', '.join(row.name for row in ROWS)}.",
            param_hint="--rows",
        )
    if evaluations > steps:
        raise typer.BadParameter(
            f"{evaluations} evaluations do not fit into {steps} steps.", param_hint="--evaluations"
        )
    chosen = [row for row in ROWS if row.name in wanted or row.name == "plain"]
    request = Request(steps, evaluations)
    pipe = Pipe(shape, device.value, torch.bfloat16 if device is Device.cuda else torch.float32)
    found = measure(pipe, chosen, request, repeats, device.value, compiled=compiled, between=between, note=_note)
    settings = {
        "model": name,
        "tiny": tiny,
        "device": device.value,
        "compiled": compiled,
        "steps": steps,
        "evaluations": evaluations,
        "places": list(request.places),
        "repeats": repeats,
        "between": between,
        "size": list(shape.size),
        "tokens": shape.tokens(),
        "width": shape.width(),
        "layers": len(pipe.layers()),
        "branches": list(pipe.branches),
        "dtype": str(pipe.noise.dtype).removeprefix("torch."),
        "output_bytes": pipe.noise.nbytes,
        "stack_bytes": shape.tokens() * shape.width() * pipe.noise.element_size(),
    }
    key = key_of(f"tiny {name}" if tiny else name, device.value, compiled)
    record = _read(out)
    record["runs"][key] = {"settings": settings, "about": _about(pipe.noise.device), "rows": plainly(found)}
    write_whole(out, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    for row in found:
        if row.reason is None and row.ratio is not None and row.of_ideal is not None:
            share = "" if row.forecast_share is None else f", forecast step {row.forecast_share:.3%} of an evaluation"
            typer.echo(
                f"{row.name:26}{row.ran:4g} of {steps}: {row.ratio:.2f} times shorter, "
                f"{row.of_ideal:.1%} of ideal{share}, {row.memory or 0:,} bytes"
            )
        else:
            typer.echo(f"{row.name:26}not measured: {row.reason}")


@app.command(name="page")
def write_page(
    record: Annotated[
        Path, typer.Argument(help="What a measurement wrote.", show_default="docs/results/cost.json")
    ] = RESULTS / "cost.json",
    out: Annotated[Path | None, typer.Option(help="The page; default: next to the record.")] = None,
) -> None:
    """Write the page from the record."""
    write_whole(out or record.with_suffix(".md"), page(_read(record)).encode())


def _resized(shape: Architecture, size: str) -> Architecture:
    try:
        numbers = [int(part) for part in size.lower().split("x")]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3) or min(numbers) < 1:
        raise typer.BadParameter(f"{size!r} is not like 480x832x81.", param_hint="--size")
    found: Size = (numbers[0], numbers[1], numbers[2] if len(numbers) == 3 else shape.size[2])
    return replace(shape, size=found)


def _read(path: Path) -> dict[str, Any]:
    """The record so far; an empty one where there is none."""
    if not path.is_file():
        return {"measured": "acceleration cost", "runs": {}}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found.get("measured") != "acceleration cost":
        raise typer.BadParameter(f"{path} is no record of this benchmark; choose another file.")
    return found


def _about(device: torch.device) -> dict[str, Any]:
    """Versions, commit, hardware, command and day."""
    versions = {"python": platform.python_version()}
    for package in ("skipcast", "torch", "diffusers", "cache-dit"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent" if package == "cache-dit" else "source"
    return {
        "versions": versions,
        "commit": commit(),
        "hardware": hardware(device),
        "command": shlex.join(["python", "-m", "research.cost", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _note(note: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {note}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    app()
