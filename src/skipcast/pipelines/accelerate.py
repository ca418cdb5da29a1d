"""`accelerate`, `enable`, `disable`: run a diffusers pipeline with a method, and restore it exactly.

One hook at the root of the denoiser (and, for targets inside it, on its parts) in diffusers' own hook registry.
"""

from __future__ import annotations

import functools
import inspect
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from skipcast.checks import guarded
from skipcast.methods.families import family_of
from skipcast.methods.names import method as parse
from skipcast.parts import Method, follower
from skipcast.pipelines.adaptive_scheduler import AdaptiveScheduler, narrowed
from skipcast.pipelines.calls import argument_of
from skipcast.pipelines.hooks import (
    HOOK,
    Guest,
    check_no_other_cache,
    foreign_forwards,
    forget_children,
    readers,
    registered,
)
from skipcast.pipelines.networks import Form, check_reads_outputs, denoisers, inputs_of, output_of, value_of
from skipcast.pipelines.pass_scheduler import PassScheduler
from skipcast.pipelines.plan_check import adopted
from skipcast.pipelines.plan_cuts import counting, cut_by
from skipcast.pipelines.plan_scheduler import PlanScheduler
from skipcast.pipelines.recording.replay import swapped
from skipcast.pipelines.samplers import build_sampler
from skipcast.pipelines.seams.alternating import find_alternating
from skipcast.pipelines.seams.base import Inside
from skipcast.pipelines.seams.controlnet import CompanionHook, companions
from skipcast.pipelines.seams.modules import find_modules
from skipcast.pipelines.seams.stack import find_stack
from skipcast.pipelines.session import Call, Session, forecast, observe, wants_evaluation
from skipcast.pipelines.steps import TIMES, Override, overridden, state_of
from skipcast.pipelines.summary import Acceleration
from skipcast.plans.adaptive import AdaptivePlan
from skipcast.plans.plan import Plan
from skipcast.plans.propagation import check_steps
from skipcast.run import Run
from skipcast.samplers import Sampler
from skipcast.targets import AlternatingReuse


class _RootHook(Guest):
    """Evaluates or forecasts the denoiser's output, or has the seam inside it do so."""

    _is_stateful = True  # so that `cache_context` is heard

    def __init__(
        self, method: Method | Sampler | Plan | AdaptivePlan, session: Session, inside: Inside | None, *, diagnose: bool
    ) -> None:
        super().__init__()
        self.method, self.session, self.inside, self.diagnose = method, session, inside, diagnose
        self.alone = inside is not None
        self._form: Form | None = None
        self._inputs: list[str] = []  # of the further values of an output, such as sound
        self._follower = follower(method) if isinstance(method, Method) else None
        self._parameters: list[str] = []
        self._sample, self._time = "", ""

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        self._parameters = list(inspect.signature(getattr(module, "_orig_mod", module).forward).parameters)
        self._sample = self._parameters[0]
        self._time = next((name for name in TIMES if name in self._parameters), "")
        return module

    def acts(self, module: nn.Module) -> bool:
        return self.session.owns(module)

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        session = self.session
        given = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        sample, timestep = given.pop(self._sample, None), given.pop(self._time, None)
        if not session.trajectory.reached and isinstance(self.method, Method) and self.inside is None:
            self._check_readers(module)
        step = session.position(timestep)
        key = session.key(step, given)
        session.check_moved(key, step, timestep)
        evaluate = functools.partial(self.fn_ref.original_forward, *args, **kwargs)
        if isinstance(self.method, AdaptivePlan) or _is_of_passes(self.method):
            named = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
            asked = (self.fn_ref.original_forward, evaluate, named, self._sample)
            if isinstance(self.method, AdaptivePlan):
                output, evaluated = narrowed(session.scheduler, *asked)
            else:
                output, evaluated = session.scheduler.passes.answer(*asked)
            if not evaluated:
                return output
        elif not isinstance(self.method, Method):
            output = evaluate()
        else:
            call = session.call(self.method, key, step, sample, self)
            if self.inside is None:
                output = self._at_output(call, evaluate, given)
            else:
                self.inside.check_call(given)
                with self.inside.governed_by(call):
                    output = evaluate()
            if self.diagnose and not call.run.trace[-1].evaluated:
                self._compare(call, output_of(output), evaluate)
        session.called(key, step)
        return output

    def _check_readers(self, module: nn.Module) -> None:
        if places := readers(module):
            warnings.warn(
                f"hooks on {', '.join(places[:3])} are not called at forecast steps: whoever reads there finds what an "
                "older step left; use a plan, which evaluates its steps whole, or remove the hooks.",
                stacklevel=4,
            )

    def _at_output(self, call: Call, evaluate: Any, given: dict[str, Any]) -> Any:
        run, x, return_dict = call.run, value_of(call.sample), given.get("return_dict", True)
        if not wants_evaluation(run, x if run.method.probe == "input" else None):
            assert self._form is not None  # the first step of every run is evaluated
            further = [forecast(stream, z) for stream, z in self._further(call, given)]
            return self._form.filled(forecast(run, x), further, return_dict=return_dict)
        self.session.check_fed(call.step)
        output = evaluate()
        self._form, y = Form(output), output_of(output)
        values = self._form.further
        self._inputs = inputs_of(values, {name: given.get(name) for name in self._parameters})
        streams = self._further(call, given)
        further = [observe(stream, z, value) for (stream, z), value in zip(streams, values, strict=True)]
        used = observe(run, x, y)
        if used is y and all(one is other for one, other in zip(further, values, strict=True)):
            return output
        return self._form.filled(used, further, return_dict=return_dict)

    def _further(self, call: Call, given: dict[str, Any]) -> list[tuple[Run, Tensor]]:
        """The histories of the further values, which follow the decision for the first, and the input of each."""
        assert self._follower is not None  # only methods forecast
        return [
            (call.stream(name or f"value {number}", self._follower), given.get(name, value_of(call.sample)))
            for number, name in enumerate(self._inputs, start=2)
        ]

    def _compare(self, call: Call, guess: Tensor, evaluate: Any) -> None:
        """Note how far a forecast is from what the whole network makes of the same input."""
        with torch.no_grad():
            truth = output_of(evaluate())
        error = (guess - truth).float().norm() / truth.float().norm()
        self.session.acceleration.errors.setdefault(call.key, {})[call.step] = float(error)


#: The attribute of an accelerated pipeline that holds the context that it is in.
_HANDLE = "_skipcast"


class accelerate:  # noqa: N801  (a context manager that reads as a verb)
    """Run `pipe` with a method, a plan or a plain sampler in a `with` block; the pipeline is restored exactly on exit.

        with accelerate(pipe, "resilphase:evaluations=10") as acceleration:
            images = pipe(prompt, num_inference_steps=50).images
        print(acceleration.summary())

    Args:
        pipe: a diffusers pipeline with a `transformer` (or `unet`), or two of them that take turns (`transformer_2`),
            and a `scheduler`.
        method: a `Method`, a `Plan`, an `AdaptivePlan`, a `Sampler`, or a name such as
            "taylorseer:order=1,evaluations=10"; options that a name leaves out are what the method's authors set on
            networks of this family.
        diagnose: at every forecast step also evaluate the whole network at the same input and note the relative error
            of the forecast in `acceleration.errors`; the forecast is what flows on. Costs a full evaluation each, so
            nothing is saved, and `seconds` includes them; the counts stay the method's. Plans and plain samplers
            forecast nothing, so there is nothing to note.

    Raises:
        ValueError: unknown method, unsupported scheduler, a plan made for another one, another cache already enabled,
            or a target inside a model whose blocks are not known or do not suit it. Raised by the constructor, before
            anything is touched.
    """

    @guarded()
    def __init__(
        self, pipe: Any, method: str | Method | Sampler | Plan | AdaptivePlan, *, diagnose: bool = False
    ) -> None:
        self.pipe, self.diagnose, self.denoisers = pipe, diagnose, denoisers(pipe)
        family = family_of(self.denoisers[0])
        self.method = method if isinstance(method, AdaptivePlan) else parse(method, family)
        self.label = method if isinstance(method, str) else repr(method)
        _check_free(pipe)
        if isinstance(self.method, Plan):
            self.method = adopted(self.method, pipe.scheduler)
        for denoiser in self.denoisers:
            check_no_other_cache(denoiser, ours=True)
            if places := foreign_forwards(denoiser):
                warnings.warn(
                    f"somebody else has replaced {', '.join(places[:3])}: if that is a cache, forecasts are made of "
                    "its forecasts; restore it before you accelerate.",
                    stacklevel=3,
                )
        self.scheduler, self.insides = _prepared(self.method, pipe, self.denoisers)
        _check_free(pipe, self.scheduler)
        self._undo: ExitStack | None = None

    def __enter__(self) -> Acceleration:
        if self._undo is not None:
            raise RuntimeError("this accelerate() is entered already; make another one for another pipeline.")
        _check_free(self.pipe, self.scheduler)  # another context may have begun since this one was made
        for denoiser in self.denoisers:
            check_no_other_cache(denoiser, ours=True)
        leave = weakref.WeakMethod(self._leave)  # the context lives as long as the pipeline, which holds it
        acceleration = Acceleration(self.method, self.label, self.scheduler, leave=leave)
        session = self._session = Session(self.pipe, self.scheduler, acceleration)
        forecasts = isinstance(self.method, Method)
        # Networks and the pipeline's own scheduler may be in use elsewhere, and are restored too if it is collected.
        with ExitStack() as stack, ExitStack() as own:
            stack.callback(session.release)
            own.enter_context(self._held())
            if self.pipe.scheduler is not self.scheduler:
                own.enter_context(swapped(self.pipe, self.scheduler))
            if forecasts:
                stack.enter_context(session.clock.counting(session.ended, session.check_here))
                own.enter_context(_ended(self.pipe, session))
            elif isinstance(self.method, Sampler):
                own.enter_context(session.clock.counting(session.check_finite, noise=True))
            (stack if forecasts else own).enter_context(_announced(self.scheduler, session, self.method))
            if isinstance(self.method, Plan | AdaptivePlan):
                cuts = counting if isinstance(self.method, AdaptivePlan) or _is_of_passes(self.method) else cut_by
                own.enter_context(cuts(self.pipe, self.scheduler))
            own.enter_context(_called(self.pipe, session))
            session.networks += self.denoisers
            for denoiser, inside in zip(self.denoisers, self.insides, strict=True):
                stack.callback(forget_children, denoiser)
                for part, hook in inside.hooks() if inside else ():
                    session.hooks.append(stack.enter_context(registered(part, hook, f"{HOOK}_inside")))
                root = _RootHook(self.method, session, inside, diagnose=self.diagnose)
                session.hooks.append(stack.enter_context(registered(denoiser, root, HOOK)))
                forget_children(denoiser)
            for network in () if self.diagnose else companions(self.pipe, self.method):
                assert isinstance(self.method, Method)  # only methods leave anything out
                hook = CompanionHook(self.method, session)
                session.networks.append(network)
                session.hooks.append(stack.enter_context(registered(network, hook, HOOK)))
            self._undo, shared = own.pop_all(), stack.pop_all()
        self._restore: Callable[[], object] = shared.close
        with suppress(TypeError):  # of a kind of object without weak references
            self._restore = finalizer = weakref.finalize(self.pipe, shared.close)
            finalizer.atexit = False
        return acceleration

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Have the pipeline hold this context, and copies and pickles of it be what it was before."""
        before, attributes = self.pipe.scheduler, vars(self.pipe)

        def state() -> dict[str, Any]:
            with swapped(self.pipe, before) if self.pipe.scheduler is self.scheduler else nullcontext():
                return {name: value for name, value in state_of(self.pipe).items() if name != _HANDLE}

        attributes.update({_HANDLE: self, "__getstate__": state})
        try:
            yield
        finally:
            del attributes[_HANDLE], attributes["__getstate__"]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._undo is not None:
            self._leave(failed=error is not None)

    def _leave(self, *, failed: bool = False) -> None:
        """Restore the pipeline; warn of a method that did nothing, unless the run failed."""
        undo, session = self._undo, self._session
        if undo is None:
            raise RuntimeError(f"{self.label} is not enabled any more; call enable() again.")
        with session.leaving(midway=isinstance(self.method, Method)):
            self._undo = session.acceleration.leave = session.mark = None
            undo.close()
            self._restore()
        if not failed and (how := session.idle):
            warnings.warn(
                f"{self.label} did nothing: {how}. Accelerate the pipeline that holds the network you run.",
                stacklevel=3,
            )


@guarded()
def enable(pipe: Any, method: str | Method | Sampler | Plan | AdaptivePlan, *, diagnose: bool = False) -> Acceleration:
    """Run `pipe` with a method, a plan or a plain sampler until it is disabled, as in a notebook or a server.

        acceleration = enable(pipe, "resilphase:evaluations=10")
        images = pipe(prompt, num_inference_steps=50).images
        acceleration.disable()  # or disable(pipe)

    Args:
        pipe: as for `accelerate`, which restores the pipeline by itself.
        method: as for `accelerate`.
        diagnose: as for `accelerate`.

    Raises:
        ValueError: as `accelerate`; also where the pipeline is accelerated already.
    """
    return accelerate(pipe, method, diagnose=diagnose).__enter__()


def disable(pipe: Any) -> None:
    """Restore a pipeline that was enabled, exactly.

    Raises:
        ValueError: nothing is enabled on it.
    """
    context = getattr(pipe, "__dict__", {}).get(_HANDLE)
    if context is None:
        raise ValueError(f"nothing is enabled on this {type(pipe).__name__}; call enable(pipe, method) first.")
    context._leave()


def _is_of_passes(method: Any) -> bool:
    return isinstance(method, Plan) and bool(method.branches)


def _check_free(pipe: Any, scheduler: Any = None) -> None:
    """Refuse a pipeline, or a scheduler, that is accelerated already; networks may be shared."""
    if _HANDLE in vars(pipe):
        raise ValueError(f"this {type(pipe).__name__} is already accelerated; leave that context first.")
    override = getattr(scheduler, "set_timesteps", None)
    if isinstance(override, Override) and not override.over:
        raise ValueError(
            f"the scheduler of this {type(pipe).__name__} is already accelerated in another pipeline; give it one of "
            "its own: pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)."
        )


def _prepared(
    method: Method | Sampler | Plan | AdaptivePlan, pipe: Any, networks: list[nn.Module]
) -> tuple[Any, list[Inside | None]]:
    """The scheduler that a method runs with, and the seam inside each denoiser that it needs.

    Raises:
        ValueError: the scheduler or a denoiser does not suit the method.
    """
    outside: list[Inside | None] = [None] * len(networks)
    if isinstance(method, Plan | AdaptivePlan):
        if isinstance(method, AdaptivePlan):
            scheduler: PlanScheduler = AdaptiveScheduler(method)
        else:
            scheduler = PassScheduler(method) if method.branches else PlanScheduler(method)
        scheduler.check_pipeline(pipe)
        taken = inspect.signature(type(pipe).__call__).parameters.values()
        open_ended = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken)
        if method.argument and not open_ended and method.argument not in {each.name for each in taken}:
            raise ValueError(
                f"this plan has knots over {method.argument}, which calls of {type(pipe).__name__} do not take; run "
                "plan.at(...), the plan for one value."
            )
        return scheduler, outside
    if isinstance(pipe.scheduler, PlanScheduler):
        raise ValueError(
            f"the pipeline runs {pipe.scheduler.plan!r} already; set its own scheduler back to accelerate it otherwise."
        )
    check_steps(pipe.scheduler, "forecast")
    if isinstance(method, Sampler):
        return build_sampler(method, pipe.scheduler), outside
    check_reads_outputs(pipe)
    if isinstance(method.target, AlternatingReuse):
        return pipe.scheduler, [find_alternating(network, method) for network in networks]
    find = {"output": None, "stack": find_stack, "modules": find_modules}[method.target.seam]
    return pipe.scheduler, outside if find is None else [find(network, method) for network in networks]


@contextmanager
def _ended(pipe: Any, session: Session) -> Iterator[None]:
    """Keep no output once a call of the pipeline is over, also one that stopped early."""
    original = getattr(pipe, "maybe_free_model_hooks", None)
    if original is None:
        yield
        return

    @functools.wraps(original)
    def maybe_free_model_hooks() -> None:
        original()
        session.release()

    with overridden(pipe, "maybe_free_model_hooks", maybe_free_model_hooks):
        yield


@contextmanager
def _called(pipe: Any, session: Session) -> Iterator[None]:
    """Let the session know of every call of the pipeline, and a plan with knots of the value of its argument in it.

    Within the context the pipeline is of a subclass, since `pipe(...)` looks up `__call__` in the class.
    """
    kind: Any = type(pipe)
    if not callable(pipe):  # a loop of the user's around the parts of a pipeline
        yield
        return
    argument, known = getattr(session.acceleration.method, "argument", ""), weakref.ref(session)

    @functools.wraps(kind.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        own = known()
        with own.calling() if own is not None and self is own.pipe else nullcontext():
            if argument and isinstance(self.scheduler, PlanScheduler):
                self.scheduler.guidance = argument_of(self, argument, *args, **kwargs)
            return kind.__call__(self, *args, **kwargs)

    made = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")} | {"__call__": call}
    made["__reduce_ex__"] = lambda self, protocol: (_of_kind, (kind,), self.__getstate__())
    pipe.__class__ = type(kind.__name__, (kind,), made)
    try:
        yield
    finally:
        pipe.__class__ = kind


def _of_kind(kind: type) -> Any:
    """The empty object that a copy or a pickle of an accelerated pipeline begins as."""
    return object.__new__(kind)


@contextmanager
def _announced(scheduler: Any, session: Session, method: Method | Sampler | Plan | AdaptivePlan) -> Iterator[None]:
    """Tell the session whenever the scheduler's `set_timesteps` begins a run."""
    original = scheduler.set_timesteps

    # Pipelines look at the signature of set_timesteps, which functools.wraps keeps.
    @functools.wraps(original)
    def set_timesteps(*args: Any, **kwargs: Any) -> Any:
        session.check_free()
        result = original(*args, **kwargs)
        if isinstance(method, Method):
            method.controller.check(len(scheduler.timesteps))
        session.begin()
        return result

    with overridden(scheduler, "set_timesteps", set_timesteps):
        vars(scheduler)["__getstate__"] = functools.partial(state_of, scheduler)
        try:
            yield
        finally:
            del vars(scheduler)["__getstate__"]
