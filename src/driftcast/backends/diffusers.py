"""`accelerate`: run a diffusers pipeline with a method, and restore it exactly.

One hook at the root of the denoiser (and, for targets inside it, one per block) in diffusers' own hook registry. The
step comes from the scheduler, the branch from the pipeline's `cache_context`; nothing is counted across steps.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.hooks import BaseState, StateManager
from torch import Tensor, nn

from driftcast.backends.samplers import build_sampler
from driftcast.backends.stacks import BlockStack, find_stack
from driftcast.grid import TimeGrid
from driftcast.method import Method
from driftcast.names import method as parse
from driftcast.run import Run
from driftcast.samplers import Sampler

HOOK = "driftcast"
#: Attributes and hook names by which other caches can be recognised on a denoiser.
_FOREIGN_HOOKS = ("cache", "taylorseer", "pyramid", "faster", "first_block", "mag_")


class _Branch(StateManager):  # type: ignore[misc]
    """Learns the guidance branch from `cache_context`; the name is opaque, and None where a pipeline sets none."""

    def __init__(self) -> None:
        super().__init__(BaseState)
        self.name: str | None = None

    def set_context(self, context: Any) -> None:
        self.name = getattr(context, "name", context)

    def reset(self, *args: Any, **kwargs: Any) -> None:
        self.name = None


def grid_of(scheduler: Any) -> TimeGrid:
    """The steps that a prepared scheduler is about to take, from its begin index on.

    Raises:
        ValueError: its noise levels do not fall strictly (second-order schedulers repeat them).
    """
    begin = scheduler.begin_index or 0
    timesteps = scheduler.timesteps[begin:].double().cpu().numpy()
    sigma = scheduler.sigmas[begin : begin + len(timesteps)].double().cpu().numpy()
    if _is_flow(scheduler):
        return TimeGrid(timestep=timesteps, alpha=1 - sigma, sigma=sigma)
    scale = 1 / np.sqrt(1 + sigma**2)  # k-diffusion's sigma is noise over signal
    return TimeGrid(timestep=timesteps, alpha=scale, sigma=sigma * scale)


def _is_flow(scheduler: Any) -> bool:
    return "FlowMatch" in type(scheduler).__name__ or bool(scheduler.config.get("use_flow_sigmas", False))


def _check_scheduler(scheduler: Any) -> None:
    name = type(scheduler).__name__
    for attribute in ("set_timesteps", "step_index", "begin_index", "sigmas"):
        if not hasattr(scheduler, attribute):
            raise ValueError(
                f"scheduler {name} is not supported: it has no {attribute!r}, from which the step would be known; use "
                "a scheduler such as FlowMatchEulerDiscreteScheduler or DPMSolverMultistepScheduler."
            )
    if getattr(scheduler, "order", 1) != 1:
        raise ValueError(
            f"scheduler {name} is of order {scheduler.order} and evaluates every noise level more than once; "
            "use a first-order or multistep scheduler such as FlowMatchEulerDiscreteScheduler."
        )
    if scheduler.config.get("stochastic_sampling", False) or "ancestral" in name.lower() or "sde" in name.lower():
        raise ValueError(
            f"scheduler {name} adds noise at every step, which no forecast can know; use a deterministic one."
        )


def _check_no_other_cache(denoiser: nn.Module) -> None:
    if getattr(denoiser, "is_cache_enabled", False):
        raise ValueError(
            f"another cache is already enabled on {type(denoiser).__name__}; "
            "call its disable_cache() before accelerate()."
        )
    if getattr(denoiser, "_is_cached", False):
        raise ValueError("cache-dit is already enabled on this pipeline; call cache_dit.disable_cache(pipe) first.")
    for path, module in denoiser.named_modules():
        registry = getattr(module, "_diffusers_hook", None)
        for name in registry.hooks if registry is not None else ():
            where = path or type(denoiser).__name__
            if name.startswith(HOOK):
                raise ValueError(f"this pipeline is already accelerated (hook on {where}); leave that context first.")
            if any(mark in name.lower() for mark in _FOREIGN_HOOKS):
                raise ValueError(
                    f"another cache is already enabled: hook {name!r} on {where}; remove it before accelerate()."
                )


@contextmanager
def _hooked(module: nn.Module, hook: ModelHook, name: str) -> Iterator[None]:
    """Register a hook; on exit the module's attributes are what they were."""
    had_registry, had_forward = "_diffusers_hook" in vars(module), "forward" in vars(module)
    registry = HookRegistry.check_if_exists_or_initialize(module)
    registry.register_hook(hook, name)
    try:
        yield
    finally:
        registry.remove_hook(name, recurse=False)
        # Removal leaves the original forward as an instance attribute and the registry in place.
        if not registry.hooks:
            if not had_forward:
                vars(module).pop("forward", None)
            if not had_registry:
                vars(module).pop("_diffusers_hook", None)


@dataclass(frozen=True)
class Summary:
    """What the newest run did; counts are per branch, `shadow_*` compare forecasts with evaluations made anyway."""

    method: str
    steps: int
    evaluated_steps: tuple[int, ...]
    branches: tuple[str, ...]
    shadow_mean: float | None
    shadow_worst: float | None
    seconds: float
    cached_bytes: int

    @property
    def evaluations(self) -> int:
        return len(self.evaluated_steps)

    def __str__(self) -> str:
        lines = [
            f"{self.method}: evaluated {self.evaluations} of {self.steps}, forecast {self.steps - self.evaluations}"
            f" (branches: {', '.join(self.branches)})",
            f"evaluated steps: {', '.join(map(str, self.evaluated_steps))}",
            f"{self.seconds:.2f} s in sampling, {self.cached_bytes / 1e6:.3f} MB remembered",
        ]
        if self.shadow_mean is not None and self.shadow_worst is not None:
            lines.append(
                "shadow error of forecasts at evaluated steps: "
                f"mean {self.shadow_mean:.2%}, worst {self.shadow_worst:.2%}"
            )
        return "\n".join(lines)


@dataclass
class Acceleration:
    """Handle of an accelerated pipeline; `runs` holds the newest trajectory, one run per branch."""

    method: Method | Sampler
    label: str
    runs: dict[str, Run] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    cached_bytes: int = 0

    def summary(self) -> Summary:
        """What the newest run did.

        Raises:
            RuntimeError: the pipeline has not been run yet.
        """
        if not self.calls:
            raise RuntimeError("nothing to summarise: run the pipeline inside the accelerate() context first.")
        branches = tuple(self.calls)
        if not self.runs:
            steps = max(self.calls.values())
            return Summary(
                self.label, steps, tuple(range(steps)), branches, None, None, self.seconds, self.cached_bytes
            )
        run = next(iter(self.runs.values()))
        shadows = [float(r.shadow) for one in self.runs.values() for r in one.trace if r.shadow is not None]
        return Summary(
            method=self.label,
            steps=len(run.grid),
            evaluated_steps=tuple(record.step for record in run.trace if record.evaluated),
            branches=branches,
            shadow_mean=float(np.mean(shadows)) if shadows else None,
            shadow_worst=max(shadows) if shadows else None,
            seconds=self.seconds,
            cached_bytes=self.cached_bytes,
        )


class _Session:
    """The trajectory in progress: which run belongs to a denoiser call, and at which step it stands."""

    def __init__(self, pipe: Any, scheduler: Any, acceleration: Acceleration, branch: _Branch) -> None:
        self.pipe, self.scheduler = pipe, scheduler
        self.acceleration, self.branch = acceleration, branch
        self.begun: float | None = None
        self.grid: TimeGrid | None = None
        self.nameless: tuple[int, int] = (-1, 0)  # step, calls without a branch name at it

    def begin(self) -> None:
        """A run begins: whatever the previous one left behind is gone."""
        self.acceleration.runs, self.acceleration.calls = {}, {}
        self.acceleration.seconds, self.acceleration.cached_bytes = 0.0, 0
        self.begun, self.grid, self.nameless = time.perf_counter(), None, (-1, 0)

    def position(self) -> int:
        """The step that the scheduler is about to take, counted from where the run begins."""
        if self.pipe.scheduler is not self.scheduler:
            raise RuntimeError(
                "pipe.scheduler was replaced inside accelerate(); set the scheduler first, then accelerate."
            )
        if self.begun is None:
            raise RuntimeError(
                "the denoiser was called before scheduler.set_timesteps(); run the accelerated pipeline itself, "
                "or leave the accelerate() context to use the denoiser elsewhere."
            )
        begin: int = self.scheduler.begin_index or 0
        index = self.scheduler.step_index
        return 0 if index is None else int(index) - begin

    def key(self, step: int) -> str:
        """The branch of this call; without a name, its place among the calls of this very step."""
        if self.branch.name is not None:
            return self.branch.name
        known, count = self.nameless
        self.nameless = (step, count + 1 if known == step else 1)
        return f"call {self.nameless[1]}"

    def called(self, key: str) -> None:
        calls = self.acceleration.calls
        calls[key] = calls.get(key, 0) + 1
        if self.begun is not None:
            self.acceleration.seconds = time.perf_counter() - self.begun
        remembered = sum(run.history.bytes() for run in self.acceleration.runs.values())
        self.acceleration.cached_bytes = max(self.acceleration.cached_bytes, remembered)

    def run(self, method: Method, key: str, step: int) -> Run:
        """The run of a branch, standing at `step`."""
        runs = self.acceleration.runs
        if key not in runs:
            self.grid = self.grid or grid_of(self.scheduler)
            runs[key] = Run(method, self.grid)
        run = runs[key]
        if step < run.step:
            raise RuntimeError(
                f"branch {key!r} was called again at step {step} of one run; "
                "a method needs one denoiser call per branch and step."
            )
        run.step = step  # a branch may sit out some steps, as under a guidance interval
        return run


class _RootHook(ModelHook):  # type: ignore[misc]
    """Evaluates or forecasts the denoiser's output, or decides for the block stack below."""

    _is_stateful = True

    def __init__(self, method: Method | Sampler, session: _Session, stack: BlockStack | None) -> None:
        super().__init__()
        self.method, self.session, self.stack = method, session, stack
        self.branch = session.branch
        self._container: type | None = None

    def reset_state(self, module: nn.Module) -> nn.Module:
        return module  # a run begins with set_timesteps, not with the end of another

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        session = self.session
        step = session.position()
        key = session.key(step)
        evaluate = functools.partial(self.fn_ref.original_forward, *args, **kwargs)
        if isinstance(self.method, Sampler):
            output = evaluate()
        else:
            run = session.run(self.method, key, step)
            output = (
                self._through_stack(run, evaluate, kwargs) if self.stack else self._whole(run, evaluate, args, kwargs)
            )
        session.called(key)
        return output

    def _through_stack(self, run: Run, evaluate: Any, kwargs: dict[str, Any]) -> Any:
        assert self.stack is not None
        self.stack.check_call(kwargs)
        with self.stack.governed_by(run):
            return evaluate()

    def _whole(self, run: Run, evaluate: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x: Tensor = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        if not run.wants_evaluation():
            y = run.forecast(x)
            return (y,) if self._container is None else self._container(sample=y)
        output = evaluate()
        if isinstance(output, tuple):
            if len(output) != 1:
                raise ValueError(f"the denoiser returned {len(output)} values; only a single output can be forecast.")
            self._container, y = None, output[0]
        else:
            self._container, y = type(output), output.sample
        run.observe(x, y)
        return output


class accelerate:  # noqa: N801  (a context manager that reads as a verb)
    """Run `pipe` with a method or a plain sampler inside a `with` block; the pipeline is restored exactly on exit.

        with accelerate(pipe, "resilphase:evaluations=10") as acceleration:
            images = pipe(prompt, num_inference_steps=50).images
        print(acceleration.summary())

    Args:
        pipe: a diffusers pipeline with a `transformer` (or `unet`) and a `scheduler`.
        method: a `Method`, a `Sampler`, or a name such as "taylorseer:order=1,evaluations=10".

    Raises:
        ValueError: unknown method, unsupported scheduler, another cache already enabled, or a block-stack target on a
            model whose blocks are not known. Raised by the constructor, before anything is touched.
    """

    def __init__(self, pipe: Any, method: str | Method | Sampler) -> None:
        self.pipe = pipe
        self.method = parse(method)
        self.label = method if isinstance(method, str) else repr(method)
        denoiser = getattr(pipe, "transformer", None)
        if denoiser is None:
            denoiser = getattr(pipe, "unet", None)
        if not isinstance(denoiser, nn.Module) or not hasattr(pipe, "scheduler"):
            raise ValueError(
                f"accelerate(pipe=...) needs a pipeline with a transformer or unet and a scheduler, "
                f"got {type(pipe).__name__}."
            )
        _check_no_other_cache(denoiser)
        self.denoiser = denoiser
        self.scheduler = pipe.scheduler
        self.stack: BlockStack | None = None
        if isinstance(self.method, Sampler):
            self.scheduler = build_sampler(self.method, pipe.scheduler)
        else:
            _check_scheduler(self.scheduler)
            if self.method.target.seam == "stack":
                self.stack = find_stack(self.denoiser, self.method.target)
        self._undo: list[Any] = []

    def __enter__(self) -> Acceleration:
        acceleration = Acceleration(self.method, self.label)
        session = _Session(self.pipe, self.scheduler, acceleration, _Branch())
        try:
            if self.pipe.scheduler is not self.scheduler:
                self._defer(_swapped_scheduler(self.pipe, self.scheduler))
            self._defer(_announced(self.scheduler, session, self.method))
            for index, (block, hook) in enumerate(self.stack.hooks() if self.stack else ()):
                self._defer(_hooked(block, hook, f"{HOOK}_block_{index}"))
            self._defer(_hooked(self.denoiser, _RootHook(self.method, session, self.stack), HOOK))
            _forget_children(self.denoiser)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return acceleration

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._undo:
            self._undo.pop().__exit__(None, None, None)
        _forget_children(self.denoiser)

    def _defer(self, context: Any) -> None:
        context.__enter__()
        self._undo.append(context)


def _forget_children(denoiser: nn.Module) -> None:
    """Registries cache the list of hooked descendants; it changed."""
    registry = vars(denoiser).get("_diffusers_hook")
    if registry is not None:
        registry._child_registries_cache = None


@contextmanager
def _swapped_scheduler(pipe: Any, scheduler: Any) -> Iterator[None]:
    before = pipe.scheduler
    pipe.scheduler = scheduler
    try:
        yield
    finally:
        pipe.scheduler = before


@contextmanager
def _announced(scheduler: Any, session: _Session, method: Method | Sampler) -> Iterator[None]:
    """Tell the session whenever the scheduler's `set_timesteps` begins a run."""
    original = scheduler.set_timesteps

    # Pipelines look at the signature of set_timesteps, which functools.wraps keeps.
    @functools.wraps(original)
    def set_timesteps(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if isinstance(method, Method):
            method.controller.check(len(scheduler.timesteps))
        session.begin()
        return result

    had = "set_timesteps" in vars(scheduler)
    scheduler.set_timesteps = set_timesteps
    try:
        yield
    finally:
        if had:
            scheduler.set_timesteps = original
        else:
            del scheduler.set_timesteps
