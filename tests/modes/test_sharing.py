"""Pipelines side by side and at the same time; networks that are shared; networks that take turns."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

import skipcast as sc
from families.all import NAMED
from support.content import told_by_content
from support.seams import LINEAR, MODULES, OUTPUT, STACK, counted, every_method, state
from support.tiny import (
    PROMPT,
    Stop,
    accelerated,
    at,
    edited,
    flux_pipeline,
    image_to_image,
    interrupt,
    latents,
    own_loop,
    stop,
    twin,
)


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    """Two pipelines of one class with different weights."""
    return flux_pipeline(0), flux_pipeline(1)


# Two pipelines of one class ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1])
@every_method
def test_of_two_pipelines_either_may_be_left_first(pair: tuple[Any, Any], method: Any, first: int) -> None:
    plain, before = [latents(pipe) for pipe in pair], [state(pipe) for pipe in pair]
    expected = [accelerated(pipe, method)[0] for pipe in pair]
    contexts = [sc.accelerate(pipe, method) for pipe in pair]
    for context in contexts:
        context.__enter__()
    assert all(torch.equal(latents(pipe), wanted) for pipe, wanted in zip(pair, expected, strict=True))
    contexts[first].__exit__(None, None, None)
    assert state(pair[first]) == before[first]
    assert torch.equal(latents(pair[first]), plain[first])
    assert torch.equal(latents(pair[1 - first]), expected[1 - first])
    contexts[1 - first].__exit__(None, None, None)
    assert [state(pipe) for pipe in pair] == before
    assert torch.equal(latents(pair[1 - first]), plain[1 - first])


def test_an_untouched_pipeline_of_the_same_class_stays_untouched(pair: tuple[Any, Any]) -> None:
    """A patch of the class would reach it."""
    plain, before = latents(pair[1]), state(pair[1])
    kinds = [type(part) for part in (pair[0], pair[0].transformer, pair[0].scheduler)]
    attributes = [dict(vars(kind)) for kind in kinds]
    with sc.accelerate(pair[0], OUTPUT):
        latents(pair[0])
        assert torch.equal(latents(pair[1]), plain)
        assert state(pair[1]) == before
        assert [dict(vars(kind)) for kind in kinds] == attributes


@every_method
def test_runs_of_two_pipelines_may_be_interleaved(pair: tuple[Any, Any], method: Any) -> None:
    """One generates inside a callback of the other."""
    expected = [accelerated(pipe, method)[0] for pipe in pair]

    def other(_pipe: Any, i: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if i in (2, 3, 7):
            assert torch.equal(latents(pair[1]), expected[1])
        return values

    with sc.accelerate(pair[0], method), sc.accelerate(pair[1], method):
        assert torch.equal(latents(pair[0], callback_on_step_end=other), expected[0])


def test_two_threads_with_two_pipelines_give_what_one_thread_gives(pair: tuple[Any, Any]) -> None:
    specs = (OUTPUT, STACK)
    calls: list[dict[str, Any]] = [{"steps": 8}, {"steps": 12, "true_cfg_scale": 1.0}, {"steps": 8, "height": 32}]
    expected = [accelerated(pipe, spec, *calls) for pipe, spec in zip(pair, specs, strict=True)]
    found: list[list[Tensor]] = [[], []]
    ready = threading.Barrier(2, timeout=60)
    failures: list[BaseException] = []

    def work(place: int) -> None:
        def together(_pipe: Any, _i: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            if len(found[place]) != 1:  # both have eight steps, so that every step of one meets one of the other
                ready.wait()
            return values

        try:
            with sc.accelerate(pair[place], specs[place]):
                for call in calls:
                    found[place].append(latents(pair[place], callback_on_step_end=together, **call))
        except BaseException as error:
            failures.append(error)
            ready.abort()

    threads = [threading.Thread(target=work, args=(place,)) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for mine, wanted in zip(found, expected, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(mine, wanted, strict=True))


@pytest.mark.parametrize("method", [STACK, MODULES])
@pytest.mark.parametrize("others", [None, OUTPUT])
def test_a_call_that_began_before_passes_the_hooked_parts_plainly(
    pair: tuple[Any, Any], method: Any, others: str | None
) -> None:
    """Another request is inside the network while its parts are hooked, and goes on amid a governed call."""
    pipe = pair[0]
    one, other = (twin(pipe, transformer=pipe.transformer) for _ in range(2))
    plain = latents(other) if others is None else accelerated(other, others)[0]
    expected = accelerated(one, method)[0]
    inside, hooked, through = (threading.Event() for _ in range(3))
    me = threading.get_ident()

    def meet(*_: Any) -> None:
        if threading.get_ident() != me and not inside.is_set():
            inside.set()
            assert hooked.wait(20)
        elif threading.get_ident() == me and not hooked.is_set():
            hooked.set()
            assert through.wait(20)

    def passed(*_: Any) -> None:
        if threading.get_ident() != me:
            through.set()

    def request() -> Tensor:
        with nullcontext() if others is None else sc.accelerate(other, others):
            return latents(other)

    network = pipe.transformer
    first, last = network.transformer_blocks[0], network.single_transformer_blocks[-1]
    with first.register_forward_pre_hook(meet), last.register_forward_hook(passed), ThreadPoolExecutor(1) as pool:
        result = pool.submit(request)
        assert inside.wait(20)
        with sc.accelerate(one, method):
            assert torch.equal(latents(one), expected)
        assert torch.equal(result.result(60), plain)


def test_accelerating_twice_is_refused_and_changes_nothing(pair: tuple[Any, Any]) -> None:
    """Neither a pipeline, nor one that shares its parts, nor by a context that was made beforehand."""
    pipe = pair[0]
    before, sharing, earlier = state(pipe), twin(pipe, **pipe.components), sc.accelerate(pipe, STACK)
    with sc.accelerate(pipe, OUTPUT):
        expected, accelerated = latents(pipe), state(pipe)
        for other in (pipe, sharing):
            for method in (OUTPUT, STACK, "reuse"):
                with pytest.raises(ValueError, match="already accelerated"):
                    sc.accelerate(other, method)
        assert state(pipe) == accelerated
        with pytest.raises(ValueError, match="already"):
            earlier.__enter__()
        assert state(pipe) == accelerated
        assert torch.equal(latents(pipe), expected)
    assert state(pipe) == before


# One network under two pipelines -------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [True, False], ids=["own scheduler", "one scheduler"])
@every_method
def test_a_pipeline_made_of_another_s_components_is_accelerated(pair: tuple[Any, Any], method: Any, own: bool) -> None:
    """Two networks of equal weights give what one network gives, used by two pipelines in turn."""
    pipe = pair[0]
    lone = image_to_image(twin(pipe))
    with sc.accelerate(lone, method):
        expected = edited(lone)
    other = image_to_image(pipe, scheduler=copy.deepcopy(pipe.scheduler) if own else pipe.scheduler)
    plain = latents(pipe)
    with sc.accelerate(other, method) as acceleration:
        assert torch.equal(edited(other), expected)
        assert torch.equal(edited(other), expected)
    assert acceleration.summary().steps == 12  # three quarters of 16: the run begins where the scheduler does
    assert acceleration.summary().forecasts > 0
    assert torch.equal(latents(pipe), plain)


@every_method
def test_both_of_two_pipelines_that_share_network_and_scheduler_are_accelerated(
    pair: tuple[Any, Any], method: Any
) -> None:
    pipe = pair[0]
    other = image_to_image(pipe)
    with sc.accelerate(other, method):
        expected = edited(other)
    with sc.accelerate(pipe, method) as acceleration:
        wanted = latents(pipe)
        assert torch.equal(edited(other), expected)
        assert acceleration.summary().steps == 12
        assert torch.equal(latents(pipe), wanted)
        with pytest.raises(Stop):
            latents(pipe, callback_on_step_end=at(4, stop))
        assert torch.equal(edited(other), expected)


@every_method
def test_another_pipeline_on_the_accelerated_network_is_not(pair: tuple[Any, Any], method: Any) -> None:
    """It has a scheduler of its own; whatever ran before."""
    pipe = pair[0]
    unnamed = image_to_image(pipe, scheduler=copy.deepcopy(pipe.scheduler))
    named = twin(pipe, transformer=pipe.transformer)
    plain = edited(unnamed), latents(named, steps=5), latents(named, steps=1)
    (expected,) = accelerated(pipe, method)
    for before in ("nothing", "a run", "an aborted run", "an interrupted run"):
        with sc.accelerate(pipe, method):
            if before == "a run":
                latents(pipe)
            elif before == "an aborted run":
                with pytest.raises(Stop):
                    latents(pipe, callback_on_step_end=at(5, stop))
            elif before == "an interrupted run":
                latents(pipe, callback_on_step_end=at(5, interrupt))
            found = edited(unnamed), latents(named, steps=5), latents(named, steps=1)
            assert all(map(torch.equal, found, plain)), before
            assert torch.equal(latents(pipe), expected), before


def in_threads(*work: Callable[[], Any]) -> list[Any]:
    """What each returns, all at the same time; what one raises is raised here."""
    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result() for future in [pool.submit(each) for each in work]]


@contextmanager
def meeting(network: Any, count: int) -> Iterator[None]:
    """Every call of a network waits until so many threads call it, then all go on."""
    ready = threading.Barrier(count, timeout=60)

    def wait(*_: Any) -> None:
        ready.wait()

    handle = network.register_forward_pre_hook(wait)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize(
    "methods",
    [
        pytest.param((OUTPUT, None), id="output, plain"),
        pytest.param((STACK, None), id="stack, plain"),
        pytest.param((MODULES, None), id="modules, plain"),
        pytest.param((OUTPUT, LINEAR), id="output, output"),
        pytest.param((STACK, OUTPUT), id="stack, output"),
        pytest.param((STACK, MODULES), id="stack, modules"),
        pytest.param(("ab2:evaluations=8", STACK), id="sampler, stack"),
    ],
)
def test_requests_in_threads_share_a_network_and_nothing_else(pair: tuple[Any, Any], methods: tuple[Any, Any]) -> None:
    """Every call of the one meets a call of the other, of another branch at another step."""
    pipes = pair[0], twin(pair[0], transformer=pair[0].transformer)
    text, pooled, _ = pipes[0].encode_prompt(PROMPT, None)  # the tokenizers that they share are for one thread
    guided = {"negative_prompt_embeds": 0.5 * text, "negative_pooled_prompt_embeds": 0.5 * pooled}
    calls: list[dict[str, Any]] = [{"steps": 8, **guided}, {"steps": 16, "true_cfg_scale": 1.0, "seed": 3}]

    def run(place: int) -> Tensor:
        method, embedded = methods[place], {"prompt_embeds": text, "pooled_prompt_embeds": pooled}
        with sc.accelerate(pipes[place], method) if method else nullcontext():
            return latents(pipes[place], prompt=None, negative_prompt=None, **embedded, **calls[place])

    expected, before = [run(0), run(1)], state(pipes[0])
    with meeting(pipes[0].transformer, 2):
        found = in_threads(partial(run, 0), partial(run, 1))
    assert all(map(torch.equal, found, expected))
    assert state(pipes[0]) == before


@every_method
def test_one_pipeline_in_two_threads_is_refused(pair: tuple[Any, Any], method: Any) -> None:
    pipe = pair[0]
    (expected,) = accelerated(pipe, method)
    began, refused = threading.Event(), threading.Event()

    def wait(_pipe: Any, _values: Any) -> None:
        began.set()
        assert refused.wait(60)

    def again() -> None:
        assert began.wait(60)
        try:
            for begin in (latents, lambda pipe: next(own_loop(pipe))):
                with pytest.raises(RuntimeError, match=r"FluxPipeline is running in another thread.*of its own"):
                    begin(pipe)
        finally:
            refused.set()

    with sc.accelerate(pipe, method):
        found, _ = in_threads(lambda: latents(pipe, callback_on_step_end=at(3, wait)), again)
        assert torch.equal(found, expected)
        assert torch.equal(latents(pipe), expected)


def test_tasks_that_take_turns_share_a_network_and_nothing_else(pair: tuple[Any, Any]) -> None:
    """Loops by hand, each in a context of its own, as tasks of one thread have it; others are refused."""
    pipes = pair[0], twin(pair[0], transformer=pair[0].transformer)

    def looped(pipe: Any) -> list[Tensor]:
        return list(own_loop(pipe))

    with sc.accelerate(pipes[0], OUTPUT):
        expected = [looped(pipes[0]), looped(pipes[1])]

    async def task(pipe: Any) -> list[Tensor]:
        found = []
        for x in own_loop(pipe):
            found.append(x)
            await asyncio.sleep(0)
        return found

    async def both() -> list[list[Tensor]]:
        return await asyncio.gather(*map(task, pipes))

    with sc.accelerate(pipes[0], OUTPUT):
        found = asyncio.run(both())
    for mine, wanted in zip(found, expected, strict=True):
        assert all(map(torch.equal, mine, wanted))
    with sc.accelerate(pipes[0], OUTPUT), sc.accelerate(pipes[1], OUTPUT):
        first, second = map(own_loop, pipes)
        next(first), next(second)
        with pytest.raises(RuntimeError, match=r"where another run has begun since"):
            next(first)
        next(first_of := own_loop(pipes[0]))
        assert torch.equal(next(first_of), expected[0][1])


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("compile_", [False, True], ids=["plain", "compiled"])
def test_of_two_pipelines_on_one_network_either_may_come_and_leave_first(
    pair: tuple[Any, Any], first: int, compile_: bool
) -> None:
    pipe = twin(pair[0])
    if compile_:
        pipe.transformer.compile_repeated_blocks(backend="eager")
        pipe.transformer.compile(backend="eager")
    pipes, methods = (pipe, twin(pipe, transformer=pipe.transformer)), (STACK, OUTPUT)
    plain, before = latents(pipe), state(pipe)
    expected = [accelerated(*each)[0] for each in zip(pipes, methods, strict=True)]
    contexts = [sc.accelerate(*each) for each in zip(pipes, methods, strict=True)]
    for context in contexts:
        context.__enter__()
    assert all(map(torch.equal, map(latents, pipes), expected))
    assert torch.equal(latents(twin(pipe, transformer=copy.deepcopy(pipe.transformer))), plain)
    assert all(map(torch.equal, map(latents, pipes), expected))
    contexts[first].__exit__(None, None, None)
    wanted = [plain if place == first else expected[place] for place in (0, 1)]
    assert all(map(torch.equal, map(latents, pipes), wanted))
    contexts[1 - first].__exit__(None, None, None)
    assert state(pipe) == before
    assert torch.equal(latents(pipe), plain)


def test_a_network_that_only_others_called_is_told_of(pair: tuple[Any, Any]) -> None:
    pipe = pair[0]
    with pytest.warns(UserWarning, match="did nothing: its network was called"), sc.accelerate(pipe, OUTPUT):
        latents(twin(pipe, transformer=pipe.transformer))


def test_a_scheduler_copied_inside_the_context_is_a_scheduler_of_its_own(pair: tuple[Any, Any]) -> None:
    """Pipelines with sound copy theirs at every call."""
    pipe = pair[0]
    with sc.accelerate(pipe, OUTPUT) as acceleration:
        latents(pipe)
        before = copy.deepcopy(acceleration.calls)
        timesteps = pipe.scheduler.timesteps.clone()
        own = copy.deepcopy(pipe.scheduler)
        own.set_timesteps(5, mu=0.5)
        assert len(own.timesteps) == 5
        assert torch.equal(pipe.scheduler.timesteps, timesteps)
        assert acceleration.calls == before  # it began no run


def test_a_ddim_copied_inside_the_context_takes_no_step_of_the_original() -> None:
    family = NAMED["Stable Diffusion 1.5, DDIM"]
    pipe = family.build()
    with sc.accelerate(pipe, OUTPUT):
        expected = family.run(pipe)

    def copied(pipe: Any, _i: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        own = copy.deepcopy(pipe.scheduler)
        own.step(values["latents"], own.timesteps[0], values["latents"])
        return values

    with sc.accelerate(pipe, OUTPUT):
        assert torch.equal(family.run(pipe, callback_on_step_end=copied), expected)


def test_a_scheduler_made_from_its_configuration_is_refused_as_a_replacement(pair: tuple[Any, Any]) -> None:
    pipe = pair[0]
    own = pipe.scheduler
    try:
        with sc.accelerate(pipe, OUTPUT):
            pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(own.config)
            with pytest.raises(RuntimeError, match="scheduler was replaced"):
                latents(pipe)
    finally:
        pipe.scheduler = own


# Two networks that take turns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [OUTPUT, "reuse:interval=4", "lagrange:order=2,interval=5"])
def test_each_expert_is_forecast_from_itself(spec: str) -> None:
    family = NAMED["Wan 2.2"]
    pipe = family.build()
    with told_by_content(pipe, spec):
        expected = family.run(pipe, steps=12)
    with sc.accelerate(pipe, spec) as acceleration:
        assert torch.equal(family.run(pipe, steps=12), expected)
        assert torch.equal(family.run(pipe, steps=12), expected)
    assert set(acceleration.runs) == {"cond", "uncond"}


@pytest.mark.parametrize("spec", [f"{OUTPUT},warmup=3", STACK])
def test_the_first_step_of_an_expert_is_evaluated_and_both_are_restored(spec: str) -> None:
    family = NAMED["Wan 2.2"]
    pipe = family.build()
    with counted(pipe.transformer.patch_embedding) as counts:
        plain = family.run(pipe, steps=12)
    (switch,) = (count // 2 for count in counts.values())  # steps of the first expert, of two calls each
    before, evaluated = state(pipe), sc.method(spec).controller.evaluated(12)
    assert 0 < switch < 12
    assert switch not in evaluated
    with sc.accelerate(pipe, spec) as acceleration:
        family.run(pipe, steps=12)
    for run in acceleration.runs.values():
        assert [record.step for record in run.trace if record.evaluated] == sorted({*evaluated, switch})
    assert state(pipe) == before
    assert torch.equal(family.run(pipe, steps=12), plain)
