"""Spectrum's ridge against its numbers and a transcription of the release (arXiv:2603.01623)."""

from __future__ import annotations

import numpy as np
import pytest

from research.fidelity.forecasts import spectrum
from research.fidelity.sequences import alone
from skipcast import Method
from skipcast.controllers import FixedSteps
from skipcast.forecasters import Blend, ChebyshevRidge, Lagrange, LinearForecaster
from support.cases import random, run_of

FULL, FREE = ChebyshevRidge(), ChebyshevRidge(free_constant=True)
HALF = Blend(Lagrange(1), ChebyshevRidge(), 0.5)

#: The released window, growing by 0.75 and by 3.
SLOW = (0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 25, 31, 38, 46)
FAST = (0, 1, 2, 3, 4, 6, 11, 19, 30, 44)
#: The first weights of the two longest rows.
LATE = [
    (-0.2430, -0.0342, 0.1029, 0.1793, 0.2057, 0.1469),
    (0.1057, 0.0216, -0.0318, -0.0597, -0.0670, -0.0373, 0.0255),
]


@pytest.mark.parametrize(
    "nodes, tau, forecaster, expected, total",
    [
        (SLOW[:5], 5, FULL, [-0.2677, -0.0275, 0.2006, 0.4158, 0.6174], 0.9387),
        (SLOW[:5], 5, HALF, [-0.1338, -0.0138, 0.1003, -0.2921, 1.3087], 0.9693),
        (SLOW[:5], 5, FREE, [-0.2531, -0.0310, 0.1970, 0.4280, 0.6592], 1),
        (SLOW[:6], 7, FULL, [-0.1366, -0.0789, 0.0180, 0.1474, 0.3031, 0.6702], 0.9231),
        (SLOW[:7], 10, FULL, [0.1119, -0.0681, -0.1449, -0.1320, -0.0422, 0.3196, 0.8503], 0.8947),
        (SLOW[:7], 10, HALF, [0.0560, -0.0341, -0.0725, -0.0660, -0.0211, -0.3402, 1.4252], 0.9473),
        (SLOW[:7], 10, FREE, [0.1696, -0.0555, -0.1603, -0.1599, -0.0687, 0.3324, 0.9424], 1),
        (SLOW[:11], 30, FULL, [*LATE[0], -0.0018, -0.2611, -0.4282, -0.0156, 1.2152], 0.8662),
        (SLOW[:13], 45, FULL, [*LATE[1], 0.1267, 0.1839, 0.0492, -0.2411, -0.3670, 1.0218], 0.7304),
        (FAST[:6], 10, FULL, [0.0252, -0.1644, -0.1841, -0.0573, 0.1936, 0.9839], 0.7969),
        (FAST[:7], 18, FULL, [0.5919, 0.0885, -0.2475, -0.4340, -0.4882, -0.2649, 1.5475], 0.7932),
        (FAST[:9], 43, FULL, [-0.4548, -0.1245, 0.1174, 0.2811, 0.3765, 0.3998, -0.1269, -0.9689, 1.1539], 0.6536),
        (FAST[:9], 43, HALF, [-0.2274, -0.0622, 0.0587, 0.1405, 0.1882, 0.1999, -0.0634, -1.0754, 1.6679], 0.8268),
    ],
    ids=str,
)
def test_published_weights(
    nodes: tuple[int, ...], tau: float, forecaster: LinearForecaster, expected: list[float], total: float
) -> None:
    """Oldest first."""
    found = forecaster.weights(np.array(nodes, dtype=float), float(tau))
    assert found.tolist() == pytest.approx(expected, abs=5.1e-5)
    assert found.sum() == pytest.approx(total, abs=5.1e-5)


@pytest.mark.parametrize(
    "ridge, total, growth", [(1e-3, 0.9901, 2.924), (1e-2, 0.9659, 1.516), (0.1, 0.9387, 1.529), (1, 0.8112, 1.184)]
)
def test_the_penalty_shrinks(ridge: float, total: float, growth: float) -> None:
    found = ChebyshevRidge(ridge=ridge).weights(np.arange(5.0), 5.0)
    assert found.sum() == pytest.approx(total, abs=5.1e-5)
    assert np.abs(found).sum() == pytest.approx(growth, abs=5.1e-4)


def test_without_a_penalty_it_would_be_lagrange() -> None:
    found = ChebyshevRidge(degree=2, ridge=1e-11, horizon=8).weights(np.array([1.0, 2.0, 6.0]), 7.0)
    assert found.tolist() == pytest.approx(Lagrange(2).weights(np.array([1.0, 2.0, 6.0]), 7.0).tolist(), abs=1e-6)


def test_a_longer_run_keeps_the_horizon() -> None:
    """With the run's own length instead, the last steps of 20 come back at 0.54 of their size."""
    nodes = np.array([0.0, 1, 2, 3, 4, 6, 8, 11, 15])
    assert ChebyshevRidge().weights(nodes, 19.0).sum() > 0.88
    assert ChebyshevRidge(horizon=20).weights(nodes, 19.0).sum() == pytest.approx(0.54, abs=0.01)


@pytest.mark.parametrize("full", [SLOW, FAST], ids=["slow", "fast"])
@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
def test_a_run_is_the_released_one(full: tuple[int, ...], share: float) -> None:
    found = run_of(Method(Blend(Lagrange(1), ChebyshevRidge(), share), FixedSteps(full)), random(4))
    assert np.abs(found - alone(spectrum(share), random(4), full)).max() < 1e-10
