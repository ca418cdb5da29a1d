"""The main job: reference, methods and fewer-step samplers on the same pictures, measured; no drawing here."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from driftcast import names
from driftcast.backends.diffusers import accelerate
from driftcast.backends.schedulers import grid_of
from driftcast.bench import metrics
from driftcast.controllers import StaticController
from driftcast.method import Method
from driftcast.reference.load import Model
from driftcast.reference.pictures import read_caption
from driftcast.run import Run
from driftcast.samplers import Sampler

#: Forecasters and plain samplers that every comparison holds unless the user names others.
METHODS = (
    "reuse",
    "lagrange:order=1",
    "lagrange:order=2",
    "taylorseer",
    "taylorseer:target=hidden",
    "resilphase",
    "euler",
    "heun",
    "ab2",
    "ab3",
    "dpmpp2m",
    "unipc",
)
REFERENCE = "reference"
CONVERGED = "ab2"  # of second order; records tell how far its result still moves when its steps are halved
ROUNDS = 3  # at least so many interleaved rounds, where there are pictures enough

SHAPES_PROMPTS = (
    "a large striped red star on a blue background",
    "a small plain white crescent on a purple background",
    "a green ring on an orange background, large and dotted",
    "large plain blue heart, yellow background",  # a combination that training never showed
)
GENERAL_PROMPTS = (
    "a photograph of a red fox in fresh snow, early morning light",
    "a watercolour of a harbour town with sailing boats",
    "a bowl of ramen on a wooden table, steam rising, close-up",
    "an isometric drawing of a small bookshop at night",
)


@dataclass(frozen=True)
class Candidate:
    """One row of the comparison: a label, the method, and the evaluations that were asked for."""

    label: str
    method: Method | Sampler
    budget: int

    @property
    def name(self) -> str:
        return names.split(self.label)[0]


@dataclass(frozen=True)
class Settings:
    """What is compared on what; `call` holds further arguments of every pipeline call."""

    steps: int = 50
    evaluations: tuple[int, ...] = (8, 10, 14)
    methods: tuple[str, ...] = METHODS
    prompts: tuple[str, ...] = ()
    seeds: int = 8
    first_seed: int = 1000
    batch: int = 8
    converged_steps: int = 200  # 0 leaves the converged reference out
    call: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks = {
            "steps": self.steps >= 2,
            "seeds": self.seeds >= 1,
            "batch": self.batch >= 1,
        }
        for name, fine in checks.items():
            if not fine:
                raise ValueError(f"compare({name}={getattr(self, name)}) is too small.")
        if self.converged_steps and self.converged_steps < 2 * self.steps:
            raise ValueError(
                f"converged_steps={self.converged_steps} must be at least twice steps={self.steps}, "
                "or 0 to leave the converged reference out."
            )
        for budget in self.evaluations:
            if not 1 <= budget <= self.steps:
                raise ValueError(f"evaluations={budget} must lie between 1 and steps={self.steps}.")

    @property
    def shown_budget(self) -> int:
        """The budget whose pictures are kept for the grid: the middle one."""
        return sorted(self.evaluations)[len(self.evaluations) // 2]

    def batch_of(self, prompts: int) -> int:
        """Pictures per call: `batch`, or fewer so that timings come from at least three interleaved rounds."""
        return max(1, min(self.batch, -(-prompts * self.seeds // ROUNDS)))


def candidates(settings: Settings) -> list[Candidate]:
    """Every method at every budget; a specification that fixes its own evaluations or interval appears once.

    Raises:
        ValueError: a method that cannot run with these steps, by name, before anything is evaluated.
    """
    found: dict[str, Candidate] = {}
    for spec in settings.methods:
        _, options = names.split(spec)
        fixed = "evaluations" in options or "interval" in options
        for budget in (0,) if fixed else settings.evaluations:
            label = spec if fixed else names.with_evaluations(spec, budget)
            try:
                method = names.method(label)
                actual = _evaluations(method, settings.steps)
            except ValueError as error:
                raise ValueError(f"{label}: {error}") from error
            found[label] = Candidate(label, method, budget or actual)
    return list(found.values())


def _evaluations(method: Method | Sampler, steps: int) -> int:
    if isinstance(method, Sampler):
        return method.evaluations or steps
    method.controller.check(steps)
    return len(method.controller.evaluated(steps)) if isinstance(method.controller, StaticController) else steps


@dataclass(frozen=True)
class _Batch:
    prompts: list[str]
    indices: list[int]
    seeds: list[int]


def _batches(settings: Settings, prompts: Sequence[str]) -> Iterator[_Batch]:
    jobs = [(i, settings.first_seed + s) for s in range(settings.seeds) for i in range(len(prompts))]
    size = settings.batch_of(len(prompts))
    for start in range(0, len(jobs), size):
        part = jobs[start : start + size]
        yield _Batch([prompts[i] for i, _ in part], [i for i, _ in part], [seed for _, seed in part])


@dataclass(frozen=True)
class _Outcome:
    images: Tensor  # (B, 3, H, W) float32 in [0, 1], CPU
    latents: Tensor  # the final sample, CPU
    seconds: float
    evaluations: int
    evaluated_steps: list[int] | None
    cached_bytes: int


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _call(pipe: Any, batch: _Batch, settings: Settings, steps: int) -> tuple[Tensor, Tensor, float]:
    """One timed pipeline call: pictures, final latents, seconds."""
    last: dict[str, Tensor] = {}

    def keep(_pipe: Any, _step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        last["latents"] = values["latents"]
        return values

    call = dict(settings.call)
    if "negative_prompt" in call:
        call["negative_prompt"] = [call["negative_prompt"]] * len(batch.prompts)
    noise = [torch.Generator("cpu").manual_seed(seed) for seed in batch.seeds]
    _synchronise()
    started = time.perf_counter()
    images = pipe(
        prompt=batch.prompts,
        num_inference_steps=steps,
        generator=noise,
        output_type="pt",
        callback_on_step_end=keep,
        **call,
    ).images
    _synchronise()
    seconds = time.perf_counter() - started
    return images.float().cpu(), last["latents"].float().cpu(), seconds


def _outcome(pipe: Any, batch: _Batch, settings: Settings, method: Method | Sampler | None, steps: int) -> _Outcome:
    if method is None:
        images, latents, seconds = _call(pipe, batch, settings, steps)
        return _Outcome(images, latents, seconds, steps, None, 0)
    with accelerate(pipe, method) as acceleration:
        images, latents, seconds = _call(pipe, batch, settings, steps)
    summary = acceleration.summary()
    evaluated = list(summary.evaluated_steps) if isinstance(method, Method) else None
    return _Outcome(images, latents, seconds, summary.evaluations, evaluated, summary.cached_bytes)


def provenance(model: Model, settings: Settings, prompts: int, command: str | None) -> dict[str, Any]:
    """What a record needs so that the figure can be made again."""
    versions = {"python": platform.python_version()}
    for package in ("driftcast", "torch", "diffusers", "transformers", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "source"
    return {
        "model": model.name,
        "revision": model.revision,
        "settings": {
            "steps": settings.steps,
            "converged_steps": settings.converged_steps,
            "first_seed": settings.first_seed,
            "seeds": settings.seeds,
            "batch": settings.batch_of(prompts),
            "dtype": str(model.pipe.dtype).removeprefix("torch."),
            **{key: value for key, value in settings.call.items() if isinstance(value, int | float | str)},
        },
        "versions": versions,
        "commit": _commit(),
        "hardware": _hardware(model.pipe.device),
        "command": command,
    }


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    listing = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", listing.read_text()) if listing.exists() else None
    return f"{found[1] if found else platform.machine()}, {torch.get_num_threads()} threads"


def _commit() -> str | None:
    here = Path(__file__).parent
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(here.parents[3])}
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=here,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
    except OSError:  # no git on this machine
        return None
    return found.stdout.strip() or None


@dataclass(frozen=True)
class Comparison:
    """Records (one per method and picture) and the first seed's pictures at the middle budget, for the grid."""

    records: list[dict[str, Any]]
    pictures: dict[str, Tensor]  # label -> (prompts, 3, H, W)
    prompts: tuple[str, ...]


def compare(
    model: Model,
    settings: Settings,
    *,
    advance: Callable[[str], None] = lambda label: None,
    keep: Callable[[list[dict[str, Any]]], None] = lambda records: None,
    command: str | None = None,
) -> Comparison:
    """Run everything, interleaved round by round.

    Args:
        model: what is compared on.
        settings: what is compared.
        advance: called with a label after every pipeline call.
        keep: called with all records so far after every round, so that an interrupted comparison keeps them.
        command: how the user asked for it, for the records.

    Raises:
        ValueError: a method does not suit the model, its scheduler or the steps; raised before the first timed call.
    """
    prompts = prompts_for(model, settings)
    rows = candidates(settings)
    exact = Sampler(CONVERGED, settings.converged_steps) if settings.converged_steps else None
    for method in [*(row.method for row in rows), *([exact] if exact else [])]:
        accelerate(model.pipe, method)  # checks scheduler and blocks; nothing is touched before the context opens
    batches = list(_batches(settings, prompts))
    _call(model.pipe, batches[0], settings, settings.steps)  # warm-up, untimed; leaves the scheduler's grid
    advance("warm-up")
    for row in rows:
        if isinstance(row.method, Method):
            Run(row.method, grid_of(model.pipe.scheduler))
    shared = provenance(model, settings, len(prompts), command)
    reference = Candidate(REFERENCE, Sampler("euler"), settings.steps)
    records: list[dict[str, Any]] = []
    pictures: dict[str, list[Tensor]] = {}
    for number, batch in enumerate(batches):
        outcomes: dict[str, _Outcome] = {}
        order = [reference, *rows]
        for row in order[number % len(order) :] + order[: number % len(order)]:  # nobody always goes first
            chosen = None if row is reference else row.method
            outcomes[row.label] = _outcome(model.pipe, batch, settings, chosen, settings.steps)
            advance(row.label)
        converged = None
        if exact is not None:
            converged = _outcome(model.pipe, batch, settings, exact, settings.converged_steps)
            advance("converged")
            if number == 0:
                half = Sampler(CONVERGED, settings.converged_steps // 2)
                coarse = _outcome(model.pipe, batch, settings, half, settings.converged_steps)
                agreement = metrics.psnr(coarse.images, converged.images).mean().item()
                shared["settings"]["converged_agreement_db"] = round(agreement, 1)
                advance("converged, half the steps")
        truth = outcomes[REFERENCE]
        for row in order:
            outcome = outcomes[row.label]
            records += _records(row, outcome, truth, converged, batch, model, settings, shared, row is reference)
            if row is reference or row.budget == settings.shown_budget:
                first = [
                    image
                    for image, seed in zip(outcome.images, batch.seeds, strict=True)
                    if seed == settings.first_seed
                ]
                pictures.setdefault(row.label, []).extend(first)
        keep(records)
    return Comparison(records, {label: torch.stack(images) for label, images in pictures.items()}, tuple(prompts))


def prompts_for(model: Model, settings: Settings) -> tuple[str, ...]:
    """The prompts that were asked for, or those that suit the model."""
    return settings.prompts or (SHAPES_PROMPTS if model.judge is not None else GENERAL_PROMPTS)


def calls(settings: Settings, prompts: int) -> int:
    """Pipeline calls that `compare` will make, for a progress bar."""
    rounds = -(-prompts * settings.seeds // settings.batch_of(prompts))
    exact = bool(settings.converged_steps)
    return 1 + rounds * (len(candidates(settings)) + 1 + exact) + exact


def _records(
    row: Candidate,
    outcome: _Outcome,
    truth: _Outcome,
    exact: _Outcome | None,
    batch: _Batch,
    model: Model,
    settings: Settings,
    shared: dict[str, Any],
    is_reference: bool,
) -> Iterator[dict[str, Any]]:
    count = len(batch.prompts)
    absent: list[float | None] = [None] * count
    against = {"": None if is_reference else truth, "_converged": exact}
    scores: dict[str, list[float | None]] = {}
    for suffix, other in against.items():
        scores["psnr" + suffix] = metrics.psnr(outcome.images, other.images).tolist() if other else absent
        scores["ssim" + suffix] = metrics.ssim(outcome.images, other.images).tolist() if other else absent
        distance = metrics.relative_l2(outcome.latents, other.latents).tolist() if other else absent
        scores["latent_error" + suffix] = distance
    judged = _judge(model, outcome.images, batch.prompts)
    entry = names.REGISTRY.get(row.name)
    kind = REFERENCE if is_reference else ("sampler" if isinstance(row.method, Sampler) else "forecast")
    for i in range(count):
        values = {name: column[i] for name, column in scores.items()}
        yield {
            "method": row.label,
            "name": row.name,
            "repr": "the unaccelerated run" if is_reference else repr(row.method),
            "kind": kind,
            "paper": entry.paper if entry else None,
            "budget": row.budget,
            "evaluations": outcome.evaluations,
            "steps": settings.steps,
            "evaluated_steps": outcome.evaluated_steps,
            "prompt": batch.prompts[i],
            "prompt_index": batch.indices[i],
            "seed": batch.seeds[i],
            **values,
            "judge": judged[i],
            "seconds": outcome.seconds / count,
            "speedup": truth.seconds / outcome.seconds,
            "cached_bytes": outcome.cached_bytes // count,
            **shared,
        }


def _judge(model: Model, images: Tensor, prompts: list[str]) -> list[dict[str, bool] | None]:
    if model.judge is None:
        return [None] * len(prompts)
    seen = model.judge.read(images)
    verdicts: list[dict[str, bool] | None] = []
    for i, prompt in enumerate(prompts):
        asked = read_caption(prompt)
        verdicts.append({name: int(seen[name][i]) == index for name, index in asked.items()} if asked else None)
    return verdicts
