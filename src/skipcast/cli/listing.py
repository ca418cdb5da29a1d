"""skipcast methods, skipcast show, and skipcast ui, where they can be tried."""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from skipcast.card import Card, card, decides_by_values, needs_calibration
from skipcast.cli.base import Dtype, Guidance, Json, Offload, app, err, out, plain_errors, printable, say
from skipcast.methods import names
from skipcast.methods.beside import BESIDE
from skipcast.methods.families import named_family
from skipcast.models.load import REFERENCES, reference_folder
from skipcast.parts import Method, memory
from skipcast.plans.plan import Plan, middle
from skipcast.samplers import Sampler


@app.command("methods")
def list_methods(as_json: Json = False) -> None:
    """List every method with its parts and its paper, and what stands beside them."""
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
    table = Table(Column("beside them", overflow="fold"), "what it does", "source")
    for each in BESIDE:
        table.add_row(*each)
    out.print(table, highlight=False)


def _listed(entry: names.Named, made: Method | Sampler) -> dict[str, Any]:
    """Return a method as JSON values; memory is that of a run of ten evaluations."""
    kept = None if isinstance(made, Sampler) else memory(made, 10)
    return {
        "summary": entry.summary,
        "paper": entry.paper,
        "checked_against": entry.checked_against,
        "parts": repr(made),
        "options": {key: p.default for key, p in entry.options().items()},
        "memory": kept and {**vars(kept), "bytes_per_token_and_channel": kept.bytes((1,))},
        "decides_by_values": decides_by_values(made),
        "needs_calibration": needs_calibration(entry, made),
        "weighs_by_values": isinstance(made, Method) and not made.forecaster.linear,
    }


@app.command()
def show(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help="Such as taylorseer:order=1 or plan:evaluations=10, or a file of a plan.",
        ),
    ],
    steps: Annotated[int, typer.Option(help="Sampler steps.")] = 50,
    shift: Annotated[float, typer.Option(help="Shift of the flow grid that the coordinates are taken on.")] = 3.16,
    shape: Annotated[
        str | None,
        typer.Option(help="Shape of one cached tensor, such as 4096x64 for FLUX.1's output; adds the memory in MB."),
    ] = None,
    itemsize: Annotated[int, typer.Option(help="Bytes per number of --shape.", min=1)] = 2,
    model: Annotated[
        str | None,
        typer.Option(
            help="Show it as its authors set it on this model's family: a family such as wan, a class of networks such "
            "as WanTransformer3DModel, shapes-flux, or the folder of a pipeline."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a method or plan without running it: evaluated steps, weights, exactness, amplification, memory."""
    with plain_errors():
        one = None if shape is None else _bytes(shape, itemsize)
        if names.means_a_plan(method):
            plan = names.plan(method)
            _show_plan(plan, as_json, one and plan.memory * one)
        else:
            found = card(method, steps, shift, None if model is None else _family(model))
            _show_card(found, as_json, one and found.cached_tensors * one)


def _family(model: str) -> str | None:
    """The family of a model as --model names it."""
    return named_family(str(reference_folder(model)) if model in REFERENCES else model)


def _bytes(shape: str, itemsize: int) -> int:
    try:
        sizes = [int(size) for size in shape.lower().split("x")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise ValueError(f"--shape {shape!r} must be whole numbers joined by x, such as 4096x64.")
    return math.prod(sizes) * itemsize


def _facts(facts: Iterable[tuple[str, object]], memory: int | None, of: str) -> None:
    for key, value in [*facts, *([] if memory is None else [("memory", f"{memory / 1e6:.3f} MB {of}")])]:
        out.print(Text.assemble((key, "bold"), "  ", printable(str(value))), highlight=False)


def _weights(weights: Mapping[Any, float]) -> str:
    return "  ".join(f"{node}: {weight:+.4f}" for node, weight in weights.items())


def _knots(plan: Plan) -> str:
    values = ", ".join(f"{knot.value:g}" for knot in plan.knots)
    return f"{plan.argument} {values}; the table is that of {middle(plan.knots).value:g}"


def _passes(plan: Plan) -> str:
    return (
        f"{len(plan)} of one guidance branch each, the leading one ({plan.branches} of a step) alone where it says so"
    )


def _show_plan(plan: Plan, as_json: bool, memory: int | None) -> None:
    """Show the steps, timesteps, rows and origin of a plan; with --json, print the whole plan."""
    if as_json:
        more = {} if memory is None else {"cached_bytes": memory}
        typer.echo(json.dumps({**plan.as_dict(), **more}, allow_nan=False))
        return
    origin, predicted = plan.origin, plan.predicted
    promise = predicted and f"{predicted.psnr:.1f} dB, 5 % worst {predicted.worst5:.1f}, {predicted.pairs} pairs"
    facts = {
        "plan": plan,
        "made for": f"{origin.pipeline or 'any pipeline'}, {origin.scheduler or 'no scheduler'}, {origin.steps} steps",
        "called with": ", ".join(f"{name}={value!r}" for name, value in origin.call.items()) or "nothing more",
        **({"knots": _knots(plan)} if plan.knots else {}),
        **({"passes": _passes(plan)} if plan.branches else {}),
        "weights of": origin.revision or "a model that was not named",
        "recorded": f"{len(origin.pairs)} pairs of a prompt and a seed, {origin.reference} target",
        "predicted": promise or "nothing",
        "remembers": f"{plan.memory} x the output after guidance",
    }
    _facts(facts.items(), memory, "in all")
    table = Table("step", "timestep", "share of x", "weights of the outputs (step: weight)", "sum of |w|")
    kinds = zip(plan.steps, plan.passes, strict=True)
    labels = [f"{step} alone" if kind == "lead" else str(step) for step, kind in kinds]
    for label, timestep, row in zip(labels, plan.evaluation_timesteps, plan.rows, strict=True):
        share, *weights = row.tolist()
        named = dict(zip(labels, weights, strict=False))
        table.add_row(label, f"{timestep:.2f}", f"{share:+.4f}", _weights(named), f"{sum(map(abs, weights)):.3f}")
    out.print(table)


def _show_card(found: Card, as_json: bool, memory: int | None) -> None:
    if as_json:
        more = {} if memory is None else {"cached_bytes": memory}
        typer.echo(json.dumps({**found.as_dict(), **more}))
        return
    _facts(found.facts(), memory, "per branch")
    if found.weights:
        table = Table("step", "weights (step: weight)", "sum of |w|")
        for step, weights in found.weights.items():
            table.add_row(str(step), _weights(weights), f"{found.amplification[step]:.3f}")
        out.print(table)


@app.command()
def ui(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A reference name, a folder or a hub id that visitors choose from; may be repeated; default: the "
            "reference model."
        ),
    ] = None,
    plans: Annotated[
        list[Path] | None, typer.Option(help="Folder whose *.plan.json are offered too; may be repeated.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 127.0.0.1 is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 7860,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Name under which the server answers besides its address; may be repeated.")
    ] = None,
    auth: Annotated[
        str | None,
        typer.Option(metavar="USER:PASSWORD", help="Let only this visitor in; @FILE has one line for each of several."),
    ] = None,
    trust_visitors: Annotated[
        bool, typer.Option("--trust-visitors", help="Let visitors name any folder, hub id and file of a plan.")
    ] = False,
    dtype: Dtype = None,
    guidance: Guidance = None,
    offload: Offload = False,
) -> None:
    """Serve a playground for the browser, which compares methods, plans and samplers and makes plans."""
    with plain_errors():
        from skipcast.ui import serve

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl+C does
        with err.status("starting the playground"):
            served = serve(
                model or (), plans or (), host=host, port=port, names=allow_host or (), auth=auth,
                trust=trust_visitors, dtype=dtype, guidance=guidance, offload=offload,
            )  # fmt: skip
        if not (auth or host in ("127.0.0.1", "localhost", "::1")):
            err.print("[bold yellow]warning[/bold yellow]", f"whoever reaches {host} may use this; see --auth.")
        say(f"playground: {served.url}  (Ctrl+C ends it)")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            say("closed")
        finally:
            served.close()
