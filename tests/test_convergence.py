"""Orders of accuracy, fitted on problems with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skipcast import Method, TimeGrid
from skipcast.controllers import Periodic
from skipcast.coordinates import Balanced, Sigma
from skipcast.forecasters import Lagrange, LinearForecaster, Mapped, Reuse, TaylorSeer
from skipcast.samplers import adams_bashforth
from support.cases import GaussianFlow, drive, slope

FLOW = GaussianFlow()
NOISE = np.array([-1.3, 0.2, 0.9])


def test_the_gaussian_flow_solves_its_own_equation() -> None:
    s, h = np.linspace(0.05, 0.95, 19)[:, None], 1e-5
    slopes = (FLOW.solution(NOISE, s + h) - FLOW.solution(NOISE, s - h)) / (2 * h)
    assert np.abs(slopes - FLOW.velocity(FLOW.solution(NOISE, s), s)).max() < 1e-9
    assert FLOW.solution(NOISE, 1.0).tolist() == NOISE.tolist()
    assert FLOW.solution(NOISE, 0.0).tolist() == pytest.approx((0.7 + 0.8 * NOISE).tolist(), abs=1e-15)


def test_the_gaussian_velocity_is_the_conditional_mean() -> None:
    """Least squares of e - x on x_s over samples: 400,000 of them know slope and offset to about 0.002."""
    draw = np.random.default_rng(0).standard_normal((2, 400_000))
    x, e = FLOW.mean + FLOW.std * draw[0], draw[1]
    for s in (0.2, 0.7):
        fitted = np.polyfit((1 - s) * x + s * e, e - x, 1)
        offset = FLOW.velocity(0.0, s)
        assert fitted.tolist() == pytest.approx([FLOW.velocity(1.0, s) - offset, offset], abs=0.01)


def forecast_error(forecaster: LinearForecaster, interval: int) -> float:
    """The largest error half an interval after an evaluation, along an exact trajectory of 256 steps."""
    grid = TimeGrid.flow(np.linspace(1.0, 1 / 256, 256))
    sigma = grid.sigma[:, None]
    values = torch.from_numpy(FLOW.velocity(FLOW.solution(NOISE, sigma), sigma))
    found = drive(Method(forecaster, Periodic(1, interval), Sigma()), grid, values)
    halfway = torch.arange(forecaster.window * interval + interval // 2, 256, interval)
    return float((found - values)[halfway].abs().max())


INTERVALS = np.array([2, 4, 8, 16])


@pytest.mark.parametrize(
    "forecaster, expected",
    [
        (Reuse(), 1),
        (Lagrange(0), 1),
        (Lagrange(1), 2),
        (Lagrange(2), 3),
        (Lagrange(3), 4),
        (TaylorSeer(1), 2),
        (TaylorSeer(2), 2),  # a backward slope belongs to the middle of its gap, so no order helps
        (TaylorSeer(3), 2),
        (Mapped(Lagrange(1), Balanced()), 1),
    ],
    ids=str,
)
def test_error_against_interval(forecaster: LinearForecaster, expected: int) -> None:
    errors = [forecast_error(forecaster, int(interval)) for interval in INTERVALS]
    assert slope(INTERVALS, errors) == pytest.approx(expected, abs=0.25)


def multistep_error(order: int, steps: int, shift: float) -> float:
    """Adams-Bashforth from noise to data, with exact starting values."""
    sigma = np.append(TimeGrid.shifted(steps, shift).sigma, 0.0)
    x, velocities = NOISE, []
    for i in range(steps):
        if i < order:
            x = FLOW.solution(NOISE, sigma[i])
        velocities = [*velocities, FLOW.velocity(x, sigma[i])][-order:]
        nodes = sigma[i + 1 - len(velocities) : i + 1]
        x = x + adams_bashforth(nodes, sigma[i + 1]) @ np.array(velocities)
    return float(np.abs(x - FLOW.solution(NOISE, 0.0)).max())


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_adams_bashforth_order(order: int, shift: float) -> None:
    steps = np.array([50, 100, 200, 400])
    assert slope(steps, [multistep_error(order, int(n), shift) for n in steps]) == pytest.approx(-order, abs=0.25)
