"""`accelerate`: run a diffusers pipeline with a method, and restore it exactly.

One hook at the root of the denoiser (and, for targets inside it, on its parts) in diffusers' own hook registry.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import TracebackType
from typing import Any

import torch
from diffusers.hooks import ModelHook
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

from driftcast.backends import eager
from driftcast.backends.inside import Inside
from driftcast.backends.modules import find_modules
from driftcast.backends.plans import PlanScheduler
from driftcast.backends.registration import HOOK, Registered, check_no_other_cache, forget_children
from driftcast.backends.samplers import build_sampler
from driftcast.backends.schedulers import check_scheduler
from driftcast.backends.scripted import swapped
from driftcast.backends.session import Acceleration, Call, Session
from driftcast.backends.stacks import find_stack
from driftcast.method import Method
from driftcast.names import method as parse
from driftcast.planning.plan import Plan
from driftcast.samplers import Sampler


class _RootHook(ModelHook):  # type: ignore[misc]
    """Evaluates or forecasts the denoiser's output, or has the seam inside it do so."""

    _is_stateful = True  # so that `cache_context` reaches the branch below

    def __init__(
        self, method: Method | Sampler | Plan, session: Session, inside: Inside | None, *, diagnose: bool
    ) -> None:
        super().__init__()
        self.method, self.session, self.inside, self.diagnose = method, session, inside, diagnose
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
        if not isinstance(self.method, Method):
            output = evaluate()
        else:
            given = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
            call = session.call(self.method, key, step, args[0] if args else given.get(self._parameters[0]))
            if self.inside is None:
                output = self._at_output(call, evaluate, return_dict=given.get("return_dict", True))
            else:
                self.inside.check_call(given)
                with self.inside.governed_by(call):
                    output = evaluate()
            if self.diagnose and not call.run.trace[-1].evaluated:
                self._compare(call, _sample_of(output), evaluate)
        session.called(key)
        return output

    def _at_output(self, call: Call, evaluate: Any, *, return_dict: bool) -> Any:
        run, x = call.run, call.sample
        if not eager.wants_evaluation(run, x if run.method.controller.probe == "input" else None):
            return self._formed(eager.forecast(run, x), return_dict)
        output = evaluate()
        if not isinstance(output, tuple):
            self._output_class = type(output)
        elif len(output) != 1:
            raise ValueError(f"the denoiser returned {len(output)} values; only a single output can be forecast.")
        y = _sample_of(output)
        used = eager.observe(run, x, y)
        return output if used is y else self._formed(used, return_dict)

    def _formed(self, y: Tensor, return_dict: bool) -> Any:
        """An output in the form that the call asks for."""
        return self._output_class(sample=y) if return_dict else (y,)

    def _compare(self, call: Call, guess: Tensor, evaluate: Any) -> None:
        """Note how far a forecast is from what the whole network makes of the same input."""
        with torch.no_grad(), self.inside.left_alone() if self.inside else nullcontext():
            truth = _sample_of(evaluate())
        error = (guess - truth).float().norm() / truth.float().norm()
        self.session.acceleration.errors.setdefault(call.key, {})[call.step] = float(error)


def _sample_of(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output.sample


class accelerate:  # noqa: N801  (a context manager that reads as a verb)
    """Run `pipe` with a method, a plan or a plain sampler in a `with` block; the pipeline is restored exactly on exit.

        with accelerate(pipe, "resilphase:evaluations=10") as acceleration:
            images = pipe(prompt, num_inference_steps=50).images
        print(acceleration.summary())

    Args:
        pipe: a diffusers pipeline with a `transformer` (or `unet`) and a `scheduler`.
        method: a `Method`, a `Plan`, a `Sampler`, or a name such as "taylorseer:order=1,evaluations=10".
        diagnose: at every forecast step also evaluate the whole network at the same input and note the relative error
            of the forecast in `acceleration.errors`; the forecast is what flows on. Costs a full evaluation each, so
            nothing is saved, and `seconds` includes them; the counts stay the method's. Plans and plain samplers
            forecast nothing, so there is nothing to note.

    Raises:
        ValueError: unknown method, unsupported scheduler, a plan made for another one, another cache already enabled,
            or a target inside a model whose blocks are not known or do not suit it. Raised by the constructor, before
            anything is touched.
    """

    def __init__(self, pipe: Any, method: str | Method | Sampler | Plan, *, diagnose: bool = False) -> None:
        self.pipe = pipe
        self.diagnose = diagnose
        self.method = method if isinstance(method, Plan) else parse(method)
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
        if not isinstance(self.method, Plan):
            if isinstance(pipe.scheduler, PlanScheduler):
                raise ValueError(
                    f"the pipeline runs {pipe.scheduler.plan!r} already; set its own scheduler back to accelerate it "
                    "otherwise."
                )
            check_scheduler(pipe.scheduler)
        self.denoiser = denoiser
        self.scheduler = pipe.scheduler
        self.inside: Inside | None = None
        if isinstance(self.method, Sampler):
            self.scheduler = build_sampler(self.method, pipe.scheduler)
        elif isinstance(self.method, Plan):
            self.scheduler = PlanScheduler(self.method)
            self.scheduler.check_pipeline(pipe)
        elif self.method.target.seam == "stack":
            self.inside = find_stack(denoiser, self.method)
        elif self.method.target.seam == "modules":
            self.inside = find_modules(denoiser, self.method)
        self._undo: ExitStack | None = None

    def __enter__(self) -> Acceleration:
        if self._undo is not None:
            raise RuntimeError("this accelerate() is entered already; make another one for another pipeline.")
        acceleration = Acceleration(self.method, self.label, self.scheduler)
        session = Session(self.pipe, self.scheduler, acceleration)
        root = _RootHook(self.method, session, self.inside, diagnose=self.diagnose)
        session.root = Registered(self.denoiser, root, HOOK)
        with ExitStack() as stack:
            stack.callback(forget_children, self.denoiser)
            if self.pipe.scheduler is not self.scheduler:
                stack.enter_context(swapped(self.pipe, self.scheduler))
            stack.enter_context(_announced(self.scheduler, session, self.method))
            for part, hook in self.inside.hooks() if self.inside else ():
                stack.enter_context(Registered(part, hook, f"{HOOK}_inside"))
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
def _announced(scheduler: Any, session: Session, method: Method | Sampler | Plan) -> Iterator[None]:
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
