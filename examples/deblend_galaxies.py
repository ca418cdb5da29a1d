"""Two overlapping galaxies pulled apart, each under the score network of a survey, with few evaluations:

pip install --no-deps galaxygrad==0.2.1
python -m examples.deblend_galaxies

The network knows images of log(1 + light) / 0.1, but it is light that adds up: y = sum of both + noise is linearised
at every step, and a proximal step is made to it. The truths are samples of the network, too.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import skipcast as sc
from research.galaxies.reader import network
from research.galaxies.study import STEPS, levels, noise, noise_predictor, sampled, sampler_plan

NOISE, SIDE, SHIFT = 0.02, 64, 10  # galaxies have a peak of about 1.2; their centres are 14 pixels apart


def light(x: Tensor) -> Tensor:
    return torch.expm1(0.1 * x)


def added(sources: Tensor) -> Tensor:
    """Both sources of every blend, (B, 2, 64, 64), in one field, (B, 1, 74, 74)."""
    first, second = sources.split(1, dim=1)
    return F.pad(first, (0, SHIFT, 0, SHIFT)) + F.pad(second, (SHIFT, 0, SHIFT, 0))


@dataclass
class Linearised:
    """The sum of light around an estimate."""

    slope: Tensor

    def A(self, x: Tensor) -> Tensor:  # noqa: N802
        return added(self.slope * x)

    def A_adjoint(self, y: Tensor) -> Tensor:  # noqa: N802
        return self.slope * torch.cat([y[..., :SIDE, :SIDE], y[..., SHIFT:, SHIFT:]], dim=1)


class Deblend(sc.guidance.Correction):
    """`Proximal` to a field of light."""

    def __init__(self, field: Tensor) -> None:
        self.field = field

    def denoised(self, call: sc.guidance.Call) -> Tensor:
        operator = Linearised(0.1 * (0.1 * call.clean).exp())
        goal = self.field - added(light(call.clean)) + operator.A(call.clean)
        return sc.guidance.Proximal(operator, goal, noise=NOISE, iterations=12).denoised(call)


def psnr(found: Tensor, truth: Tensor) -> float:
    """Of the light of single galaxies over their peak, mean, in dB."""
    error = (light(found) - light(truth)).square().flatten(2).mean(2)
    return float((-10 * (error / light(truth).flatten(2).amax(2).square()).log10()).mean())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blends", type=int, default=4)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--evaluations", type=int, default=12)
    parser.add_argument("--recorded", type=int, default=8, help="noises that the plan is solved from")
    given = parser.parse_args()
    one, calls = noise_predictor(network("HSC")), 0

    def denoiser(x: Tensor, timestep: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return one(x.reshape(-1, 1, SIDE, SIDE), timestep).view_as(x)

    def pairs(count: int, seed: int) -> Tensor:
        return noise("HSC", 2 * count, seed).view(count, 2, SIDE, SIDE)

    truth = sampled(denoiser, sampler_plan("unipc", 20), pairs(given.blends, 7))
    field = added(light(truth))
    field = field + NOISE * torch.randn(field.shape, generator=torch.Generator().manual_seed(3))
    full, few = levels(given.steps), levels(given.evaluations)
    recorded = pairs(max(1, given.recorded // 2), 5000)
    profile = sc.record(denoiser, recorded, grid=full.grid, end=full.end, prediction=full.prediction, progress=False)
    forecast = f"lagrange:order=0,schedule=even,evaluations={given.evaluations}"
    rows: list[tuple[str, Any, Any]] = [
        ("all evaluated", full, None),
        ("forecast", full, forecast),
        ("plan", full, profile.plan(evaluations=given.evaluations)),
        ("fewer steps", few, None),
    ]
    print(f"half of the field each: {psnr(halved(field), truth):.1f} dB")
    for name, at, method in rows:
        calls = 0
        found = sc.guidance.sample(
            denoiser,
            pairs(given.blends, 11),
            grid=at.grid,
            end=at.end,
            prediction=at.prediction,
            method=method,
            correction=Deblend(field),
        )
        flux = light(found).sum((2, 3)) / light(truth).sum((2, 3))
        print(f"{name}: {calls} evaluations, {psnr(found, truth):.1f} dB, light off by {(flux - 1).abs().mean():.1%}")


def halved(field: Tensor) -> Tensor:
    """What is known without a prior: every galaxy has half of what is seen at its place."""
    seen = torch.cat([field[..., :SIDE, :SIDE], field[..., SHIFT:, SHIFT:]], dim=1)
    return torch.log1p((seen / 2).clamp_min(-0.5)) / 0.1


if __name__ == "__main__":
    main()
