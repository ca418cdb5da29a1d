"""driftcast generate."""

from __future__ import annotations

import json
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

        import torch

        from driftcast.backends.diffusers import accelerate

        spec, chosen, count = _chosen(model, method, plan, steps)
        loaded, call = load(model, guidance, dtype, size, offload)
        if "negative_prompt" in call:
            call["negative_prompt"] = [call["negative_prompt"]] * len(prompt)
        noise = [torch.Generator("cpu").manual_seed(seed + i) for i in range(len(prompt))]
        context = accelerate(loaded.pipe, chosen) if chosen is not None else nullcontext(None)
        with context as acceleration, err.status("sampling"):
            images = loaded.pipe(prompt=list(prompt), num_inference_steps=count, generator=noise, **call).images
        folder.mkdir(parents=True, exist_ok=True)
        paths = [str(folder / f"{seed + i}.png") for i in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            image.save(path)
        summary = acceleration.summary() if acceleration else None
        if as_json:
            document = {"files": paths, "method": spec, "evaluations": summary.evaluations if summary else count}
            typer.echo(json.dumps(document))
            return
        for path in paths:
            out.print(path, highlight=False, soft_wrap=True)
        if summary:
            out.print(str(summary), highlight=False)


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
