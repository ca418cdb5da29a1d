"""What a worker does: a state prepared, a cell drawn and measured, operations counted, calls timed.

A worker is a function of its tasks: it reads and writes no file of the run, so that it may run anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from skipcast.bench import metrics
from skipcast.bench.calibrate import calibrate, count
from skipcast.bench.draw import Batch, Sample, draw
from skipcast.bench.grid import Cell, State, pairs, row_digest
from skipcast.bench.media import encoded, is_video, packed, sha256, unpacked
from skipcast.bench.metrics import METRICS, per_frame
from skipcast.bench.metrics.learned import Learned
from skipcast.bench.models import ModelSpec
from skipcast.bench.provenance import provenance
from skipcast.bench.records import options_of
from skipcast.bench.rows import CONVERGED_ROW, REFERENCE, Row, converged_row
from skipcast.bench.spec import JUDGE, USUAL, Settings, Spec, calibration_for, check_settings
from skipcast.bench.timing import taken, trace
from skipcast.grid import TimeGrid
from skipcast.methods import names
from skipcast.models.load import Model, load_model
from skipcast.parts import Method
from skipcast.pipelines.accelerate import accelerate
from skipcast.pipelines.calls import guided
from skipcast.pipelines.networks import scheduler_class
from skipcast.plans.plan import Plan
from skipcast.plans.propagation import grid_of
from skipcast.run import Run
from skipcast.samplers import Sampler


@dataclass(frozen=True)
class Prepare:
    """Load what a state needs, refuse what does not suit it, find thresholds."""

    state: State
    rows: Sequence[Row]

    def __str__(self) -> str:
        return self.state.label


@dataclass(frozen=True)
class Draw:
    """Draw the images of a cell and measure them against the samples of other cells, by the labels of their rows."""

    cell: Cell
    samples: Mapping[str, bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        return str(self.cell)


@dataclass(frozen=True)
class Count:
    """Count the floating-point operations of one call for one picture."""

    state: State
    row: Row

    def __str__(self) -> str:
        return f"operations of {self.row.label} ({self.state.label})"


@dataclass(frozen=True)
class Time:
    """Time all rows of a state on one image, interleaved."""

    state: State
    rows: Sequence[Row]

    def __str__(self) -> str:
        return f"timing ({self.state.label})"


@dataclass(frozen=True)
class Trace:
    """Compare every forecast of a row with the evaluation that it replaced."""

    state: State
    row: Row
    pairs: Batch

    def __str__(self) -> str:
        return f"step by step: {self.row.label}"


@dataclass(frozen=True)
class Agree:
    """Compare the converged run with one of half the steps."""

    state: State
    pairs: Batch
    sample: bytes

    def __str__(self) -> str:
        return "converged, half the steps"


Task: TypeAlias = Prepare | Draw | Count | Time | Trace | Agree


@dataclass(frozen=True)
class Result:
    """What a task came to: plain values to be kept as JSON, and of a cell its sample and its images as files."""

    values: dict[str, Any]
    sample: bytes | None = None
    pictures: tuple[bytes, ...] = ()


METRICS_WRONG = "metrics: "  # how an error begins that is of the metrics
CALIBRATED_TOGETHER = 8  # images that a threshold is found on; fewer in a small grid
_FIELDS = {"relative_l2": "latent_error"}  # what the records of a comparison call it
_AGAINST = ("", "_converged")


class Worker:
    """Does tasks one by one, with one pipeline in memory at a time.

    Args:
        spec: the grid.
        command: as it was typed, for the records.
        model: the one model of the grid where it is in memory already, else models are loaded.
    """

    def __init__(self, spec: Spec, command: str, model: Model | None = None) -> None:
        self.spec, self.command = spec, command
        torch.set_num_threads(spec.threads)
        self._model = model
        self._own: Any = model.pipe.scheduler if model else None  # the scheduler that the model came with
        self._loaded: tuple[Any, str] | None = (spec.models[0].identity, "") if model else None  # model and state
        self._settings = Settings()
        self._shared: dict[str, Any] = {}
        self._grid: TimeGrid | None = None  # of the state, once it was run

    def run(self, task: Task) -> Result:
        """Do one task.

        Raises:
            ValueError: it cannot be done, and why.
        """
        if isinstance(task, Prepare):
            return Result(self._prepare(self._in(task.state), task))
        if isinstance(task, Draw):
            return self._draw(self._in(task.cell.state), task)
        if isinstance(task, Count):
            return Result(self._count(self._in(task.state), task))
        if isinstance(task, Time):
            return Result(self._time(self._in(task.state), task))
        if isinstance(task, Trace):
            model = self._in(task.state)
            return Result(trace(model.pipe, task.row, task.pairs, self._settings, self._steps(model, task.state)))
        return Result(self._agree(self._in(task.state), task))

    def _in(self, state: State) -> Model:
        """The model, in this state."""
        identity = state.model.identity
        if self._model is None or self._loaded is None or self._loaded[0] != identity:
            self._model = self._loaded = None  # make room before the next one is loaded
            self._model = replace(_load(state.model), name=state.model.name)
            self._own = self._model.pipe.scheduler
            if state.model.revision != self._model.revision:
                raise ValueError(
                    f"the weights of {state.model.name} are {self._model.revision} where this worker is, and were "
                    f"{state.model.revision} when the sweep began: give all machines the same, or start again in "
                    "another folder if they changed."
                )
        model = self._model
        if self._loaded == (identity, state.digest):
            return model
        model.pipe.scheduler = _scheduler(self._own, state)
        given = self._call(model, state)
        self._settings = self.spec.settings(state.model, state.steps, given)
        shared = provenance(model, self._settings, self.command)
        shared["settings"].update(seed=self.spec.seed, threads=self.spec.threads, batch=self.spec.batch)
        config = {key: value for key, value in model.pipe.scheduler.config.items() if not key.startswith("_")}
        shared.update(
            scheduler={"label": state.scheduler.label, "class": type(model.pipe.scheduler).__name__, "config": config},
            guidance=state.guidance,
        )
        self._shared, self._loaded, self._grid = shared, (identity, state.digest), None
        return model

    def _call(self, model: Model, state: State) -> dict[str, Any]:
        given = {**model.call, **self.spec.call}
        if state.model.size is not None:
            given.update(height=state.model.size, width=state.model.size)
        if state.guidance is not None:
            given.update(guided(model.pipe, state.guidance))
        return given

    @cached_property
    def _learned(self) -> dict[str, Learned]:
        """The metrics that have weights, with them.

        Raises:
            ValueError: the weights are not on this machine.
        """
        device = "cuda" if torch.cuda.is_available() else "cpu"
        found = {each.name: each.metric.at(each.weights, device) for each in self.spec.learned}
        for metric in found.values():
            try:
                _ = metric.function  # builds it
            except RuntimeError as error:
                raise ValueError(f"{METRICS_WRONG}{error}") from error
        return found

    def _prepare(self, model: Model, task: Prepare) -> dict[str, Any]:
        _ = self._learned  # before anything is drawn
        pipe = model.pipe
        grid = self._steps(model, task.state)
        together = self._together(task.state)
        kept: dict[tuple[str, int], dict[str, Any]] = {}
        left = []
        for number, row in enumerate(task.rows):
            try:
                accelerate(pipe, row.method)  # checks scheduler and blocks, touches nothing
                if isinstance(row.method, Method):
                    Run(row.method, grid)
                if isinstance(row.method, Plan):
                    check_grid(row.method, grid)
                found = placed_row(model, row, together) if row.open else row
            except ValueError as error:
                if row.named:
                    raise ValueError(f"{row.label}: {error}") from error
                left.append(
                    {"name": row.name, "options": options_of(row.options), "budget": row.budget, "reason": str(error)}
                )
                continue
            basis = dict(found.calibrated_on) if found.calibrated_on else None
            kept[found.key] = {
                "number": number,
                "options": dict(found.options),
                "budget": found.budget,
                "calibrated_on": basis,
            }
        return {"rows": list(kept.values()), "left_out": left, "shared": self._shared}

    def _steps(self, model: Model, state: State) -> TimeGrid:
        """The steps of a state, which a pipeline sets when it runs."""
        if self._grid is None:
            draw(model.pipe, self._first(state), steps=self._settings.steps, call=self._settings.call)
            self._grid = grid_of(model.pipe.scheduler)
        return self._grid

    def _together(self, state: State) -> Settings:
        """What thresholds are found with: calls of as many images as are compared, for a call decides as one.

        One image alone says too little of others, so that single ones are decided by what suits a few.
        """
        if self.spec.batch == 1:
            return replace(self._settings, batch=CALIBRATED_TOGETHER, seeds=CALIBRATED_TOGETHER)
        return self._settings

    def _first(self, state: State) -> Batch:
        return (next(pairs(self.spec, state.model)),)

    def _draw(self, model: Model, task: Draw) -> Result:
        started = time.perf_counter()
        cell, settings = task.cell, self._settings
        row, batch = cell.row, cell.pairs
        converged, reference = row.label == CONVERGED_ROW, row.label == REFERENCE
        steps = self.spec.converged_steps if converged else settings.steps
        try:
            made = draw(model.pipe, batch, None if reference else row.method, steps=steps, call=settings.call)
        except ValueError as error:
            if row.named:
                raise
            return Result({"left_out": str(error), "timing": {}})
        drawn = time.perf_counter() - started
        # A batch may come with its channels last, and metrics would see other strides than those of a sample.
        made = replace(made, images=made.images.contiguous(), latents=made.latents.contiguous())
        others = {label: unpacked(label, content) for label, content in task.samples.items()}
        truth = made if reference else others.get(REFERENCE)
        exact = others.get(CONVERGED_ROW)
        values: dict[str, Any] = {"records": [], "picture_bytes": None}
        measured = 0.0
        files: tuple[bytes, ...] = ()
        if truth is not None:  # the converged run is measured against nothing, and is no row
            began = time.perf_counter()
            values["records"] = list(records_of(row, made, truth, exact, batch, model, settings, {}, self.spec.metrics))
            self._add_learned(values["records"], made, None if truth is made else truth, exact)
            measured = time.perf_counter() - began
            self._describe(values["records"], made)
            if self.spec.pictures:
                files = tuple(encoded(image, self.spec.fps) for image in made.images)
                values["picture_bytes"] = [len(file) for file in files]
        kept = converged or reference or self.spec.keep_samples
        sample = packed(made) if kept else None
        values["timing"] = {
            "cell_pictures": len(batch),
            "generation_seconds": drawn,
            "metrics_seconds": measured,
            "cell_seconds": time.perf_counter() - started,
        }
        return Result(values, sample, files)

    def _add_learned(
        self, records: list[dict[str, Any]], made: Sample, truth: Sample | None, exact: Sample | None
    ) -> None:
        """Add the metrics with weights of their own."""
        prompts = [record["prompt"] for record in records]
        for name, metric in self._learned.items():
            if metric.against == "prompts":
                pairs: dict[str, Any] = {name: prompts}
            else:
                pairs = {name + suffix: other for suffix, other in zip(_AGAINST, (truth, exact), strict=True)}
            for key, other in pairs.items():
                b = other.images if isinstance(other, Sample) else other
                column = [None] * len(records) if b is None else metric(made.images, b).tolist()
                for record, value in zip(records, column, strict=True):
                    record[key] = value

    def _describe(self, records: list[dict[str, Any]], made: Sample) -> None:
        """What a record keeps besides its metrics, and what it must not keep."""
        for record, image, latent in zip(records, made.images, made.latents, strict=True):
            for key in ("seconds", "speedup", "prompt_index"):  # of one moment, or of the whole grid
                del record[key]
            record.update({key: self._shared[key] for key in ("versions", "commit", "hardware")})
            record.update(image_sha256=sha256(image), latents_sha256=sha256(latent))
            if is_video(made.images):
                record.update(frames=len(image), fps=self.spec.fps)

    def _count(self, model: Model, task: Count) -> dict[str, Any]:
        """Operations of a whole call, counted where attention is made of products that the counter knows."""
        method = None if task.row.label == REFERENCE else task.row.method
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            draw(model.pipe, self._first(task.state), method, steps=self._settings.steps, call=self._settings.call)
        return {"flops": counter.get_total_flops()}

    def _agree(self, model: Model, task: Agree) -> dict[str, Any]:
        half = converged_row(self.spec.converged_steps // 2).method
        made = draw(model.pipe, task.pairs, half, steps=self.spec.converged_steps, call=self._settings.call)
        agreement = score("psnr", made, unpacked(CONVERGED_ROW, task.sample)).mean().item()
        return {"converged_agreement_db": round(agreement, 1)}

    def _time(self, model: Model, task: Time) -> dict[str, Any]:
        rows = {row_digest(task.state, row): None if row.label == REFERENCE else row.method for row in task.rows}
        return {"rows": taken(model.pipe, rows, self._first(task.state), self._settings, self.spec.repeats)}


def field_of(metric: str) -> str:
    """What the records call a metric."""
    return _FIELDS.get(metric, metric)


def _load(model: ModelSpec) -> Model:
    dtype = getattr(torch, model.dtype) if model.dtype else None
    return load_model(model.source, dtype, revision=model.revision if model.hub else None)


def _scheduler(own: Any, state: State) -> Any:
    """A fresh scheduler for a state.

    Raises:
        ValueError: it has no such setting.
    """
    spec = state.scheduler
    chosen: Any = scheduler_class(spec.class_name) if spec.class_name else type(own)
    check_settings(chosen.__name__, spec.changes)
    return chosen.from_config(own.config, **spec.changes)


def check_grid(plan: Plan, grid: TimeGrid) -> None:
    """Refuse a plan whose steps lie elsewhere, as for images of another size under a shift that follows the size.

    Raises:
        ValueError: says where they begin to differ.
    """
    apart = np.abs(plan.timesteps - grid.timestep) > 1e-5 * np.abs(grid.timestep).max()
    if apart.any():
        i = int(apart.argmax())
        raise ValueError(
            f"the plan was made for other timesteps: step {i} is at {plan.timesteps[i]:.4g}, here at "
            f"{grid.timestep[i]:.4g}; use it with the scheduler and the size of pictures that were recorded."
        )


def placed_row(model: Model, row: Row, settings: Settings) -> Row:
    """A row that decides by values, with the threshold that reaches its budget, or with the budget that it reaches.

    Raises:
        ValueError: no threshold reaches the budget.
    """
    pairs = calibration_for(model, settings)
    given: dict[str, Any] = {"pairs": pairs, "steps": settings.steps, "call": settings.call}
    if row.threshold is None:
        return replace(row, budget=round(count(model.pipe, row.method, **given)))
    options = calibrate(model.pipe, row.name, row.options, row.budget, **given)
    prompts, seeds = {pair.prompt for pair in pairs}, {pair.seed for pair in pairs}
    basis = {"threshold": row.threshold, "images": len(pairs), "prompts": len(prompts), "seeds": len(seeds)}
    method = names.made(row.name, options)
    return replace(row, options=options, method=method, threshold=None, calibrated_on=basis)


def records_of(
    row: Row,
    made: Sample,
    truth: Sample,
    exact: Sample | None,
    batch: Batch,
    model: Model,
    settings: Settings,
    shared: dict[str, Any],
    requested: Sequence[str] = USUAL,
) -> Iterator[dict[str, Any]]:
    """The record of every image of a batch, with the metrics that were requested."""
    count = len(batch)
    is_reference = made is truth
    absent: list[float | None] = [None] * count
    against = {"": None if is_reference else truth, "_converged": exact}
    scores: dict[str, Sequence[Any]] = {}
    for suffix, other in against.items():
        for metric in (metric for metric in requested if metric != JUDGE):
            scores[field_of(metric) + suffix] = score(metric, made, other).tolist() if other else absent
    if JUDGE in requested:
        prompts = [str(pair.prompt) for pair in batch]
        scores[JUDGE] = metrics.verdicts(model.judge, made.images, prompts) if model.judge else absent
    entry = names.REGISTRY.get(row.name)
    kind = REFERENCE if is_reference else _kind(row.method)
    for i, pair in enumerate(batch):
        values = {name: column[i] for name, column in scores.items()}
        yield {
            "method": row.label,
            "name": row.name,
            "options": options_of(row.options),
            "repr": "the unaccelerated run" if is_reference else repr(row.method),
            "parts": _parts(row.method),
            "kind": kind,
            "paper": entry.paper if entry else None,
            "budget": row.budget,
            "evaluations": made.evaluations,
            "steps": settings.steps,
            "evaluated_steps": made.evaluated_steps,
            "data_driven": row.data_driven,
            "decided_with": count if row.data_driven else None,  # images that shared every decision
            "calibrated_on": row.calibrated_on,
            **_promise(row.method),
            "prompt": pair.prompt,
            "prompt_index": pair.index,
            "seed": pair.seed,
            **values,
            "seconds": made.seconds / count,
            "speedup": truth.seconds / made.seconds,
            "cached_bytes": made.cached_bytes // count,
            **shared,
        }


def _kind(method: Method | Sampler | Plan) -> str:
    if isinstance(method, Plan):
        return "plan"
    return "sampler" if isinstance(method, Sampler) else "forecast"


def _promise(method: Method | Sampler | Plan) -> dict[str, Any]:
    """What a plan is expected to reach, and against which reference."""
    if not isinstance(method, Plan):
        return {}
    predicted = method.predicted and asdict(method.predicted)
    return {"predicted": predicted, "planned_for": method.origin.reference, "plan_revision": method.origin.revision}


def _parts(method: Method | Sampler | Plan) -> dict[str, str] | None:
    """The parts of a method, for tables that vary one of them."""
    if not isinstance(method, Method):
        return None
    return {name: repr(getattr(method, name)) for name in ("forecaster", "controller", "coordinate", "target")}


def score(metric: str, made: Sample, other: Sample) -> Tensor:
    """A metric of METRICS per image or video, (B,) float64; one of images is the mean over the frames of a video.

    Raises:
        ValueError: it does not suit what was drawn.
    """
    function, _, takes = METRICS[metric]
    if metric == "relative_l2":
        return function(made.latents, other.latents)
    if takes == "images" and made.images.ndim == 5:
        return per_frame(function, made.images, other.images).mean(dim=1)
    return function(made.images, other.images)
