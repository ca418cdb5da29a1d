"""What users of caches met on real pipelines: each case is one of a kind."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

import skipcast as sc
from families.all import FAMILIES
from families.others import ddim, embeds, stable_diffusion
from skipcast.plans.propagation import grid_of
from support.tiny import PROMPT, SIGMAS, at, compiled, flux_pipeline, interrupt, latents, own_loop

EVEN = "lagrange:order=1,schedule=even,evaluations=6"
FULL = "taylorseer:interval=1"
XL = next(family for family in FAMILIES if family.name == "Stable Diffusion XL")
CONTROLLED = next(family for family in FAMILIES if family.name == "Stable Diffusion XL ControlNet")


def apart(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


def counted(part: nn.Module) -> list[int]:
    """Grows by one with every run of a part of the network."""
    calls: list[int] = []
    forward = part.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return forward(*args, **kwargs)

    part.forward = counting  # not a hook of torch's, which is warned of
    part._hf_hook = None  # as accelerate marks forwards of its own
    return calls


def without_guidance(pipe: Any, i: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
    """What SDXL's callback does that cuts guidance off after 40 % of twelve steps."""
    if i == 4:
        pipe._guidance_scale = 0.0
        for name in ("prompt_embeds", "add_text_embeds", "add_time_ids"):
            values[name] = values[name][-1:]
        if "image" in values:
            values["image"] = values["image"][-1:]
    return values


@contextmanager
def uncontexted(pipe: Any) -> Iterator[None]:
    """A pipeline whose guidance branches have no names."""
    named = type(pipe.transformer).cache_context
    type(pipe.transformer).cache_context = lambda self, name: nullcontext()
    try:
        yield
    finally:
        type(pipe.transformer).cache_context = named


INPUTS = ["latents", "prompt_embeds", "add_text_embeds", "add_time_ids"]
CUT = {"callback_on_step_end": without_guidance, "callback_on_step_end_tensor_inputs": INPUTS}


@pytest.mark.parametrize(
    "method, evaluated, forecasts",
    [(EVEN, (0, 2, 4, 5, 6, 8, 10), 5), (FULL, tuple(range(12)), 0)],
)
def test_a_summary_tells_what_the_network_did_in_all_branches(
    method: str, evaluated: tuple[int, ...], forecasts: int
) -> None:
    pipe = XL.build()
    inner = counted(pipe.unet.mid_block)
    with sc.accelerate(pipe, method) as acceleration:
        XL.run(pipe, 12, **CUT)
    summary = acceleration.summary()
    assert (summary.evaluated_steps, summary.forecasts) == (evaluated, forecasts)
    assert len(inner) == len(evaluated) == acceleration.evaluations()


def test_a_summary_of_a_plan_whose_branches_change() -> None:
    pipe = XL.build()
    XL.run(pipe, 12)
    plan = compiled(pipe, EVEN)
    with sc.accelerate(pipe, plan) as acceleration:
        cut = at(2, lambda pipe, values: without_guidance(pipe, 4, 0, values))
        XL.run(pipe, 12, **{**CUT, "callback_on_step_end": cut})
    assert acceleration.summary().evaluated_steps == plan.steps == (0, 2, 4, 6, 8, 10)


@pytest.mark.parametrize("method", [EVEN, "reuse:schedule=0.2.3.6.9"])
def test_a_controlnet_is_evaluated_where_the_batch_changes(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {**CUT, "callback_on_step_end_tensor_inputs": [*INPUTS, "image"]}
    pipe = CONTROLLED.build()
    calls = counted(pipe.controlnet.mid_block)
    with sc.accelerate(pipe, method) as acceleration:
        found = CONTROLLED.run(pipe, 12, **inputs)
    steps = acceleration.summary().evaluated_steps
    assert 5 in steps
    assert len(calls) == len(steps)
    monkeypatch.setattr("skipcast.pipelines.accelerate.companions", lambda pipe, method: [])
    with sc.accelerate(pipe, method):
        assert torch.equal(CONTROLLED.run(pipe, 12, **inputs), found)


class OwnLoop(diffusers.FluxPipeline):
    """Moves the sample by itself, as editors by flow do."""

    named = False

    def __call__(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        for _ in own_loop(self, named=self.named, steps=False):
            pass


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("plan", [False, True])
def test_a_loop_without_steps_is_refused_at_its_second_call(named: bool, plan: bool) -> None:
    pipe = flux_pipeline()
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(sigmas=SIGMAS, mu=0.5)
    method: Any = sc.compile_plan(sc.method(EVEN), scheduler) if plan else EVEN
    loop = OwnLoop(**pipe.components)
    loop.named = named
    inner = counted(loop.transformer.transformer_blocks[0])
    with (
        torch.no_grad(),
        sc.accelerate(loop, method),
        pytest.raises(RuntimeError, match=r"scheduler.step\(\) was not called in between.*skipcast.wrap"),
    ):
        loop()
    assert len(inner) <= 2


@pytest.mark.filterwarnings("ignore:.*panorama")
def test_views_that_step_a_scheduler_one_after_the_other() -> None:
    pipe = stable_diffusion(ddim, diffusers.StableDiffusionPanoramaPipeline)

    def run() -> Tensor:
        noise = torch.Generator().manual_seed(0)
        call = {"height": 512, "width": 640, "guidance_scale": 1.0, "view_batch_size": 1, "output_type": "latent"}
        return pipe(**embeds(0), num_inference_steps=6, generator=noise, **call)[0]

    plain = run()
    with sc.accelerate(pipe, FULL) as acceleration:
        assert torch.equal(run(), plain)
    views = len(acceleration.calls)
    assert views > 1
    assert acceleration.summary().evaluated_steps == tuple(range(6))
    inner = counted(pipe.unet.mid_block)
    with sc.accelerate(pipe, "reuse:schedule=0.2.4") as acceleration:
        found = run()
    assert set(map(tuple, acceleration.calls.values())) == {tuple(range(6))}
    assert len(inner) == 3 * views
    assert apart(found, plain) < 0.2


def test_calls_that_only_their_order_tells_apart_are_told_of() -> None:
    pipe = flux_pipeline()
    for negative, alike in (("", False), (PROMPT, True)):
        with uncontexted(pipe), sc.accelerate(pipe, EVEN) as acceleration:
            latents(pipe, negative_prompt=negative)
        assert any("told apart by their order" in words for words in acceleration.summary().warnings) == alike


def test_a_copy_of_an_accelerated_pipeline_is_its_own() -> None:
    pipe = flux_pipeline()
    plain = latents(pipe)
    with sc.accelerate(pipe, EVEN) as acceleration:
        other = copy.deepcopy(pipe)
        assert type(other) is diffusers.FluxPipeline
        network = copy.deepcopy(pipe.transformer)
        fast = latents(pipe)
        for copied in (other.transformer, network):
            assert not {"forward", "__deepcopy__"} & vars(copied).keys()
            assert not copied._diffusers_hook.hooks
            for parameter in copied.parameters():
                parameter.data.zero_()
        still = latents(other)
        assert acceleration.summary().evaluations == 6
    noise = latents(other, steps=2)
    assert torch.equal(still, noise)  # a velocity of zero moves nothing, whatever the steps
    assert not torch.equal(fast, plain)
    assert torch.equal(latents(pipe), plain)
    with pytest.raises(ValueError, match="nothing is enabled on this FluxPipeline"):
        sc.disable(other)


def test_patched_networks_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = flux_pipeline()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sc.accelerate(pipe, EVEN)
    own = pipe.transformer.transformer_blocks[0].forward
    pipe.transformer.transformer_blocks[0].forward = lambda *args, **kwargs: own(*args, **kwargs)
    with pytest.warns(UserWarning, match=r"replaced the forward of transformer_blocks.0"):
        sc.accelerate(pipe, EVEN)
    del pipe.transformer.transformer_blocks[0].forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(diffusers.FluxTransformer2DModel, "forward", forward)
    with pytest.warns(UserWarning, match=r"replaced the forward of class FluxTransformer2DModel"):
        sc.accelerate(pipe, EVEN)


def test_readers_inside_the_network_are_warned_of() -> None:
    pipe = flux_pipeline()
    seen: list[int] = []
    handle = pipe.transformer.transformer_blocks[0].register_forward_hook(lambda *_: seen.append(1))
    with pytest.warns(UserWarning, match=r"hooks on transformer_blocks.0 are not called"), sc.accelerate(pipe, EVEN):
        latents(pipe)
    plan = compiled(pipe, EVEN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with sc.accelerate(pipe, plan):
            latents(pipe)
    handle.remove()


def test_a_pipeline_that_reads_attention_maps_is_refused_before_it_runs() -> None:
    """Self-attention guidance; a plan of six steps evaluates them whole, and is nearer than six plain ones."""
    pipe = stable_diffusion(ddim, diffusers.StableDiffusionSAGPipeline)
    call = {**embeds(0), "num_inference_steps": 12, "output_type": "latent", "sag_scale": 0.75}

    def run(**changes: Any) -> Tensor:
        return pipe(**{**call, **changes}, generator=torch.Generator().manual_seed(0))[0]

    plain, six, inner = run(), run(num_inference_steps=6), counted(pipe.unet.mid_block)
    for method in (EVEN, FULL, "reuse"):
        with pytest.raises(ValueError, match=r"StableDiffusionSAGPipeline reads attention maps.*use a plan"):
            sc.accelerate(pipe, method)
    assert not inner
    plan = sc.compile_plan(EVEN, pipe, **call)
    with sc.accelerate(pipe, plan):
        found = run()
    assert len(inner) == 2 * 6  # the network and, on the blurred sample, once more
    assert 0 < apart(found, plain) < apart(six, plain)


def test_gradients_are_refused_where_an_older_output_counts() -> None:
    weight, method = torch.ones(3, requires_grad=True), sc.method("lagrange:order=1,schedule=even,evaluations=3")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(6)
    with pytest.raises(RuntimeError, match="gradients do not flow through remembered outputs"):
        moved(sc.Run(method, grid_of(scheduler)), weight)
    with torch.no_grad():
        moved(sc.Run(method, grid_of(scheduler)), weight)
    assert moved(sc.Run(sc.method(FULL), grid_of(scheduler)), weight).requires_grad
    plan = sc.PlanScheduler(sc.compile_plan(method, scheduler))
    plan.set_timesteps(6)
    x = torch.randn(1, 3)
    with pytest.raises(RuntimeError, match="gradients do not flow"):
        for time in plan.timesteps:
            x = plan.step(x * weight, time, x).prev_sample


def moved(run: sc.Run, weight: Tensor) -> Tensor:
    x = torch.ones(3)
    for _ in range(6):
        x = x - 0.1 * run.advance(x, lambda x=x: weight * x)
    return x


def test_nothing_is_remembered_after_a_run_that_stopped_early() -> None:
    pipe = flux_pipeline()
    with sc.accelerate(pipe, EVEN) as acceleration:
        latents(pipe, callback_on_step_end=at(4, interrupt))
        assert sum(run.bytes() for run in acceleration.all_runs()) == 0
        assert acceleration.summary().evaluated_steps == (0, 2, 4)
        assert acceleration.summary().forecasts == 2
