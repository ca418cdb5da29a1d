"""The orthonormal Haar transform as an oracle: a linear rule forecasts its coefficients as it forecasts values.

The change of variables of WaveDiff, arXiv:2211.16152.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import skipcast as sc
from skipcast import History, Output, Point, Run
from skipcast.forecasters import Forecaster, HaarDetails, HighBand, Lagrange, PadePaper, Within
from support.cases import ALL_CORRECTED, ALL_FORECASTERS, ALL_RECURSIVE, GRID, PADE, Case

SIDE, EXACT = 4, 1e-10


def haar(x: Tensor) -> Tensor:
    """(.., H, W) -> (.., 4, H/2, W/2): means, and differences across, down and both."""
    a, b, c, d = (x[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
    return torch.stack([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], -3) / 2


def back(w: Tensor) -> Tensor:
    """The inverse, which is the transpose."""
    ll, lh, hl, hh = w.unbind(-3)
    x = w.new_empty(*ll.shape[:-2], 2 * ll.shape[-2], 2 * ll.shape[-1])
    x[..., 0::2, 0::2], x[..., 0::2, 1::2] = (ll + lh + hl + hh) / 2, (ll - lh + hl - hh) / 2
    x[..., 1::2, 0::2], x[..., 1::2, 1::2] = (ll + lh - hl - hh) / 2, (ll - lh - hl + hh) / 2
    return x


NOISE = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def network(x: Tensor, timestep: float) -> Tensor:
    t = timestep / 1000
    return torch.tanh(x.roll(1, -1) * (1 + t)) - 0.5 * x * (1 - t) + 0.3 * t * x.flip(-2)


def sampled(forecaster: Forecaster, inside: bool) -> Tensor:
    """Euler's run on the images, or on their coefficients with the network between the transform and its inverse."""
    method = replace(Case(forecaster, 0).method(), target=Output())
    run, x = Run(method, GRID), haar(NOISE) if inside else NOISE
    sigma = [*GRID.sigma.tolist(), 0.0]
    for i, t in enumerate(GRID.timestep.tolist()):
        evaluate = (lambda x=x, t=t: haar(network(back(x), t))) if inside else (lambda x=x, t=t: network(x, t))
        x = x + (sigma[i + 1] - sigma[i]) * run.advance(x, evaluate)
    return back(x) if inside else x


def apart(forecaster: Forecaster) -> float:
    plain = sampled(forecaster, False)
    return float((sampled(forecaster, True) - plain).abs().max() / plain.abs().max())


def test_the_pair_is_orthonormal() -> None:
    assert torch.allclose(back(haar(NOISE)), NOISE, atol=1e-15)
    unit = haar(torch.eye(SIDE**2, dtype=torch.float64).reshape(-1, SIDE, SIDE)).flatten(1)
    assert torch.allclose(unit @ unit.T, torch.eye(SIDE**2, dtype=torch.float64), atol=1e-15)


@pytest.mark.parametrize("case", [*ALL_FORECASTERS, *ALL_RECURSIVE, *ALL_CORRECTED], ids=str)
def test_every_linear_forecaster_commutes_with_it(case: Case) -> None:
    assert apart(case.forecaster) < EXACT


@pytest.mark.parametrize("forecaster", PADE, ids=repr)
def test_pade_commutes_only_where_it_divides_by_norms(forecaster: Forecaster) -> None:
    """As released and as printed it divides value by value, and so depends on the variables."""
    assert (apart(forecaster) < EXACT) == isinstance(forecaster, PadePaper)


@pytest.mark.parametrize(
    "method", ["lagrange:order=2,evaluations=10", "hicache:evaluations=12,target=output", "reuse:evaluations=7"]
)
def test_plans_commute_with_it(method: str) -> None:

    plan = sc.compile_plan(method, GRID)
    plain = sc.sample(lambda x, t: network(x, float(t)), plan, NOISE)
    inside = sc.sample(lambda x, t: haar(network(back(x), float(t))), plan, haar(NOISE))
    assert (back(inside) - plain).abs().max() < EXACT * plain.abs().max()


def test_bands_that_are_forecast_differently_change_something() -> None:
    wanted = haar(NOISE)
    wanted[..., 0, :, :] = 0
    found = HaarDetails().project(NOISE, History(1))
    assert torch.allclose(found, back(wanted), atol=1e-14)
    tokens = HaarDetails(grid=(SIDE, SIDE)).project(NOISE.flatten(2).mT, History(1))
    assert torch.allclose(tokens, found.flatten(2).mT, atol=1e-14)
    history = History(2)
    for step, value in enumerate((NOISE, NOISE.flip(0))):
        history.push(step, float(step), value)
    forecast = haar(
        Within(Lagrange(1), HaarDetails()).forecast(history, Point(2, GRID.timestep * 0 + range(len(GRID))))
    )
    held, line = haar(NOISE.flip(0)), haar(2 * NOISE.flip(0) - NOISE)
    assert torch.allclose(forecast[..., 0, :, :], held[..., 0, :, :], atol=1e-14)
    assert torch.allclose(forecast[..., 1:, :, :], line[..., 1:, :, :], atol=1e-14)


def test_freqca_takes_them_by_name() -> None:
    assert sc.method("freqca:bands=haar").forecaster.subspace == HaarDetails()
    assert sc.method("freqca").forecaster.subspace == HighBand()
    with pytest.raises(ValueError, match=r"HaarDetails\(grid=...\) is needed for 12 tokens"):
        HaarDetails().project(torch.zeros(1, 12, 2), History(1))
    with pytest.raises(ValueError, match=r"HaarDetails\(grid=...\) must be \(height, width\)"):
        HaarDetails(grid=(0, 2))
