"""One trajectory in progress, and what is reported of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipcast.controllers import StaticController
from skipcast.grid import TimeGrid
from skipcast.methods.base import Method
from skipcast.pipelines.branches import Branch, Branches
from skipcast.pipelines.hooks import HOOK, Registered, check_no_other_cache
from skipcast.pipelines.steps import Clock
from skipcast.plans.plan import Plan
from skipcast.plans.propagation import grid_of
from skipcast.run import Run
from skipcast.samplers import Sampler

#: Below so many steps a warm-up is most of a run.
_FEW = 12
#: Errors that multiply by this along a run are warned of.
_GROWN = 3.0


@dataclass(frozen=True)
class Summary:
    """What the newest run did; counts are per branch, `shadow_*` compare forecasts with evaluations made anyway.

    `trusted` says of every sample of a plan's run whether it stayed where the plan was made; None without that check.
    `warnings` say what is likely not wanted.
    """

    method: str
    steps: int
    evaluated_steps: tuple[int, ...]
    forecasts: int
    branches: tuple[str, ...]
    forecast_error_mean: float | None
    forecast_error_worst: float | None
    seconds: float
    cached_bytes: int
    trusted: tuple[bool, ...] | None = None
    warnings: tuple[str, ...] = ()

    @property
    def evaluations(self) -> int:
        return len(self.evaluated_steps)

    def __str__(self) -> str:
        forecast = f", forecast {self.forecasts}" if self.forecasts else ""
        lines = [
            f"{self.method}: evaluated {self.evaluations} of {self.steps}{forecast}"
            f" (branches: {', '.join(self.branches)})",
            f"evaluated steps: {', '.join(map(str, self.evaluated_steps))}",
            f"{self.seconds:.2f} s in sampling, {self.cached_bytes / 1e6:.3f} MB remembered",
        ]
        if self.forecast_error_mean is not None and self.forecast_error_worst is not None:
            lines.append(
                "shadow error of forecasts at evaluated steps: "
                f"mean {self.forecast_error_mean:.2%}, worst {self.forecast_error_worst:.2%}"
            )
        if self.trusted is not None:
            lines.append(f"trusted: {sum(self.trusted)} of {len(self.trusted)} samples stayed in the recorded range")
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


@dataclass
class Acceleration:
    """Handle of an accelerated pipeline and of its newest trajectory.

    `runs` holds one run per branch, the one that decides. Targets that remember several values have further ones in
    `streams`, as "branch/value". `seconds` runs from set_timesteps to the newest denoiser call, without waiting for a
    GPU to finish. `errors` is filled by accelerate(diagnose=True): for every branch, the relative L2 error of the
    denoiser's output at each forecast step.
    """

    method: Method | Sampler | Plan
    label: str
    scheduler: Any = None
    runs: dict[str, Run] = field(default_factory=dict)
    streams: dict[str, Run] = field(default_factory=dict)
    errors: dict[str, dict[int, float]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    cached_bytes: int = 0

    def all_runs(self) -> list[Run]:
        """Every history of the newest trajectory."""
        return [*self.runs.values(), *self.streams.values()]

    def summary(self) -> Summary:
        """What the newest run did.

        Raises:
            RuntimeError: the pipeline has not been run yet.
        """
        if not self.calls:
            raise RuntimeError("nothing to summarise: run the pipeline inside the accelerate() context first.")
        runs = list(self.runs.values())
        traces = [record for run in self.all_runs() for record in run.trace]
        shadows = [float(record.forecast_error) for record in traces if record.forecast_error is not None]
        trace = runs[0].trace if runs else []
        count = max(self.calls.values())
        plan = self.method if isinstance(self.method, Plan) else None
        evaluated = plan.steps[-count:] if plan else tuple(range(count))  # a later begin leaves out the first ones
        steps = len(runs[0].grid) if runs else plan.origin.steps if plan else count
        return Summary(
            method=self.label,
            steps=steps,
            evaluated_steps=tuple(r.step for r in trace if r.evaluated) if runs else evaluated,
            forecasts=sum(not record.evaluated for record in trace),
            branches=tuple(self.calls),
            forecast_error_mean=float(np.mean(shadows)) if shadows else None,
            forecast_error_worst=max(shadows) if shadows else None,
            seconds=self.seconds,
            cached_bytes=self.cached_bytes,
            trusted=tuple(self.scheduler.trusted()) if plan and self.scheduler.checked else None,
            warnings=tuple(self._warnings(steps)) if runs else (),
        )

    def _warnings(self, steps: int) -> Iterator[str]:
        if self.without_effect:
            yield "the method had no effect: every step was evaluated"
        if steps < _FEW:
            yield f"{steps} steps leave little to forecast: consider a plan, or fewer steps"
        errors = [float(r.forecast_error) for r in next(iter(self.runs.values())).trace if r.forecast_error is not None]
        early, late = errors[: len(errors) // 2], errors[(len(errors) + 1) // 2 :]
        if len(early) < 2:
            return
        before, after = sum(early) / len(early), sum(late) / len(late)
        if after > max(_GROWN * before, 0.01):
            yield (
                f"the forecast error grew from {before:.2%} to {after:.2%} along the run: evaluate more often towards "
                "its end"
            )

    @property
    def without_effect(self) -> bool:
        """Whether the newest run evaluated every step so far, though its method was to forecast some."""
        return bool(self.runs) and not any(not r.evaluated for run in self.all_runs() for r in run.trace)


class Session:
    """Which run a denoiser call belongs to, and at which step it stands.

    The step comes from the scheduler; the branch from the pipeline's `cache_context`, or from the call itself. Its
    methods are kept from compilers: they are Python decisions, not tensor code.
    """

    def __init__(self, pipe: Any, scheduler: Any, acceleration: Acceleration) -> None:
        self.pipe, self.scheduler, self.acceleration = pipe, scheduler, acceleration
        self.clock, self.branch, self.branches = Clock(scheduler), Branch(), Branches()
        self.hooks: list[Registered] = []
        self.begun = 0.0
        self.grid: TimeGrid | None = None
        self._reached = False  # whether a denoiser was called in this run
        self._shapes: dict[str, Any] = {}  # of the samples that a branch is given
        self._owners: dict[str, object] = {}  # the denoiser that a branch's history comes from
        self._unfed: int | None = None  # the step at which what feeds the denoiser was left out

    def begin(self) -> None:
        """A run begins: whatever the previous one left behind is gone."""
        for hook in self.hooks:
            if hook.name == HOOK:
                check_no_other_cache(hook.module, ours=True)
            hook.ensure()
        acceleration = self.acceleration
        acceleration.runs, acceleration.streams, acceleration.calls, acceleration.errors = {}, {}, {}, {}
        acceleration.seconds, acceleration.cached_bytes = 0.0, 0
        self._shapes, self._reached = {}, False
        self.clock.begin()
        self.branches.begin()
        self.begun, self.grid, self._owners, self._unfed = time.perf_counter(), None, {}, None

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def position(self, time: Any) -> int:
        """The step that the scheduler is about to take, counted from where the run begins."""
        if self.pipe.scheduler is not self.scheduler:
            raise RuntimeError(
                "pipe.scheduler was replaced inside accelerate(); set the scheduler first, then accelerate."
            )
        if not self.clock.running:
            raise RuntimeError(
                "the denoiser was called before scheduler.set_timesteps(); run the accelerated pipeline itself, "
                "or leave the accelerate() context to use the denoiser elsewhere."
            )
        self._reached = True
        step = self.clock.step(time)
        if self.grid is None and isinstance(self.acceleration.method, Method):
            self.grid = grid_of(self.scheduler, self.clock.first(time))
        return step

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def key(self, step: int, given: Mapping[str, Any]) -> str:
        """The branch of this call."""
        return self.branches.name(step, given) if self.branch.name is None else self.branch.name

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def call(self, method: Method, key: str, step: int, sample: Tensor, owner: object = None) -> Call:
        """A denoiser call of a branch, and its run standing at `step`."""
        runs = self.acceleration.runs
        if key not in runs:
            leader = next(iter(runs.values()), None) if method.controller.shared else None
            runs[key] = self._new(method, leader)
        elif self._owners[key] is not owner:
            # Another expert takes over: what the previous one returned says nothing about this one.
            for run in (runs[key], *self._streams_of(key)):
                run.release()
        self._owners[key] = owner
        shape = sample.shape if isinstance(sample, Tensor) else [item.shape for item in sample]
        if self._shapes.setdefault(key, shape) != shape:
            raise ValueError(
                f"branch {key!r} was given samples of {self._shapes[key]} and now of {shape}: the batch or the "
                "resolution changed during the run, which its forecasts cannot follow; keep them, or give the calls "
                "of the changed batch another cache_context."
            )
        run = runs[key]
        if step >= len(run.grid):
            raise RuntimeError(
                f"the sampler's {len(run.grid)} steps are over; call the pipeline again for another run."
            )
        if step < run.step:
            raise RuntimeError(
                f"branch {key!r} was called again at step {step} of one run; "
                "a method needs one denoiser call per branch and step."
            )
        run.step = step  # a branch may sit out some steps, as under a guidance interval
        return Call(self, key, step, run, sample)

    def _new(self, method: Method, leader: Run | None = None, *, forecast_error: bool = True) -> Run:
        assert self.grid is not None
        return Run(method, self.grid, forecast_error=forecast_error, leader=leader)

    def _streams_of(self, key: str) -> list[Run]:
        return [run for name, run in self.acceleration.streams.items() if name.startswith(f"{key}/")]

    def stream(self, method: Method, key: str, step: int, *, forecast_error: bool = True) -> Run:
        """A further run of a branch, standing at `step`."""
        streams = self.acceleration.streams
        if key not in streams:
            streams[key] = self._new(method, forecast_error=forecast_error)
        streams[key].step = step
        return streams[key]

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def called(self, key: str) -> None:
        """Note that a denoiser call of a branch is done."""
        acceleration = self.acceleration
        acceleration.calls[key] = acceleration.calls.get(key, 0) + 1
        acceleration.seconds = time.perf_counter() - self.begun
        if isinstance(acceleration.method, Sampler):
            remembered = _sample_bytes(list(vars(self.scheduler).values()))
        elif isinstance(acceleration.method, Plan):
            remembered = self.scheduler.bytes()
        else:
            remembered = sum(run.bytes() for run in acceleration.all_runs())
        acceleration.cached_bytes = max(acceleration.cached_bytes, remembered)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forecasts_next(self, method: Method, timestep: Any) -> bool:
        """Whether every branch will be forecast at the coming step, so that what feeds the denoiser may be left out.

        Only for methods whose steps are known before.
        """
        runs = self.acceleration.runs.values()
        if not self.clock.running or not runs or not all(len(run.history) for run in runs):
            return False
        step = self.clock.step(timestep)
        assert isinstance(method.controller, StaticController)
        left_out = step not in method.controller.evaluated(len(next(iter(runs)).grid))
        self._unfed = step if left_out else None
        return left_out

    def check_fed(self, step: int) -> None:
        """Refuse an evaluation at a step at which what feeds the denoiser was left out."""
        if self._unfed == step:
            raise RuntimeError(
                f"a guidance branch begins at step {step}, at which the method forecasts and the ControlNet was left "
                "out; use a plan, or a method that evaluates there."
            )

    @property
    def idle(self) -> bool:
        """Whether a run began and no denoiser was called in it."""
        return self.clock.running and not self._reached

    def release(self) -> None:
        """Keep no tensor of any run."""
        for run in self.acceleration.all_runs():
            run.release()


@dataclass(frozen=True)
class Call:
    """One denoiser call of one branch: its step, its input sample, and the run that decides."""

    session: Session
    key: str
    step: int
    run: Run
    sample: Tensor

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def stream(self, name: str, method: Method, *, forecast_error: bool = True) -> Run:
        """A further run of this branch by name, standing at this step."""
        return self.session.stream(method, f"{self.key}/{name}", self.step, forecast_error=forecast_error)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def streams(self, names: list[str], method: Method) -> list[Run]:
        """Many of them."""
        return [self.session.stream(method, f"{self.key}/{name}", self.step) for name in names]


def _sample_bytes(value: Any) -> int:
    """Bytes of the batches of samples that a scheduler keeps, in lists too; its own grid is one-dimensional."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size() if value.ndim > 1 else 0
    return sum(map(_sample_bytes, value)) if isinstance(value, list | tuple) else 0
