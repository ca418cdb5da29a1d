"""driftcast methods and driftcast show."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from driftcast import names
from driftcast.card import Card, card, decides_by_values, memory, needs_calibration
from driftcast.cli.base import Json, app, out, plain_errors
from driftcast.method import Method
from driftcast.samplers import Sampler


@app.command("methods")
def list_methods(as_json: Json = False) -> None:
    """Every method, its parts and its paper."""
    made = {name: entry() for name, entry in names.REGISTRY.items()}
    if as_json:
        listing = {name: _listed(entry, made[name]) for name, entry in names.REGISTRY.items()}
        typer.echo(json.dumps(listing))
        return
    table = Table("name", "what it is, its parts, its options", show_lines=True)
    for name, entry in names.REGISTRY.items():
        options = ", ".join(key if p.default is None else f"{key}={p.default}" for key, p in entry.options().items())
        table.add_row(name, f"{entry.summary} ({entry.paper})\n{made[name]!r}\n{options}")
    out.print(table, highlight=False)


def _listed(entry: names.Named, made: Method | Sampler) -> dict[str, Any]:
    """An entry for machines; memory is that of a run of ten evaluations."""
    kept = None if isinstance(made, Sampler) else memory(made, 10)
    return {
        "summary": entry.summary,
        "paper": entry.paper,
        "parts": repr(made),
        "options": {key: p.default for key, p in entry.options().items()},
        "memory": kept and {**vars(kept), "bytes_per_token_and_channel": kept.bytes_per_token_and_channel},
        "decides_by_values": decides_by_values(made),
        "needs_calibration": needs_calibration(entry, made),
        "weighs_by_values": isinstance(made, Method) and not made.forecaster.linear,
    }


@app.command()
def show(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="Such as taylorseer:order=1,evaluations=10.")],
    steps: Annotated[int, typer.Option(help="Sampler steps.")] = 50,
    shift: Annotated[float, typer.Option(help="Shift of the flow grid that the coordinates are taken on.")] = 3.16,
    as_json: Json = False,
) -> None:
    """The static card of a method: evaluated steps, weights, degree of exactness, amplification, memory, paper."""
    with plain_errors():
        found = card(method, steps, shift)
        if as_json:
            typer.echo(json.dumps(found.as_dict()))
            return
        _print_card(found)


def _print_card(found: Card) -> None:
    for key, value in found.facts():
        out.print(f"[bold]{key}[/bold]  {value}", highlight=False)
    if found.weights:
        table = Table("step", "weights (step: weight)", "sum of |w|")
        for step, weights in found.weights.items():
            text = "  ".join(f"{node}: {weight:+.4f}" for node, weight in weights.items())
            table.add_row(str(step), text, f"{found.amplification[step]:.3f}")
        out.print(table)
