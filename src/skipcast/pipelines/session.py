"""One trajectory in progress, and what is reported of it."""

from __future__ import annotations

import threading
import time
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from skipcast.controllers import StaticController
from skipcast.grid import TimeGrid
from skipcast.parts import Method
from skipcast.pipelines.branches import Branch, Branches
from skipcast.pipelines.hooks import Registered, check_no_other_cache
from skipcast.pipelines.steps import Clock, reference_to
from skipcast.pipelines.summary import Acceleration
from skipcast.plans.adaptive import AdaptivePlan
from skipcast.plans.plan import Plan
from skipcast.plans.propagation import grid_of
from skipcast.run import OVERFLOW, Run
from skipcast.samplers import Sampler


@torch.compiler.disable  # type: ignore[untyped-decorator]
def wants_evaluation(run: Run, probe: Tensor | None = None) -> bool:
    """`Run.wants_evaluation`, never traced: decisions are Python on numbers, not tensor code."""
    return run.wants_evaluation(None if probe is None else probe.detach())


@torch.compiler.disable  # type: ignore[untyped-decorator]
def observe(run: Run, x: Tensor, y: Tensor) -> Tensor:
    """`Run.observe`, never traced; returns y itself, or what a corrector made of it."""
    return run.observe(x, y)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def forecast(run: Run, x: Tensor) -> Tensor:
    """`Run.forecast`, never traced."""
    return run.forecast(x)


@dataclass
class _Told:
    """The timestep that the first call of a step was given, and the branches that were called with it."""

    step: int
    time: Any
    keys: set[str] = field(default_factory=set)


@dataclass
class _Trajectory:
    """What a session keeps of one trajectory; every `set_timesteps` begins a fresh one.

    Args:
        begun: when, in seconds of `time.perf_counter`.
        grid: the scheduler's steps from where the trajectory begins.
        reached: whether a denoiser was called in it.
        shapes: of the samples that each branch is given.
        owners: the denoiser that each branch's history comes from.
        unfed: the step at which what feeds the denoiser was left out.
        told: what the denoiser was told at the newest step.
        value: of the pipeline's attribute for the argument that a plan has knots over, at the first denoiser call.
    """

    begun: float = field(default_factory=time.perf_counter)
    grid: TimeGrid | None = None
    reached: bool = False
    shapes: dict[str, Any] = field(default_factory=dict)
    owners: dict[str, object] = field(default_factory=dict)
    unfed: int | None = None
    told: _Told | None = None
    value: Any = None


@dataclass(eq=False)
class _Mark:
    """One run, in the thread or task that it began in; it keeps no pipeline alive."""

    session: weakref.ref[Session]


#: The runs that began in this thread or task, the newest last; of those that are over, some may still stand here.
_MARKS: ContextVar[tuple[_Mark, ...]] = ContextVar("skipcast_runs", default=())


class Session:
    """Which run a denoiser call belongs to, and at which step it stands.

    Networks may be shared: a call is this session's if it is made in the thread or task of its run, which is a call of
    the pipeline, or a loop of the user's that begins with the scheduler's `set_timesteps` and ends with its last step.
    The step comes from the scheduler; the branch from the pipeline's `cache_context`, or from the call itself. Its
    methods are kept from compilers: they are Python decisions, not tensor code.
    """

    def __init__(self, pipe: Any, scheduler: Any, acceleration: Acceleration) -> None:
        self._owner = reference_to(pipe)  # networks, which hold the session by their hooks, may outlive it
        self.scheduler, self.acceleration = scheduler, acceleration
        self.clock, self.branch, self.branches = Clock(scheduler), Branch(), Branches()
        self.networks: list[nn.Module] = []  # the hooked ones, but for their parts
        self.hooks: list[Registered] = []
        self.trajectory = _Trajectory()
        self.mark: _Mark | None = None
        self._calling = threading.Lock()
        self._overlooked = False  # whether a network was called for somebody else

    @property
    def pipe(self) -> Any:
        """The pipeline, None once it is gone."""
        return self._owner()

    @contextmanager
    def leaving(self, *, midway: bool) -> Iterator[None]:
        """No call runs: one of another thread is waited for, and one of this thread is refused unless `midway`.

        Raises:
            RuntimeError: this is inside the call that would lose its scheduler.
        """
        if self in _running() and self._calling.locked():
            if not midway:
                raise RuntimeError(
                    f"this accelerated {type(self.pipe).__name__} is being called: restore it when the call is over, "
                    "for the rest of the run would have another scheduler."
                )
            yield
            return
        with self._calling:
            yield

    @contextmanager
    def calling(self) -> Iterator[None]:
        """A call of the pipeline, in one thread or task at a time; it may call itself."""
        if self in _running() and self._calling.locked():
            yield
            return
        if not self._calling.acquire(blocking=False):
            raise RuntimeError(_BUSY.format(type(self.pipe).__name__))
        token = self._marked()
        try:
            yield
        finally:
            self.mark = None
            _MARKS.reset(token)
            self._calling.release()

    def _marked(self) -> Token[tuple[_Mark, ...]]:
        self.mark = _Mark(weakref.ref(self))
        return _MARKS.set((*(mark for mark in _MARKS.get() if mark.session() not in (None, self)), self.mark))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def owns(self, network: nn.Module) -> bool:
        """Whether a call of a network that is made here and now belongs to this session's run."""
        sharing = [session for session in _running() if network in session.networks]
        mine = bool(sharing) and sharing[-1] is self
        self._overlooked |= not mine
        return mine

    def check_free(self) -> None:
        """Refuse to begin a run of a pipeline that another thread or task is running."""
        if self._calling.locked() and self not in _running():
            raise RuntimeError(_BUSY.format(type(self.pipe).__name__))

    def check_here(self) -> None:
        """Refuse a step of a run whose denoiser calls would not be known as its own."""
        if self.mark is not None and not all(map(self.owns, self.networks)):
            raise RuntimeError(
                f"scheduler.step() of this accelerated {type(self.pipe).__name__} was called where another run has "
                "begun since, or in another thread or task than set_timesteps(): call both and the denoiser in one. "
                "Loops of your own that take turns in one thread each need a context, contextvars.copy_context().run()."
            )

    def begin(self) -> None:
        """A run begins: whatever the previous one left behind is gone."""
        if not self._calling.locked():
            self._marked()
        for network in self.networks:
            check_no_other_cache(network, ours=True)
        for hook in self.hooks:
            hook.ensure()
        self.acceleration.begin()
        self.clock.begin()
        self.branches.begin()
        self.trajectory = _Trajectory()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def position(self, time: Any) -> int:
        """The step that the scheduler is about to take, counted from where the run begins."""
        if self.pipe.scheduler is not self.scheduler:
            raise RuntimeError(
                "pipe.scheduler was replaced inside accelerate(); set the scheduler first, then accelerate."
            )
        if not self.clock.running:
            raise RuntimeError(
                "the pipeline called its denoiser before scheduler.set_timesteps(), so its step is not known; call "
                "set_timesteps() first."
            )
        if isinstance(self.acceleration.method, Plan | AdaptivePlan) and self.acceleration.method.argument:
            self._check_steady(self.acceleration.method.argument)
        self.trajectory.reached = True
        step = self.clock.step(time)
        self.acceleration.first = self.clock.first(time)
        if self.trajectory.grid is None and isinstance(self.acceleration.method, Method):
            self.trajectory.grid = grid_of(self.scheduler, self.clock.first(time))
        return step

    def _check_steady(self, argument: str) -> None:
        """Warn, once, where a callback changes during a run what the numbers of its plan were chosen for."""
        now, trajectory = getattr(self.pipe, f"_{argument}", None), self.trajectory
        if not trajectory.reached:
            trajectory.value = now
        elif now != trajectory.value:
            warnings.warn(
                f"{argument} was changed from {trajectory.value} to {now} during the run, whose plan goes on with its "
                f"numbers for {self.scheduler.guidance:g}: keep it, or use a method without a plan.",
                stacklevel=4,
            )
            trajectory.value = now

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def key(self, step: int, given: Mapping[str, Any]) -> str:
        """The branch of this call."""
        if self.branch.name is not None:
            return self.branch.name
        name = self.branches.name(step, given)
        self.acceleration.by_order = max(self.acceleration.by_order, self.branches.by_order)
        return name

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def check_moved(self, key: str, step: int, time: Any) -> None:
        """Refuse a loop that goes on to another time without a step of the scheduler.

        Times are compared only where a branch is new, or is called a second time at one step: it waits for a GPU.
        """
        told = self.trajectory.told
        if told is None or told.step != step:
            self.trajectory.told = _Told(step, time, {key})
            return
        if (key not in self.acceleration.calls or key in told.keys) and _differ(told.time, time):
            if not self._calling.locked():
                self.mark = None  # that loop is over
            raise RuntimeError(
                f"the denoiser was called at another timestep while the scheduler stood at step {step}: "
                "scheduler.step() was not called in between. A loop that moves the sample by itself cannot be followed "
                "here; use skipcast.wrap(denoiser, method, grid), or call scheduler.step(). If another "
                "pipeline uses this network, leave the accelerate() context first."
            )
        told.keys.add(key)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def call(self, method: Method, key: str, step: int, sample: Tensor, owner: object = None) -> Call:
        """A denoiser call of a branch, and its run standing at `step`."""
        runs = self.acceleration.runs
        if key not in runs:
            leader = next(iter(runs.values()), None) if method.controller.shared else None
            runs[key] = self._new(method, leader)
        elif self.trajectory.owners[key] is not owner:
            # Another expert takes over: what the previous one returned says nothing about this one.
            for run in (runs[key], *self._streams_of(key)):
                run.release()
        self.trajectory.owners[key] = owner
        shape = sample.shape if isinstance(sample, Tensor) else [item.shape for item in sample]
        if self.trajectory.shapes.setdefault(key, shape) != shape:
            raise ValueError(
                f"branch {key!r} was given samples of {self.trajectory.shapes[key]} and now of {shape}: the "
                "batch or the resolution changed during the run, which its forecasts cannot follow; keep them, or give "
                "the calls of the changed batch another cache_context."
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
        assert self.trajectory.grid is not None
        return Run(method, self.trajectory.grid, forecast_error=forecast_error, leader=leader)

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
    def called(self, key: str, step: int) -> None:
        """Note that a denoiser call of a branch is done."""
        acceleration = self.acceleration
        acceleration.calls.setdefault(key, []).append(step)
        acceleration.seconds = time.perf_counter() - self.trajectory.begun
        if isinstance(acceleration.method, Sampler):
            remembered = _sample_bytes(list(vars(self.scheduler).values()))
        elif isinstance(acceleration.method, Plan | AdaptivePlan):
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
        self.trajectory.unfed = step if left_out else None
        return left_out

    def check_fed(self, step: int) -> None:
        """Refuse an evaluation at a step at which what feeds the denoiser was left out."""
        if self.trajectory.unfed == step:
            raise RuntimeError(
                f"a guidance branch begins at step {step}, at which the method forecasts and the ControlNet was left "
                "out; use a plan, or a method that evaluates there."
            )

    @property
    def idle(self) -> str:
        """How the method did nothing: a run began and no denoiser was called in it, or all calls were others'."""
        if self.clock.running:
            return "" if self.trajectory.reached else "the pipeline ran, but none of its denoisers was called"
        others = "its network was called, but neither by the pipeline nor behind its scheduler's set_timesteps()"
        return others if self._overlooked else ""

    def ended(self, sample: Any) -> None:
        """The scheduler took its last step: keep nothing, before images are decoded, once all views have taken it."""
        last = max((steps[-1] for steps in self.acceleration.calls.values()), default=0)
        if any(steps[-1] == last - 1 for steps in self.acceleration.calls.values()):
            return
        if (step := self.acceleration.broken) is not None:
            warnings.warn(
                f"the network's outputs are not finite at step {step} or at the evaluation before it: {OVERFLOW}.",
                stacklevel=4,
            )
        else:  # behind the last comparison
            self.check_finite(sample)
        self.release()
        if not self._calling.locked():
            self.mark = None

    def check_finite(self, sample: Any) -> None:
        """Warn of final samples that are not finite."""
        self.acceleration.broken_at_end = isinstance(sample, Tensor) and not bool(sample.isfinite().all())
        if self.acceleration.broken_at_end:
            warnings.warn(f"the final samples of this run are not finite: {OVERFLOW}.", stacklevel=5)

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


_BUSY = (
    "this accelerated {} is running in another thread or task, and one pipeline has one scheduler and one history: "
    "give each request a pipeline of its own, which may share the networks but not the scheduler."
)


def _running() -> list[Session]:
    """Sessions whose runs are in progress in this thread or task, the newest last."""
    found = [(mark, mark.session()) for mark in _MARKS.get()]
    return [session for mark, session in found if session is not None and session.mark is mark]


def _differ(one: Any, other: Any) -> bool:
    """Whether two timesteps are known to be different ones."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and not torch.equal(one, other)
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    return numbers and one != other


def _sample_bytes(value: Any) -> int:
    """Bytes of the batches of samples that a scheduler keeps, in lists too; its own grid is one-dimensional."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size() if value.ndim > 1 else 0
    return sum(map(_sample_bytes, value)) if isinstance(value, list | tuple) else 0
