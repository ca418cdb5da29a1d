"""What a worker does: rows prepared, images drawn and measured, operations counted, forecasts compared, calls timed.

A worker is a function of its pieces of work: it reads and writes no file of the run, so that it may run anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from skipcast.bench import metrics
from skipcast.bench.calibrate import calibrate, count
from skipcast.bench.draw import How, Sample, draw
from skipcast.bench.grid import AGREEMENTS, CELLS, COUNTS, PREPARED, TIMINGS, TRACES, Piece, State, pairs, row_digest
from skipcast.bench.media import encoded, is_video, packed, sha256, unpacked
from skipcast.bench.metrics import METRICS, per_frame
from skipcast.bench.metrics.learned import Learned
from skipcast.bench.models import ModelSpec
from skipcast.bench.provenance import commit, hardware, versions
from skipcast.bench.records import options_of
from skipcast.bench.rows import CONVERGED_ROW, REFERENCE, Row
from skipcast.bench.spec import JUDGE, Spec, check_settings
from skipcast.bench.timing import taken, trace
from skipcast.grid import TimeGrid
from skipcast.methods import names
from skipcast.models.load import Model, load_model
from skipcast.parts import Method
from skipcast.pipelines.accelerate import accelerate
from skipcast.pipelines.calls import guided, plan_of_call
from skipcast.pipelines.networks import scheduler_class
from skipcast.plans.plan import Plan
from skipcast.plans.propagation import grid_of
from skipcast.run import Run
from skipcast.samplers import Sampler

METRICS_WRONG = "metrics: "  # how an error begins that is of the metrics
_FIELDS = {"relative_l2": "latent_error"}  # what the records of a comparison call it
_AGAINST = ("", "_converged")


@dataclass(frozen=True)
class Result:
    """What a piece of work came to: plain values to be kept as JSON, and of a cell its sample and its images."""

    values: dict[str, Any]
    sample: bytes | None = None
    images: tuple[bytes, ...] = ()


class Worker:
    """Does pieces of work one by one, with one pipeline in memory at a time.

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
        self._loaded: ModelSpec | None = spec.models[0] if model else None
        self._state: State | None = None
        self._call: dict[str, Any] = {}
        self._shared: dict[str, Any] = {}  # what all records of the state have in common
        self._grid: TimeGrid | None = None  # of the state, once it was run

    def run(self, piece: Piece) -> Result:
        """Do a piece of work.

        Raises:
            ValueError: it cannot be done, and why.
        """
        does: dict[str, Callable[[Model, Piece], Result]] = {
            PREPARED: self._prepare,
            CELLS: self._draw,
            COUNTS: self._count,
            AGREEMENTS: self._agree,
            TRACES: self._trace,
            TIMINGS: self._time,
        }
        return does[piece.kind](self._in(piece.state), piece)

    def _in(self, state: State) -> Model:
        """The model, in this state."""
        if self._model is None or self._loaded is None or self._loaded.identity != state.model.identity:
            self._model = self._loaded = self._state = None  # make room before the next one is loaded
            self._model = _load(state.model)
            self._own, self._loaded = self._model.pipe.scheduler, state.model
        model = self._model
        if self._state == state:
            return model
        model.pipe.scheduler = _scheduler(self._own, state)
        self._call = {**model.call, **self.spec.call}
        if state.model.size is not None:
            self._call.update(height=state.model.size, width=state.model.size)
        if state.guidance is not None:
            self._call.update(guided(model.pipe, state.guidance))
        config = {key: value for key, value in model.pipe.scheduler.config.items() if not key.startswith("_")}
        self._shared = {
            "model": model.name,
            "revision": model.revision,
            "scheduler": {
                "label": state.scheduler.label,
                "class": type(model.pipe.scheduler).__name__,
                "config": config,
            },
            "guidance": state.guidance,
            "settings": {
                "steps": state.steps,
                **{key: getattr(self.spec, key) for key in ("converged_steps", "seed", "seeds", "batch", "threads")},
                "dtype": str(model.pipe.dtype).removeprefix("torch."),
                **{key: value for key, value in self._call.items() if isinstance(value, int | float | str)},
            },
            "versions": versions(),
            "commit": commit(),
            "hardware": hardware(model.pipe.device),
            "command": self.command,
        }
        self._state, self._grid = state, None
        return model

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

    def _prepare(self, model: Model, piece: Piece) -> Result:
        """Refuse what does not suit the model, find thresholds."""
        _ = self._learned  # before anything is drawn
        if self._grid is None:  # a pipeline sets its steps when it runs
            self._drawn(model, pairs(self.spec, piece.state.model)[:1], None)
            self._grid = grid_of(model.pipe.scheduler)
        found: list[dict[str, Any]] = []
        for row in piece.rows:
            try:
                accelerate(model.pipe, row.method)  # checks scheduler and blocks, touches nothing
                if isinstance(row.method, Method):
                    Run(row.method, self._grid)
                if isinstance(row.method, Plan):
                    check_grid(row.method, self._grid)
                    plan_of_call(model.pipe, row.method, self._call)  # refuses a scale outside its knots
                placed = self._placed(model, row) if row.open else row
            except ValueError as error:
                if row.named:
                    raise ValueError(f"{row.label}: {error}") from error
                found.append({"reason": str(error)})
                continue
            basis = dict(placed.calibrated_on) if placed.calibrated_on else None
            found.append({"options": dict(placed.options), "budget": placed.budget, "calibrated_on": basis})
        return Result({"rows": found, "shared": self._shared})

    def _placed(self, model: Model, row: Row) -> Row:
        """A row that decides by values, with the threshold that reaches its budget, or the budget that it reaches.

        Raises:
            ValueError: no threshold reaches the budget.
        """
        assert self._state is not None
        batch = self.spec.calibration_pairs(self._state.model)
        given: dict[str, Any] = {"pairs": batch, "steps": self._state.steps, "call": self._call}
        if row.threshold is None:
            return replace(row, budget=round(count(model.pipe, row.method, **given)))
        family = self._state.model.family
        options = calibrate(model.pipe, row.name, row.options, row.budget, **given, family=family)
        prompts, seeds = {pair.prompt for pair in batch}, {pair.seed for pair in batch}
        basis = {"threshold": row.threshold, "images": len(batch), "prompts": len(prompts), "seeds": len(seeds)}
        method = names.made(row.name, options, family)
        return replace(row, options=options, method=method, threshold=None, calibrated_on=basis)

    def _drawn(self, model: Model, batch: Sequence[Any], method: How, steps: int | None = None) -> Sample:
        assert self._state is not None
        return draw(model.pipe, batch, method, steps=steps or self._state.steps, call=self._call)

    def _draw(self, model: Model, piece: Piece) -> Result:
        """Draw the images of a cell and measure them against the samples of other cells."""
        started = time.perf_counter()
        row, batch = piece.row, piece.pairs
        converged, reference = row.label == CONVERGED_ROW, row.label == REFERENCE
        steps = self.spec.converged_steps if converged else None
        try:
            made = self._drawn(model, batch, None if reference else row.method, steps)
        except ValueError as error:
            if row.named:
                raise
            return Result({"left_out": str(error), "timing": {}})
        drawn = time.perf_counter()
        # A batch may come with its channels last, and metrics would see other strides than those of a sample.
        made = replace(made, images=made.images.contiguous(), latents=made.latents.contiguous())
        others = {label: unpacked(label, content) for label, content in piece.samples.items()}
        records: list[dict[str, Any]] = []
        files: tuple[bytes, ...] = ()
        measured = drawn
        if not converged:  # that run is measured against nothing, and is no row
            scores = self._scores(model, made, others, [str(pair.prompt) for pair in batch])
            measured = time.perf_counter()
            records = self._records(model, piece, made, scores)
            if self.spec.images:
                files = tuple(encoded(image, self.spec.fps) for image in made.images)
        sample = packed(made) if converged or reference or self.spec.samples == "all" else None
        timing = {
            "cell_images": len(batch),
            "generation_seconds": drawn - started,
            "metrics_seconds": measured - drawn,
            "cell_seconds": time.perf_counter() - started,
        }
        sizes = [len(file) for file in files] or None
        return Result({"records": records, "image_bytes": sizes, "timing": timing}, sample, files)

    def _scores(
        self, model: Model, made: Sample, others: Mapping[str, Sample], prompts: Sequence[str]
    ) -> dict[str, Sequence[Any]]:
        """Every metric that is requested, one value per image: to the unaccelerated run and to the converged one."""
        absent: list[Any] = [None] * len(prompts)
        found: dict[str, Sequence[Any]] = {}
        for suffix, label in zip(_AGAINST, (REFERENCE, CONVERGED_ROW), strict=True):
            other = others.get(label)
            for name in self.spec.metrics:
                if name != JUDGE:
                    found[field_of(name) + suffix] = score(name, made, other).tolist() if other else absent
            for name, metric in self._learned.items():
                if metric.against != "prompts":
                    found[name + suffix] = metric(made.images, other.images).tolist() if other else absent
        for name, metric in self._learned.items():
            if metric.against == "prompts":
                found[name] = metric(made.images, prompts).tolist()
        if JUDGE in self.spec.metrics:
            found[JUDGE] = metrics.verdicts(model.judge, made.images, prompts) if model.judge else absent
        return found

    def _records(
        self, model: Model, piece: Piece, made: Sample, scores: Mapping[str, Sequence[Any]]
    ) -> list[dict[str, Any]]:
        """The record of every image of a cell, but for what is of the whole run."""
        row, method, size = piece.row, piece.row.method, len(piece.pairs)
        reference = row.label == REFERENCE
        entry = names.REGISTRY.get(row.name)
        plan: dict[str, Any] = {}
        if isinstance(method, Plan):
            here = plan_of_call(model.pipe, method, self._call)
            predicted, origin = here.predicted and asdict(here.predicted), here.origin
            plan = {"predicted": predicted, "planned_for": origin.reference, "plan_revision": origin.revision}
        parts = ("forecaster", "controller", "coordinate", "target")
        fixed = {
            "method": row.label,
            "name": row.name,
            "options": options_of(row.options),
            "repr": "the unaccelerated run" if reference else repr(method),
            "parts": {name: repr(getattr(method, name)) for name in parts} if isinstance(method, Method) else None,
            "kind": REFERENCE if reference else _kind(method),
            "paper": entry.paper if entry else None,
            "budget": row.budget,
            "evaluations": made.evaluations,
            "steps": piece.state.steps,
            "evaluated_steps": made.evaluated_steps,
            "data_driven": row.data_driven,
            "decided_with": size if row.data_driven else None,  # images that shared every decision
            "calibrated_on": row.calibrated_on,
            **plan,
            "cached_bytes": made.cached_bytes // size,
            **{key: self._shared[key] for key in ("versions", "commit", "hardware")},
        }
        found = []
        for i, (pair, image, latents) in enumerate(zip(piece.pairs, made.images, made.latents, strict=True)):
            own = {name: column[i] for name, column in scores.items()}
            sums = {"image_sha256": sha256(image), "latents_sha256": sha256(latents)}
            video = {"frames": len(image), "fps": self.spec.fps} if is_video(made.images) else {}
            found.append({**fixed, "prompt": pair.prompt, "seed": pair.seed, **own, **sums, **video})
        return found

    def _count(self, model: Model, piece: Piece) -> Result:
        """Operations of a call for one image, counted where attention is made of products that the counter knows."""
        method = None if piece.row.label == REFERENCE else piece.row.method
        try:
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                self._drawn(model, piece.pairs, method)
        except ValueError:
            if piece.row.named:
                raise
            return Result({"flops": None})  # its cells say why it is left out
        return Result({"flops": counter.get_total_flops()})

    def _agree(self, model: Model, piece: Piece) -> Result:
        """How far the converged run still moves when its steps are halved."""
        made = self._drawn(model, piece.pairs, piece.row.method, self.spec.converged_steps)
        agreement = score("psnr", made, unpacked(CONVERGED_ROW, piece.samples[CONVERGED_ROW])).mean().item()
        return Result({"converged_agreement_db": round(agreement, 1)})

    def _trace(self, model: Model, piece: Piece) -> Result:
        return Result(trace(model.pipe, piece.row, piece.pairs, piece.state.steps, self._call))

    def _time(self, model: Model, piece: Piece) -> Result:
        """Times of all rows on one image, in turns."""
        rows = {row_digest(piece.state, row): None if row.label == REFERENCE else row.method for row in piece.rows}
        given: dict[str, Any] = {"steps": piece.state.steps, "call": self._call}
        return Result({"rows": taken(model.pipe, rows, piece.pairs, self.spec.timing.repeats, **given)})


def field_of(metric: str) -> str:
    """What the records call a metric."""
    return _FIELDS.get(metric, metric)


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
            f"{grid.timestep[i]:.4g}; use it with the scheduler and the size of images that were recorded."
        )


def _load(model: ModelSpec) -> Model:
    dtype = getattr(torch, model.dtype) if model.dtype else None
    revision = model.revision if model.hub else None
    found = load_model(model.source, dtype, offload=model.offload, revision=revision)
    if model.revision != found.revision:
        raise ValueError(
            f"the weights of {model.name} are {found.revision} where this worker is, and were {model.revision} when "
            "the run began: give all machines the same, or start again in another folder if they changed."
        )
    return replace(found, name=model.name)


def _scheduler(own: Any, state: State) -> Any:
    """A fresh scheduler for a state.

    Raises:
        ValueError: it has no such setting.
    """
    spec = state.scheduler
    chosen: Any = scheduler_class(spec.class_name) if spec.class_name else type(own)
    check_settings(chosen.__name__, spec.changes)
    return chosen.from_config(own.config, **spec.changes)


def _kind(method: Method | Sampler | Plan) -> str:
    if isinstance(method, Plan):
        return "plan"
    return "sampler" if isinstance(method, Sampler) else "forecast"
