"""skipcast generate."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from skipcast.cli.base import (
    Dtype,
    Guidance,
    Json,
    ModelArgument,
    Offload,
    Overwrite,
    RayAddress,
    Size,
    Workers,
    app,
    err,
    plain_errors,
    say,
)
from skipcast.methods import names

_FOLDER = Path("runs/generate")


@app.command()
def generate(
    model: ModelArgument,
    prompt: Annotated[list[str] | None, typer.Option(help="What to draw; may be given several times.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A file with one prompt per line instead; what is finished in --out is not drawn again."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Images of each line of --prompts; default: 1.", show_default=False)
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="A method such as resilphase:evaluations=10, or plan:evaluations=10; default: none."),
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="The file of a plan, or of an adaptive plan.")] = None,
    retry: Annotated[
        str | None,
        typer.Option(
            help="Begin again with this plan, or its file, where the check of --plan does not trust an image, at once."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Sampler steps; default: 50, or those that the plan was made for.")
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            help="Of the first --prompt, the next ones count up; with --prompts of the run, and seeds follow from it "
            "and the prompt alone."
        ),
    ] = 0,
    workers: Workers = None,
    ray: RayAddress = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Images of one call with --prompts; default: 1.", show_default=False),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of each worker on a CPU with --prompts; default: 1. Last bits may depend on it.",
            show_default=False,
        ),
    ] = None,
    guidance: Guidance = None,
    dtype: Dtype = None,
    size: Size = None,
    offload: Offload = False,
    folder: Annotated[Path, typer.Option("--out", help="Folder for the images.")] = _FOLDER,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw images from prompts with a method, a plan or neither; a file of prompts can be drawn by several workers."""
    with plain_errors():
        if bool(prompt) == (prompts is not None):
            raise ValueError("give --prompt with a text, or --prompts with a file; one of the two.")
        many = {"--seeds": seeds, "--workers": workers, "--ray": ray, "--batch": batch, "--threads": threads}
        if prompts is None and (given := [name for name, value in many.items() if value is not None]):
            raise ValueError(f"{given[0]} is for --prompts FILE, which may be drawn by several workers.")
        if prompts is not None and overwrite:
            raise ValueError("--overwrite is for --prompt; with --prompts, what is finished in --out is kept.")
        spec, chosen, count = _chosen(model, method, plan, steps)
        second = None if retry is None else _second(model, retry, spec, chosen, count)

        from skipcast.bench.draw import Pair
        from skipcast.bench.generate import Painter, Request, generate, pairs
        from skipcast.bench.media import IMAGE, VIDEO
        from skipcast.bench.prompts import read_prompts
        from skipcast.bench.workers import executor
        from skipcast.checkpoint import alone, check_file, write_whole
        from skipcast.cli.base import shown
        from skipcast.models.load import folder_of, weights_hash

        request = Request(model, spec, chosen, count, second, guidance, dtype, size, offload, seed)
        if prompts is not None:
            found = folder_of(model)
            request = replace(
                request, batch=batch or 1, threads=threads or 1, revision=weights_hash(found) if found else None
            )
            every = pairs(read_prompts(prompts), seeds or 1, seed)
            with shown("drawing") as bar:
                made = generate(folder, request, every, executor(partial(Painter, request), workers, ray), bar.reached)
            if as_json:
                typer.echo(json.dumps({"method": spec, **made.as_dict()}))
                return
            say(str(made))
            say(f"{made.listing.name}: {made.listing}")
            return

        with alone(folder):
            asked = [Pair(text, seed + i) for i, text in enumerate(prompt or ())]
            for path in (folder / f"{pair.seed}{suffix}" for pair in asked for suffix in (IMAGE, VIDEO)):
                check_file(path, new=not overwrite)
            with err.status(f"drawing with {model}"):
                drawn, first = Painter(replace(request, threads=None)).draw(asked)
            paths = {}
            for content, record in drawn:
                file = folder / f"{record['seed']}{Path(record['file']).suffix}"
                paths[str(write_whole(file, content))] = record
        again = [name for name, record in paths.items() if record["drawn_again"]]
        if as_json:
            document = {"files": list(paths), "method": spec, "evaluations": first.evaluations}
            typer.echo(json.dumps(document | ({} if second is None else {"drawn_again": again})))
            return
        for name in paths:
            say(name)
        if first.summary:
            say(str(first.summary))
        if second is not None:
            say(f"begun again with {retry}: {', '.join(again) or 'nothing'}")


def _second(model: str, retry: str, spec: str | None, first: Any, steps: int) -> Any:
    """Return the plan with which images begin again on which the first plan is not trusted."""
    from skipcast.bench.rows import check_steps, planned
    from skipcast.plans.plan import Plan

    if spec is None or not names.means_a_plan(spec):
        raise ValueError("--retry needs --plan or --method plan:...: only plans say whether they are to be trusted.")
    if not isinstance(first, Plan):
        raise ValueError(f"--retry goes with one plan, and {first!r} is an adaptive plan, which has a second one.")
    found = planned(retry if names.means_a_plan(retry) else f"plan:file={retry}", model)
    check_steps(found, steps)
    return found.plan


def _chosen(model: str, method: str | None, plan: Path | None, steps: int | None) -> tuple[str | None, Any, int]:
    """Return the specification, the method or plan that it names, and the sampler steps."""
    from skipcast.bench.rows import check_steps, planned
    from skipcast.models.load import family_at
    from skipcast.plans.adaptive import AdaptivePlan, read_plan

    if method is not None and plan is not None:
        raise ValueError("give either --method or --plan.")
    spec = f"plan:file={plan}" if plan is not None else method
    if spec is None or not names.means_a_plan(spec):
        return spec, names.method(spec, family_at(model)) if spec else None, steps or 50
    if plan is not None and isinstance(adaptive := read_plan(plan), AdaptivePlan):
        made_for = adaptive.origin.steps
        if steps not in (None, made_for):
            raise ValueError(f"{plan}: the plan was made for {made_for} steps, not {steps}; set --steps {made_for}.")
        return spec, adaptive, made_for
    found = planned(spec, model)
    if steps is not None:
        check_steps(found, steps)
    return found.label, found.plan, found.plan.origin.steps
