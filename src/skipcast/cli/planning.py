"""skipcast profile, plan and fit-teacache."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.filesize import decimal

from skipcast.cli.base import (
    Bar,
    Dtype,
    Guidance,
    Json,
    ModelArgument,
    Offload,
    Overwrite,
    Size,
    app,
    err,
    load,
    numbers,
    out,
    plain_errors,
    prompts_of,
    say,
    shown,
)

if TYPE_CHECKING:
    from skipcast.plans.adaptive import AdaptivePlan
    from skipcast.plans.plan import Plan, Reference
    from skipcast.plans.profile import Profile, Request
    from skipcast.plans.refine import Advance


@app.command()
def profile(
    model: ModelArgument,
    file: Annotated[Path, typer.Option("--out", help="File of the profile, such as runs/mine.profile.safetensors.")],
    pairs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pairs of a prompt and a seed to record; default: 8 a scale, or one per line of --prompts.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Text file with one prompt per line; default: prompts that suit the model.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first pair; the next ones count up.")] = 0,
    steps: Annotated[int, typer.Option(help="Sampler steps of the unaccelerated run.")] = 50,
    reference: Annotated[
        str,
        typer.Option(help="What plans shall reach: default, the run itself, or converged, where small steps lead."),
    ] = "default",
    batch: Annotated[int, typer.Option(help="Pairs per pipeline call.")] = 8,
    no_trajectory: Annotated[
        bool, typer.Option("--no-trajectory", help="Keep no states: a small file, but plans stay open loop.")
    ] = False,
    guidance: Annotated[
        str | None,
        typer.Option(
            metavar="SCALE[,SCALE...]",
            help="Guidance scale, or several joined by commas, such as 1.5,2,3,4,6: they go to the pairs in turn, and "
            "plans then hold for every scale between; default: that of the model's card, else the pipeline's own.",
        ),
    ] = None,
    dtype: Dtype = None,
    size: Size = None,
    offload: Offload = False,
    as_json: Json = False,
) -> None:
    """Record a model once, as the source of plans; the same command resumes an interrupted recording."""
    with plain_errors():
        from skipcast.bench.prompts import prompts_to_record
        from skipcast.checkpoint import check_file
        from skipcast.pipelines.calls import guided
        from skipcast.pipelines.recording.record import record

        if reference not in ("default", "converged"):
            raise ValueError(f"--reference {reference}: must be default or converged.")
        check_file(file, new=True)
        scales = _scales(guidance)
        lines = prompts_of(prompts)
        loaded, call = load(model, scales[0] if scales else None, dtype, size, offload)
        if scales:
            call.pop(next(iter(guided(loaded.pipe, scales[0]))))
            call["guidance"] = scales
        count = pairs or len(lines) or 8 * max(1, len(scales))
        recorded_on = tuple(lines[i % len(lines)] for i in range(count)) if lines else prompts_to_record(loaded, count)
        started = time.perf_counter()
        recorded = record(
            loaded.pipe,
            recorded_on,
            seeds=list(range(seed, seed + count)),
            num_inference_steps=steps,
            reference=cast("Reference", reference),
            keep_trajectory=not no_trajectory,
            batch=batch,
            path=file,
            progress=True,
            revision=loaded.revision,
            **call,
        )
        seconds = time.perf_counter() - started
        kept = file.stat().st_size
        if as_json:
            document = {"file": str(file), "pairs": len(recorded), "steps": recorded.origin.steps}
            typer.echo(json.dumps({**document, "reference": reference, "bytes": kept, "seconds": seconds}))
            return
        say(f"{len(recorded)} pairs of {recorded.origin.steps} steps, {reference} reference, in {seconds:.1f} s")
        say(f"profile: {file} ({decimal(kept)})")
        closing = "" if no_trajectory else f" --refine {shlex.quote(model)}"
        say(f"next: skipcast plan {shlex.quote(str(file))} --evaluations {max(1, recorded.origin.steps // 5)}{closing}")


def _scales(text: str | None) -> tuple[float, ...]:
    """Return the scales of `--guidance`; () without it."""
    try:
        return () if text is None else tuple(float(word) for word in text.split(","))
    except ValueError:
        raise ValueError(
            f"--guidance {text!r}: must be a scale, or several joined by commas, such as 1.5,2,4."
        ) from None


@app.command()
def plan(
    source: Annotated[Path, typer.Argument(metavar="PROFILE", help="A file of skipcast profile.")],
    evaluations: Annotated[
        list[str] | None,
        typer.Option("--evaluations", "--nfe", metavar="N", help="Evaluations; several with --curve: 4,6,8."),
    ] = None,
    speedup: Annotated[float | None, typer.Option(help="Steps per evaluation, at least.")] = None,
    psnr: Annotated[float | None, typer.Option(help="The fewest evaluations predicted to reach these dB.")] = None,
    worst: Annotated[
        float | None,
        typer.Option(help="With --psnr and --refine: the 5 % worst reach these dB, too, if need be by two plans."),
    ] = None,
    refine: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Close the loop on the model that was recorded: much better.")
    ] = None,
    effort: Annotated[
        str | None,
        typer.Option(help="Of --refine: low (cheap), normal (default) or high; the latter two add joint sweeps."),
    ] = None,
    branches: Annotated[
        bool,
        typer.Option("--branches", help="Of --refine: spend evaluations as passes of single guidance branches."),
    ] = False,
    start: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of --refine: a plan of as many evaluations to go on from.")
    ] = None,
    curve: Annotated[bool, typer.Option("--curve", help="Plot the predicted PSNR against evaluations.")] = False,
    file: Annotated[
        Path | None,
        typer.Option("--out", help="File of the plan, or of the curve's SVG; default: in the profile's folder."),
    ] = None,
    overwrite: Overwrite = False,
    batch: Annotated[int, typer.Option(help="Of --refine: pairs per pipeline call.")] = 8,
    dtype: Dtype = None,
    offload: Offload = False,
    as_json: Json = False,
) -> None:
    """Solve for the evaluated steps and weights of a budget (--evaluations, --speedup) or of a quality (--psnr)."""
    with plain_errors():
        from skipcast.checkpoint import alone, check_file
        from skipcast.plans.plan import Plan
        from skipcast.plans.profile import Profile, Request

        budgets = numbers("--evaluations", evaluations)
        given = {"evaluations": budgets[:1] and budgets[0], "speedup": speedup, "psnr": psnr}
        goal = {name: value for name, value in given.items() if value not in (None, ())}
        if effort is not None and refine is None:
            raise ValueError("--effort is that of --refine MODEL; name the model too.")
        if branches and (refine is None or curve):
            raise ValueError("--branches goes with --refine MODEL, on which single branches are run; not with --curve.")
        if start is not None and (refine is None or curve or psnr is not None):
            raise ValueError(
                "--start goes with --refine MODEL and --evaluations or --speedup; not with --curve or --psnr."
            )
        if worst is not None and (psnr is None or refine is None or branches or curve):
            raise ValueError("--worst goes with --psnr and --refine MODEL; not with --branches or --curve.")
        if curve and set(goal) - {"evaluations"}:
            raise ValueError("--curve takes --evaluations 4,6,8,10, and neither --speedup nor --psnr.")
        if not curve and len(goal) != 1:
            raise ValueError("give exactly one of --evaluations, --speedup and --psnr, or --curve.")
        if not curve and len(budgets) > 1:
            raise ValueError("give one number of --evaluations for a plan; several are for --curve.")
        recorded = Profile.load(source)
        beside = source.with_name(source.name.removesuffix(".safetensors").removesuffix(".profile"))
        name = ".curve.svg"
        if not curve:
            request = Request(**goal, **({"effort": effort} if effort else {}))  # type: ignore[arg-type]
            name = f"-{request.count(recorded.origin.steps) or f'{psnr:g}dB'}.plan.json"
        path = file or Path(f"{beside}{name}")
        check_file(path, new=not overwrite)
        with alone(path.parent):
            pipe = _recorded_model(refine, recorded, dtype, offload) if refine is not None else None
            work: dict[str, Any] = {} if pipe is None else {"batch": batch, **({"effort": effort} if effort else {})}
            work |= {"branches": True} if branches else {}
            work |= {"start": Plan.load(start)} if start is not None else {}
            work |= {"worst": worst} if worst is not None else {}
            if curve:
                _curve(recorded, budgets, pipe, work, path, as_json)
                return
            if pipe is not None:
                _tell_cost(recorded, request)
            with shown("solving") as bar:
                found = recorded.plan(**goal, refine=pipe, advance=_on(bar), **work)  # type: ignore[call-overload]
            found.save(path)
        if not isinstance(found, Plan):
            _print_adaptive(found, path, refine, as_json)
            return
        if not as_json:
            _print_plan(found, path, refine)
            return
        document = {
            "file": str(path),
            "evaluations": found.evaluations,
            "of": found.origin.steps,
            "speedup": found.speedup,
            "steps": list(found.steps),
            "label": found.label,
            "reference": found.origin.reference,
            "predicted": found.predicted and asdict(found.predicted),
            "argument": found.argument,
            "knots": [
                {"value": knot.value, "predicted": asdict(knot.predicted)} for knot in found.knots if knot.predicted
            ],
        }
        typer.echo(json.dumps(document))


def _tell_cost(profile: Profile, request: Request) -> None:
    """Say beforehand what closing the loop may cost; of a quality that is not known."""
    from skipcast.plans.knots import varied_number

    pairs, steps = len(profile), profile.origin.steps
    if (count := request.count(steps)) is not None:
        varied = varied_number(profile.origin)
        most = request.work.evaluations(count, steps, pairs, len(varied[1]) if varied else 1)
        err.print(f"closing the loop: at most {most / steps / pairs:.1f} unaccelerated runs for each of {pairs} pairs")


def _on(bar: Bar) -> Advance:
    """What a solver tells, on a progress bar."""
    return lambda note, share: bar.reached(share, 1.0, note)


def _curve(
    recorded: Profile, budgets: tuple[int, ...], pipe: Any, work: dict[str, Any], file: Path, as_json: bool
) -> None:
    from skipcast.bench.curve import BUDGETS, curve_rows, curve_table
    from skipcast.checkpoint import write_whole
    from skipcast.report.charts import curve_svg

    chosen = budgets or tuple(n for n in BUDGETS if n < recorded.origin.steps)
    with shown("solving") as bar:
        curves = [recorded.curve(chosen, advance=_on(bar))]
        if pipe is not None:
            curves.append(recorded.curve(chosen, refine=pipe, advance=_on(bar), **work))
    drawing = curve_svg(curves)
    write_whole(file, drawing.encode())
    if as_json:
        typer.echo(json.dumps({"file": str(file), "curve": curve_rows(curves)}))
        return
    out.print(curve_table(curves))
    if pipe is None:
        say("open loop: --refine MODEL closes the loop and validates on held-out pairs.")
    say(f"curve: {file}")


def _recorded_model(model: str, profile: Profile, dtype: str | None, offload: bool) -> Any:
    """Load the pipeline that a profile was recorded from; refuse other weights, whose images would differ."""
    from skipcast.pipelines.identity import commit_of

    loaded = load(model, None, dtype, None, offload)[0]
    made, found = profile.origin.revision, loaded.revision or commit_of(loaded.pipe)[1]
    if made is not None and found is not None and made != found:
        raise ValueError(
            f"--refine {model}: its weights are {found}, the profile was recorded from {made}; record this "
            "model with `skipcast profile`, or name the one that was recorded."
        )
    return loaded.pipe


def _print_plan(found: Plan, path: Path, model: str | None) -> None:
    from skipcast.bench.curve import how
    from skipcast.plans.plan import Knot

    steps = found.origin.steps
    if found.branches:
        both = sorted({step for step, kind in zip(found.steps, found.passes, strict=True) if kind == "other"})
        alone = sorted({*found.steps} - {*both})
        say(f"{len(found)} passes, {found.evaluations} of {steps} evaluations; both guidance branches at the steps "
            f"{', '.join(map(str, both))}, the leading one alone at {', '.join(map(str, alone))}")  # fmt: skip
    else:
        say(f"evaluated {len(found)} of {steps} steps: {', '.join(map(str, found.steps))}")
    against = "the unaccelerated run" if found.origin.reference == "default" else "the converged run"
    for each in found.knots or (found,):
        if (predicted := each.predicted) is not None:
            pairs = f"{predicted.pairs} pair{'s' * (predicted.pairs > 1)}"
            at = f" at {found.argument} {each.value:g}" if isinstance(each, Knot) else ""
            say(
                f"predicted PSNR to {against}{at}: mean {predicted.psnr:.1f} dB, 5 % worst {predicted.worst5:.1f}, "
                f"worst {predicted.worst:.1f} ({pairs}; {how(predicted)})"
            )
    if model is None:
        say("open loop: solved from the recording alone; --refine MODEL closes the loop and is much better.")
    say(f"plan: {path}")
    quoted = shlex.quote(str(path))
    say(f'use it: skipcast generate {shlex.quote(model or "MODEL")} --plan {quoted} --prompt "..."')
    if found.branches:
        say(f"        with skipcast.accelerate(pipe, skipcast.Plan.load({str(path)!r})): ...")
        return
    scale = ", guidance=..." if found.knots else ""
    say(f"        pipe.scheduler = skipcast.PlanScheduler(skipcast.Plan.load({str(path)!r}){scale})")


def _print_adaptive(found: AdaptivePlan, path: Path, model: str | None, as_json: bool) -> None:
    counts, expected = [plan.evaluations for plan in found.plans], found.outlook
    if as_json:
        typer.echo(json.dumps({"file": str(path), "plans": counts, "outlook": expected and asdict(expected)}))
        return
    say(f"{counts[0]} evaluations of {found.origin.steps}, and {counts[1]} for what is doubted")
    if expected is not None:
        say(f"expected: {expected.evaluations:.1f} evaluations on average, mean {expected.reached.psnr:.1f} dB, 5 % "
            f"worst {expected.reached.worst5:.1f} ({expected.reached.pairs} pairs)")  # fmt: skip
    say(f"adaptive plan: {path}")
    say(f'use it: skipcast generate {shlex.quote(model or "MODEL")} --plan {shlex.quote(str(path))} --prompt "..."')
    say(f"        with skipcast.accelerate(pipe, skipcast.AdaptivePlan.load({str(path)!r})): ...")


@app.command("fit-teacache")
def fit_teacache(
    model: ModelArgument,
    prompts: Annotated[
        Path | None, typer.Option(help="Text file with one prompt per line; default: prompts that suit the model.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Unaccelerated runs, one prompt each.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the first run; the next ones count up.")] = 0,
    steps: Annotated[int, typer.Option(help="Sampler steps.")] = 50,
    degree: Annotated[int, typer.Option(help="Of the polynomial.")] = 4,
    guidance: Guidance = None,
    dtype: Dtype = None,
    size: Size = None,
    offload: Offload = False,
    as_json: Json = False,
) -> None:
    """Fit TeaCache's polynomial for a model that nobody has published one for, and print the method with it."""
    with plain_errors():
        from skipcast.bench.prompts import prompts_to_record
        from skipcast.pipelines.polynomials import fit_teacache as fit

        lines = prompts_of(prompts)
        loaded, call = load(model, guidance, dtype, size, offload)
        chosen = [lines[i % len(lines)] for i in range(runs)] if lines else prompts_to_record(loaded, runs)
        with err.status(f"sampling {runs} times"):
            fitted = fit(loaded.pipe, chosen, degree=degree, seed=seed, num_inference_steps=steps, **call)
        if as_json:
            document = {"method": fitted.spec, "polynomial": fitted.polynomial, "points": len(fitted.points)}
            typer.echo(json.dumps({**document, "error": fitted.error}))
            return
        say(fitted.spec)
        changes = [change for change, _ in fitted.points]
        say(
            f"fitted on {len(fitted.points)} changes between {min(changes):.3g} and {max(changes):.3g}, "
            f"{fitted.error:.1%} off in the mean"
        )
