"""Offload of every kind, switched on and off outside and inside `accelerate`: the same samples, and nothing is lost.

Everything here goes from the CPU to the CPU: what moves is of no interest, which hooks stand where is.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers import FluxPipeline
from diffusers.hooks import apply_group_offloading
from diffusers.hooks.group_offloading import ModuleGroup
from torch import Tensor, nn

import skipcast as sc
from skipcast.controllers import Periodic
from skipcast.forecasters import TaylorSeer
from skipcast.targets import ModuleOutputs
from support.tiny import compiled, flux_pipeline, flux_transformer, latents

CPU = torch.device("cpu")
STEPS = 6
OUTPUT, STACK, LINEAR = "taylorseer:order=1,interval=3", "resilphase:interval=3", "lagrange:order=1,interval=3"
MODULES = sc.Method(TaylorSeer(1), Periodic(3, 3), target=ModuleOutputs())
SEAMS = {"output": OUTPUT, "stack": STACK, "modules": MODULES, "plan": LINEAR}


@dataclass(frozen=True)
class Offload:
    """How a user switches an offload on and off."""

    on: Callable[[Any], object]
    off: Callable[[Any], object]


def in_groups(**how: Any) -> Offload:
    def on(pipe: Any) -> None:
        apply_group_offloading(pipe.transformer, onload_device=CPU, offload_device=CPU, **how)

    return Offload(on, without_groups)


def without_groups(pipe: Any) -> None:
    """As diffusers takes them off: there is no function for users."""
    for module in pipe.transformer.modules():
        registry = getattr(module, "_diffusers_hook", None)
        for name in list(registry.hooks) if registry else ():
            if "group_offloading" in name:
                registry.remove_hook(name, recurse=False)


OFFLOADS = {
    "model": Offload(lambda pipe: pipe.enable_model_cpu_offload(device="cpu"), lambda pipe: pipe.remove_all_hooks()),
    "a bare hook of accelerate": Offload(
        lambda pipe: add_hook_to_module(pipe.transformer, ModelHook()),
        lambda pipe: remove_hook_from_module(pipe.transformer),
    ),
    "sequential": Offload(
        lambda pipe: cpu_offload(pipe.transformer, execution_device=CPU, offload_buffers=True),
        lambda pipe: remove_hook_from_module(pipe.transformer, recurse=True),
    ),
    "groups of leaves": in_groups(offload_type="leaf_level"),
    "groups of blocks": in_groups(offload_type="block_level", num_blocks_per_group=1),
}
every_offload = pytest.mark.parametrize("offload", OFFLOADS.values(), ids=OFFLOADS)
every_seam = pytest.mark.parametrize("seam", SEAMS)


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return dict(flux_pipeline().components)


def fresh(parts: dict[str, Any]) -> FluxPipeline:
    """The same weights in a pipeline that nobody has touched, but for the marks that a run of diffusers leaves."""
    own = {"transformer": flux_transformer(), "scheduler": copy.deepcopy(parts["scheduler"])}
    pipe = FluxPipeline(**{**parts, **own})
    pipe.set_progress_bar_config(disable=True)
    run(pipe)
    return pipe


def run(pipe: Any) -> Tensor:
    return latents(pipe, STEPS, height=64, width=64, max_sequence_length=16)


def method_at(seam: str, pipe: Any) -> Any:
    return compiled(pipe, LINEAR) if seam == "plan" else SEAMS[seam]


@pytest.fixture(scope="module")
def expected(parts: dict[str, Any]) -> dict[str, Tensor]:
    """What a pipeline without offload gives: plain, and accelerated at every seam."""
    pipe = fresh(parts)
    found = {"plain": run(pipe)}
    for seam in SEAMS:
        with sc.accelerate(pipe, method_at(seam, pipe)):
            found[seam] = run(pipe)
    return found


def check_run(pipe: Any, acceleration: Any, wanted: Tensor) -> None:
    """The samples are those without offload, and steps were left out for them."""
    assert torch.equal(run(pipe), wanted)
    summary = acceleration.summary()
    assert (summary.evaluations, summary.steps) == (4, STEPS)
    if not isinstance(acceleration.method, sc.Plan):
        assert summary.forecasts == STEPS - summary.evaluations


def marks(pipe: Any) -> list[Any]:
    """All that hooks may have changed, without the identity of the pipeline."""
    found = []
    for name, module in pipe.transformer.named_modules():
        own = dict(vars(module))
        if inspect.ismethod(own.get("forward")):
            del own["forward"]  # the class's own, left behind by whoever takes its hooks off
        registry = own.pop("_diffusers_hook", None)  # an empty one may stay behind
        found.append((name, sorted(own), list(registry._hook_order) if registry else []))
    return [found, type(pipe.scheduler), sorted(vars(pipe.scheduler)), sorted(vars(pipe))]


#: In which order a user switches the offload `on` and `off`, and enters and leaves the context. Model offload takes
#: every hook off and on after a call, hence two runs in a row.
ORDERS = {
    "before and after": "on plain enter run run leave plain off plain",
    "inside": "enter on run run off run leave plain",
    "on inside, off after": "enter on run leave plain off plain",
    "on before, off inside": "on enter run off run run leave plain",
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@every_offload
@every_seam
def test_offload_changes_no_sample_and_nothing_is_left(
    parts: dict[str, Any], expected: dict[str, Tensor], seam: str, offload: Offload, order: str
) -> None:
    """Outside the context the pipeline has the hooks of a twin that is never accelerated."""
    pipe, twin = fresh(parts), fresh(parts)
    context = sc.accelerate(pipe, method_at(seam, pipe))
    for event in order.split():
        match event:
            case "on" | "off":
                switch = getattr(offload, event)
                switch(pipe)
                switch(twin)
            case "enter":
                acceleration = context.__enter__()
            case "run":
                check_run(pipe, acceleration, expected[seam])
            case "leave":
                context.__exit__(None, None, None)
            case "plain":
                assert torch.equal(run(pipe), expected["plain"])
                assert torch.equal(run(twin), expected["plain"])
                assert marks(pipe) == marks(twin)


# What is moved -------------------------------------------------------------------------------------------------------


@contextmanager
def onloaded(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[nn.Module | None]]]:
    """The leaders of the groups that every call of the denoiser has brought in, one list per step and branch."""
    calls: list[list[nn.Module | None]] = []
    onload = ModuleGroup.onload_
    monkeypatch.setattr(ModuleGroup, "onload_", lambda group: (calls[-1].append(group.onload_leader), onload(group))[1])
    cache_context = type(pipe.transformer).cache_context  # entered before every call of the denoiser

    def counted(transformer: nn.Module, name: str, *args: Any, **kwargs: Any) -> Any:
        calls.append([])
        return cache_context(transformer, name, *args, **kwargs)

    monkeypatch.setattr(type(pipe.transformer), "cache_context", counted)
    yield calls
    monkeypatch.undo()


GROUPS = [name for name in OFFLOADS if "groups" in name]


@pytest.mark.parametrize("kind", GROUPS)
def test_a_forecast_at_the_output_brings_nothing_in(
    parts: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = fresh(parts)
    OFFLOADS[kind].on(pipe)
    with onloaded(pipe, monkeypatch) as calls:
        run(pipe)
    whole = calls[0]
    assert len(whole) > 3
    assert [len(call) for call in calls] == [len(whole)] * 2 * STEPS
    with sc.accelerate(pipe, OUTPUT) as acceleration, onloaded(pipe, monkeypatch) as calls:
        run(pipe)
    evaluated = acceleration.summary().evaluated_steps
    assert evaluated == (0, 1, 2, 5)
    branches = [calls[0::2], calls[1::2]]
    for branch in branches:
        assert [len(call) for call in branch] == [len(whole) if n in evaluated else 0 for n in range(STEPS)]


@pytest.mark.parametrize("kind", GROUPS)
def test_a_forecast_of_the_stack_brings_in_no_block(
    parts: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = fresh(parts)
    OFFLOADS[kind].on(pipe)
    net = pipe.transformer
    inside = {
        module for block in (*net.transformer_blocks, *net.single_transformer_blocks) for module in block.modules()
    }
    with sc.accelerate(pipe, STACK) as acceleration, onloaded(pipe, monkeypatch) as calls:
        run(pipe)
    evaluated = acceleration.summary().evaluated_steps
    found = [sum(leader in inside for leader in call) for call in calls[0::2]]
    assert [bool(count) for count in found] == [n in evaluated for n in range(STEPS)]
    assert all(calls[0::2])  # what stands around the stack is needed at every step


@pytest.mark.parametrize("kind", GROUPS)
def test_groups_that_are_made_inside_bring_in_the_root_alone_at_a_forecast(
    parts: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their hook on the network stands around ours; those on its parts are not reached."""
    pipe = fresh(parts)
    with sc.accelerate(pipe, OUTPUT) as acceleration:
        OFFLOADS[kind].on(pipe)
        with onloaded(pipe, monkeypatch) as calls:
            run(pipe)
    evaluated = acceleration.summary().evaluated_steps
    assert all(call for n, call in enumerate(calls[0::2]) if n in evaluated)
    assert {leader for n, call in enumerate(calls[0::2]) if n not in evaluated for leader in call} <= {pipe.transformer}
