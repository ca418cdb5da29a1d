"""Whatever is done with a pipeline in whatever order: outside `accelerate` nothing of it is left, inside it holds.

Random sequences of actions on one pipeline, compared with others that have seen nothing of them.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook as OffloadHook
from accelerate.hooks import add_hook_to_module, remove_hook_from_module
from diffusers import FluxPipeline
from diffusers.hooks import HookRegistry, ModelHook
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from torch import Tensor, nn

import skipcast as sc
from support.seams import furniture, method_at, state
from support.tiny import PROMPT, Stop, flux_pipeline, own_loop, twin


@dataclass(frozen=True)
class Call:
    """Arguments of a pipeline call, and what happens to it on its way."""

    steps: int = 6
    width: int = 32
    batch: int = 1
    guided: bool = False
    ending: str = "none"  # or "thrown", "interrupted", "network fails"
    at: int = 0


SHAPES = [Call(), Call(guided=True), Call(batch=2), Call(4, width=48, guided=True), Call(2)]
BROKEN_OFF = [("thrown", 1), ("thrown", 3), ("interrupted", 0), ("interrupted", 2), ("network fails", 2)]
ENDINGS = [("none", 0)] * 4 + BROKEN_OFF
CALLS = [replace(call, ending=ending, at=at) for call in SHAPES for ending, at in ENDINGS]


# Pipelines ----------------------------------------------------------------------------------------------------------


@functools.cache
def parts() -> tuple[FluxPipeline, dict[str, Tensor]]:
    """A pipeline whose parts all others share but for what calls change, and the encoded prompt."""
    pipe = flux_pipeline()
    embeddings, pooled, _ = pipe.encode_prompt(PROMPT, None)
    prompt = {"prompt_embeds": embeddings, "pooled_prompt_embeds": pooled}
    negative = {"negative_prompt_embeds": 0.5 * embeddings, "negative_pooled_prompt_embeds": 0.5 * pooled}
    return pipe, {**prompt, **negative}


def fresh() -> FluxPipeline:
    """A pipeline of the same weights that has made one plain run, which leaves diffusers' own marks."""
    pipe = twin(parts()[0])
    run(pipe, Call(2))
    return pipe


def run(pipe: FluxPipeline, call: Call, stepped: Callable[[], None] = lambda: None) -> Tensor:
    """Final latents."""
    _, prompt = parts()
    failing = pipe.transformer.single_transformer_blocks[0].proj_out
    entered = 0

    def after_step(pipe: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        stepped()
        if call.ending == "thrown" and step == call.at:
            raise Stop
        if call.ending == "interrupted" and step == call.at:
            pipe._interrupt = True
        return values

    def fail(*_: Any) -> None:
        nonlocal entered
        entered += 1
        if call.ending == "network fails" and entered > call.at:
            raise Stop

    handle = failing.register_forward_pre_hook(fail)
    try:
        return pipe(
            **prompt,
            true_cfg_scale=2.0 if call.guided else 1.0,
            num_inference_steps=call.steps,
            height=32,
            width=call.width,
            num_images_per_prompt=call.batch,
            generator=[torch.Generator().manual_seed(7 + i) for i in range(call.batch)],
            callback_on_step_end=after_step,
            output_type="latent",
        ).images
    finally:
        handle.remove()


Outcome = Tensor | tuple[type[Exception], str]


def outcome(pipe: FluxPipeline, call: Call, stepped: Callable[[], None] = lambda: None) -> Outcome:
    """Final latents, or how the call was refused or broken off."""
    try:
        return run(pipe, call, stepped)
    except (Stop, ValueError, RuntimeError) as error:
        return type(error), str(error)


def same(found: Outcome, expected: Outcome) -> bool:
    if isinstance(found, Tensor) and isinstance(expected, Tensor):
        return torch.equal(found, expected)
    return not isinstance(found, Tensor) and found == expected


# Methods ------------------------------------------------------------------------------------------------------------


@functools.cache
def methods() -> dict[str, Any]:
    """One of every kind, and a plan of six steps for images of 32 x 32."""
    pipe = fresh()
    run(pipe, Call(6))
    made = {seam: method_at(seam, pipe) for seam in ("output", "stack", "modules", "plan")}
    return made | {"probing": "teacache", "ab2": "ab2:evaluations=4", "unipc": "unipc:evaluations=4"}


PLACES = ["", "transformer_blocks.0", "transformer_blocks.0.attn"]  # of the user's hooks
METHODS = ["output", "stack", "modules", "probing", "plan", "ab2", "unipc"]


@functools.cache
def expected(method: str | None, call: Call) -> Outcome:
    """The outcome on a fresh pipeline; computed once."""
    pipe = fresh()
    if method is None:
        return outcome(pipe, call)
    with sc.accelerate(pipe, methods()[method]):
        return outcome(pipe, call)


# What the user attaches ---------------------------------------------------------------------------------------------


class Watching(ModelHook):  # type: ignore[misc]
    """A hook in diffusers' registry that looks at the arguments."""

    def __init__(self, seen: list[int]) -> None:
        super().__init__()
        self.seen = seen

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(1)
        return args, kwargs


class Offload(OffloadHook):  # type: ignore[misc]
    """Stands for the hook of `enable_model_cpu_offload`."""

    pre_forward = Watching.pre_forward

    def __init__(self, seen: list[int]) -> None:
        self.seen = seen


class Replacing(Watching):
    """A hook in diffusers' registry that calls the forward itself."""

    pre_forward = ModelHook.pre_forward

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(1)
        return self.fn_ref.original_forward(*args, **kwargs)


# Sequences ----------------------------------------------------------------------------------------------------------

outside = precondition(lambda self: self.context is None)
inside = precondition(lambda self: self.context is not None)
unhooked = precondition(
    lambda self: not self.offloaded and self.place is None and not self.handles and self.neighbour is None
)


class Lifecycle(RuleBasedStateMachine):
    """One pipeline that everything is done to, and a twin that the user does the same to but never accelerates."""

    def __init__(self) -> None:
        super().__init__()
        self.pipe, self.twin = fresh(), fresh()
        self.scheduler = self.pipe.scheduler
        self.method: str | None = None
        self.context: Any = None
        self.before: Any = None  # the state on entering; None once the user has changed it inside
        self.seen: dict[str, list[int]] = {}  # calls of the denoiser that the user's hooks have seen
        self.offloaded = False
        self.place: str | None = None  # of the user's hook in diffusers' registry
        self.handles: list[Any] = []
        self.neighbour: tuple[FluxPipeline, str, Any] | None = None  # another on this network, its method and context

    def on_both(self, action: Callable[[FluxPipeline], Any]) -> None:
        """Something that the user does."""
        action(self.pipe)
        action(self.twin)
        self.before = None

    # Running

    @rule(call=st.sampled_from(CALLS))
    def run(self, call: Call) -> None:
        """A run is what it is on a fresh pipeline, however it ends, and the user's hooks see it."""
        steps: list[int] = []
        counts = {name: len(seen) for name, seen in self.seen.items()}
        found = outcome(self.pipe, call, lambda: steps.append(1))
        assert same(found, expected(self.method, call))
        if isinstance(found, Tensor) and call.ending == "none":
            every = len(steps) * (2 if call.guided else 1)
            for name, seen in self.seen.items():
                count = len(seen) - counts[name]
                # Below ours, hooks in the place of the forward see the evaluated calls alone.
                assert count == every or (self.context is not None and name != "torch" and 0 < count < every)

    # Entering and leaving

    @outside
    @rule(method=st.sampled_from(METHODS))
    def enter(self, method: str) -> None:
        """A context is entered."""
        self.context, self.before = sc.accelerate(self.pipe, methods()[method]), state(self.pipe)
        self.context.__enter__()
        self.method = method

    @inside
    @rule(thrown=st.booleans())
    def leave(self, thrown: bool) -> None:
        """A context is left, normally or by an exception, and the next run is a plain one."""
        error = Stop() if thrown else None
        assert not self.context.__exit__(type(error) if error else None, error, None)
        self.method = self.context = None
        assert self.before in (None, state(self.pipe))
        self.run(Call(4))

    @rule(method=st.sampled_from(METHODS))
    def neighbour_comes_or_goes(self, method: str) -> None:
        """Another pipeline on the same network is accelerated or restored, at any time, and run beside this one."""
        self.before = None
        if self.neighbour is None:
            other = twin(parts()[0], transformer=self.pipe.transformer)
            assert same(outcome(other, Call(2)), expected(None, Call(2)))
            self.neighbour = other, method, sc.accelerate(other, methods()[method])
            self.neighbour[2].__enter__()
        else:
            other, method, context = self.neighbour
            assert same(outcome(other, Call(guided=True)), expected(method, Call(guided=True)))
            context.__exit__(None, None, None)
            self.neighbour = None
            assert same(outcome(other, Call()), expected(None, Call()))
        self.run(Call())

    @precondition(lambda self: self.neighbour is not None)
    @rule(call=st.sampled_from(CALLS))
    def neighbour_runs(self, call: Call) -> None:
        """Its runs are its own, and those of this pipeline its own."""
        assert self.neighbour is not None
        other, method, _ = self.neighbour
        assert same(outcome(other, call), expected(method, call))
        self.run(Call(guided=True))

    # Misuse

    @rule(named=st.booleans())
    def loop_without_steps(self, named: bool) -> None:
        """A loop that moves the sample by itself is refused inside, at its second call; it runs outside."""
        loop = own_loop(self.pipe, named=named, steps=False)
        if self.context is None:
            assert len(list(loop)) == 12
        else:
            with pytest.raises((RuntimeError, ValueError), match=r"scheduler.step\(\) was not called|plan of 6"):
                list(loop)
        self.run(Call())

    @inside
    @rule(method=st.sampled_from(METHODS))
    def misuse(self, method: str) -> None:
        """Inside a context another one, an unknown method and another scheduler are refused."""
        with pytest.raises(ValueError, match="already"):
            sc.accelerate(self.pipe, methods()[method])
        with pytest.raises(ValueError, match="resilfase"):
            sc.accelerate(self.pipe, "resilfase")
        self.run(Call())  # lets our hooks come back where the user's have taken them off
        own = self.pipe.scheduler
        self.pipe.scheduler = type(own).from_config(own.config)
        kind, says = outcome(self.pipe, Call())
        assert kind is RuntimeError
        assert "replaced inside accelerate()" in says
        self.pipe.scheduler = own

    @outside
    @unhooked
    @rule(method=st.sampled_from(METHODS))
    def patched(self, method: str) -> None:
        """A forward that somebody has put into a block by hand is warned of, and taken out again leaves nothing."""
        block = self.pipe.transformer.single_transformer_blocks[0]
        own = block.forward
        block.forward = lambda *args, **given: own(*args, **given)
        with pytest.warns(UserWarning, match="replaced the forward of single_transformer_blocks.0"):
            sc.accelerate(self.pipe, methods()[method])
        del block.forward

    @unhooked
    @rule()
    def copy_the_network(self) -> None:
        """A deep copy is a plain network of its own, made inside a context too, and changes nothing of the original."""
        other = twin(parts()[0], transformer=copy.deepcopy(self.pipe.transformer))
        assert same(outcome(other, Call()), expected(None, Call()))
        self.run(Call())

    # What the user does to the same attributes

    @outside
    @rule()
    def copy_the_scheduler(self) -> None:
        """The pipeline gets another scheduler of the same configuration."""
        self.on_both(lambda pipe: setattr(pipe, "scheduler", type(pipe.scheduler).from_config(pipe.scheduler.config)))
        self.scheduler = self.pipe.scheduler
        self.on_both(lambda pipe: run(pipe, Call(2)))

    @rule()
    def move_to_another_dtype_and_back(self) -> None:
        """By way of one that holds all values of this one."""
        self.pipe.transformer.double().float()

    @rule()
    def add_or_remove_a_torch_hook(self) -> None:
        """A forward hook of the user's on the denoiser comes or goes."""
        for handle in self.handles:
            handle.remove()
        if self.handles:
            del self.seen["torch"]
            self.handles = []
        else:
            seen = self.seen["torch"] = []
            self.handles = [self.pipe.transformer.register_forward_hook(lambda *_: seen.append(1))]
            self.handles += [self.twin.transformer.register_forward_hook(lambda *_: None)]
        self.before = None

    # Both of the following replace `forward`, so that without us, too, they can be undone in reverse order alone.

    @precondition(lambda self: self.offloaded or self.place is None)
    @rule(again=st.booleans())
    def switch_offloading(self, again: bool) -> None:
        """Model offload is switched on, off, or off and on as after every call."""
        if self.offloaded:
            self.on_both(lambda pipe: remove_hook_from_module(pipe.transformer))
            del self.seen["offload"]
        if not self.offloaded or again:
            seen = self.seen["offload"] = []
            add_hook_to_module(self.pipe.transformer, Offload(seen))
            add_hook_to_module(self.twin.transformer, Offload([]))
        self.offloaded, self.before = "offload" in self.seen, None
        self.run(Call())

    @precondition(lambda self: self.place is None and not self.offloaded)
    @rule(place=st.sampled_from(PLACES), kind=st.sampled_from([Watching, Replacing]))
    def register(self, place: str, kind: type[ModelHook]) -> None:
        """A hook of the user's enters diffusers' registry, below ours or on top of it."""
        seen: list[int] = []
        if not place:
            self.seen["registry"] = seen
        for pipe in (self.pipe, self.twin):
            module = pipe.transformer.get_submodule(place)
            hook = kind(seen if pipe is self.pipe else [])
            HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, "users")
        self.place, self.before = place, None

    @precondition(lambda self: self.place is not None)
    @rule()
    def unregister(self) -> None:
        """It is removed, inside or outside, from above or below ours."""
        place = self.place
        self.on_both(lambda pipe: pipe.transformer.get_submodule(place)._diffusers_hook.remove_hook("users"))
        self.place = None
        self.seen.pop("registry", None)
        self.run(Call())

    # What holds

    @precondition(lambda self: self.context is None and self.neighbour is None)
    @invariant()
    def nothing_is_left_outside(self) -> None:
        """Outside a context the pipeline has what its twin has, and the scheduler that the user gave it."""
        assert self.pipe.scheduler is self.scheduler
        assert furniture(self.pipe) == furniture(self.twin)

    def teardown(self) -> None:
        """At the end all is undone, and the run is a fresh pipeline's."""
        if self.context is not None:
            self.leave(False)
        if self.neighbour is not None:
            self.neighbour_comes_or_goes("output")
        if self.offloaded:
            self.switch_offloading(False)
        if self.place is not None:
            self.unregister()
        if self.handles:
            self.add_or_remove_a_torch_hook()
        self.nothing_is_left_outside()
        self.run(Call(4))


SETTINGS = settings(
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # shrinking takes minutes; add Phase.shrink to look for the shortest sequence
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("sequences", [16, pytest.param(200, marks=pytest.mark.slow)])
def test_random_sequences(sequences: int) -> None:
    run_state_machine_as_test(Lifecycle, settings=settings(SETTINGS, max_examples=sequences))


@pytest.mark.parametrize("method", METHODS)
def test_the_sequences_mean_something(method: str) -> None:
    """Expected outcomes are images where they should be, and methods differ from the plain run."""
    plain, found = expected(None, Call()), expected(method, Call())
    assert isinstance(plain, Tensor)
    assert isinstance(found, Tensor)
    assert not torch.equal(found, plain)
    assert expected(None, Call(ending="thrown", at=1)) == expected(method, Call(ending="thrown", at=1)) == (Stop, "")


@pytest.mark.parametrize("method", ["output", "stack", "modules"])
def test_a_hook_below_ours_is_removed_inside(method: str) -> None:
    """A sequence that random ones seldom meet: `HookRegistry.remove_hook` overwrites the forward of the hook above."""
    machine = Lifecycle()
    for place, kind in itertools.product(PLACES, (Watching, Replacing)):
        machine.register(place, kind)
        machine.enter(method)
        machine.run(Call(guided=True))
        machine.unregister()  # and a run
        machine.leave(False)
    machine.teardown()
