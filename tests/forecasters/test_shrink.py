"""RACER (arXiv:2608.01740): how far a forecast is drawn back towards reuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from skipcast import History, Point
from skipcast.forecasters import Forecaster, HiCache, Lagrange, LinearForecaster, Reuse, Shrunk, Smoothed, TaylorSeer

TAUS = np.arange(20.0)


def forecast(forecaster: Forecaster, values: dict[int, Any], step: int, taus: np.ndarray = TAUS) -> torch.Tensor:
    """At a step, from values of the steps before."""
    history = History(forecaster.window)
    for at, value in values.items():
        history.push(at, taus[at], torch.as_tensor(value, dtype=torch.float64))
    return forecaster.forecast(history, Point(step, taus))


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
    value = forecast(forecaster, {0: [[1.0]], 3: [[a]]}, 3 + k).item()
    assert (value - a) / (1 - a) == pytest.approx(kappa, abs=5e-4)


def test_against_the_formula_on_vectors() -> None:
    forecaster = Shrunk(Lagrange(2), threshold=0.4)
    rng = np.random.default_rng(0)
    y = dict(zip((2, 4, 9), rng.standard_normal((3, 2, 3, 5)), strict=True))
    found = forecast(forecaster, y, 12).numpy()
    h = sum(w * v for w, v in zip(Lagrange(2).weights(np.array([2.0, 4.0, 9.0]), 12.0), y.values(), strict=True))
    g = sum(w * v for w, v in zip(TaylorSeer(1).weights(np.array([4.0, 9.0]), 12.0), (y[4], y[9]), strict=True))
    for item in range(2):
        r = np.linalg.norm(h[item] - g[item]) / np.linalg.norm(h[item])
        kappa = math.exp(-0.3 * 2) / (1 + math.exp(-4 * (0.4 - r)))
        assert found[item] == pytest.approx(y[9][item] + kappa * (h[item] - y[9][item]), abs=1e-12)


def test_age_counts_steps_not_the_coordinate() -> None:
    taus = np.linspace(1.0, 0.05, 20) ** 2
    value = forecast(Shrunk(Lagrange(1), threshold=0.25), {step: [[taus[step]]] for step in (0, 2)}, 6, taus).item()
    kappa = math.exp(-0.9) / (1 + math.exp(-1))
    assert value == pytest.approx(taus[2] + kappa * (taus[6] - taus[2]), abs=1e-12)


@pytest.mark.parametrize("base, local", [(Lagrange(2), TaylorSeer(1)), (TaylorSeer(1), Lagrange(4))], ids=str)
def test_each_forecaster_sees_its_own_window(base: LinearForecaster, local: LinearForecaster) -> None:
    """On a line all agree, and only kappa at r = 0 remains."""
    forecaster = Shrunk(base, local)
    value = forecast(forecaster, {step: [[2.0 * step + 1]] for step in (0, 1, 4, 6, 9)}, 10).item()
    assert value == pytest.approx(19 + 2 / (1 + math.exp(-1)), abs=1e-9)
    assert (forecaster.window, forecaster.min_evaluations) == (
        max(base.window, local.window),
        max(base.min_evaluations, local.min_evaluations),
    )


def test_zero_is_safe() -> None:
    """h = 0 with g elsewhere is the greatest risk, and all zero is none."""
    forecaster = Shrunk(Smoothed(1.0), Reuse())
    for values, expected in (({0: [0.0], 3: [5.0]}, 5.0), ({0: [0.0], 3: [0.0]}, 0.0), ({3: [5.0]}, 5.0)):
        assert forecast(forecaster, values, 4).item() == expected


def test_a_coordinate_carries_over() -> None:
    assert Shrunk(HiCache()).coordinates == Shrunk(Lagrange(2), HiCache(1)).coordinates == HiCache().coordinates
    assert Shrunk(HiCache(), HiCache(1)).coordinates == HiCache().coordinates
    assert Shrunk(Lagrange(2)).coordinates == ()
    assert not Shrunk(Lagrange(2)).linear
