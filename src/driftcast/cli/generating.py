"""driftcast generate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from driftcast import names
from driftcast.cli.base import (
    Dtype,
    Guidance,
    Json,
    ModelArgument,
    Offload,
    Size,
    app,
    err,
    load,
    out,
    plain_errors,
)


@app.command()
def generate(
    model: ModelArgument,
    prompt: Annotated[list[str], typer.Option(help="What to draw; may be given several times.")],
    method: Annotated[
        str | None,
        typer.Option(help="A method such as resilphase:evaluations=10, or plan:evaluations=10; default: none."),
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="The file of a plan.")] = None,
    retry: Annotated[
        str | None,
        typer.Option(help="Draw pictures that the plan's check does not trust again, with this plan or its file."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Sampler steps; default: 50, or those that the plan was made for.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first picture; the next ones count up.")] = 0,
    guidance: Guidance = None,
    dtype: Dtype = None,
    size: Size = None,
    offload: Offload = False,
    folder: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")] = Path("runs/generate"),
    as_json: Json = False,
) -> None:
    """Pictures from prompts, with a method, with a plan, or without."""
    with plain_errors():
        from contextlib import nullcontext

        from driftcast.backends.calls import arguments
        from driftcast.backends.diffusers import accelerate

        spec, chosen, count = _chosen(model, method, plan, steps)
        second = None if retry is None else _second(model, retry, spec, count)
        loaded, call = load(model, guidance, dtype, size, offload)

        def draw(places: Sequence[int], what: Any) -> tuple[list[Any], Any]:
            given = arguments(call, [prompt[i] for i in places], [seed + i for i in places], count)
            with accelerate(loaded.pipe, what) if what is not None else nullcontext(None) as acceleration:
                found = loaded.pipe(**given).images
            return found, acceleration

        with err.status("sampling"):
            images, acceleration = draw(range(len(prompt)), chosen)
            summary = acceleration.summary() if acceleration else None
            doubted = [i for i, fine in enumerate(summary.trusted or ()) if not fine] if second and summary else []
            for i, image in zip(doubted, draw(doubted, second)[0] if doubted else (), strict=True):
                images[i] = image
        folder.mkdir(parents=True, exist_ok=True)
        paths = [str(folder / f"{seed + i}.png") for i in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            image.save(path)
        if as_json:
            document = {"files": paths, "method": spec, "evaluations": summary.evaluations if summary else count}
            if second is not None:
                document["drawn_again"] = [paths[i] for i in doubted]
            typer.echo(json.dumps(document))
            return
        for path in paths:
            out.print(path, highlight=False, soft_wrap=True)
        if summary:
            out.print(str(summary), highlight=False)
        if second is not None:
            again = ", ".join(paths[i] for i in doubted) or "nothing"
            out.print(f"drawn again with {retry}: {again}", highlight=False, soft_wrap=True)


def _second(model: str, retry: str, spec: str | None, steps: int) -> Any:
    """The plan for pictures that the first one is not trusted on."""
    from driftcast.bench.plan_rows import check_steps, means_a_plan, planned

    if spec is None or not means_a_plan(spec):
        raise ValueError("--retry needs --plan or --method plan:...: only plans say whether they are to be trusted.")
    found = planned(retry if means_a_plan(retry) else f"plan:file={retry}", model)
    check_steps(found, steps)
    return found.plan


def _chosen(model: str, method: str | None, plan: Path | None, steps: int | None) -> tuple[str | None, Any, int]:
    """The specification, what it means, and the sampler steps."""
    from driftcast.bench.plan_rows import check_steps, means_a_plan, planned

    if method is not None and plan is not None:
        raise ValueError("give either --method or --plan.")
    spec = f"plan:file={plan}" if plan is not None else method
    if spec is None or not means_a_plan(spec):
        return spec, names.method(spec) if spec else None, steps or 50
    found = planned(spec, model)
    if steps is not None:
        check_steps(found, steps)
    return found.label, found.plan, found.plan.origin.steps
