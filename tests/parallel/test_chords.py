"""CHORDS in one process: the last answer is the sequential sampler's, the others are the paper's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import skipcast as sc
from skipcast.forecasters import Lagrange
from skipcast.parallel.schedule import schedule
from skipcast.parts import Method
from skipcast.targets import OutputDrift
from support import toy

STEPS = 50
GRID = sc.TimeGrid.shifted(STEPS, shift=2.0)
NOISE = toy.noise(3)


def denoiser(x: Tensor, timestep: Tensor) -> Tensor:
    return toy.network(x, float(timestep))


def sequential(grid: sc.TimeGrid = GRID, noise: Any = NOISE) -> Any:
    return sc.sample(denoiser, sc.compile_plan(f"reuse:evaluations={len(grid)}", grid), noise)


def answers(noise: Any = NOISE, **options: Any) -> list[Any]:
    return list(sc.chords(denoiser, noise, **{"grid": GRID, "cores": 4, **options}))


def bounded(x: Tensor, timestep: Tensor) -> Tensor:
    return torch.tanh(x.roll(1, -1)) * torch.cos(timestep / 300)


def never(*_: Any) -> Any:
    raise AssertionError("evaluated")


def published(starts: tuple[int, ...], x: Tensor, v: Callable[[Tensor, int], Tensor]) -> list[Tensor]:
    """The tick of the released code on the flow of GRID, as it is written down; outputs in the order of finishing."""
    sigma = [*GRID.sigma.tolist(), 0.0]

    def jump(x: Tensor, v: Tensor, i: int, j: int) -> Tensor:
        return x + (sigma[j] - sigma[i]) * v

    cores: list[dict[str, Any]] = [{"p": 0, "x": x, "begin": [0, x, None]}]
    outputs = []
    while any(core["p"] < STEPS for core in cores):
        active = [core for core in cores if core["p"] < STEPS]
        for core in active:
            core["v"] = v(core["x"], core["p"])
            core["seen"] = (core["p"], core["x"], core["v"])
            if core["p"] == core["begin"][0]:
                core["begin"][2] = core["v"]
        newest, place = cores[-1], len(cores) - 1
        spawned = None
        if newest["p"] == starts[place]:
            end = starts[place + 1] if place + 1 < len(starts) else STEPS
            there = jump(newest["x"], newest["v"], starts[place], end)
            if end == STEPS:
                outputs.append(there)
            else:
                spawned = {"p": end, "x": there, "begin": [end, there, None]}
        seen = [core["seen"] for core in cores]
        for k, core in enumerate(cores):
            if core["p"] == STEPS:
                continue
            p = core["p"]
            moved = jump(core["x"], core["v"], p, p + 1)
            b, x_begin, v_begin = core["begin"]
            if k and seen[k - 1][0] == b:
                slow = jump(seen[k - 1][1], seen[k - 1][2], b, p + 1)
                moved = moved - jump(x_begin, v_begin, b, p + 1) + slow
                core["begin"] = [p + 1, moved, None]
            core["x"], core["p"] = moved, p + 1
        outputs += [core["x"] for core in reversed(active) if core["p"] == STEPS]
        cores += [spawned] if spawned else []
    return outputs


@pytest.mark.parametrize(("cores", "init"), [(4, "chords"), (8, "chords"), (8, "uniform"), (3, (0, 1, 2))])
def test_answers_are_those_of_the_released_rule(cores: int, init: Any) -> None:
    found = answers(cores=cores, init=init)
    starts = schedule(STEPS, cores, init).starts
    wanted = published(starts, NOISE, lambda x, step: toy.network(x, float(GRID.timestep[step])))
    assert len(found) == len(wanted) == cores + 1
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine.samples, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("coarse", ["reuse", "lagrange:order=2"])
def test_the_last_answer_is_the_sequential_sampler_s_to_the_bit(dtype: torch.dtype, coarse: str) -> None:
    found = answers(NOISE.to(dtype), cores=8, coarse=coarse)
    assert torch.equal(found[-1].samples, sequential(noise=NOISE.to(dtype)))
    assert [answer.core for answer in found] == [None, 7, 6, 5, 4, 3, 2, 1, 0]
    assert found[-1].rounds == STEPS


def test_arrays_of_numpy_come_back_as_such() -> None:
    made = sc.chords(lambda x, timestep: 0.5 * x, NOISE.numpy(), grid=GRID, cores=4, stop=0)
    (answer,) = made
    assert isinstance(answer.samples, np.ndarray)
    assert answer.rounds == 4
    assert answer.change is None


def test_answers_stream_and_count_what_they_cost() -> None:
    calls = 0

    def counted(x: Tensor, timestep: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return denoiser(x, timestep)

    exact = sequential()
    errors = []
    for answer in sc.chords(counted, NOISE, grid=GRID, cores=4):
        assert answer.evaluations == calls
        errors.append((answer.samples - exact).norm() / exact.norm())
    assert calls == 144
    assert all(later < earlier for earlier, later in zip(errors, errors[1:], strict=False))


def test_the_change_estimates_the_error_of_the_answer_before() -> None:
    exact = sequential()
    found = answers(cores=8)
    for before, after in zip(found[:3], found[1:4], strict=True):
        error = (before.samples - exact).norm(dim=1) / exact.norm(dim=1)
        torch.testing.assert_close(after.change, error, rtol=0.1, atol=0)


def test_a_run_stops_at_an_answer_or_at_a_small_change() -> None:
    assert [answer.rounds for answer in answers(stop=1)] == [4, 21]
    assert [answer.rounds for answer in answers(stop=1e-3)] == [4, 21, 36, 43]
    assert [answer.rounds for answer in answers(stop=1.0)] == [4, 21]


def test_a_diffusion_grid_of_noise_predictions() -> None:
    t = np.linspace(1, 0.02, 20)
    grid = sc.TimeGrid(1000 * t, np.cos(t * 1.5), np.sin(t * 1.5))
    options = {"grid": grid, "prediction": "epsilon", "end": (1.0, 0.0)}
    profile = sc.record(bounded, NOISE, progress=False, **options)
    *_, last = sc.chords(bounded, NOISE, cores=4, init="uniform", **options)
    torch.testing.assert_close(last.samples, profile.trajectory[:, -1].double(), rtol=1e-6, atol=1e-6)


# Forecasters and plans in the place of Euler's jump.


def test_a_forecaster_starts_cores_closer() -> None:
    exact = sequential()

    def errors(coarse: str) -> list[float]:
        found = answers(cores=8, coarse=coarse, stop=2)
        return [float((answer.samples - exact).norm() / exact.norm()) for answer in found]

    held, line, parabola = (errors(name) for name in ("reuse", "lagrange:order=1", "lagrange:order=2"))
    for order_0, order_1, order_2 in zip(held, line, parabola, strict=True):
        assert order_2 < order_1 / 2 < order_0 / 4


@pytest.fixture(scope="module")
def plan() -> sc.Plan:
    return sc.record(denoiser, toy.noise(8, seed=1), grid=GRID, progress=False).plan(evaluations=8)


def test_the_first_answer_of_a_plan_is_the_plan_s_own(plan: sc.Plan) -> None:
    exact = sequential()
    found = answers(cores=8, coarse=plan)
    assert [answer.core + 50 - answer.rounds for answer in found[1:]] == list(plan.steps[::-1])
    torch.testing.assert_close(found[0].samples, sc.sample(denoiser, plan, NOISE), rtol=1e-12, atol=1e-12)
    assert torch.equal(found[-1].samples, exact)
    first = [(answer.samples - exact).norm() / exact.norm() for answer in (found[1], answers(cores=8)[1])]
    assert first[0] < first[1] / 2


def test_timesteps_that_a_plan_has_moved_are_told_between_starts_alone(plan: sc.Plan) -> None:
    moved = replace(plan, evaluation_timesteps=plan.evaluation_timesteps - 2.0)
    told: list[float] = []
    for answer in sc.chords(
        lambda x, t: (told.append(float(t)), denoiser(x, t))[1], NOISE, grid=GRID, cores=8, coarse=moved
    ):
        last = answer
    assert torch.equal(last.samples, sequential())
    assert [t for t in told if not np.isclose(t, GRID.timestep).any()] == moved.evaluation_timesteps[:7].tolist()
    assert last.evaluations == len(told)


def test_fewer_cores_than_a_plan_has_evaluations() -> None:
    plan = sc.compile_plan("lagrange:order=1,evaluations=10", GRID)
    found = answers(cores=4, coarse=plan)
    assert found[1].rounds == 3 + 50 - plan.steps[3]
    assert torch.equal(found[-1].samples, sequential())


# What is refused before any evaluation.


class Ancestral:
    """A scheduler that draws noise."""

    order = 1
    config = MappingProxyType({"algorithm_type": "sde-dpmsolver++"})
    timesteps = sigmas = torch.ones(3)

    def set_timesteps(self) -> None: ...

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor) -> None: ...


def multistep(size: int = STEPS) -> np.ndarray:
    """The table of a two-step rule."""
    table = np.tril(np.full((size + 1, size + 1), 0.1))
    table[:, 0] = 1.0
    table[np.arange(1, size + 1), np.arange(1, size + 1)] = -0.2
    return table


OTHER = sc.TimeGrid.shifted(20)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grid": None}, r"chords\(grid=...\) must be a TimeGrid"),
        ({"grid": None, "sampler": Ancestral()}, "adds noise at every step"),
        ({"sampler": multistep()}, "the sampler weighs earlier outputs at step 1"),
        ({"cores": 51, "init": "uniform"}, "between 1 and the 50 steps"),
        ({"init": (0, 1, 1, 2)}, "rise"),
        ({"stop": 5}, r"chords\(stop=5\) must be an answer from 0 to 4"),
        ({"stop": -1}, "from 0 to 4"),
        ({"stop": 0.0}, "positive change"),
        ({"stop": float("nan")}, "must be a number"),
        ({"coarse": "tc-pade"}, "must be a method whose forecaster has weights of its own"),
        ({"coarse": Method(Lagrange(1), target=OutputDrift())}, "at the network's output"),
        ({"coarse": "euler"}, "must be a method whose"),
        ({"coarse": sc.compile_plan("reuse:evaluations=8", OTHER)}, "another grid"),
        ({"coarse": sc.compile_plan("reuse:evaluations=3", GRID)}, "at most the 3 evaluations of the plan"),
        ({"coarse": sc.compile_plan("reuse:evaluations=8", GRID), "init": "uniform"}, "must be left out with a plan"),
        ({"varied": {"label": [1]}}, r"chords\(varied=...\): 1 values of label for 3 samples"),
    ],
)
def test_refusals(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sc.chords(never, NOISE, **{"grid": GRID, "cores": 4, **options})


def test_what_is_no_denoiser_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a pipeline of diffusers, or a callable"):
        sc.chords(None, NOISE, grid=GRID, cores=4)
    with pytest.raises(ValueError, match=r"chords\(noise=...\) must be initial samples"):
        sc.chords(never, "a cat", grid=GRID, cores=4)
    with pytest.raises(TypeError, match=r"chords\(cores=...\) must be a whole number"):
        sc.chords(never, NOISE, grid=GRID, cores="4")
