"""Runs that begin late or end early: at the noise levels of the plain pipeline, in every family that edits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import skipcast as sc
from families import others
from families.all import NAMED
from families.base import Family
from families.edits import EDITS
from skipcast.pipelines.networks import denoisers

STEPS, STRENGTHS = 12, (0.25, 0.5, 0.75, 0.9)
#: A plan that skips steps: 0, 3, 6 and 9.
SKIPS = "lagrange:order=1,schedule=0.3.6.9"


def values(given: Any) -> list[Tensor]:
    """The tensors and numbers among a call's arguments, in order."""
    if isinstance(given, Tensor | int | float):
        return [torch.as_tensor(given)]
    if isinstance(given, Mapping):
        return [value for name in sorted(given) for value in values(given[name])]
    return [value for item in given for value in values(item)] if isinstance(given, list | tuple) else []


class Calls:
    """Notes what the network is given at the first call of a run, and how many there are."""

    def __init__(self, pipe: Any) -> None:
        self.first: list[Tensor] = []
        self.count = 0
        self._hook = denoisers(pipe)[0].register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _module: Any, args: Any, kwargs: Any) -> None:
        if not self.count:
            self.first = [value.clone() for value in values([args, kwargs])]
        self.count += 1

    def of(self, run: Any) -> tuple[list[Tensor], int]:
        """What the first call of a run was given, and the number of its calls."""
        self.count = 0
        run()
        return self.first, self.count


class Bench:
    """A pipeline, how it is called, and plans of a whole run of its scheduler."""

    def __init__(self, family: Family) -> None:
        self.family, self.pipe = family, family.build()
        self.calls = Calls(self.pipe)
        call = {**family.fixed, **family.prompt(0), "num_inference_steps": STEPS}
        self.full = sc.compile_plan("reuse:interval=1", self.pipe, **call)
        self.plan = sc.compile_plan(SKIPS, self.pipe, **call)

    def run(self, **changes: Any) -> Tensor:
        return self.family.run(self.pipe, STEPS, **changes)


@pytest.fixture(scope="module", params=list(EDITS))
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(EDITS[request.param])


@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_run_begins_at_the_noise_level_of_the_plain_one(bench: Bench, strength: float) -> None:
    plain: list[Tensor] = []
    wanted, calls = bench.calls.of(lambda: plain.append(bench.run(strength=strength)))
    with sc.accelerate(bench.pipe, bench.full) as acceleration:
        found = bench.run(strength=strength)
    assert (found - plain[0]).norm() <= 1e-5 * plain[0].norm()
    steps = acceleration.summary().evaluated_steps
    with sc.accelerate(bench.pipe, bench.plan) as acceleration:
        for asked in (STEPS, len(bench.plan)):  # which mean the same
            changes = {"strength": strength, "num_inference_steps": asked}
            given, count = bench.calls.of(lambda changes=changes: plain.append(bench.run(**changes)))
            for one, other in zip(given, wanted, strict=True):
                assert (one.double() - other.double()).norm() <= 1e-6 * other.double().norm()
            evaluated = acceleration.summary().evaluated_steps
            assert evaluated == (steps[0], *(step for step in bench.plan.steps if step > steps[0]))
            assert count * len(steps) == calls * len(evaluated)
    assert plain[1].shape == plain[0].shape
    assert torch.allclose(plain[1], plain[2], rtol=1e-4, atol=1e-5)
    assert plain[1].isfinite().all()


# Base and refiner ---------------------------------------------------------------------------------------------------


CUT = {"denoising_end": 0.8}


@pytest.mark.parametrize(
    "method, last", [("reuse:interval=1", "reuse:interval=1"), (f"{SKIPS}.12.15.18", "lagrange:order=1,schedule=0.2")]
)
def test_base_and_refiner_hand_over_at_the_level_of_the_plain_ones(method: str, last: str) -> None:
    """A plan then does what its method does, which follows the pipeline's own scheduler to the cut and from it."""
    family, second = NAMED["Stable Diffusion XL"], EDITS["StableDiffusionXLImg2Img"]
    base, refiner = family.build(), second.build()
    call = {**family.fixed, **family.prompt(0), "num_inference_steps": 20}
    plan = sc.compile_plan(method, base, **call)
    with sc.accelerate(base, method):
        handed = family.run(base, 20, **CUT)
    with sc.accelerate(refiner, last):
        final = second.run(refiner, 20, image=handed, denoising_start=0.8)
    with sc.accelerate(base, plan) as acceleration:
        found = family.run(base, 20, **CUT)
    assert (found - handed).norm() <= 1e-5 * handed.norm()
    assert acceleration.summary().evaluated_steps == tuple(step for step in plan.steps if step < 16)
    with sc.accelerate(refiner, plan) as acceleration:
        found = second.run(refiner, 20, image=handed, denoising_start=0.8)
    assert acceleration.summary().evaluated_steps == tuple(sorted({16, *(step for step in plan.steps if step > 16)}))
    assert (found - final).norm() <= 1e-5 * final.norm()
    with sc.accelerate(base, plan), pytest.raises(ValueError, match="leaves none of the plan's 20 steps"):
        family.run(base, 20, denoising_end=0.01)
    calls = Calls(base)
    base.scheduler = sc.PlanScheduler(plan)
    if len(plan) < 20:
        with pytest.raises(ValueError, match="begins or ends within a plan"):
            calls.of(lambda: family.run(base, 20, **CUT))
        assert calls.count == 0


# What else pipelines ask of a scheduler -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["WanVideoToVideo", "CogVideoXVideoToVideo", "StableDiffusionImg2Img, DDIM", "ZImageImg2Img"]
)
def test_a_scheduler_alone_never_gives_an_empty_result(name: str) -> None:
    bench = Bench(EDITS[name])
    own = bench.pipe.scheduler
    plain = bench.run(strength=0.5)
    bench.pipe.scheduler = sc.PlanScheduler(bench.full)
    assert (bench.run(strength=0.5) - plain).norm() <= 1e-5 * plain.norm()
    bench.pipe.scheduler = sc.PlanScheduler(bench.plan)
    for strength in STRENGTHS:
        with pytest.raises(ValueError, match="begins or ends within a plan"):
            bench.calls.of(lambda strength=strength: bench.run(strength=strength))
        assert bench.calls.count == 0
    bench.pipe.scheduler = own


@pytest.mark.parametrize("name", ["Stable Diffusion XL", "Wan 2.1", "FLUX.1", "Stable Diffusion 1.5"])
def test_bars_count_evaluations(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    family = NAMED[name]
    pipe = family.build()
    plan = sc.compile_plan(SKIPS, pipe, **{**family.fixed, **family.prompt(0), "num_inference_steps": STEPS})
    pipe.set_progress_bar_config(disable=False)
    for ends in ({}, CUT) if "XL" in name else ({},):
        with sc.accelerate(pipe, plan) as acceleration:
            family.run(pipe, STEPS, **ends)
        evaluations = acceleration.summary().evaluations
        assert f"100%|██████████| {evaluations}/{evaluations}" in capfd.readouterr().err


def on(kind: Any, **config: Any) -> Any:
    scheduler = kind(**config)
    scheduler.set_timesteps(STEPS)
    return scheduler


@pytest.mark.parametrize(
    "base",
    [
        on(diffusers.DDIMScheduler, clip_sample=False),
        on(diffusers.PNDMScheduler, skip_prk_steps=True),
        on(diffusers.EulerDiscreteScheduler),
    ],
    ids=lambda base: type(base).__name__,
)
def test_tables_and_noise_are_the_recorded_schedulers(base: Any) -> None:
    scheduler = sc.PlanScheduler(sc.compile_plan(SKIPS, base))
    scheduler.set_timesteps(STEPS)
    x, noise = torch.randn(2, 1, 4, 8, 8)
    for name in ("alphas_cumprod", "betas", "alphas", "final_alpha_cumprod"):
        assert hasattr(scheduler, name) == hasattr(base, name)
        if hasattr(base, name):
            assert torch.equal(getattr(scheduler, name), getattr(base, name))
    assert not hasattr(scheduler, "model_outputs")
    times = (
        [scheduler.timesteps[1]] if hasattr(base, "index_for_timestep") else [torch.tensor(t) for t in (999, 500, 0)]
    )
    for time in times:
        assert torch.equal(scheduler.add_noise(x, noise, time[None]), base.add_noise(x, noise, time[None]))


def test_self_attention_guidance_reads_the_tables() -> None:
    pipe = others.stable_diffusion(others.ddim, diffusers.StableDiffusionSAGPipeline)
    call = {**others.embeds(0), "num_inference_steps": STEPS, "output_type": "latent", "sag_scale": 0.75}
    plain = pipe(**call, generator=torch.Generator().manual_seed(0))[0]
    plan = sc.compile_plan("reuse:interval=1", pipe, **call)
    pipe.scheduler = sc.PlanScheduler(plan)
    found = pipe(**call, generator=torch.Generator().manual_seed(0))[0]
    assert (found - plain).norm() <= 1e-5 * plain.norm()


def test_custom_schedules_are_refused_as_the_recorded_scheduler_does() -> None:
    pipe = others.stable_diffusion(others.ddim)
    family = NAMED["Stable Diffusion 1.5, DDIM"]
    plan = sc.compile_plan(SKIPS, pipe, **{**family.fixed, **family.prompt(0), "num_inference_steps": STEPS})
    pipe.scheduler = sc.PlanScheduler(plan)
    times = list(range(990, 30, -80))
    with pytest.raises(ValueError, match=r"DDIMScheduler does not support custom timesteps schedules"):
        family.run(pipe, None, timesteps=times)


def test_a_shift_that_no_configuration_holds_is_refused_before_the_network() -> None:
    family = NAMED["Stable Diffusion 3"]
    pipe = family.build()
    plan = sc.compile_plan(SKIPS, pipe, **{**family.fixed, **family.prompt(0), "num_inference_steps": STEPS})
    pipe.scheduler.set_shift(6.0)
    calls = Calls(pipe)
    says = r"shift=6.0 was set on it afterwards.*from_config\(pipe.scheduler.config, shift=6.0\)"
    with pytest.raises(ValueError, match=says):
        sc.record(pipe, [family.prompt(0)], seeds=0, num_inference_steps=STEPS, progress=False, **family.call())
    with pytest.raises(ValueError, match=says):
        sc.accelerate(pipe, plan)
    assert calls.count == 0
    scheduler = sc.PlanScheduler(plan)
    scheduler.set_shift(6.0)
    with pytest.raises(ValueError, match="differ from the plan's"):
        scheduler.set_timesteps(STEPS)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, shift=6.0)
    profile = sc.record(pipe, [family.prompt(0)], seeds=0, num_inference_steps=STEPS, progress=False, **family.call())
    with sc.accelerate(pipe, profile.plan(evaluations=STEPS)):
        found = family.run(pipe, STEPS)
    assert (found - family.run(pipe, STEPS)).norm() <= 1e-4 * found.norm()


def test_a_shift_that_is_in_the_configuration_alone_may_be_set_again() -> None:
    """Engines set that of Wan on whatever scheduler they load."""
    family = NAMED["Wan 2.1"]
    pipe = family.build()
    plan = sc.compile_plan(SKIPS, pipe, **{**family.fixed, **family.prompt(0), "num_inference_steps": STEPS})
    scheduler = sc.PlanScheduler(plan)
    scheduler.set_shift(3.0)
    scheduler.set_timesteps(STEPS)
    with pytest.raises(ValueError, match=r"set_shift\(5\): .* UniPCMultistepScheduler with flow_shift=3.0; set this"):
        scheduler.set_shift(5.0)


@pytest.mark.parametrize("name", ["FLUX.1", "Stable Diffusion 3", "Stable Diffusion 1.5, DDIM", "Wan 2.1"])
def test_a_fresh_scheduler_is_not_prepared(name: str) -> None:
    pipe = NAMED[name].build()
    with pytest.raises(ValueError, match=r"is not prepared; call its set_timesteps\(\) first"):
        sc.compile_plan(SKIPS, pipe.scheduler)
