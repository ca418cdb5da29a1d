"""Plain samplers as schedulers: the right number of evaluations, the right order, refused where they do not fit."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

import skipcast as sc
from skipcast.pipelines.samplers import build_sampler
from support.cases import GaussianFlow, slope
from support.seams import counted
from support.tiny import edited, image_to_image, latents

FLOW = GaussianFlow(0.7, 0.4)


def solve(name: str, evaluations: int, shift: float = 1.0) -> float:
    """Error of the final sample from x = 1.3 at sigma 1."""
    base = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler = build_sampler(sc.Sampler(name, evaluations), base)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 50, 50))
    assert len(scheduler.timesteps) == evaluations
    scheduler.set_begin_index(0)
    x = torch.tensor([[[1.3]]], dtype=torch.float64)
    for t in scheduler.timesteps:
        x = scheduler.step(FLOW.velocity(x, float(t) / 1000), t, x, return_dict=False)[0]
    return abs(float(x) - FLOW.solution(1.3, 0.0))


@pytest.mark.parametrize("name, order", [("euler", 1), ("ab2", 2), ("ab3", 3), ("heun", 2)])
def test_order_of_convergence(name: str, order: int) -> None:
    counts = np.array([17, 33, 65, 129])
    steps = (counts + 1) / 2 if name == "heun" else counts
    errors = [solve(name, int(n), shift=2.0) for n in counts]
    assert slope(steps, errors) == pytest.approx(-order, abs=0.35)


@pytest.mark.parametrize("name", ["dpmpp2m", "unipc"])
def test_half_log_snr_solvers_converge(name: str) -> None:
    # Their last step, to sigma = 0 at infinite log-SNR, is of first order; it dominates on this problem.
    assert solve(name, 80) < 0.5 * solve(name, 20)
    assert solve(name, 40) < solve("euler", 40)


@pytest.mark.parametrize("evaluations", [15, 16])
def test_heun_meets_even_and_odd_budgets(evaluations: int) -> None:
    assert solve("heun", evaluations) < solve("euler", evaluations)


def test_euler_equals_the_pipeline_with_fewer_steps(pipe: Any) -> None:
    plain = latents(pipe, steps=5)
    with sc.accelerate(pipe, "euler:evaluations=5") as acceleration:
        assert torch.allclose(latents(pipe, steps=20), plain, atol=1e-6)
    assert acceleration.summary().evaluations == 5


def test_told_times_leave_the_levels_where_they_are(pipe: Any) -> None:
    told: list[float] = []

    def hear(_module: Any, _given: Any, named: dict[str, Any]) -> None:
        told.append(float(named["timestep"][0]))

    ratios = (0.9, 0.8, 1.1, 1.0)
    hook = pipe.transformer.register_forward_pre_hook(hear, with_kwargs=True)
    found = {}
    try:
        for spec in ("euler:evaluations=4", "timetuner:ratios=0.9/0.8/1.1/1", "timetuner:ratios=1/1/1/1"):
            with sc.accelerate(pipe, spec) as acceleration:
                found[spec] = latents(pipe, 12)
            levels = acceleration.scheduler.sigmas
    finally:
        hook.remove()
    per_step = len(told) // 12  # guidance branches
    plain, tuned, same = (np.array(told[i * per_step : (i + 4) * per_step : per_step]) for i in (0, 4, 8))
    np.testing.assert_allclose(plain, levels[:-1], rtol=1e-6)
    np.testing.assert_allclose(tuned, plain * ratios, rtol=1e-6)
    np.testing.assert_array_equal(same, plain)
    first, second, third = found.values()
    assert torch.equal(first, third)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["euler", "heun", "ab2", "ab3", "dpmpp2m", "unipc"])
def test_evaluations_are_exactly_what_was_requested(pipe: Any, name: str) -> None:
    with sc.accelerate(pipe, f"{name}:evaluations=6"), counted(pipe.transformer.x_embedder) as counts:
        first = latents(pipe, true_cfg_scale=1.0)
        assert list(counts.values()) == [6]
        assert torch.equal(latents(pipe, true_cfg_scale=1.0), first)
    assert torch.isfinite(first).all()


@pytest.mark.parametrize(
    "name, scheduler, call, words",
    [
        ("ab2", DDIMScheduler(), {}, "DDIMScheduler"),
        ("ab2", FlowMatchEulerDiscreteScheduler(), {"timesteps": [900.0, 500.0]}, "sigmas"),
        ("unipc", FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True), {}, "use_karras_sigmas"),
    ],
)
def test_what_cannot_be_followed_is_refused(name: str, scheduler: Any, call: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_sampler(sc.Sampler(name, 10), scheduler).set_timesteps(**call)


@pytest.mark.parametrize("name", ["euler", "dpmpp2m", "unipc"])
def test_a_static_shift_is_kept_whatever_mu_the_pipeline_passes(name: str) -> None:
    """FluxPipeline always passes mu; a scheduler without dynamic shifting ignores it, and so must the samplers."""
    scheduler = build_sampler(sc.Sampler(name, 4), FlowMatchEulerDiscreteScheduler(shift=1.0))
    scheduler.set_timesteps(sigmas=np.linspace(1, 0.25, 4).tolist(), mu=1.15)
    assert scheduler.sigmas.tolist() == pytest.approx([1, 0.75, 0.5, 0.25, 0], abs=2e-3)


@pytest.mark.parametrize("name", ["dpmpp2m", "unipc"])
def test_the_grid_is_that_of_the_pipeline(pipe: Any, name: str) -> None:
    """The shift follows the image's size through the scheduler's configuration; 40 steps of both agree to 3e-3."""
    latents(pipe, steps=40, true_cfg_scale=1.0)
    levels = pipe.scheduler.sigmas
    with sc.accelerate(pipe, f"{name}:evaluations=40"):
        latents(pipe, steps=40, true_cfg_scale=1.0)
        assert torch.allclose(pipe.scheduler.sigmas, levels, atol=3e-3)


@pytest.mark.parametrize("name", ["euler", "heun", "ab2", "dpmpp2m", "unipc"])
def test_image_to_image_begins_where_the_strength_says(pipe: Any, name: str) -> None:
    other = image_to_image(pipe)
    plain = edited(other, 40)
    with sc.accelerate(other, f"{name}:evaluations=41" if name == "heun" else f"{name}:evaluations=40"):
        assert (edited(other, 40) - plain).norm() / plain.norm() < 0.02


SOLVERS = (UniPCMultistepScheduler, DPMSolverMultistepScheduler)


@pytest.mark.parametrize("kind", SOLVERS)
@pytest.mark.parametrize("name", ["euler", "heun", "ab2", "ab3", "dpmpp2m", "unipc"])
def test_samplers_beside_a_solver_of_a_flow_use_its_levels(kind: Any, name: str) -> None:
    """As on Wan: the grid is that of the pipeline's own solver with as many steps."""
    base = kind(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler = build_sampler(sc.Sampler(name, 9), base)
    scheduler.set_timesteps(50, device="cpu")
    assert len(scheduler.timesteps) == 9
    own = copy.deepcopy(base)
    own.set_timesteps(5 if name == "heun" else 9)
    levels = sorted(set(scheduler.sigmas.tolist()), reverse=True)
    other = (kind is UniPCMultistepScheduler and name == "dpmpp2m") or (kind not in SOLVERS[:1] and name == "unipc")
    # Both of diffusers' solvers shift by the same rule, but they do not end at quite the same smallest level.
    np.testing.assert_allclose(levels, own.sigmas, atol=2.1e-3 if other else 2e-6)
    scheduler.set_begin_index(0)
    x = torch.tensor([[[1.3]]], dtype=torch.float64)
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(FLOW.velocity(x, float(scheduler.sigmas[i])), t, x, return_dict=False)[0]
    assert abs(float(x) - FLOW.solution(1.3, 0.0)) < 0.3


@pytest.mark.parametrize("kind, name", zip(SOLVERS, ("unipc", "dpmpp2m"), strict=True))
def test_the_solver_itself_is_the_pipeline_with_fewer_steps(kind: Any, name: str) -> None:
    base = kind(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, solver_order=3)
    scheduler = build_sampler(sc.Sampler(name, 9), base)
    samples = []
    for each, count in ((base, 9), (scheduler, 50)):
        each.set_timesteps(count, device="cpu")
        x = torch.tensor([[[1.3]]], dtype=torch.float64)
        for t in each.timesteps:
            x = each.step(FLOW.velocity(x, float(t) / 1000), t, x, return_dict=False)[0]
        samples.append(float(x))
    assert samples[0] == samples[1]


def test_what_a_solver_shifts_by_itself_is_not_imitated() -> None:
    base = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, use_karras_sigmas=True)
    with pytest.raises(ValueError, match="cannot follow a scheduler with use_karras_sigmas=True; use euler"):
        build_sampler(sc.Sampler("dpmpp2m", 9), base)


def test_video_to_video_begins_from_a_noised_sample() -> None:
    base = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    scheduler = build_sampler(sc.Sampler("ab2", 9), base)
    scheduler.set_timesteps(50)
    x, noise = torch.ones(2, 3), torch.zeros(2, 3)
    found = scheduler.add_noise(x, noise, scheduler.timesteps[4:5])
    assert torch.allclose(found, 1 - scheduler.sigmas[4] * x)
