"""HiCache against its numbers and a transcription of its recursion (arXiv:2508.16984)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from skipcast import IncompatibleParts, Method
from skipcast.controllers import Periodic
from skipcast.coordinates import Angle
from skipcast.forecasters import HiCache, TaylorSeer
from support.cases import GRID, drive


def newest_first(forecaster: HiCache | TaylorSeer, nodes: list[float], tau: float) -> list[float]:
    return forecaster.weights(np.array(nodes, dtype=float), float(tau))[::-1].tolist()


@pytest.mark.parametrize(
    "scale, nodes, tau, expected",
    [
        (0.5, [1, 2, 9], 12, [1.2321, -0.3571, 0.1250]),
        (0.5, [2, 9, 16], 19, [1.2321, -0.2500, 0.0179]),
        (0.5, [2, 9, 16], 22, [1.5153, -0.6020, 0.0867]),
        (0.71, [2, 9, 16], 19, [1.5151, -0.5982, 0.0831]),
        (0.71, [2, 9, 16], 22, [2.2273, -1.5904, 0.3631]),
    ],
)
def test_published_weights(scale: float, nodes: list[float], tau: float, expected: list[float]) -> None:
    assert newest_first(HiCache(2, scale), nodes, tau) == pytest.approx(expected, abs=5.1e-5)


@pytest.mark.parametrize("scale", [0.3, 0.5, 0.71, 1.0])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_closed_form_at_equal_gaps(scale: float, k: int) -> None:
    """1 + a_1 / g + a_2 / g^2 and so on, with a_1 = 2 scale^2 k on the slope, a_2 = 2 scale^4 k^2 - scale^2 beyond."""
    gap = 5
    a1, a2 = 2 * scale**2 * k / gap, (2 * scale**4 * k**2 - scale**2) / gap**2
    assert newest_first(HiCache(2, scale), [0, gap, 2 * gap], 2 * gap + k) == pytest.approx(
        [1 + a1 + a2, -a1 - 2 * a2, a2], abs=1e-13
    )


def test_at_the_scale_of_one_slope_it_is_a_line() -> None:
    assert newest_first(HiCache(1, 0.5**0.5), [2, 8], 11) == pytest.approx([1.5, -0.5], abs=1e-14)


def test_it_is_not_scale_free() -> None:
    """The same window in half steps has another forecast, so no other coordinate is taken."""
    assert newest_first(HiCache(), [1, 4.5, 8], 9.5) != pytest.approx(newest_first(HiCache(), [2, 9, 16], 19), abs=1e-2)
    with pytest.raises(IncompatibleParts, match=r"HiCache.* is a rule in StepIndex\(\), not in Angle\(\)"):
        Method(HiCache(), coordinate=Angle())


def hicache(values: np.ndarray, order: int, scale: float, interval: int, first_enhance: int) -> np.ndarray:
    """arXiv:2508.16984: TaylorSeer's derivatives, H_0 = 1, H_1 = 2x, H_{n+1} = 2x H_n - 2n H_{n-1} for the powers."""
    outputs, derivatives, newest, counter = [], [], 0, 0
    for step, value in enumerate(values):
        if step < first_enhance or counter == interval - 1:
            older, derivatives, gap = derivatives, [value], step - newest
            if step > first_enhance - 2:
                for i in range(min(order, len(older))):
                    derivatives.append((derivatives[i] - older[i]) / gap)
            newest, counter = step, 0
            outputs.append(value)
            continue
        counter += 1
        x = scale * (step - newest)
        hermite = [1.0, 2 * x]
        for n in range(1, order):
            hermite.append(2 * x * hermite[n] - 2 * n * hermite[n - 1])
        outputs.append(sum(d * scale**i * hermite[i] / math.factorial(i) for i, d in enumerate(derivatives)))
    return np.array(outputs)


@pytest.mark.parametrize("warmup, interval", [(3, 7), (3, 4), (4, 8), (1, 5)])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("scale", [0.3, 0.5, 0.71])
def test_a_run_is_the_published_recursion(order: int, scale: float, warmup: int, interval: int) -> None:
    values = np.random.default_rng(5).standard_normal((50, 2, 3))
    method = Method(HiCache(order, scale, start=max(warmup - 2, 0)), Periodic(warmup, interval))
    found = drive(method, GRID, torch.from_numpy(values)).numpy()
    assert np.abs(found - hicache(values, order, scale, interval, warmup)).max() < 1e-10


def test_what_it_needs() -> None:
    assert (HiCache(3).window, HiCache(3).min_evaluations, HiCache(3, start=2).start) == (4, 4, 2)
