"""Faults that were found in other caches for diffusion models, and that must not be repeated here.

Exactness of forecasters is in `test_conformance.py`, sizes and failures in `test_calls.py`, branches in
`test_guidance.py`, two pipelines in `test_sharing.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, FlowMatchEulerDiscreteScheduler, TaylorSeerCacheConfig
from torch import Tensor, nn

import skipcast as sc
from families.all import NAMED
from skipcast.controllers import StaticController
from skipcast.methods.published import EVERYTHING, REGISTRY
from support.seams import METHODS, Deep, method_id, state
from support.tiny import flux_pipeline, latents

OUTPUT, STACK = "taylorseer:order=1,interval=3", "resilphase:interval=3"
SEAMS = [OUTPUT, STACK, METHODS[-1]]


@contextmanager
def counted(network: nn.Module) -> Iterator[list[int]]:
    """How many modules inside the network ran, for every call of it."""
    counts: list[int] = []

    def call(*_: Any) -> None:
        counts.append(0)

    def part(*_: Any) -> None:
        counts[-1] += 1

    handles = [network.register_forward_pre_hook(call)]
    handles += [module.register_forward_hook(part) for module in network.modules() if module is not network]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def answers(network: nn.Module) -> Iterator[list[Tensor]]:
    """What the pipeline is given at every call of the network, evaluated or forecast."""
    found: list[Tensor] = []
    handle = network.register_forward_hook(lambda _m, _a, output: found.append(output[0].clone()))
    try:
        yield found
    finally:
        handle.remove()


# diffusers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Wan 2.1", "CogVideoX", "LTX-Video", "FLUX.1", "Qwen-Image"])
def test_a_method_that_is_on_has_an_effect(name: str) -> None:
    """A cache that hooks nothing, because the modules have other names, must not look enabled."""
    family = NAMED[name]
    pipe = family.build()
    for method in (OUTPUT, STACK):
        with sc.accelerate(pipe, method) as acceleration, counted(pipe.transformer) as counts:
            family.run(pipe, steps=8)
        summary = acceleration.summary()
        shorter = (name, method) == ("Wan 2.1", OUTPUT)  # the warm-up that its authors have there
        assert summary.forecasts == (5 if shorter else 4)
        assert not [text for text in summary.warnings if "no effect" in text]
        forecast = [step not in summary.evaluated_steps for step in range(8) for _ in summary.branches]
        assert all((count < max(counts)) == skipped for count, skipped in zip(counts, forecast, strict=True))


@pytest.mark.parametrize("method", ["taylorseer:interval=1", "resilphase:interval=1", "taylorseer:warmup=8,interval=9"])
def test_a_method_without_effect_says_so(method: str) -> None:
    """Neither a speed-up nor a word about its absence is the worst of both."""
    pipe = flux_pipeline()
    with sc.accelerate(pipe, method) as acceleration:
        latents(pipe, steps=8)
    summary = acceleration.summary()
    assert summary.forecasts == 0
    assert any("no effect" in text for text in summary.warnings)
    assert "no effect" in str(summary)


@pytest.mark.parametrize("name", ["FLUX.2", "Stable Diffusion 3", "Chroma"])
@pytest.mark.parametrize("method", [OUTPUT, STACK])
def test_blocks_of_every_form_pass(name: str, method: str) -> None:
    """Blocks that return two tensors in another order, no text from the last one, or one joined tensor."""
    family = NAMED[name]
    pipe = family.build()
    plain = family.run(pipe)
    with sc.accelerate(pipe, method) as acceleration:
        found = family.run(pipe)
    assert acceleration.summary().forecasts == 4
    assert found.shape == plain.shape
    assert torch.isfinite(found).all()
    assert not torch.equal(found, plain)


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


@pytest.mark.parametrize("name", ["Wan 2.1", "Lumina 2", "FLUX.1 true CFG"])
@pytest.mark.parametrize("method", [OUTPUT, STACK])
def test_the_first_unconditional_output_is_the_network_s_own(name: str, method: str) -> None:
    """One counter for both branches answers the first unconditional call with the conditional output."""
    family = NAMED[name]
    pipe = family.build()
    with answers(pipe.transformer) as plain:
        family.run(pipe, steps=6)
    with sc.accelerate(pipe, method), answers(pipe.transformer) as accelerated:
        family.run(pipe, steps=6)
    assert torch.equal(accelerated[0], plain[0])
    assert torch.equal(accelerated[1], plain[1])
    assert not torch.equal(plain[0], plain[1])


@pytest.mark.parametrize("method", SEAMS, ids=method_id)
def test_two_equal_loops_give_equal_outputs(method: Any) -> None:
    """A state that only the end of a pipeline's call resets reaches into the second of two loops without one."""
    deep = Deep()
    with sc.accelerate(deep, method) as acceleration:
        loops = []
        for _ in range(3):
            deep.begin()
            loops.append(torch.stack([deep.call(step) for step in range(6)]))
            assert acceleration.summary().forecasts > 0
    assert torch.equal(loops[0], loops[1])
    assert torch.equal(loops[0], loops[2])


@pytest.mark.parametrize("method", SEAMS, ids=method_id)
def test_a_run_before_accelerating_changes_nothing(method: Any) -> None:
    """Registries that remember their hooked descendants must learn of new ones, or names of branches get lost."""
    fresh, used = flux_pipeline(), flux_pipeline()
    with sc.accelerate(fresh, method):
        expected = latents(fresh)
    latents(used)
    for _ in range(2):
        with sc.accelerate(used, method) as acceleration:
            assert torch.equal(latents(used), expected)
        assert set(acceleration.runs) == {"cond", "uncond"}
        latents(used)


# cache-dit ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SEAMS, ids=method_id)
def test_both_branches_are_skipped_on_the_same_steps(method: Any) -> None:
    """Two calls per step are not two steps, and one call per step is not half a step."""
    pipe = flux_pipeline()
    with sc.accelerate(pipe, method) as acceleration:
        latents(pipe)
        guided = [[(r.step, r.evaluated) for r in run.trace] for run in acceleration.runs.values()]
        latents(pipe, true_cfg_scale=1.0)
        alone = [[(r.step, r.evaluated) for r in run.trace] for run in acceleration.runs.values()]
    assert len(guided) == 2
    assert guided[0] == guided[1]
    assert alone == guided[:1]
    assert [step for step, _ in alone[0]] == list(range(12))
    assert sum(not evaluated for _, evaluated in alone[0]) >= 6


MADE = {spec: made for spec in EVERYTHING if isinstance(made := sc.method(spec), sc.Method)}
STATIC = [spec for spec, made in MADE.items() if isinstance(made.controller, StaticController)]
DYNAMIC = [spec for spec in MADE if spec not in STATIC]


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
        for values in torch.randn(steps, 2, 9, generator=noise):
            if run.wants_evaluation(values):
                run.observe(values, 2 * values)
            else:
                run.verified = torch.tensor(0.01)
                run.forecast(values)
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


@pytest.mark.parametrize("method", ["taylorseer:evaluations=5", "resilphase:evaluations=6", "taylorseer:interval=4"])
def test_the_schedule_follows_the_number_of_steps_of_each_call(method: str) -> None:
    """One fixed when the cache is enabled begins anew in the middle of a longer run."""
    pipe = flux_pipeline()
    controller = sc.method(method).controller
    with sc.accelerate(pipe, method) as acceleration:
        for steps in (12, 20, 7, 12):
            latents(pipe, steps=steps)
            assert acceleration.summary().evaluated_steps == controller.evaluated(steps)
            assert acceleration.summary().steps == steps


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
@pytest.mark.parametrize("method", SEAMS, ids=method_id)
def test_another_cache_is_refused_before(method: Any, cache: Any) -> None:
    """Two caches on one network forecast each other's forecasts."""
    pipe = flux_pipeline()
    plain = latents(pipe)
    pipe.transformer.enable_cache(cache)
    cached, before = latents(pipe), state(pipe)
    with pytest.raises(ValueError, match="disable_cache"):
        sc.accelerate(pipe, method)
    assert state(pipe) == before
    assert torch.equal(latents(pipe), cached)
    pipe.transformer.disable_cache()
    assert torch.equal(latents(pipe), plain)


def test_a_foreign_flag_of_a_cached_network_is_believed() -> None:
    pipe = flux_pipeline()
    pipe.transformer._is_cached = True
    with pytest.raises(ValueError, match=r"cache_dit\.disable_cache"):
        sc.accelerate(pipe, OUTPUT)


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES)
@pytest.mark.parametrize("method", SEAMS, ids=method_id)
def test_another_cache_is_refused_inside_the_context(method: Any, cache: Any) -> None:
    pipe = flux_pipeline()
    with sc.accelerate(pipe, method):
        expected = latents(pipe)
        pipe.transformer.enable_cache(cache)
        with pytest.raises((ValueError, RuntimeError), match="another cache"):
            latents(pipe)
        pipe.transformer.disable_cache()
        assert torch.equal(latents(pipe), expected)


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES)
@pytest.mark.parametrize("method", SEAMS, ids=method_id)
def test_a_cache_enabled_inside_the_context_works_alone_behind_it(method: Any, cache: Any) -> None:
    pipe = flux_pipeline()
    plain = latents(pipe)
    pipe.transformer.enable_cache(cache)
    cached = latents(pipe)
    pipe.transformer.disable_cache()
    with sc.accelerate(pipe, method):
        latents(pipe)
        pipe.transformer.enable_cache(cache)
    assert torch.equal(latents(pipe), cached)
    pipe.transformer.disable_cache()
    assert torch.equal(latents(pipe), plain)


@pytest.mark.parametrize("name", [name for name, entry in REGISTRY.items() if entry.variants])
def test_what_a_method_remembers_is_bounded(name: str) -> None:
    """A fit that keeps its snapshots in double precision takes more memory than the network's activations."""
    made = MADE.get(name)
    if made is None or made.target.seam == "modules":
        return
    run = sc.Run(made, sc.TimeGrid.shifted(50))
    value = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
    most = 0
    for step in range(50):
        x = value + 0.01 * step
        if run.wants_evaluation(x):
            run.observe(x, 2 * x)
        else:
            run.verified = torch.tensor(0.01)
            run.forecast(x)
        most = max(most, run.bytes())
    # The window, as much again where a forecaster derives something from it, and what a controller compares.
    assert most <= 2 * (made.forecaster.window + 1) * value.numel() * value.element_size()
