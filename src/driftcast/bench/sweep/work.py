"""What a worker does: a state prepared, a cell drawn and measured, operations counted, calls timed.

A worker is a function of its tasks: it reads and writes no file of the sweep, so that it may run anywhere.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from driftcast.backends.calls import guided
from driftcast.backends.denoisers import denoisers
from driftcast.backends.diffusers import accelerate
from driftcast.backends.kinds import scheduler_class
from driftcast.bench.candidates import Candidate
from driftcast.bench.compare import REFERENCE, check_grid, placed_row, records_of
from driftcast.bench.metrics import METRICS
from driftcast.bench.provenance import provenance
from driftcast.bench.rounds import Batch, Outcome, arguments, call, outcome
from driftcast.bench.settings import Settings
from driftcast.bench.sweep.cells import CONVERGED_ROW, Cell, State, pictures, row_digest
from driftcast.bench.sweep.spec import JUDGE, Spec, check_settings
from driftcast.method import Method
from driftcast.planning.levels import grid_of
from driftcast.planning.plan import Plan
from driftcast.reference.load import Model, load_model
from driftcast.run import Run

CALIBRATED_TOGETHER = 8  # pictures that a threshold is found on; fewer in a small grid
_FIELDS = {"relative_l2": "latent_error"}  # what the records of a comparison call it
_ON_LATENTS = ("relative_l2",)
_AGAINST = ("", "_converged")


@dataclass(frozen=True)
class Prepare:
    """Load what a state needs, refuse what does not suit it, find thresholds."""

    state: State
    rows: Sequence[Candidate]

    def __str__(self) -> str:
        return self.state.label


@dataclass(frozen=True)
class Draw:
    """Draw a cell and measure it against the samples of other cells, by the labels of their rows."""

    cell: Cell
    samples: Mapping[str, bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        return str(self.cell)


@dataclass(frozen=True)
class Count:
    """Count the floating-point operations of one call."""

    state: State
    row: Candidate

    def __str__(self) -> str:
        return f"operations of {self.row.label} ({self.state.label})"


@dataclass(frozen=True)
class Time:
    """Time all rows of a state, interleaved."""

    state: State
    rows: Sequence[Candidate]

    def __str__(self) -> str:
        return f"timing ({self.state.label})"


Task: TypeAlias = Prepare | Draw | Count | Time


@dataclass(frozen=True)
class Result:
    """What a task came to: plain values to be kept as JSON, and the sample of a cell."""

    values: dict[str, Any]
    sample: bytes | None = None


class Worker:
    """Does tasks one by one, with one pipeline in memory at a time.

    Args:
        spec: the grid.
        command: how it was asked for, for the records.
    """

    def __init__(self, spec: Spec, command: str) -> None:
        self.spec, self.command = spec, command
        torch.set_num_threads(spec.threads)
        self._model: Model | None = None
        self._own: Any = None  # the scheduler that the model came with
        self._held: tuple[Any, str] | None = None  # model and state
        self._settings = Settings()
        self._shared: dict[str, Any] = {}

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
        return Result(self._time(self._in(task.state), task))

    def _in(self, state: State) -> Model:
        """The model, in this state."""
        identity = state.model.identity
        if self._model is None or self._held is None or self._held[0] != identity:
            self._model = self._held = None  # make room before the next one is loaded
            dtype = getattr(torch, state.model.dtype) if state.model.dtype else None
            self._model = replace(load_model(state.model.source, dtype), name=state.model.name)
            self._own = self._model.pipe.scheduler
            if state.model.revision not in (None, self._model.revision):
                raise ValueError(
                    f"the weights of {state.model.name} changed while the sweep ran: {state.model.revision} became "
                    f"{self._model.revision}; start again in another folder."
                )
        model = self._model
        if self._held == (identity, state.digest):
            return model
        model.pipe.scheduler = _scheduler(self._own, state)
        given = self._call(model, state)
        self._settings = self.spec.settings(state.model, state.steps, given)
        shared = provenance(model, self._settings, len(self._settings.prompts), self.command)
        del shared["settings"]["first_seed"]  # seeds follow from the run's
        shared["settings"].update(seed=self.spec.seed, threads=self.spec.threads)
        config = {key: value for key, value in model.pipe.scheduler.config.items() if not key.startswith("_")}
        shared.update(
            scheduler={"label": state.scheduler.label, "class": type(model.pipe.scheduler).__name__, "config": config},
            guidance=state.guidance,
        )
        self._shared, self._held = shared, (identity, state.digest)
        return model

    def _call(self, model: Model, state: State) -> dict[str, Any]:
        given = {**model.call, **self.spec.call}
        if state.model.size is not None:
            given.update(height=state.model.size, width=state.model.size)
        if state.guidance is not None:
            given.update(guided(model.pipe, state.guidance))
        return given

    def _prepare(self, model: Model, task: Prepare) -> dict[str, Any]:
        pipe, settings = model.pipe, self._settings
        first = self._first(task.state)
        call(pipe, first, settings, settings.steps)
        grid = grid_of(pipe.scheduler)
        together = replace(settings, batch=CALIBRATED_TOGETHER)
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
                left.append({"label": row.label, "budget": row.budget, "reason": str(error)})
                continue
            told = dict(found.calibrated_on) if found.calibrated_on else None
            # Two thresholds that turn out alike are one row.
            kept[found.key] = {"number": number, "label": found.label, "budget": found.budget, "calibrated_on": told}
        return {"rows": list(kept.values()), "left_out": left, "shared": self._shared}

    def _first(self, state: State) -> Batch:
        picture = next(pictures(self.spec, state.model))
        return Batch([picture.prompt], [picture.index], [picture.seed])

    def _draw(self, model: Model, task: Draw) -> Result:
        started = time.perf_counter()
        cell, settings = task.cell, self._settings
        row, picture = cell.row, cell.picture
        batch = Batch([picture.prompt], [picture.index], [picture.seed])
        converged, reference = row.label == CONVERGED_ROW, row.label == REFERENCE
        steps = self.spec.converged_steps if converged else settings.steps
        try:
            made = outcome(model.pipe, batch, settings, None if reference else row.method, steps)
        except ValueError as error:
            if row.named:
                raise
            return Result({"left_out": str(error), "timing": {}})
        drawn = time.perf_counter() - started
        others = {label: _outcome(label, content) for label, content in task.samples.items()}
        truth = made if reference or converged else others[REFERENCE]
        exact = others.get(CONVERGED_ROW)
        (record,) = records_of(row, made, truth, exact, batch, model, settings, {})
        self._choose(record, made, None if truth is made else truth, exact)
        for key in ("seconds", "speedup", "prompt_index"):  # of one moment, or of the whole grid
            del record[key]
        record.update({key: self._shared[key] for key in ("versions", "commit", "hardware")})
        record.update(image_sha256=_sha(made.images), latents_sha256=_sha(made.latents))
        kept = converged or reference or self.spec.keep_samples
        sample = save_tensors({"images": made.images, "latents": made.latents}) if kept else None
        timing = {"generation_seconds": drawn, "cell_seconds": time.perf_counter() - started}
        return Result({"record": record, "timing": timing}, sample)

    def _choose(self, record: dict[str, Any], made: Outcome, truth: Outcome | None, exact: Outcome | None) -> None:
        """The metrics that were asked for; `records_of` gives the usual ones."""
        asked = self.spec.metrics
        for name, metric in METRICS.items():
            for suffix, other in zip(_AGAINST, (truth, exact), strict=True):
                key = field_of(name) + suffix
                if name not in asked:
                    record.pop(key, None)
                elif key not in record:
                    kind = "latents" if name in _ON_LATENTS else "images"
                    pair = other and (getattr(made, kind), getattr(other, kind))
                    record[key] = metric.function(*pair).item() if pair else None
        if JUDGE not in asked:
            del record[JUDGE]

    def _count(self, model: Model, task: Count) -> dict[str, Any]:
        """Operations of a whole call, counted where attention is made of products that the counter knows."""
        method = None if task.row.label == REFERENCE else task.row.method
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            outcome(model.pipe, self._first(task.state), self._settings, method, self._settings.steps)
        return {"flops": counter.get_total_flops()}

    def _time(self, model: Model, task: Time) -> dict[str, Any]:
        """Seconds of the loop and of the call: everybody once to warm up, then in turn, nobody always first."""
        batch, rows = self._first(task.state), list(task.rows)
        taken: dict[str, dict[str, Any]] = {
            row_digest(task.state, row): {"call": [], "loop": [], "peak_bytes": None} for row in rows
        }
        for number in range(self.spec.repeats + 1):
            turn = number % len(rows)
            for row in rows[turn:] + rows[:turn]:
                call_seconds, loop_seconds, peak = self._timed(model.pipe, batch, row)
                if number:
                    times = taken[row_digest(task.state, row)]
                    times["call"].append(call_seconds)
                    times["loop"].append(loop_seconds)
                    times["peak_bytes"] = max(peak, times["peak_bytes"] or 0) if peak is not None else None
        return {"rows": taken}

    def _timed(self, pipe: Any, batch: Batch, row: Candidate) -> tuple[float, float, int | None]:
        gpu = torch.cuda.is_available()
        moments: dict[str, float] = {}

        def begins(_module: Any, _args: Any) -> None:
            if "begin" not in moments:
                moments["begin"] = _now()

        def ends(_pipe: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            if step + 1 >= _pipe.num_timesteps:  # to wait at every step would slow a GPU down
                moments["end"] = _now()
            return values

        given = arguments(self._settings.call, batch.prompts, batch.seeds)
        given.update(num_inference_steps=self._settings.steps, output_type="pt", callback_on_step_end=ends)
        hooks = [module.register_forward_pre_hook(begins) for module in denoisers(pipe)]
        try:
            if gpu:
                torch.cuda.reset_peak_memory_stats()
            started = _now()
            if row.label == REFERENCE:
                pipe(**given)
            else:
                with accelerate(pipe, row.method):
                    pipe(**given)
            seconds = _now() - started
        finally:
            for hook in hooks:
                hook.remove()
        peak = torch.cuda.max_memory_allocated() if gpu else None
        return seconds, moments["end"] - moments["begin"], peak


def field_of(metric: str) -> str:
    """What the records call a metric."""
    return _FIELDS.get(metric, metric)


def check_sample(content: bytes) -> None:
    """Raises ValueError for what is no whole sample."""
    _outcome("sample", content)


def _outcome(label: str, content: bytes) -> Outcome:
    try:
        tensors = load_tensors(content)
        return Outcome(tensors["images"], tensors["latents"], float("nan"), 0, None, 0)
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"the {label} is no whole sample: {error}") from error


def _scheduler(own: Any, state: State) -> Any:
    """A fresh scheduler for a state.

    Raises:
        ValueError: it has no such setting.
    """
    asked = state.scheduler
    chosen: Any = scheduler_class(asked.class_name) if asked.class_name else type(own)
    check_settings(chosen.__name__, asked.changes)
    return chosen.from_config(own.config, **asked.changes)


def _sha(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
