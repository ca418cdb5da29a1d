"""RACER (arXiv:2608.01740): how far a forecast is drawn back towards reuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from skipcast import History, Method, Point
from skipcast.forecasters import Forecaster, HiCache, Lagrange, LinearForecaster, Reuse, Shrunk, Smoothed, TaylorSeer
from support.cases import GRID, SCHEDULE, drive

TAUS = np.arange(20.0)


def history_of(forecaster: Forecaster, values: dict[int, Any], dtype: torch.dtype = torch.float64) -> History:
    history = History(forecaster.window)
    for step, value in values.items():
        history.push(step, TAUS[step], torch.as_tensor(value, dtype=dtype))
    return history


@pytest.mark.parametrize(
    "k, risk, kappa",
    [
        (1, 0.05, 0.690),
        (1, 0.25, 0.500),
        (1, 0.50, 0.269),
        (2, 0.25, 0.370),
        (4, 0.05, 0.281),
        (4, 0.25, 0.203),
        (6, 0.50, 0.060),
    ],
)
def test_published_kappa(k: int, risk: float, kappa: float) -> None:
    """The base reuses the older of two values, h, the local rule the newer one, a: r = |h - a| / |h|, so a = 1 - r."""
    forecaster = Shrunk(Smoothed(1.0), Reuse(), 0.25)
    a = 1 - risk
    value = forecaster.forecast(history_of(forecaster, {0: [[1.0]], 3: [[a]]}), Point(3 + k, TAUS)).item()
    assert (value - a) / (1 - a) == pytest.approx(kappa, abs=5e-4)


def test_against_the_formula_on_vectors() -> None:
    forecaster = Shrunk(Lagrange(2), threshold=0.4)
    rng = np.random.default_rng(0)
    y = dict(zip((2, 4, 9), rng.standard_normal((3, 2, 3, 5)), strict=True))
    found = forecaster.forecast(history_of(forecaster, y), Point(12, TAUS)).numpy()
    h = sum(w * v for w, v in zip(Lagrange(2).weights(np.array([2.0, 4.0, 9.0]), 12.0), y.values(), strict=True))
    g = sum(w * v for w, v in zip(TaylorSeer(1).weights(np.array([4.0, 9.0]), 12.0), (y[4], y[9]), strict=True))
    for item in range(2):
        r = np.linalg.norm(h[item] - g[item]) / np.linalg.norm(h[item])
        kappa = math.exp(-0.3 * 2) / (1 + math.exp(-4 * (0.4 - r)))
        assert found[item] == pytest.approx(y[9][item] + kappa * (h[item] - y[9][item]), abs=1e-12)


def test_age_counts_steps_not_the_coordinate() -> None:
    forecaster = Shrunk(Lagrange(1), threshold=0.25)
    taus = np.linspace(1.0, 0.05, 20) ** 2
    history = History(2)
    for step in (0, 2):
        history.push(step, taus[step], torch.tensor([[float(taus[step])]], dtype=torch.float64))
    value = forecaster.forecast(history, Point(6, taus)).item()
    kappa = math.exp(-0.9) / (1 + math.exp(-1))
    assert value == pytest.approx(taus[2] + kappa * (taus[6] - taus[2]), abs=1e-12)


@pytest.mark.parametrize("base, local", [(Lagrange(2), TaylorSeer(1)), (TaylorSeer(1), Lagrange(4))], ids=str)
def test_each_forecaster_sees_its_own_window(base: LinearForecaster, local: LinearForecaster) -> None:
    """On a line all agree, and only kappa at r = 0 remains."""
    forecaster = Shrunk(base, local)
    history = history_of(forecaster, {step: [[2.0 * step + 1]] for step in (0, 1, 4, 6, 9)})
    value = forecaster.forecast(history, Point(10, TAUS)).item()
    assert value == pytest.approx(19 + 2 / (1 + math.exp(-1)), abs=1e-9)
    assert (forecaster.window, forecaster.min_evaluations) == (
        max(base.window, local.window),
        max(base.min_evaluations, local.min_evaluations),
    )


def test_zero_is_safe() -> None:
    """h = 0 with g elsewhere is the greatest risk, and all zero is none."""
    forecaster = Shrunk(Smoothed(1.0), Reuse())
    assert forecaster.forecast(history_of(forecaster, {0: [[0.0]], 3: [[5.0]]}), Point(4, TAUS)).item() == 5.0
    assert forecaster.forecast(history_of(forecaster, {0: [[0.0]], 3: [[0.0]]}), Point(4, TAUS)).item() == 0.0
    assert forecaster.forecast(history_of(forecaster, {3: [[5.0]]}), Point(4, TAUS)).item() == 5.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 6, 5), (3,)], ids=str)
def test_dtype_and_shape_are_kept(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    forecaster = Shrunk(Lagrange(2))
    values = {step: (torch.rand(shape) + 1).to(dtype) for step in (0, 4, 8)}
    value = forecaster.forecast(history_of(forecaster, values, dtype), Point(10, TAUS))
    wanted = forecaster.forecast(history_of(forecaster, values), Point(10, TAUS))
    assert (value.dtype, value.shape) == (dtype, shape)
    assert ((value.double() - wanted).abs() <= torch.finfo(dtype).eps * (wanted.abs() + 1) + 1e-6).all()


def test_items_of_a_batch_are_independent() -> None:
    torch.manual_seed(0)
    method, values = Method(Shrunk(Lagrange(2)), SCHEDULE), torch.randn(50, 3, 2, 5)
    alone = [drive(method, GRID, values[:, i : i + 1]) for i in range(3)]
    assert torch.allclose(drive(method, GRID, values), torch.cat(alone, dim=1), rtol=1e-6, atol=1e-6)


def test_a_coordinate_carries_over() -> None:
    assert Shrunk(HiCache()).coordinates == Shrunk(Lagrange(2), HiCache(1)).coordinates == HiCache().coordinates
    assert Shrunk(HiCache(), HiCache(1)).coordinates == HiCache().coordinates
    assert Shrunk(Lagrange(2)).coordinates == ()
    assert not Shrunk(Lagrange(2)).linear
