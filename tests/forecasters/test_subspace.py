"""Forecasts inside a subspace: FreqCa (arXiv:2510.08669) and SVD-Cache (arXiv:2601.07396)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from torch import Tensor

from skipcast import History, Method, Point, Run
from skipcast.controllers import FixedSteps
from skipcast.forecasters import (
    HiCache,
    HighBand,
    Lagrange,
    LinearForecaster,
    Principal,
    Reuse,
    Smoothed,
    Subspace,
    TaylorSeer,
    Within,
)
from support.cases import GRID, SUBSPACES

TAUS = np.arange(50.0)
TOKENS, LATENTS = (3, 16, 5), (3, 5, 6, 4)


@dataclass(frozen=True)
class FirstAxis(Subspace):
    """The first of D coordinates."""

    def project(self, tensor: Tensor, history: History) -> Tensor:
        return tensor * torch.eye(tensor.shape[-1])[0]


def pushed(history: History, *values: Any, gap: int = 1) -> History:
    for i, value in enumerate(values):
        history.push(gap * i, float(gap * i), torch.as_tensor(value))
    return history


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(
    "inner, expected",
    [
        (Smoothed(0.9), [2.2, 6]),
        (Smoothed(0.1), [3.8, 6]),
        (Lagrange(1), [6, 6]),
        (Smoothed(0.9, slope=True), [6, 6]),
        (Reuse(), [4, 6]),
    ],
    ids=str,
)
def test_readings_of_svd_cache(inner: LinearForecaster, expected: list[float]) -> None:
    history = pushed(History(inner.window), [[[2.0, 4.0]]], [[[4.0, 6.0]]])
    found = Within(inner, FirstAxis()).forecast(history, Point(2, TAUS))
    assert found.squeeze().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("shape", [TOKENS, LATENTS], ids=str)
@pytest.mark.parametrize("subspace", SUBSPACES, ids=str)
def test_a_subspace_is_an_orthogonal_projector(subspace: Subspace, shape: tuple[int, ...]) -> None:
    history, a, b = pushed(History(1), random(*shape)), random(*shape) + 1, random(*shape).flip(0)
    once = subspace.project(a, history)
    assert torch.allclose(subspace.project(once, history), once, atol=1e-10)
    across = ((a - once) * subspace.project(b, history)).flatten(1).sum(1)
    assert across.abs().max() < 1e-10
    assert not torch.allclose(once, a, atol=1e-3)
    assert not torch.allclose(once, torch.zeros_like(a), atol=1e-3)


NOTHING = [HighBand(1.0), HighBand(1.0, "fft"), HighBand(3.0), Principal(energy=0), Principal(rank=0)]
EVERYTHING = [HighBand(0), HighBand(0, "fft"), Principal(1.0, 64)]


@pytest.mark.parametrize("shape", [TOKENS, LATENTS], ids=str)
@pytest.mark.parametrize("inner", [TaylorSeer(1), Lagrange(2), HiCache(2, 0.71)], ids=str)
def test_the_limits_are_reuse_and_the_inner_forecast(inner: LinearForecaster, shape: tuple[int, ...]) -> None:
    first = random(*shape)
    history = pushed(History(inner.window), first, 2 * first.cos(), first**2, gap=6)
    point = Point(history[-1].step + 3, TAUS)
    limits = ((NOTHING, history[-1].value, 1e-12), (EVERYTHING, inner.forecast(history, point), 1e-10))
    for subspaces, expected, exact in limits:
        for subspace in subspaces:
            assert torch.allclose(Within(inner, subspace).forecast(history, point), expected, rtol=0, atol=exact)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.8])
@pytest.mark.parametrize("height, width", [(8, 8), (4, 7)])
def test_dct_band_against_scipy(share: float, height: int, width: int) -> None:
    field = random(2, 3, height, width)
    spectrum = dctn(field.numpy(), axes=(2, 3), norm="ortho")
    radius = np.sqrt(np.arange(height)[:, None] ** 2 + np.arange(width) ** 2)
    high = torch.from_numpy(idctn(spectrum * (radius > share * radius.max()), axes=(2, 3), norm="ortho"))
    assert torch.allclose(HighBand(share).project(field, History(1)), high, atol=1e-12)
    tokens = HighBand(share, grid=(height, width)).project(field.flatten(2).mT, History(1))
    assert torch.allclose(tokens, high.flatten(2).mT, atol=1e-12)


@pytest.mark.parametrize("count", [16, 15, 1])
def test_fft_band_against_a_full_transform(count: int) -> None:
    tokens = random(2, count, 3)
    frequency = np.abs(np.fft.fftfreq(count))[:, None]
    high = np.fft.ifft(np.fft.fft(tokens.numpy(), axis=1) * (frequency > 0.3 * frequency.max()), axis=1).real
    assert np.allclose(HighBand(0.3, "fft").project(tokens, History(1)).numpy(), high, atol=1e-12)


def test_low_frequencies_are_reused() -> None:
    """A move of the mean is dropped, one of a checkerboard is followed."""
    flat, checks = torch.ones(1, 64, 1), (-1.0) ** torch.arange(64).reshape(8, 8).add(torch.arange(8)[:, None])
    board = checks.reshape(1, 64, 1)
    forecaster = Within(Lagrange(1), HighBand(0.1))
    history = pushed(History(2), flat + board, 2 * flat + 2 * board)
    found = forecaster.forecast(history, Point(2, TAUS))
    assert torch.allclose(found, 2 * flat + 3 * board, atol=1e-5)


@pytest.mark.parametrize(
    "energy, rank, expected", [(0.5, 32, 1), (0.85, 32, 2), (0.99, 32, 3), (1.0, 32, 3), (1.0, 1, 1)]
)
def test_principal_rank(energy: float, rank: int, expected: int) -> None:
    """Singular values 7, 3.6, 2.4 in a width of 4: shares of energy 0.724, 0.915, 1."""
    u, v = torch.linalg.qr(random(9, 4))[0], torch.linalg.qr(random(4, 4))[0]
    first = u[:, :3] * torch.tensor([7.0, 3.6, 2.4]) @ v[:3]
    history = pushed(History(1), first[None])
    projector = Principal(energy, rank).project(torch.eye(4, dtype=torch.float64)[None], history)[0]
    assert torch.allclose(projector, v[:expected].mT @ v[:expected], atol=1e-7)


def test_the_basis_comes_from_the_first_value_for_every_item() -> None:
    """Also behind a window of one, and whether or not the run forecasts in the shadow of evaluations."""
    values = random(8, 2, 6, 4)
    method = Method(Within(Reuse(), Principal(0.9)), FixedSteps((0, 1, 2, 5)))
    for shadow in (True, False):
        run = Run(method, GRID, forecast_error=shadow)
        for y in values:
            run.advance(torch.zeros_like(y), lambda y=y: y)
        probe = torch.eye(6, 4, dtype=torch.float64).expand(2, 6, 4)
        expected = Principal(0.9).project(probe, pushed(History(1), values[0]))
        assert torch.equal(method.forecaster.subspace.project(probe, run.history), expected)  # type: ignore[attr-defined]
        assert run.history.bytes() > values[0].nbytes


def test_it_takes_over_what_the_inner_forecaster_asks_for() -> None:
    forecaster = Within(HiCache(2, 0.71, start=1), HighBand())
    assert (forecaster.window, forecaster.start, forecaster.min_evaluations) == (3, 1, 3)
    assert forecaster.coordinates == HiCache().coordinates
    assert not forecaster.linear
    assert not forecaster.recursive


@pytest.mark.parametrize(
    "subspace, shape, message",
    [
        (HighBand(), (1, 12, 2), r"HighBand\(grid=\.\.\.\) is needed for 12 tokens; give their \(height, wi"),
        (HighBand(grid=(2, 5)), (1, 12, 2), r"HighBand\(grid=\.\.\.\) is of 10 places for 12 tokens"),
        *(
            (subspace, (2, 3), r"needs tokens \(B, L, D\) or latents .* got a value of shape \(2, 3\)")
            for subspace in (HighBand(), Principal())
        ),
    ],
    ids=str,
)
def test_other_shapes_are_refused(subspace: Subspace, shape: tuple[int, ...], message: str) -> None:
    value = torch.zeros(shape)
    with pytest.raises(ValueError, match=message):
        subspace.project(value, pushed(History(1), value))
    assert HighBand(grid=(3, 4)).project(torch.zeros(1, 12, 2), History(1)).shape == (1, 12, 2)
