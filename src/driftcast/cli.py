"""The command line: compare, generate, report, methods, show. No logic of its own; `--json` is for machines."""

from __future__ import annotations

import difflib
import functools
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperCommand

from driftcast import names
from driftcast.card import Card, card, decides_by_values, memory, needs_calibration
from driftcast.method import Method
from driftcast.samplers import Sampler

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Diffusion sampling in a fraction of the evaluations."
)
out = Console()
err = Console(stderr=True)


def _looks_like_a_method(word: str) -> bool:
    """A known name, or a slip of one, or `all`, rather than the MODEL that may also stand behind the options."""
    if word == "all":
        return True
    name = names.split(word)[0] if "=" in word or ":" not in word else word.partition(":")[0]
    return bool(difflib.get_close_matches(name, names.REGISTRY, n=1, cutoff=0.7)) and not Path(word).exists()


class ValuesSideBySide(TyperCommand):
    """Lets an option that may be repeated take its values side by side: `--evaluations 8 10 14`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        takes = {"--evaluations": str.isdigit, "--method": _looks_like_a_method}
        spread: list[str] = []
        option: str | None = None
        for word in args:
            name, equals, value = word.partition("=")
            if name in takes and equals:
                option = name
                spread += [name, value]
            elif word.startswith("-"):
                option = word if word in takes else None
                spread.append(word)
            elif option is not None and spread[-1] != option and takes[option](word):
                spread += [option, word]
            else:
                spread.append(word)
        return super().parse_args(ctx, spread)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """One clear line instead of a traceback for what the user can mend."""
    try:
        yield
    except (ValueError, FileNotFoundError, FileExistsError, ImportError) as error:
        err.print("[bold red]error[/bold red]", error, highlight=False, markup=True)
        raise typer.Exit(2) from error


ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A reference name (shapes-flux), a folder or a hub id.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Guidance = Annotated[
    float | None,
    typer.Option("--guidance", help="true_cfg_scale of the calls; the reference model's card gives its own."),
]


DTYPES = ("float32", "bfloat16", "float16")
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16; default: bfloat16 on a GPU, else float32.")
]
Size = Annotated[int | None, typer.Option(help="Height and width in pixels; default: the model's own.")]
Offload = Annotated[bool, typer.Option(help="Keep on the GPU only the part of the model that is at work.")]


def _load(
    model: str, guidance: float | None, dtype: str | None, size: int | None, offload: bool
) -> tuple[Any, dict[str, Any]]:
    import torch

    from driftcast.reference.load import load_model

    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"--dtype {dtype}: must be one of {', '.join(DTYPES)}.")
    with err.status(f"loading {model}"):
        loaded = load_model(model, getattr(torch, dtype) if dtype else None, offload=offload)
    call = dict(loaded.call)
    if size is not None:
        call.update(height=size, width=size)
    if guidance is not None:
        call.update(true_cfg_scale=guidance, negative_prompt="")
    return loaded, call


def _prompts(file: Path | None) -> tuple[str, ...]:
    if file is None:
        return ()
    if not file.is_file():
        raise FileNotFoundError(f"--prompts {file}: no such file; give a text file with one prompt per line.")
    lines = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    if not lines:
        raise ValueError(f"--prompts {file} holds no prompt; write one per line.")
    return lines


def _json_rows(rows: Sequence[Any], paths: Mapping[str, Path], **more: Any) -> str:
    """Rows and files as strict JSON: infinity (identical pictures) becomes the text 'inf'."""
    plain = [
        {k: str(v) if isinstance(v, float) and not isfinite(v) else v for k, v in vars(row).items()} for row in rows
    ]
    files = {name: str(path) for name, path in paths.items()}
    return json.dumps({"rows": plain, "files": files, **more}, allow_nan=False)


@app.command(cls=ValuesSideBySide)
def compare(
    model: ModelArgument,
    method: Annotated[
        list[str] | None,
        typer.Option(help="A method such as resilphase:alpha=0.4, or `all` for the whole registry; default: a dozen."),
    ] = None,
    evaluations: Annotated[list[int] | None, typer.Option(help="Budgets to compare at, such as 8 10 14.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of the unaccelerated reference run.")] = 50,
    prompts: Annotated[Path | None, typer.Option(help="Text file with one prompt per line.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds per prompt.")] = 4,
    converged_steps: Annotated[
        int, typer.Option(help="Steps of the second, converged reference; 0 leaves it out.")
    ] = 200,
    batch: Annotated[int, typer.Option(help="Pictures per pipeline call.")] = 8,
    per_step: Annotated[
        bool, typer.Option("--per-step", help="Also measure every forecast, in one extra untimed round.")
    ] = False,
    guidance: Guidance = None,
    dtype: Dtype = None,
    size: Size = None,
    offload: Offload = False,
    folder: Annotated[Path, typer.Option("--out", help="Folder for results.jsonl, grid.png, report.html.")] = Path(
        "runs/compare"
    ),
    as_json: Json = False,
) -> None:
    """Reference, methods and fewer-step samplers side by side, at equal evaluations and on the same seeds."""
    with _plain_errors():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from driftcast.bench import report
        from driftcast.bench.compare import METHODS, REFERENCE, Settings, calls, candidates, prompts_for
        from driftcast.bench.compare import compare as measure

        settings = Settings(
            steps=steps,
            evaluations=tuple(evaluations or (8, 10, 14)),
            methods=tuple(method or METHODS),
            prompts=_prompts(prompts),
            seeds=seeds,
            batch=batch,
            converged_steps=converged_steps,
            per_step=per_step,
        )
        candidates(settings)  # refuse a bad method before the model is loaded
        loaded, call = _load(model, guidance, dtype, size, offload)
        settings = Settings(**{**vars(settings), "call": call})
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=err) as progress:
            task = progress.add_task("warm-up", total=calls(settings, len(prompts_for(loaded, settings))))
            found = measure(
                loaded,
                settings,
                advance=lambda label: progress.update(task, advance=1, description=label),
                keep=functools.partial(report.write_records, folder),
                command=shlex.join(["driftcast", *sys.argv[1:]]),
            )
        labels = [label for label in found.pictures if label != REFERENCE]
        grid = report.grid(
            [found.pictures[label] for label in labels], labels, found.prompts, reference=found.pictures[REFERENCE]
        )
        paths = report.write(folder, found.records, grid)
        rows = report.summarise(found.records)
        if as_json:
            typer.echo(_json_rows(rows, paths, left_out=found.left_out))
            return
        out.print(report.table(rows))
        for line in found.left_out:
            out.print(f"left out: {line}", highlight=False, soft_wrap=True, markup=False)
        for name, path in paths.items():
            out.print(f"{name}: {path}", highlight=False, soft_wrap=True)


@app.command()
def generate(
    model: ModelArgument,
    prompt: Annotated[list[str], typer.Option(help="What to draw; may be given several times.")],
    method: Annotated[
        str | None, typer.Option(help="A method such as resilphase:evaluations=10; default: none.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Sampler steps.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of the first picture; the next ones count up.")] = 0,
    guidance: Guidance = None,
    dtype: Dtype = None,
    size: Size = None,
    offload: Offload = False,
    folder: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")] = Path("runs/generate"),
    as_json: Json = False,
) -> None:
    """Pictures from prompts, with a method or without."""
    with _plain_errors():
        from contextlib import nullcontext

        import torch

        from driftcast.backends.diffusers import accelerate

        chosen = names.method(method) if method else None
        loaded, call = _load(model, guidance, dtype, size, offload)
        if "negative_prompt" in call:
            call["negative_prompt"] = [call["negative_prompt"]] * len(prompt)
        noise = [torch.Generator("cpu").manual_seed(seed + i) for i in range(len(prompt))]
        context = accelerate(loaded.pipe, chosen) if chosen else nullcontext(None)
        with context as acceleration, err.status("sampling"):
            images = loaded.pipe(prompt=list(prompt), num_inference_steps=steps, generator=noise, **call).images
        folder.mkdir(parents=True, exist_ok=True)
        paths = [str(folder / f"{seed + i}.png") for i in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            image.save(path)
        summary = acceleration.summary() if acceleration else None
        if as_json:
            document = {"files": paths, "method": method, "evaluations": summary.evaluations if summary else steps}
            typer.echo(json.dumps(document))
            return
        for path in paths:
            out.print(path, highlight=False, soft_wrap=True)
        if summary:
            out.print(str(summary), highlight=False)


@app.command("report")
def rewrite_report(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="A results.jsonl of driftcast compare.")],
    markdown: Annotated[bool, typer.Option(help="Print the table as Markdown and write nothing.")] = False,
    evaluations: Annotated[
        int | None, typer.Option(help="Of the Markdown table, the rows of this budget alone.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The table and report.html again, from the records alone; report.html is written beside them."""
    with _plain_errors():
        from driftcast.bench import report

        records = report.read(results)
        rows = report.summarise(records)
        if markdown:
            wanted = [row for row in rows if evaluations in (None, row.budget) or row.kind == "reference"]
            typer.echo(report.markdown(wanted))
            return
        page = report.write_page(results.parent, records)
        if as_json:
            typer.echo(_json_rows(rows, {page.name: page}))
            return
        out.print(report.table(rows))
        out.print(f"{page.name}: {page}", highlight=False, soft_wrap=True)


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
    with _plain_errors():
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


def main() -> None:
    """Entry point of the `driftcast` command."""
    app()


if __name__ == "__main__":
    main()
