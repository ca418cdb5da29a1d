"""`record`: a few full runs of a pipeline as a profile, once per model and sampler."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import load, save
from torch import Tensor

from skipcast.checkpoint import Folder, check_file
from skipcast.checks import guarded
from skipcast.pipelines import calls
from skipcast.pipelines.calls import Prompt
from skipcast.pipelines.hooks import check_no_other_cache
from skipcast.pipelines.identity import commit_of, fingerprint
from skipcast.pipelines.networks import denoisers, scheduler_class
from skipcast.pipelines.plan_check import check_rebuilt, recorded_scheduler
from skipcast.pipelines.recording.call import Part, Recorder
from skipcast.pipelines.recording.replay import prepare, swapped
from skipcast.plans.plan import Origin, Reference, versions, word
from skipcast.plans.profile import Profile
from skipcast.plans.propagation import check_linear

PARTS = "parts"  # the kind of the finished pieces of a recording
_NEEDED = ("generator", "num_inference_steps", "output_type")


@contextmanager
def quiet(pipe: Any) -> Iterator[None]:
    """The pipeline without its own bars, which would tear ours; restored on exit."""
    name = "_progress_bar_config"
    before = vars(pipe).get(name)
    setattr(pipe, name, {**(before or {}), "disable": True})
    try:
        yield
    finally:
        if before is None:
            delattr(pipe, name)
        else:
            setattr(pipe, name, before)


def check_request(
    pipe: Any,
    prompts: Sequence[Prompt],
    steps: int,
    reference: str,
    batch: int,
    in_memory: int | None,
    substeps: int,
    call: Mapping[str, Any],
) -> None:
    """Refuse what cannot be recorded, as far as it shows without running the pipeline.

    Raises:
        ValueError: names the argument and the cure.
    """
    kind = type(pipe).__name__
    if not callable(pipe) or not hasattr(pipe, "scheduler"):
        raise ValueError(f"record(pipe=...) needs a diffusers pipeline with a scheduler, got {kind}.")
    taken = inspect.signature(pipe.__call__).parameters
    open_ended = any(value.kind is inspect.Parameter.VAR_KEYWORD for value in taken.values())
    own = {name for prompt in prompts for name in (("prompt",) if isinstance(prompt, str) else prompt)}
    missing = [name for name in (*sorted(own), *_NEEDED) if name not in taken]
    if missing and not open_ended:
        raise ValueError(f"record(pipe=...) needs a pipeline whose call takes {missing[0]!r}; {kind} does not.")
    for name in call:
        if name in calls.OURS:
            raise ValueError(f"record({name}=...) is set by the recording; give {calls.OURS[name]}.")
        if name not in taken and not open_ended:
            raise ValueError(f"record({name}=...) is no argument of {kind}; known are {', '.join(taken)}.")
    if (call.get("eta") or 0) > 0:
        raise ValueError(f"record(eta={call['eta']}) adds noise at every step, which no plan can know; set it to 0.")
    if not len(prompts):
        raise ValueError("record(prompts=[]) holds no pair; give at least one, better 8.")
    for name in ("step", "set_timesteps"):
        if name in vars(pipe.scheduler):
            raise ValueError(
                f"the scheduler's {name} is wrapped, as by accelerate(); leave that first: "
                "a recording needs the pipeline as it is."
            )
    name = type(pipe.scheduler).__name__
    if scheduler_class(name) is None:
        raise ValueError(
            f"record(pipe=...): scheduler {name} is none of diffusers, where a plan finds the one it was made for by "
            "name; set pipe.scheduler to one of diffusers."
        )
    for network in denoisers(pipe):
        check_no_other_cache(network)
    check_linear(pipe.scheduler)


@guarded("record", num_inference_steps=1, batch=1, in_memory=1, substeps=1)
def record(
    pipe: Any,
    prompts: Sequence[calls.Prompt],
    *,
    seeds: Sequence[int] | int,
    num_inference_steps: int = 50,
    reference: Reference = "default",
    keep_trajectory: bool = True,
    batch: int = 8,
    path: str | Path | None = None,
    in_memory: int | None = None,
    progress: bool = True,
    revision: str | None = None,
    substeps: int = 4,
    varied: Mapping[str, Sequence[Any]] | None = None,
    guidance: float | Sequence[float] | None = None,
    **call: Any,
) -> Profile:
    """Run the unaccelerated pipeline on pairs of one prompt and one seed and keep the inner products of its outputs.

    Args:
        pipe: a diffusers pipeline with a deterministic, linear scheduler of first order or multistep.
        prompts: one per pair: texts, or for pipelines that take no prompt a mapping each with the arguments of
            the call for one image, such as {"prompt_embeds": tensor} or {"class_labels": [207]}.
        seeds: one per pair, or the first of consecutive ones. A seed draws its noise on the CPU.
        num_inference_steps: as for the pipeline.
        reference: "default", the run itself, or "converged": every step in `substeps` equal parts, which is where
            the sampler would arrive if its steps were small, at `substeps` times the evaluations.
        keep_trajectory: keep the states, which closing the loop needs; without them a profile is a few kilobytes.
        batch: pairs per pipeline call.
        path: where the profile is saved; a file that is there already is refused. Finished calls are kept in
            `<path>.partial/` until then, and calling again with the same arguments goes on after the last of them.
        in_memory: how many tensors of the size of the sample are held in memory at once during a call; older ones go
            to temporary files. None holds all, two per step.
        progress: show a bar on stderr.
        revision: what identifies the weights, for the profile; by default the commit of a model from the hub. Norms of
            a few weights are kept beside it.
        substeps: only for "converged".
        varied: arguments that differ from pair to pair, one value per pair each. Of one number, such as
            `varied={"guidance_scale": [1.5] * 8 + [3.0] * 8}`, plans get a knot at every value.
        guidance: the guidance scale of all pairs, or several, which go to the pairs in turn: a plan from the profile
            then holds for every scale between them. The recording costs what as many pairs of one scale cost; give each
            scale as many pairs as a plan for it alone would get, 8 or more. Stands for `true_cfg_scale` and an empty
            `negative_prompt` where the pipeline has the former, else for `guidance_scale`.
        call: further arguments of the pipeline calls, such as the guidance; a text such as `negative_prompt` goes
            with every prompt.

    Returns:
        The profile. Its `gain` is 1 where the pipeline returns no float images in [0, 1]; a PSNR is then that of
        the sample itself.

    Raises:
        ValueError: arguments, scheduler or pipeline do not allow it; where that can be known, before any evaluation.
    """
    if guidance is not None:
        call, varied = _guided(pipe, guidance, call, varied or {}, len(prompts))
    known = {**dict.fromkeys(varied or ()), **call}
    check_request(pipe, prompts, num_inference_steps, reference, batch, in_memory, substeps, known)
    drawn = _seeds(seeds, len(prompts))
    different = _varied(varied or {}, call, len(prompts))
    jobs = _jobs(different, len(prompts), batch)
    target = None if path is None else Path(path)
    if target is not None:
        check_file(target, new=True)

    def arguments(job: Sequence[int]) -> dict[str, Any]:
        own = {name: values[job[0]] for name, values in different.items()}
        chosen = [prompts[pair] for pair in job], [drawn[pair] for pair in job]
        return calls.arguments({**call, **own}, *chosen, num_inference_steps)

    with quiet(pipe) if progress else nullcontext():
        prepared = prepare(pipe, arguments(jobs[0]))
        run = Recorder(pipe, prepared, reference, keep_trajectory, in_memory, substeps)
        model, commit = commit_of(pipe)
        origin = Origin(
            pipeline=type(pipe).__name__,
            scheduler=type(pipe.scheduler).__name__,
            config=_plain({key: value for key, value in dict(pipe.scheduler.config).items() if key[0] != "_"}),
            steps=run.steps,
            reference=reference,
            revision=commit if revision is None else revision,
            call=_plain(call),
            varied=_plain(different),
            prompts=tuple(map(calls.described, prompts)),
            texts=all(isinstance(prompt, str) for prompt in prompts),
            seeds=tuple(drawn),
            versions=versions("skipcast", "torch", "diffusers"),
            model=model,
            fingerprint=fingerprint(pipe),
        )
        with swapped(pipe, recorded_scheduler(origin)):  # as a plan will have it
            check_rebuilt(prepared, prepare(pipe, arguments(jobs[0])))
        begun = {
            **origin.as_dict(),
            "num_inference_steps": num_inference_steps,
            "timesteps": run.timesteps.tolist(),
            "substeps": substeps if reference == "converged" else None,
            "keep_trajectory": keep_trajectory,
            "batch": batch,
            "dtype": str(getattr(pipe, "dtype", None)),
        }
        finished = None if target is None else _finished(target, begun)
        parts: list[Part] = []
        with (
            finished.opened() if finished else nullcontext(),
            _bar(len(jobs) * run.evaluations, show=progress) as advance,
        ):
            if target is not None:  # another process may have finished it while this one was waiting to begin
                check_file(target, new=True)
            for number, job in enumerate(jobs):
                name = f"{number:05d}"
                if finished and finished.has(PARTS, name):
                    parts.append(load(finished.read(PARTS, name)))
                    advance(run.evaluations)
                else:
                    parts.append(run(arguments(job), advance))
                    if finished:
                        contiguous = {key: tensor.contiguous() for key, tensor in parts[-1].items()}
                        finished.write(PARTS, name, save(contiguous))
            profile = _assembled(run, origin, parts, jobs)
            if target is not None:
                profile.save(target)
    if finished:
        finished.remove()
    return profile


def _finished(target: Path, begun: Mapping[str, Any]) -> Folder:
    """The folder next to a profile that holds the finished calls of its recording."""
    kinds = {PARTS: re.compile(r"(\d{5})\.piece")}
    path = target.with_name(target.name + ".partial")
    return Folder(path, begun, "parts of a recording", kinds, manifest="recording.json")


def _seeds(seeds: Sequence[int] | int, pairs: int) -> list[int]:
    if isinstance(seeds, int | np.integer):
        seeds = range(int(seeds), int(seeds) + pairs)
    if len(seeds) != pairs:
        raise ValueError(
            f"record(seeds=...) has {len(seeds)} entries for {pairs} prompts; give one seed per prompt, "
            "or a single number, the first of consecutive ones."
        )
    for seed in seeds:
        if not -(2**63) <= seed < 2**64:
            raise ValueError(f"record(seeds=...) must be numbers of 64 bits, got {seed!r:.60}.")
    return [int(seed) for seed in seeds]


def _varied(varied: Mapping[str, Sequence[Any]], call: Mapping[str, Any], pairs: int) -> dict[str, list[Any]]:
    for name, values in varied.items():
        if len(values) != pairs:
            raise ValueError(f"record(varied=...): {len(values)} values of {name} for {pairs} prompts; give one each.")
        if name in call:
            raise ValueError(f"record({name}=...) is given for all pairs and in varied=; give one of the two.")
    return {name: list(values) for name, values in varied.items()}


def _guided(
    pipe: Any,
    guidance: float | Sequence[float],
    call: Mapping[str, Any],
    varied: Mapping[str, Sequence[Any]],
    pairs: int,
) -> tuple[dict[str, Any], dict[str, Sequence[Any]]]:
    """The arguments of all pairs, and those that vary, with `guidance` among them.

    Raises:
        ValueError: no scales, one twice, more than pairs, or the argument itself is given too.
    """
    scales = [float(guidance)] if isinstance(guidance, int | float) else [float(scale) for scale in guidance]
    if not 1 <= len(scales) <= pairs or len(set(scales)) < len(scales) or not np.isfinite(scales).all():
        raise ValueError(
            f"record(guidance={guidance}) must be one scale, or distinct ones, each with a pair at least; there are "
            f"{pairs} prompts."
        )
    (name, _), *rest = calls.guided(pipe, scales[0]).items()
    if name in call or name in varied:
        raise ValueError(f"record(guidance=..., {name}=...) are two names of one argument; give one of the two.")
    if len(scales) == 1:
        return {**dict(rest), **call, name: scales[0]}, dict(varied)
    return {**dict(rest), **call}, {**varied, name: [scales[pair % len(scales)] for pair in range(pairs)]}


def _jobs(varied: Mapping[str, Sequence[Any]], pairs: int, batch: int) -> list[list[int]]:
    """Calls of at most `batch` pairs with the same arguments, in the order of the first pair of each kind."""
    kinds: list[tuple[list[Any], list[int]]] = []
    for pair in range(pairs):
        own = [values[pair] for values in varied.values()]
        for known, alike in kinds:
            if known == own:
                alike.append(pair)
                break
        else:
            kinds.append((own, [pair]))
    return [alike[i : i + batch] for _, alike in kinds for i in range(0, len(alike), batch)]


def _assembled(run: Recorder, origin: Origin, parts: Sequence[Part], jobs: Sequence[Sequence[int]]) -> Profile:
    shapes = {tuple(part["shape"].tolist()) for part in parts}
    if len(shapes) != 1:
        raise ValueError(f"the calls' samples differ in shape: {sorted(shapes)}; a profile is of one size.")
    origin = Origin(**{**origin.as_dict(), "shape": shapes.pop()})
    recorded = [pair for job in jobs for pair in job]

    def whole(name: str) -> Tensor:
        found = torch.cat([part[name] for part in parts])
        return found if recorded == sorted(recorded) else found[np.argsort(recorded)]

    return Profile(
        grams=whole("grams").numpy(),
        states=run.states,
        timesteps=run.timesteps,
        scale=run.scale,
        gain=whole("gain").numpy(),
        origin=origin,
        trajectory=whole("trajectory") if run.keep else None,
    )


def _plain(value: Any) -> Any:
    """As plain JSON; what is not, such as an image to begin from, is named by its type."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return word(value)


@contextmanager
def _bar(total: int, *, show: bool) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=Console(stderr=True), disable=not show) as progress:
        task = progress.add_task("recording", total=total)
        yield lambda count: progress.advance(task, count)
