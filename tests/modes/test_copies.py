"""Whoever lets go of, copies, pickles or restores an accelerated pipeline, and when: nothing is left dead or wrong."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

import skipcast as sc
from support.seams import OUTPUT, STACK, method_at, state
from support.tiny import accelerated, at, flux_pipeline, latents, twin

KINDS = ["output", "stack", "modules", "plan", "sampler"]
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def base() -> Any:
    pipe = flux_pipeline()
    latents(pipe)
    return pipe


@pytest.fixture(scope="module")
def plain(base: Any) -> Tensor:
    return latents(base)


@pytest.fixture(scope="module")
def methods(base: Any) -> dict[str, tuple[Any, Tensor]]:
    """Of every kind a method, and what it draws."""
    chosen = {kind: "ab2:evaluations=8" if kind == "sampler" else method_at(kind, base) for kind in KINDS}
    return {kind: (method, accelerated(base, method)[0]) for kind, method in chosen.items()}


@pytest.fixture
def pipe(base: Any) -> Any:
    made = twin(base)
    latents(made, steps=2)  # which leaves diffusers' own marks
    return made


@every_kind
def test_a_pipeline_whose_handle_nobody_holds_stays_accelerated(
    pipe: Any, kind: str, methods: dict[str, Any], plain: Tensor
) -> None:
    method, expected = methods[kind]
    before = state(pipe)
    sc.enable(pipe, method)
    gc.collect()
    assert torch.equal(latents(pipe), expected)
    sc.disable(pipe)
    assert state(pipe) == before
    assert torch.equal(latents(pipe), plain)


@every_kind
@pytest.mark.filterwarnings("error")
def test_the_parts_of_a_pipeline_that_is_gone_are_as_they_were(
    base: Any, kind: str, methods: dict[str, Any], plain: Tensor
) -> None:
    method, expected = methods[kind]
    pipe = twin(base)
    latents(pipe, steps=2)
    network, scheduler, before = pipe.transformer, pipe.scheduler, state(pipe)[0]
    handle = sc.enable(pipe, method)
    latents(pipe)
    known = weakref.ref(pipe)
    del pipe
    gc.collect()
    assert known() is None
    with pytest.raises(RuntimeError, match="is not enabled any more"):
        handle.disable()
    other = twin(base, transformer=network, scheduler=scheduler)
    assert state(other)[0] == before
    assert torch.equal(latents(other), plain)
    assert torch.equal(accelerated(other, method)[0], expected)


@every_kind
@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy])
def test_a_copy_of_the_pipeline_is_what_it_was_before(
    pipe: Any, kind: str, copied: Any, methods: dict[str, Any], plain: Tensor
) -> None:
    method, expected = methods[kind]
    before = state(pipe)
    with sc.accelerate(pipe, method):
        latents(pipe)
        other = copied(pipe)
        assert torch.equal(latents(pipe), expected)
    assert state(pipe) == before
    assert type(other) is type(pipe)
    assert vars(other).keys() == vars(pipe).keys()
    assert type(other.scheduler) is type(pipe.scheduler)
    for each in (other, pipe):
        assert torch.equal(latents(each), plain)
        assert torch.equal(accelerated(each, method)[0], expected)
    assert torch.equal(latents(pipe), plain)


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@every_kind
@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, pickled])
def test_copies_of_the_network_and_the_scheduler_are_what_they_were_before(
    base: Any, pipe: Any, kind: str, copied: Any, methods: dict[str, Any], plain: Tensor
) -> None:
    method, expected = methods[kind]
    own = pipe.scheduler
    with sc.accelerate(pipe, method):
        latents(pipe)
        network, scheduler = copied(pipe.transformer), copied(pipe.scheduler)
        assert torch.equal(latents(pipe), expected)
    other = twin(base, transformer=network, scheduler=copied(own) if kind in ("plan", "sampler") else scheduler)
    assert torch.equal(latents(other), plain)
    assert torch.equal(accelerated(other, method)[0], expected)
    if kind != "plan":  # which is for one grid
        times = pipe.scheduler.timesteps.clone()
        scheduler.set_timesteps(12, mu=0.5)
        assert torch.equal(pipe.scheduler.timesteps, times)


def test_a_copy_of_the_handle_restores_the_pipeline_once(pipe: Any, plain: Tensor) -> None:
    handle = sc.enable(pipe, OUTPUT)
    latents(pipe)
    other, apart = copy.copy(handle), copy.deepcopy(handle)
    with pytest.raises(RuntimeError, match="is not enabled any more"):
        apart.disable()
    other.disable()
    for each in (other, handle):
        with pytest.raises(RuntimeError, match="is not enabled any more"):
            each.disable()
    with pytest.raises(ValueError, match="nothing is enabled"):
        sc.disable(pipe)
    assert torch.equal(latents(pipe), plain)


@every_kind
def test_restoring_waits_for_a_run_in_another_thread(
    pipe: Any, kind: str, methods: dict[str, Any], plain: Tensor
) -> None:
    method, expected = methods[kind]
    began, found = threading.Event(), list[Tensor]()
    for leave in (lambda context: context.__exit__(None, None, None), lambda _: sc.disable(pipe)):
        context = sc.accelerate(pipe, method)
        context.__enter__()
        callback = at(1, lambda *_: began.set())
        thread = threading.Thread(target=lambda: found.append(latents(pipe, callback_on_step_end=callback)))  # noqa: B023
        thread.start()
        assert began.wait(60)
        leave(context)
        thread.join()
        began.clear()
        assert torch.equal(found.pop(), expected)
        assert torch.equal(latents(pipe), plain)


@pytest.mark.parametrize("kind", ["plan", "sampler"])
def test_a_scheduler_is_not_taken_away_midway(pipe: Any, kind: str, methods: dict[str, Any], plain: Tensor) -> None:
    method, expected = methods[kind]
    with sc.accelerate(pipe, method):
        with pytest.raises(RuntimeError, match=r"FluxPipeline is being called: restore it when the call is over"):
            latents(pipe, callback_on_step_end=at(2, lambda pipe, _: sc.disable(pipe)))
        assert torch.equal(latents(pipe), expected)
    assert torch.equal(latents(pipe), plain)


def test_a_method_may_be_left_midway(pipe: Any, plain: Tensor) -> None:
    """The rest of the run is evaluated."""
    sc.enable(pipe, STACK)
    mixed = latents(pipe, callback_on_step_end=at(5, lambda pipe, _: sc.disable(pipe)))
    assert not torch.equal(mixed, plain)
    assert torch.equal(latents(pipe), plain)


@pytest.mark.parametrize("name", ["set_timesteps", "step"])
def test_a_wrapper_of_somebody_else_s_may_be_taken_off_later(pipe: Any, name: str, plain: Tensor) -> None:
    """Somebody puts theirs on top inside, and puts ours back outside: it lets everything pass."""
    context = sc.accelerate(pipe, OUTPUT)
    context.__enter__()
    ours = getattr(pipe.scheduler, name)
    setattr(pipe.scheduler, name, functools.wraps(ours)(lambda *args, **given: ours(*args, **given)))
    context.__exit__(None, None, None)
    assert torch.equal(latents(pipe), plain)
    setattr(pipe.scheduler, name, ours)
    assert torch.equal(latents(pipe), plain)
    with sc.accelerate(pipe, OUTPUT) as acceleration:
        latents(pipe)
    assert acceleration.summary().forecasts > 0
    assert torch.equal(latents(pipe), plain)
