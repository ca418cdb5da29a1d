"""Faults that were found in other caches for diffusion models, and that must not be repeated here.

Exactness of forecasters is in `test_conformance.py`, sizes and failures in `test_calls.py`, branches in
`test_guidance.py`, two pipelines in `test_sharing.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, FlowMatchEulerDiscreteScheduler, TaylorSeerCacheConfig
from torch import Tensor, nn

import skipcast as sc
from skipcast.controllers import StaticController
from skipcast.methods.published import EVERYTHING, REGISTRY
from support.seams import OUTPUT, Deep, every_method, state
from support.tiny import latents, twin

# diffusers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [OUTPUT, "lagrange:order=2,interval=4", "foca:target=output"])
def test_no_name_of_a_branch_and_no_mixin_is_needed(method: str) -> None:
    """Most pipelines set no `cache_context`, and a network of one's own knows none."""

    class Bare(nn.Module):
        def forward(self, hidden_states: Tensor, timestep: Tensor, prompt: Tensor) -> tuple[Tensor]:
            return (torch.sin(hidden_states * prompt + timestep),)

    prompts = [torch.full((4,), 1.5), torch.full((4,), 0.5)]

    def run(order: list[int]) -> list[Tensor]:
        pipe = SimpleNamespace(transformer=Bare(), scheduler=FlowMatchEulerDiscreteScheduler())
        found = []
        with sc.accelerate(pipe, method):
            pipe.scheduler.set_timesteps(12)
            x = torch.linspace(-1, 1, 4)
            for t in pipe.scheduler.timesteps:
                found.append([pipe.transformer(x, t / 1000, prompts[branch])[0] for branch in order])
                pipe.scheduler.step(found[-1][0], t, x)
        return [torch.stack(column) for column in zip(*found, strict=True)]

    both, alone = run([0, 1]), [run([0])[0], run([1])[0]]
    assert all(torch.equal(one, other) for one, other in zip(both, alone, strict=True))


@every_method
def test_two_equal_loops_give_equal_outputs(method: Any) -> None:
    """A state that only the end of a pipeline's call resets reaches into the second of two loops without one."""
    deep, loops = Deep(), []
    with sc.accelerate(deep, method) as acceleration:
        for _ in range(3):
            deep.begin()
            loops.append(torch.stack([deep.call(step) for step in range(6)]))
            assert acceleration.summary().forecasts > 0
    assert torch.equal(loops[0], loops[1])
    assert torch.equal(loops[0], loops[2])


@every_method
def test_a_run_before_accelerating_changes_nothing(pipe: Any, method: Any) -> None:
    """Registries that remember their hooked descendants must learn of new ones, or names of branches get lost."""
    fresh, used = twin(pipe), twin(pipe)
    with sc.accelerate(fresh, method):
        expected = latents(fresh)
    for _ in range(2):
        latents(used)
        with sc.accelerate(used, method) as acceleration:
            assert torch.equal(latents(used), expected)
        assert set(acceleration.runs) == {"cond", "uncond"}


# cache-dit ------------------------------------------------------------------------------------------------------------


@every_method
def test_both_branches_are_skipped_on_the_same_steps(pipe: Any, method: Any) -> None:
    """Two calls per step are not two steps, and one call per step is not half a step."""
    evaluated = [0, 1, 2, 5, 8, 11]
    with sc.accelerate(pipe, method) as acceleration:
        for scale, branches in ((2.0, 2), (1.0, 1)):
            latents(pipe, true_cfg_scale=scale)
            traces = [[(record.step, record.evaluated) for record in run.trace] for run in acceleration.runs.values()]
            assert len(traces) == branches
            assert all(set(trace) == {(step, step in evaluated) for step in range(12)} for trace in traces)


MADE = {spec: made for spec in EVERYTHING if isinstance(made := sc.method(spec), sc.Method)}
STATIC = [spec for spec, made in MADE.items() if isinstance(made.controller, StaticController)]
DYNAMIC = [spec for spec in MADE if spec not in STATIC]


def probed(method: sc.Method, x: Tensor) -> Tensor:
    """What a run is shown where it stands at x."""
    return torch.stack((x, 2 * x)) if method.probe == "around" else x


def longest_gap(evaluated: tuple[int, ...], steps: int) -> int:
    return max(b - a for a, b in itertools.pairwise((*evaluated, steps)))


@pytest.mark.parametrize("spec", STATIC)
def test_every_number_of_steps_has_a_valid_schedule_or_a_clear_error(spec: str) -> None:
    """Masks that are made for some lengths of a run fail on others, or skip twenty steps in a row."""
    controller = MADE[spec].controller
    refused = []
    for steps in range(1, 201):
        try:
            evaluated = controller.evaluated(steps)
        except ValueError as error:
            assert type(controller).__name__ in str(error) or "num_inference_steps" in str(error)  # noqa: PT017
            refused.append(steps)
            continue
        assert evaluated[0] == 0
        assert list(evaluated) == sorted(set(evaluated))
        assert evaluated[-1] < steps
        interval = getattr(controller, "interval", None)
        if interval is not None:
            assert longest_gap(evaluated, steps) <= max(interval, 1)
    assert refused == list(range(1, len(refused) + 1)) or 50 not in refused  # short ones, or searched for one length


def driven(run: sc.Run, values: list[Tensor], seen: Callable[[], None] = lambda: None) -> None:
    """A run whose network doubles its input."""
    for x in values:
        around = run.method.probe == "around"
        if run.wants_evaluation(torch.stack((x, 2 * x)) if around else x):
            run.observe(x, 2 * x)
        else:
            run.verified = torch.tensor(0.01)
            run.forecast(x)
        seen()


@pytest.mark.parametrize("spec", DYNAMIC)
def test_methods_that_decide_by_values_evaluate_the_first_step_of_any_run(spec: str) -> None:
    method, noise = MADE[spec], torch.Generator().manual_seed(0)
    for steps in (*range(1, 14), 28, 50, 200):
        try:
            run = sc.Run(method, sc.TimeGrid.shifted(steps))
        except ValueError as error:
            assert str(steps) in str(error)  # noqa: PT017
            assert steps < 13
            continue
        driven(run, list(torch.randn(steps, 2, 9, generator=noise)))
        assert [record.step for record in run.trace] == list(range(steps))
        assert run.trace[0].evaluated


@pytest.mark.parametrize("schedule", ["periodic,warmup=1", "even"])
@pytest.mark.parametrize("evaluations", [2, 5, 10])
def test_the_last_step_is_evaluated_on_request(schedule: str, evaluations: int) -> None:
    """And the count is met as closely as without it."""
    controller = sc.method(f"reuse:schedule={schedule},evaluations={evaluations},last=true").controller
    for steps in range(evaluations, 201):
        assert controller.evaluated(steps)[0] == 0
        assert controller.evaluated(steps)[-1] == steps - 1


CACHES = {
    "first block": FirstBlockCacheConfig(threshold=0.5),
    "taylorseer": TaylorSeerCacheConfig(
        cache_interval=3,
        disable_cache_before_step=2,
        max_order=1,
        taylor_factors_dtype=torch.float32,
        use_lite_mode=True,
    ),
}


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES)
@every_method
def test_another_cache_is_refused_and_works_where_it_is_alone(pipe: Any, method: Any, cache: Any) -> None:
    """Two caches on one network forecast each other's forecasts."""
    used = twin(pipe)
    plain = latents(used)
    used.transformer.enable_cache(cache)
    cached, before = latents(used), state(used)
    with pytest.raises(ValueError, match="disable_cache"):
        sc.accelerate(used, method)
    assert state(used) == before
    assert torch.equal(latents(used), cached)
    used.transformer.disable_cache()
    assert torch.equal(latents(used), plain)
    with sc.accelerate(used, method):
        expected = latents(used)
        used.transformer.enable_cache(cache)
        with pytest.raises((ValueError, RuntimeError), match="another cache"):
            latents(used)
        used.transformer.disable_cache()
        assert torch.equal(latents(used), expected)
        used.transformer.enable_cache(cache)
    assert torch.equal(latents(used), cached)  # behind the context
    used.transformer.disable_cache()
    assert torch.equal(latents(used), plain)


def test_a_foreign_flag_of_a_cached_network_is_believed(pipe: Any) -> None:
    used = twin(pipe)
    used.transformer._is_cached = True
    with pytest.raises(ValueError, match=r"cache_dit\.disable_cache"):
        sc.accelerate(used, OUTPUT)


@pytest.mark.parametrize("name", [name for name, entry in REGISTRY.items() if entry.variants])
def test_what_a_method_remembers_is_bounded(name: str) -> None:
    """A fit that keeps its snapshots in double precision takes more memory than the network's activations."""
    made = MADE.get(name)
    if made is None or made.target.seam == "modules":
        return
    run, sizes = sc.Run(made, sc.TimeGrid.shifted(50)), []
    value = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
    driven(run, [value + 0.01 * step for step in range(50)], lambda: sizes.append(run.bytes()))
    # The window, as much again where a forecaster derives something from it, and what a controller compares.
    assert max(sizes) <= 2 * (made.forecaster.window + 1) * value.nbytes
