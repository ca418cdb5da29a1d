"""`accelerate` on a tiny FLUX pipeline: exact, isolated, restored."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

import skipcast as sc
from skipcast.controllers import Periodic
from skipcast.forecasters import Lagrange
from support.seams import METHODS, TARGETS, counted, hooked, method_id, state
from support.tiny import PROMPT, Stop, at, flux_pipeline, interrupt, latents, stop

SPECS = ("taylorseer:interval=4", "taylorseer:interval=4,target=hidden", "resilphase:interval=4")
EVERY = (*SPECS, *METHODS)
EVALUATED_ALWAYS = [
    "reuse:interval=1",
    "taylorseer:interval=1,target=hidden",
    "resilphase:interval=1",
    *(sc.Method(Lagrange(1), Periodic(1, 1), target=target) for target in TARGETS),
]


@pytest.mark.parametrize("spec", EVALUATED_ALWAYS, ids=method_id)
def test_every_step_evaluated_is_bitwise_the_plain_pipeline(pipe: Any, spec: str | sc.Method) -> None:
    plain = latents(pipe, steps=6)
    with sc.accelerate(pipe, spec) as acceleration:
        assert torch.equal(latents(pipe, steps=6), plain)
    assert acceleration.summary().evaluations == 6


@pytest.mark.parametrize("spec", [*EVERY, "ab2:evaluations=5"], ids=method_id)
def test_repeated_exactly_and_restored_exactly(pipe: Any, spec: str | sc.Method) -> None:
    """Also after an exception in mid-run, inside the context or out of it; and a batch is images on their own."""
    plain, before = latents(pipe, steps=9), state(pipe)
    with pytest.raises(Stop), sc.accelerate(pipe, spec):
        first = latents(pipe, steps=9)
        with pytest.raises(Stop):
            latents(pipe, steps=9, callback_on_step_end=at(3, stop))
        assert torch.equal(latents(pipe, steps=9), first)  # the aborted run leaves nothing behind
        other = "a small green circle on a white background"
        both = latents(pipe, steps=9, prompt=[PROMPT, other])
        assert torch.allclose(both, torch.cat([first, latents(pipe, steps=9, prompt=other, seed=8)]), atol=2e-5)
        latents(pipe, steps=9, callback_on_step_end=at(3, stop))
    assert not torch.equal(first, plain)
    assert state(pipe) == before
    assert torch.equal(latents(pipe, steps=9), plain)


@pytest.mark.parametrize("spec", SPECS)
def test_forecast_steps_skip_the_network(pipe: Any, spec: str) -> None:
    with counted(pipe.transformer.transformer_blocks[0].attn) as counts, sc.accelerate(pipe, spec) as acceleration:
        latents(pipe)
    summary = acceleration.summary()
    assert summary.evaluated_steps == (0, 1, 2, 6, 10)
    assert list(counts.values()) == [2 * summary.evaluations]
    assert summary.cached_bytes > 0
    assert "evaluated 5 of 12" in str(summary)


def test_global_drift_equals_the_residual_forecast_by_hand(pipe: Any) -> None:
    """At a forecast step the stack's output is its own input plus the weighted residuals of evaluated steps."""
    entering: list[torch.Tensor] = []
    drift: list[torch.Tensor] = []
    first, last = pipe.transformer.x_embedder, pipe.transformer.norm_out
    with (
        hooked([first], lambda _m, _a, output: entering.append(output)),
        hooked([last], lambda _m, args, _o: drift.append(args[0] - entering[-1])),
        sc.accelerate(pipe, "resilphase:interval=4"),
    ):
        latents(pipe, true_cfg_scale=1.0)
    assert torch.allclose(drift[4], 1.4908 * drift[2] - 0.4908 * drift[1], rtol=1e-3, atol=1e-4)  # {1, 2}, k = 2
    assert torch.allclose(drift[8], 1.2997 * drift[6] - 0.2997 * drift[2], rtol=1e-3, atol=1e-4)  # {2, 6}, u = 1/2


def test_signatures_stay_visible(pipe: Any) -> None:
    with sc.accelerate(pipe, "resilphase"):
        assert "sigmas" in inspect.signature(pipe.scheduler.set_timesteps).parameters
        assert "hidden_states" in inspect.signature(pipe.transformer.forward).parameters


def test_fewer_steps_than_the_warm_up_are_refused_before_the_network(pipe: Any) -> None:
    refused = pytest.raises(ValueError, match="num_inference_steps=2")
    with counted(pipe.transformer.x_embedder) as counts, sc.accelerate(pipe, "resilphase"), refused:
        latents(pipe, steps=2)
    assert list(counts.values()) == [0]


def test_before_a_run_there_is_nothing_to_summarise(pipe: Any) -> None:
    with (
        sc.accelerate(pipe, "reuse") as acceleration,
        pytest.raises(RuntimeError, match="run the accelerated pipeline"),
    ):
        acceleration.summary()


def test_a_pipeline_that_calls_its_network_before_set_timesteps_is_refused(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(pipe), "__call__", lambda self: self.transformer(hidden_states=torch.zeros(1, 16, 16)))
    with sc.accelerate(pipe, "reuse"), pytest.raises(RuntimeError, match=r"before scheduler\.set_timesteps\(\)"):
        pipe()


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
    with sc.accelerate(pipe, "reuse:interval=4") as acceleration:
        latents(pipe, callback_on_step_end=at(4, interrupt))
    assert "evaluated 2 of 12, forecast 3" in str(acceleration.summary())


def test_a_sampler_tells_what_it_remembers(pipe: Any) -> None:
    sizes = {}
    for name in ("euler", "ab2", "ab3", "dpmpp2m"):
        with sc.accelerate(pipe, f"{name}:evaluations=6") as acceleration:
            latents(pipe, true_cfg_scale=1.0)
        sizes[name] = acceleration.summary().cached_bytes / (16 * 16 * 4)
    assert sizes.pop("dpmpp2m") >= 2
    assert sizes == {"euler": 0, "ab2": 2, "ab3": 3}


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
