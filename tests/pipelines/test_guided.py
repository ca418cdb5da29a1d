"""Corrections on pipelines: the sampler of skipcast.guidance exactly, forecast or not, and refusals by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UNet2DModel,
)
from torch import Tensor
from torch.nn import functional as F

import skipcast as sc
from skipcast import guidance as g
from skipcast.plans.propagation import grid_of

N = 10  # divides the 1000 timesteps: DDIM steps to t - 1000 // N, whatever its table says


@dataclass
class Mask:
    """Every second column."""

    def A(self, x: Tensor) -> Tensor:  # noqa: N802
        return x[..., ::2]

    def A_adjoint(self, y: Tensor) -> Tensor:  # noqa: N802
        return torch.stack([y, torch.zeros_like(y)], -1).flatten(-2)


def pixels(scheduler: Any = None) -> DDIMPipeline:
    """A tiny random model of images."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    pipe = DDIMPipeline(unet.eval(), DDIMScheduler(clip_sample=False, timestep_spacing="trailing"))
    pipe.scheduler = scheduler or pipe.scheduler  # the constructor makes a DDIM of any
    pipe.set_progress_bar_config(disable=True)
    return pipe


Y = torch.linspace(-1, 1, 4).expand(1, 3, 8, 4)
KNOWN = g.Proximal(Mask(), Y, noise=0.1)


def run(pipe: Any, scheduler: Any = None) -> Tensor:
    """A loop of one's own, whose samples are not rounded to images."""
    used = pipe.scheduler
    used.set_timesteps(N)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * used.init_noise_sigma
    with torch.no_grad():
        for t in used.timesteps:
            x = used.step(pipe.unet(used.scale_model_input(x, t), t).sample, t, x).prev_sample
    return x


@pytest.mark.parametrize("method", [None, "lagrange:order=1,evaluations=5"])
def test_a_pipeline_does_what_guided_sampling_does(method: str | None) -> None:
    pipe = pixels()
    before = dict(vars(pipe.scheduler))
    with g.corrected(pipe, KNOWN):
        if method is None:
            found = run(pipe)
        else:
            with sc.accelerate(pipe, method) as acceleration:
                found = run(pipe)
            assert acceleration.summary().evaluations == 5
    assert vars(pipe.scheduler).keys() == before.keys()
    start = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    pipe.scheduler.set_timesteps(N)
    expected = g.sample(
        lambda x, t: pipe.unet(x, t).sample, start, grid=grid_of(pipe.scheduler), prediction="epsilon",
        correction=KNOWN, method=method, forecasts="output",
    )  # fmt: skip
    assert torch.allclose(found, expected, atol=1e-4)
    assert (found - run(pipe)).abs().max() > 0.1


@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_without_noise_the_measurement_is_met(kind: Any) -> None:
    options = {"clip_sample": False} if kind is DDIMScheduler else {}
    pipe = pixels(kind(**options))
    with g.corrected(pipe, g.DDS(Mask(), Y)):
        found = run(pipe)
    assert torch.allclose(Mask().A(found), Y.expand(2, 3, 8, 4), atol=2e-2)


@pytest.mark.parametrize(
    ("scheduler", "correction", "options", "words"),
    [
        (None, g.DPS(Mask(), Y), {}, "DPS takes gradients through the network"),
        (None, KNOWN, {"decode": lambda x: x}, "needs both"),
        (None, "prox", {}, "must be a Correction"),
        (DDIMScheduler(), KNOWN, {}, "clip_sample=True is not linear"),
        (DDPMScheduler(clip_sample=False), KNOWN, {}, "adds noise at every step"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_refusals(scheduler: Any, correction: Any, options: dict[str, Any], words: str) -> None:
    pipe = pixels(scheduler)
    with pytest.raises(ValueError, match="") as raised, g.corrected(pipe, correction, **options):
        pass
    assert words in str(raised.value)


def test_the_wrong_shape_and_latents_are_refused(pipe: Any) -> None:
    with pytest.raises(ValueError, match="FluxPipeline samples latents"), g.corrected(pipe, KNOWN):
        pass
    tiny = pixels()
    wrong = g.Proximal(Mask(), Y[..., :3])
    with pytest.raises(ValueError, match=r"y=...\) has shape \(1, 3, 8, 3\)"), g.corrected(tiny, wrong):
        run(tiny)
    assert "step" not in vars(tiny.scheduler)


def test_a_plan_in_place_of_the_scheduler_is_noticed() -> None:
    pipe = pixels()
    pipe.scheduler.set_timesteps(N)
    plan = sc.compile_plan("lagrange:order=1,evaluations=5", pipe.scheduler)
    with pytest.warns(UserWarning, match="corrected no step"), g.corrected(pipe, KNOWN), sc.accelerate(pipe, plan):
        run(pipe)
    pipe.scheduler = sc.PlanScheduler(plan)
    with pytest.raises(ValueError, match="PlanScheduler merges the steps"), g.corrected(pipe, KNOWN):
        pass


# A latent model, through its autoencoder.


@dataclass
class Hole:
    """A square of the image is not known."""

    def A(self, x: Tensor) -> Tensor:  # noqa: N802
        known = torch.ones_like(x)
        known[..., 20:44, 20:44] = 0
        return x * known

    A_adjoint = A


@dataclass
class Coarse:
    """Means of 3 x 3 pixels; the last row and column of 64 are in none."""

    def A(self, x: Tensor) -> Tensor:  # noqa: N802
        return F.avg_pool2d(x, 3)

    def A_adjoint(self, y: Tensor) -> Tensor:  # noqa: N802
        return F.pad(y.repeat_interleave(3, -1).repeat_interleave(3, -2) / 9, (0, 1, 0, 1))


@pytest.mark.slow
def test_inpainting_and_super_resolution_of_the_reference_model() -> None:
    pipe = sc.load_reference("shapes-flux")
    vae, side = pipe.vae, 64

    def decode(latents: Tensor) -> Tensor:
        z = pipe._unpack_latents(latents, side, side, pipe.vae_scale_factor)
        return vae.decode(z / vae.config.scaling_factor + vae.config.shift_factor).sample

    def encode(images: Tensor) -> Tensor:
        z = (vae.encode(images).latent_dist.mode() - vae.config.shift_factor) * vae.config.scaling_factor
        return pipe._pack_latents(z, *z.shape)

    def drawn(prompt: str, seed: int) -> Tensor:
        made = pipe(
            prompt, num_inference_steps=20, true_cfg_scale=2.0, negative_prompt="", output_type="np",
            generator=torch.Generator().manual_seed(seed),
        ).images  # fmt: skip
        return torch.from_numpy(np.asarray(made)).permute(0, 3, 1, 2).float() * 2 - 1

    prompt = "a large red star on a blue background"
    truth, other = drawn(prompt, 1), drawn(prompt, 2)
    for operator in (Hole(), Coarse()):
        y = operator.A(truth)
        apart = (operator.A(other) - y).square().mean()
        with (
            g.corrected(pipe, g.Proximal(operator, y, noise=0.05), decode=decode, encode=encode),
            sc.accelerate(pipe, "lagrange:order=1,evaluations=10,schedule=even") as acceleration,
        ):
            found = drawn(prompt, 2)
        assert acceleration.summary().evaluations == 10
        assert (operator.A(found) - y).square().mean() < 0.05 * apart
        assert (found - truth).square().mean() < 0.1 * (other - truth).square().mean()
