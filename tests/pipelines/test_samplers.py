"""Plain samplers as schedulers: the right number of evaluations, the right order, refused where they do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, FluxImg2ImgPipeline

import skipcast as sc
from skipcast.pipelines.samplers import build_sampler
from support.tiny import PROMPT, flux_pipeline, latents

MEAN, SPREAD = 0.7, 0.4


def velocity(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Exact flow velocity of data N(MEAN, SPREAD^2): E[e - x0 | x]."""
    variance = (1 - sigma) ** 2 * SPREAD**2 + sigma**2
    return (sigma - (1 - sigma) * SPREAD**2) / variance * (x - (1 - sigma) * MEAN) - MEAN


def solve(name: str, evaluations: int, shift: float = 1.0) -> float:
    """Error of the final sample from x = 1.3 at sigma 1; exact: MEAN + SPREAD * 1.3."""
    base = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler = build_sampler(sc.Sampler(name, evaluations), base)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 50, 50))
    assert len(scheduler.timesteps) == evaluations
    scheduler.set_begin_index(0)
    x = torch.tensor([[[1.3]]], dtype=torch.float64)
    for t in scheduler.timesteps:
        v = velocity(x, float(t) / 1000)
        x = scheduler.step(v, t, x, return_dict=False)[0]
    return abs(float(x) - (MEAN + SPREAD * 1.3))


@pytest.mark.parametrize("name, order", [("euler", 1), ("ab2", 2), ("ab3", 3), ("heun", 2)])
def test_order_of_convergence(name: str, order: int) -> None:
    counts = np.array([17, 33, 65, 129])
    steps = (counts + 1) / 2 if name == "heun" else counts
    errors = [solve(name, int(n), shift=2.0) for n in counts]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize("name", ["dpmpp2m", "unipc"])
def test_half_log_snr_solvers_converge(name: str) -> None:
    # Their last step, to sigma = 0 at infinite log-SNR, is of first order; it dominates on this problem.
    assert solve(name, 80) < 0.5 * solve(name, 20)
    assert solve(name, 40) < solve("euler", 40)


@pytest.mark.parametrize("evaluations", [15, 16])
def test_heun_meets_even_and_odd_budgets(evaluations: int) -> None:
    assert solve("heun", evaluations) < solve("euler", evaluations)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return flux_pipeline()


def test_euler_equals_the_pipeline_with_fewer_steps(pipe: Any) -> None:
    plain = latents(pipe, steps=5)
    with sc.accelerate(pipe, "euler:evaluations=5") as acceleration:
        assert torch.allclose(latents(pipe, steps=20), plain, atol=1e-6)
    assert acceleration.summary().evaluations == 5


@pytest.mark.parametrize("name", ["euler", "heun", "ab2", "ab3", "dpmpp2m", "unipc"])
def test_evaluations_are_exactly_what_was_asked(pipe: Any, name: str) -> None:
    calls: list[int] = []
    hook = pipe.transformer.x_embedder.register_forward_hook(lambda *_: calls.append(1))
    try:
        with sc.accelerate(pipe, f"{name}:evaluations=6"):
            first = latents(pipe, true_cfg_scale=1.0)
            assert len(calls) == 6
            assert torch.equal(latents(pipe, true_cfg_scale=1.0), first)
    finally:
        hook.remove()
    assert torch.isfinite(first).all()


def test_other_schedulers_are_refused() -> None:
    with pytest.raises(ValueError, match="DDIMScheduler"):
        build_sampler(sc.Sampler("ab2", 10), DDIMScheduler())


def test_custom_timesteps_are_refused() -> None:
    scheduler = build_sampler(sc.Sampler("ab2", 10), FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match="sigmas"):
        scheduler.set_timesteps(timesteps=[900.0, 500.0])


@pytest.mark.parametrize("name", ["euler", "dpmpp2m", "unipc"])
def test_a_static_shift_is_kept_whatever_mu_the_pipeline_passes(name: str) -> None:
    """FluxPipeline always passes mu; a scheduler without dynamic shifting ignores it, and so must the samplers."""
    scheduler = build_sampler(sc.Sampler(name, 4), FlowMatchEulerDiscreteScheduler(shift=1.0))
    scheduler.set_timesteps(sigmas=np.linspace(1, 0.25, 4).tolist(), mu=1.15)
    assert scheduler.sigmas.tolist() == pytest.approx([1, 0.75, 0.5, 0.25, 0], abs=2e-3)


@pytest.mark.parametrize("name", ["dpmpp2m", "unipc"])
def test_the_grid_is_that_of_the_pipeline(pipe: Any, name: str) -> None:
    """The shift follows the image's size through the scheduler's configuration; 40 steps of both agree to 3e-3."""
    latents(pipe, steps=40)
    levels = pipe.scheduler.sigmas
    with sc.accelerate(pipe, f"{name}:evaluations=40"):
        latents(pipe, steps=40)
        assert torch.allclose(pipe.scheduler.sigmas, levels, atol=3e-3)


def test_options_that_cannot_be_followed_are_refused() -> None:
    with pytest.raises(ValueError, match="use_karras_sigmas"):
        build_sampler(sc.Sampler("unipc", 10), FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True))


@pytest.mark.parametrize("name", ["euler", "heun", "ab2", "dpmpp2m", "unipc"])
def test_image_to_image_begins_where_the_strength_says(pipe: Any, name: str) -> None:
    other = FluxImg2ImgPipeline(**pipe.components)
    other.set_progress_bar_config(disable=True)

    def draw() -> torch.Tensor:
        image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        noise = torch.Generator().manual_seed(0)
        size = {"height": 64, "width": 64, "max_sequence_length": 12}
        call = {"strength": 0.75, "num_inference_steps": 40, "generator": noise, "output_type": "latent", **size}
        return other(PROMPT, image=image, **call).images

    plain = draw()
    with sc.accelerate(other, f"{name}:evaluations=41" if name == "heun" else f"{name}:evaluations=40"):
        assert (draw() - plain).norm() / plain.norm() < 0.02
