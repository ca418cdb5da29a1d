"""`accelerate`: run a diffusers pipeline with a method, and restore it exactly.

One hook at the root of the denoiser (and, for targets inside it, one per block) in diffusers' own hook registry.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

from diffusers.hooks import ModelHook
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

from driftcast.backends import eager
from driftcast.backends.registration import HOOK, Registered, check_no_other_cache, forget_children
from driftcast.backends.samplers import build_sampler
from driftcast.backends.schedulers import check_scheduler
from driftcast.backends.session import Acceleration, Session
from driftcast.backends.stacks import BlockStack, find_stack
from driftcast.method import Method
from driftcast.names import method as parse
from driftcast.run import Run
from driftcast.samplers import Sampler


class _RootHook(ModelHook):  # type: ignore[misc]
    """Evaluates or forecasts the denoiser's output, or decides for the block stack below."""

    _is_stateful = True  # so that `cache_context` reaches the branch below

    def __init__(self, method: Method | Sampler, session: Session, stack: BlockStack | None) -> None:
        super().__init__()
        self.method, self.session, self.stack = method, session, stack
        self.branch = session.branch
        self._output_class: type = Transformer2DModelOutput
        self._parameters: list[str] = []

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        self._parameters = list(inspect.signature(module.forward).parameters)
        return module

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
            given = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
            run = session.run(self.method, key, step)
            output = self._at_stack(run, evaluate, given) if self.stack else self._at_output(run, evaluate, given)
        session.called(key)
        return output

    def _at_stack(self, run: Run, evaluate: Any, given: dict[str, Any]) -> Any:
        assert self.stack is not None
        self.stack.check_call(given)
        with self.stack.governed_by(run):
            return evaluate()

    def _at_output(self, run: Run, evaluate: Any, given: dict[str, Any]) -> Any:
        x: Tensor = given[self._parameters[0]]
        if not eager.wants_evaluation(run):
            y = eager.forecast(run, x)
            return self._output_class(sample=y) if given.get("return_dict", True) else (y,)
        output = evaluate()
        if isinstance(output, tuple):
            if len(output) != 1:
                raise ValueError(f"the denoiser returned {len(output)} values; only a single output can be forecast.")
            y = output[0]
        else:
            self._output_class, y = type(output), output.sample
        eager.observe(run, x, y)
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
                "accelerate(pipe=...) needs a pipeline with a transformer or unet and a scheduler, "
                f"got {type(pipe).__name__}."
            )
        check_no_other_cache(denoiser)
        check_scheduler(pipe.scheduler)
        self.denoiser = denoiser
        self.scheduler = pipe.scheduler
        self.stack: BlockStack | None = None
        if isinstance(self.method, Sampler):
            self.scheduler = build_sampler(self.method, pipe.scheduler)
        elif self.method.target.seam == "stack":
            self.stack = find_stack(denoiser, self.method.target)
        self._undo: ExitStack | None = None

    def __enter__(self) -> Acceleration:
        if self._undo is not None:
            raise RuntimeError("this accelerate() is entered already; make another one for another pipeline.")
        acceleration = Acceleration(self.method, self.label)
        session = Session(self.pipe, self.scheduler, acceleration)
        session.root = Registered(self.denoiser, _RootHook(self.method, session, self.stack), HOOK)
        with ExitStack() as stack:
            stack.callback(forget_children, self.denoiser)
            if self.pipe.scheduler is not self.scheduler:
                stack.enter_context(_swapped_scheduler(self.pipe, self.scheduler))
            stack.enter_context(_announced(self.scheduler, session, self.method))
            for index, (block, hook) in enumerate(self.stack.hooks() if self.stack else ()):
                stack.enter_context(Registered(block, hook, f"{HOOK}_block_{index}"))
            stack.enter_context(session.root)
            forget_children(self.denoiser)
            self._undo = stack.pop_all()
        return acceleration

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._undo is not None:
            undo, self._undo = self._undo, None
            undo.close()


@contextmanager
def _swapped_scheduler(pipe: Any, scheduler: Any) -> Iterator[None]:
    before = pipe.scheduler
    pipe.scheduler = scheduler
    try:
        yield
    finally:
        pipe.scheduler = before


@contextmanager
def _announced(scheduler: Any, session: Session, method: Method | Sampler) -> Iterator[None]:
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
        if scheduler.set_timesteps is not set_timesteps:
            raise RuntimeError("accelerate() contexts that share a scheduler must be left in the reverse order.")
        if had:
            scheduler.set_timesteps = original
        else:
            del scheduler.set_timesteps
