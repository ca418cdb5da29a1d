"""Where a run stands, by schedulers that know it and by those that do not."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from skipcast.pipelines.steps import Clock, overridden

INDEXED = [FlowMatchEulerDiscreteScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler]
COUNTED = [DDIMScheduler, PNDMScheduler]
Reading = Callable[[Any], Any]
#: What networks receive for a timestep of a thousand.
READINGS: dict[str, Reading] = {"t": lambda t: t, "t / T": lambda t: t / 1000, "1 - t / T": lambda t: 1 - t / 1000}


def begun(kind: type, steps: int = 10, **options: Any) -> tuple[Any, Clock]:
    """A scheduler on its grid, and a clock that has heard of it."""
    scheduler = kind(**options)
    clock = Clock(scheduler)
    scheduler.set_timesteps(steps)
    clock.begin()
    return scheduler, clock


def walk(scheduler: Any, clock: Clock, begin: int = 0, reading: Reading = lambda t: t) -> list[int]:
    """The steps that the clock tells, two denoiser calls each, as guidance makes them."""
    found, x, ends = [], torch.zeros(1, 2), []
    with clock.counting(lambda _: ends.append(len(found))):
        for t in scheduler.timesteps[begin:]:
            steps = {clock.step(reading(t)) for _ in range(2)}
            assert len(steps) == 1
            found += steps
            x = scheduler.step(torch.zeros(1, 2), t, x, return_dict=False)[0]
    assert ends == [len(found)]  # called once, after the last step
    return found


@pytest.mark.parametrize("kind", INDEXED + COUNTED)
def test_steps_are_counted_from_the_beginning(kind: type) -> None:
    scheduler, clock = begun(kind)
    assert clock.indexed == (kind in INDEXED)
    assert walk(scheduler, clock) == list(range(len(scheduler.timesteps)))


def test_a_time_that_is_evaluated_twice_stands_for_two_steps() -> None:
    scheduler, clock = begun(PNDMScheduler, skip_prk_steps=True)
    times = scheduler.timesteps.tolist()
    assert times[1] == times[2]
    assert walk(scheduler, clock) == list(range(11))


@pytest.mark.parametrize("begin", [0, 1, 4])
@pytest.mark.parametrize("kind", INDEXED)
def test_a_begin_index_that_the_pipeline_sets_holds(kind: type, begin: int) -> None:
    scheduler, clock = begun(kind)
    scheduler.set_begin_index(begin)
    assert walk(scheduler, clock, begin, reading=lambda _: 0.123) == list(range(10 - begin))  # the value is ignored
    assert clock.first(None) == begin


@pytest.mark.parametrize("begin", [0, 1, 4])
@pytest.mark.parametrize("kind", [FlowMatchEulerDiscreteScheduler, DPMSolverMultistepScheduler, DDIMScheduler])
@pytest.mark.parametrize("reading", READINGS.values(), ids=READINGS)
def test_a_late_beginning_is_found_from_the_first_time(kind: type, begin: int, reading: Reading) -> None:
    scheduler, clock = begun(kind)
    assert walk(scheduler, clock, begin, reading) == list(range(10 - begin))
    assert clock.first(None) == begin  # found once
    scheduler.set_timesteps(6)
    clock.begin()
    assert walk(scheduler, clock) == list(range(6))  # another run begins anew


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reading", READINGS.values(), ids=READINGS)
def test_a_time_is_found_in_the_precision_of_the_model(dtype: torch.dtype, reading: Reading) -> None:
    for begin in range(25):
        scheduler, clock = begun(FlowMatchEulerDiscreteScheduler, 50)
        t = scheduler.timesteps[begin : begin + 1].expand(2)
        assert clock.first(reading(t).to(dtype)) == begin


def test_of_two_readings_the_earlier_place_holds() -> None:
    _, clock = begun(FlowMatchEulerDiscreteScheduler)
    clock.scheduler.timesteps = torch.linspace(1000, 100, 10)
    assert clock.first(0.3) == 3  # 1 - 0.7; 0.3 itself stands at 7


@pytest.mark.parametrize("reading", [None, 12345.0, -7.0])
def test_a_time_that_is_none_of_the_grid_begins_at_its_start(reading: Any) -> None:
    _, clock = begun(DDIMScheduler)
    assert clock.first(reading) == 0
    assert clock.step(reading) == 0


def test_a_run_that_is_broken_off_is_forgotten() -> None:
    scheduler, clock = begun(DDIMScheduler)
    with clock.counting(lambda _: None):
        for t in scheduler.timesteps[:3]:
            clock.step(t)
            scheduler.step(torch.zeros(1, 2), t, torch.zeros(1, 2))
        assert clock.step(None) == 3
        clock.begin()
        assert clock.step(scheduler.timesteps[2]) == 0


def test_nothing_runs_before_the_beginning() -> None:
    clock = Clock(DDIMScheduler())
    assert not clock.running
    clock.begin()
    assert clock.running


@pytest.mark.parametrize("kind", INDEXED + COUNTED)
def test_counting_leaves_the_scheduler_as_it_was(kind: type) -> None:
    scheduler = kind()
    before, signature = dict(vars(scheduler)), inspect.signature(scheduler.step)
    for failure in (nullcontext(), pytest.raises(KeyError)):
        with failure as expected, Clock(scheduler).counting(lambda _: None):
            assert "step" in vars(scheduler)
            assert inspect.signature(scheduler.step) == signature
            if expected is not None:
                raise KeyError
        assert vars(scheduler) == before


def test_a_step_that_fails_is_not_counted() -> None:
    scheduler, clock = begun(DDIMScheduler)
    with clock.counting(lambda _: None):
        with pytest.raises(TypeError):
            scheduler.step()
        assert clock.taken == 0


class Thing:
    def act(self) -> str:
        return "class"


def test_attributes_of_the_class_are_uncovered_again_one_by_one() -> None:
    thing = Thing()
    with overridden(thing, "act", lambda: "outer"):
        with pytest.raises(KeyError), overridden(thing, "act", lambda: "inner"):
            assert thing.act() == "inner"
            raise KeyError
        assert thing.act() == "outer"
    assert thing.act() == "class"
    assert not vars(thing)


def test_an_attribute_of_the_instance_is_put_back() -> None:
    thing = Thing()
    own = thing.act = lambda: "own"  # type: ignore[method-assign]
    with overridden(thing, "act", lambda: "ours"):
        assert thing.act() == "ours"
    assert vars(thing) == {"act": own}


def test_in_another_order_nothing_of_others_is_touched_and_nothing_is_left() -> None:
    thing = Thing()
    plain = thing.act()
    first = overridden(thing, "act", lambda: "first")
    first.__enter__()
    below = thing.act
    second = overridden(thing, "act", lambda: f"second {below()}")
    second.__enter__()
    assert thing.act() == "second first"
    first.__exit__(None, None, None)
    assert thing.act() == f"second {plain}"
    second.__exit__(None, None, None)
    assert thing.act() == plain
    assert not vars(thing)
