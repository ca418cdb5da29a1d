"""`accelerate` on a tiny FLUX pipeline: exact, isolated, restored."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    FluxImg2ImgPipeline,
)

import skipcast as sc
from skipcast.controllers import Periodic
from skipcast.forecasters import Lagrange
from skipcast.plans.propagation import grid_of
from support.seams import METHODS, TARGETS, method_id, state
from support.tiny import PROMPT, flux_pipeline, latents

SPECS = ("taylorseer:interval=4", "taylorseer:interval=4,target=hidden", "resilphase:interval=4")
EVERY = (*SPECS, *METHODS)
EVALUATED_ALWAYS = [
    "reuse:interval=1",
    "taylorseer:interval=1,target=hidden",
    "resilphase:interval=1",
    *(sc.Method(Lagrange(1), Periodic(1, 1), target=target) for target in TARGETS),
]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return flux_pipeline()


@pytest.mark.parametrize("spec", EVALUATED_ALWAYS, ids=method_id)
def test_every_step_evaluated_is_bitwise_the_plain_pipeline(pipe: Any, spec: str | sc.Method) -> None:
    plain = latents(pipe)
    with sc.accelerate(pipe, spec) as acceleration:
        assert torch.equal(latents(pipe), plain)
    assert acceleration.summary().evaluations == 12


@pytest.mark.parametrize("spec", [*EVERY, "ab2:evaluations=5"], ids=method_id)
def test_repeated_exactly_and_restored_exactly(pipe: Any, spec: str | sc.Method) -> None:
    plain, before = latents(pipe), state(pipe)
    with sc.accelerate(pipe, spec):
        first = latents(pipe)
        assert torch.equal(latents(pipe), first)
    assert not torch.equal(first, plain)
    assert state(pipe) == before
    assert torch.equal(latents(pipe), plain)


@pytest.mark.parametrize("spec", EVERY, ids=method_id)
def test_clean_after_an_exception_in_mid_run(pipe: Any, spec: str | sc.Method) -> None:
    class Stop(Exception):
        pass

    def stop(_pipe: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step == 5:
            raise Stop
        return values

    plain, before = latents(pipe), state(pipe)
    with sc.accelerate(pipe, spec):
        accelerated = latents(pipe)
    with pytest.raises(Stop), sc.accelerate(pipe, spec):
        latents(pipe, callback_on_step_end=stop)
    assert state(pipe) == before
    assert torch.equal(latents(pipe), plain)
    with sc.accelerate(pipe, spec):
        with pytest.raises(Stop):
            latents(pipe, callback_on_step_end=stop)
        assert torch.equal(latents(pipe), accelerated)  # the aborted run leaves nothing behind
        assert latents(pipe, steps=9, height=128, width=64).shape[1] == 32  # nor do other steps and resolution
        assert torch.equal(latents(pipe), accelerated)


@pytest.mark.parametrize("spec", EVERY, ids=method_id)
def test_branches_are_kept_apart(pipe: Any, spec: str | sc.Method) -> None:
    """Each branch is forecast from its own evaluations: the same as two networks, one per branch."""
    with sc.accelerate(pipe, spec) as acceleration:
        guided = latents(pipe)
    assert set(acceleration.runs) == {"cond", "uncond"}
    assert torch.allclose(guided, _by_hand(pipe, spec), atol=1e-5)


def _by_hand(pipe: Any, spec: str | sc.Method) -> torch.Tensor:
    """True guidance with one accelerated network per branch, each a transformer of its own."""
    twin = flux_pipeline()
    twin.transformer.load_state_dict(pipe.transformer.state_dict())
    positive, pooled, ids = pipe.encode_prompt(PROMPT, None)
    negative, negative_pooled, _ = pipe.encode_prompt("", None)
    noise = pipe.prepare_latents(1, 4, 64, 64, torch.float32, "cpu", torch.Generator().manual_seed(7))
    x, image_ids = noise
    with torch.no_grad(), sc.accelerate(pipe, spec), sc.accelerate(twin, spec):
        sigmas = torch.linspace(1, 1 / 12, 12).tolist()
        for one in (pipe, twin):
            one.scheduler.set_timesteps(sigmas=sigmas, mu=1.15)
            one.scheduler.set_begin_index(0)
        for t in pipe.scheduler.timesteps:
            arguments = {"hidden_states": x, "timestep": t.expand(1) / 1000, "txt_ids": ids, "img_ids": image_ids}
            v = pipe.transformer(pooled_projections=pooled, encoder_hidden_states=positive, **arguments).sample
            w = twin.transformer(pooled_projections=negative_pooled, encoder_hidden_states=negative, **arguments).sample
            guided = w + 2.0 * (v - w)
            twin.scheduler.step(guided, t, x)
            x = pipe.scheduler.step(guided, t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("spec", EVERY, ids=method_id)
def test_batch_of_three_equals_three_batches_of_one(pipe: Any, spec: str | sc.Method) -> None:
    prompts = [PROMPT, "a small green circle on a white background", "large black heart, red background"]
    with sc.accelerate(pipe, spec):
        together = latents(pipe, prompt=prompts)
        alone = torch.cat([latents(pipe, prompt=prompt, seed=7 + i) for i, prompt in enumerate(prompts)])
    assert torch.allclose(together, alone, atol=2e-5)


@pytest.mark.parametrize("spec", SPECS)
def test_forecast_steps_skip_the_network(pipe: Any, spec: str) -> None:
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    inner = pipe.transformer.transformer_blocks[0].attn.register_forward_hook(count)
    try:
        with sc.accelerate(pipe, spec) as acceleration:
            latents(pipe)
    finally:
        inner.remove()
    summary = acceleration.summary()
    assert summary.evaluated_steps == (0, 1, 2, 6, 10)
    assert calls == 2 * summary.evaluations
    assert summary.cached_bytes > 0
    assert "evaluated 5 of 12" in str(summary)


def test_global_drift_equals_the_residual_forecast_by_hand(pipe: Any) -> None:
    """At a forecast step the stack's output is its own input plus the weighted residuals of evaluated steps."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    first, last = pipe.transformer.transformer_blocks[0], pipe.transformer.norm_out
    entering: list[torch.Tensor] = []
    hooks = [
        first.register_forward_pre_hook(lambda _m, _a, kw: entering.append(kw["hidden_states"]), with_kwargs=True),
        last.register_forward_pre_hook(lambda _m, args: seen.append((entering[-1], args[0]))),
    ]
    try:
        with sc.accelerate(pipe, "resilphase:interval=4"):
            latents(pipe, true_cfg_scale=1.0)
    finally:
        for hook in hooks:
            hook.remove()
    drift = [y - x for x, y in seen]
    assert torch.allclose(drift[4], 1.4908 * drift[2] - 0.4908 * drift[1], rtol=1e-3, atol=1e-4)  # {1, 2}, k = 2
    assert torch.allclose(drift[8], 1.2997 * drift[6] - 0.2997 * drift[2], rtol=1e-3, atol=1e-4)  # {2, 6}, u = 1/2


def test_pipelines_without_branch_names_are_told_apart(pipe: Any) -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    other = FluxImg2ImgPipeline(**pipe.components)
    other.set_progress_bar_config(disable=True)
    call: dict[str, Any] = {
        "image": image,
        "strength": 0.75,
        "num_inference_steps": 16,
        "height": 64,
        "width": 64,
        "max_sequence_length": 12,
        "true_cfg_scale": 2.0,
        "negative_prompt": "",
        "output_type": "latent",
    }
    plain = other(PROMPT, generator=torch.Generator().manual_seed(0), **call).images
    with sc.accelerate(other, "resilphase:interval=1") as acceleration:
        assert torch.equal(other(PROMPT, generator=torch.Generator().manual_seed(0), **call).images, plain)
    assert set(acceleration.runs) == {"call 1", "call 2"}
    assert acceleration.summary().steps == 12  # three quarters of 16: the run begins where the scheduler does


def test_signatures_stay_visible(pipe: Any) -> None:
    with sc.accelerate(pipe, "resilphase"):
        assert "sigmas" in inspect.signature(pipe.scheduler.set_timesteps).parameters
        assert "hidden_states" in inspect.signature(pipe.transformer.forward).parameters


def test_unknown_method_names_the_nearest(pipe: Any) -> None:
    with pytest.raises(ValueError, match="'resilphase'"):
        sc.accelerate(pipe, "resilfase")


def test_stack_target_on_an_unknown_model_is_refused(pipe: Any) -> None:
    class Other(torch.nn.Module):
        pass

    class Pipe:
        transformer, scheduler = Other(), pipe.scheduler

    with pytest.raises(ValueError, match="target=output"):
        sc.accelerate(Pipe(), "resilphase")
    sc.accelerate(Pipe(), "taylorseer")


def test_fewer_steps_than_the_warm_up_are_refused_before_the_network(pipe: Any) -> None:
    calls: list[int] = []
    hook = pipe.transformer.x_embedder.register_forward_hook(lambda *_: calls.append(1))
    try:
        with sc.accelerate(pipe, "resilphase"), pytest.raises(ValueError, match="num_inference_steps=2"):
            latents(pipe, steps=2)
    finally:
        hook.remove()
    assert not calls


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchHeunDiscreteScheduler(),
        FlowMatchLCMScheduler(),
        FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
        DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
@pytest.mark.parametrize("spec", ["reuse", "euler"])
def test_unsupported_schedulers_are_refused_by_name(pipe: Any, scheduler: Any, spec: str) -> None:
    other = type("Pipe", (), {"transformer": pipe.transformer, "scheduler": scheduler})()
    with pytest.raises(ValueError, match=type(scheduler).__name__):
        sc.accelerate(other, spec)


def test_misuse_inside_the_context_is_loud(pipe: Any) -> None:
    x = torch.zeros(1, 16, 16)
    with sc.accelerate(pipe, "reuse") as acceleration:
        with pytest.raises(RuntimeError, match="set_timesteps"):
            pipe.transformer(hidden_states=x)
        with pytest.raises(RuntimeError, match="run the accelerated pipeline"):
            acceleration.summary()


def test_controlnet_residuals_are_refused_at_the_stack(pipe: Any) -> None:
    with sc.accelerate(pipe, "resilphase"):
        pipe.scheduler.set_timesteps(4, mu=1.0)
        with pytest.raises(ValueError, match="controlnet_block_samples"):
            pipe.transformer(hidden_states=torch.zeros(1, 16, 16), controlnet_block_samples=[torch.zeros(1)])


def test_grid_of_reads_flow_schedulers(pipe: Any) -> None:
    pipe.scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=0.0)
    grid = grid_of(pipe.scheduler)
    assert grid.sigma.tolist() == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert (grid.alpha + grid.sigma).tolist() == pytest.approx([1.0] * 4)


def test_compiled_transformers_give_the_same(pipe: Any) -> None:
    """Spans and modules; `tests/modes/test_compile.py` has the other seams."""
    twin = flux_pipeline()
    twin.transformer.compile(backend="eager")
    for spec in (METHODS[1], METHODS[-1]):
        with sc.accelerate(pipe, spec):
            plain = latents(pipe, steps=5)
        with sc.accelerate(twin, spec) as acceleration:
            assert torch.allclose(latents(twin, steps=5), plain, atol=1e-5)
        assert acceleration.summary().evaluations == 3


def test_the_form_of_the_answer_follows_the_call(pipe: Any) -> None:
    x = torch.zeros(1, 16, 16)
    embeddings, pooled, ids = pipe.encode_prompt(PROMPT, None)
    image_ids = pipe._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32)
    with torch.no_grad(), sc.accelerate(pipe, "reuse:interval=3"):
        pipe.scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=0.0)
        pipe.scheduler.set_begin_index(0)
        for step, wanted in enumerate([False, True, False]):
            t = pipe.scheduler.timesteps[step].expand(1) / 1000
            # all positional: hidden_states, encoder_hidden_states, pooled_projections, timestep, img_ids, txt_ids
            answer = pipe.transformer(x, embeddings, pooled, t, image_ids, ids, return_dict=wanted)
            y = answer.sample if wanted else answer[0]
            assert isinstance(answer, tuple) != wanted
            x = pipe.scheduler.step(y, pipe.scheduler.timesteps[step], x, return_dict=False)[0]


def test_one_accelerate_is_entered_once(pipe: Any) -> None:
    before = state(pipe)
    context = sc.accelerate(pipe, "reuse:interval=4")
    with context:
        with pytest.raises(RuntimeError, match="entered already"):
            context.__enter__()
        accelerated = latents(pipe)
    assert state(pipe) == before
    with context:
        assert torch.equal(latents(pipe), accelerated)


def test_an_interrupted_run_counts_what_it_did(pipe: Any) -> None:
    def stop(pipe: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step == 4
        return values

    with sc.accelerate(pipe, "reuse:interval=4") as acceleration:
        latents(pipe, callback_on_step_end=stop)
    assert "evaluated 2 of 12, forecast 3" in str(acceleration.summary())


def test_a_sampler_tells_what_it_remembers(pipe: Any) -> None:
    sizes = {}
    for name in ("euler", "ab2", "ab3", "dpmpp2m"):
        with sc.accelerate(pipe, f"{name}:evaluations=6") as acceleration:
            latents(pipe)
        sizes[name] = acceleration.summary().cached_bytes
    one = 16 * 16 * 4
    assert sizes["euler"] == 0
    assert sizes["ab2"] == 2 * one
    assert sizes["ab3"] == 3 * one
    assert sizes["dpmpp2m"] >= 2 * one


def test_enabled_until_it_is_disabled(pipe: Any) -> None:
    before, plain = state(pipe), latents(pipe)
    acceleration = sc.enable(pipe, "taylorseer:interval=4")
    with sc.accelerate(flux_pipeline(), "taylorseer:interval=4") as other:
        pass
    with pytest.raises(ValueError, match="already"):
        sc.enable(pipe, "reuse")
    found = latents(pipe)
    assert acceleration.summary().forecasts == 7
    assert not torch.equal(found, plain)
    acceleration.disable()
    assert state(pipe) == before
    assert torch.equal(latents(pipe), plain)
    for done in (acceleration, other):
        with pytest.raises(RuntimeError, match="not enabled any more"):
            done.disable()
    with pytest.raises(ValueError, match="nothing is enabled on this FluxPipeline"):
        sc.disable(pipe)
    with sc.accelerate(pipe, "taylorseer:interval=4"):
        assert torch.equal(latents(pipe), found)
    sc.enable(pipe, "taylorseer:interval=4")
    latents(pipe)
    sc.disable(pipe)
    assert state(pipe) == before
