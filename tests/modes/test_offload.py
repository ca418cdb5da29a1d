"""Offload of every kind, switched on and off outside and inside `accelerate`: the same samples, and nothing is lost.

Everything here goes from the CPU to the CPU: what moves is of no interest, which hooks stand where is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_module
from diffusers import FluxPipeline
from diffusers.hooks import apply_group_offloading
from diffusers.hooks.group_offloading import ModuleGroup
from torch import Tensor, nn

import skipcast as sc
from support.seams import OUTPUT, STACK, every_seam, furniture, method_at
from support.tiny import latents, twin

CPU = torch.device("cpu")
STEPS = 6


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
    "sequential": Offload(
        lambda pipe: cpu_offload(pipe.transformer, execution_device=CPU, offload_buffers=True),
        lambda pipe: remove_hook_from_module(pipe.transformer, recurse=True),
    ),
    "groups of leaves": in_groups(offload_type="leaf_level"),
    "groups of blocks": in_groups(offload_type="block_level", num_blocks_per_group=1),
}
every_offload = pytest.mark.parametrize("offload", OFFLOADS.values(), ids=OFFLOADS)


def fresh(pipe: Any) -> FluxPipeline:
    """The same weights in a pipeline that nobody has touched, but for the marks that a run of diffusers leaves."""
    other = twin(pipe)
    run(other)
    return other


def run(pipe: Any) -> Tensor:
    return latents(pipe, STEPS, true_cfg_scale=1.0)


def check_run(pipe: Any, acceleration: Any, wanted: Tensor) -> None:
    """The samples are those without offload, and steps were left out for them."""
    assert torch.equal(run(pipe), wanted)
    summary = acceleration.summary()
    assert (summary.evaluations, summary.steps) == (4, STEPS)
    if not isinstance(acceleration.method, sc.Plan):
        assert summary.forecasts == STEPS - summary.evaluations


#: In which order a user switches the offload `on` and `off`, and enters and leaves the context: before and after it,
#: inside, on inside and off afterwards, on before and off inside. Model offload takes every hook off and on after a
#: call, hence two runs in a row.
ORDER = (
    "on plain enter run run leave plain off plain",
    "enter on run run off run leave plain",
    "enter on run leave plain off plain",
    "on enter run off run run leave plain",
)


@every_offload
@every_seam
def test_offload_changes_no_sample_and_nothing_is_left(pipe: Any, seam: str, offload: Offload) -> None:
    """Outside the context the pipeline has the hooks of a twin that is never accelerated."""
    plain = run(pipe)
    accelerated, other = fresh(pipe), fresh(pipe)
    context = sc.accelerate(accelerated, method_at(seam, pipe))
    with sc.accelerate(pipe, method_at(seam, pipe)):
        wanted = run(pipe)
    for event in " ".join(ORDER).split():
        match event:
            case "on" | "off":
                switch = getattr(offload, event)
                switch(accelerated)
                switch(other)
            case "enter":
                acceleration = context.__enter__()
            case "run":
                check_run(accelerated, acceleration, wanted)
            case "leave":
                context.__exit__(None, None, None)
            case "plain":
                assert torch.equal(run(accelerated), plain)
                assert torch.equal(run(other), plain)
                assert furniture(accelerated) == furniture(other)


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


@pytest.mark.parametrize("kind", [name for name in OFFLOADS if "groups" in name])
def test_forecasts_bring_in_nothing_that_they_leave_out(pipe: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the output no group; of the stack no block; of groups made inside, around our hook, the root alone."""

    def brought(
        method: str, late: bool = False
    ) -> tuple[Any, list[list[nn.Module | None]], list[list[nn.Module | None]]]:
        """A pipeline, and the groups of its evaluated and of its forecast steps."""
        used = fresh(pipe)
        if not late:
            OFFLOADS[kind].on(used)
        with sc.accelerate(used, method) as acceleration:
            if late:
                OFFLOADS[kind].on(used)
            with onloaded(used, monkeypatch) as calls:
                run(used)
        assert acceleration.summary().evaluated_steps == (0, 1, 2, 5)
        assert len(calls) == STEPS
        return used, [calls[n] for n in (0, 1, 2, 5)], calls[3:5]

    _, evaluated, forecast = brought(OUTPUT)
    assert [len(call) for call in evaluated] == [len(evaluated[0])] * 4
    assert len(evaluated[0]) > 3
    assert forecast == [[], []]
    used, evaluated, forecast = brought(STACK)
    net = used.transformer
    blocks = {part for block in (*net.transformer_blocks, *net.single_transformer_blocks) for part in block.modules()}
    assert all(not blocks.isdisjoint(call) for call in evaluated)
    assert all(blocks.isdisjoint(call) for call in forecast)
    assert all(forecast)  # what stands around the stack is needed at every step
    used, evaluated, forecast = brought(OUTPUT, late=True)
    assert all(evaluated)
    assert all(set(call) <= {used.transformer} for call in forecast)
