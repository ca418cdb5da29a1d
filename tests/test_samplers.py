"""Plain samplers as data, and the weights of Adams and Bashforth."""

from __future__ import annotations

import numpy as np
import pytest

from skipcast import TimeGrid
from skipcast.samplers import adams_bashforth, resample

CLASSICAL = [
    [1],
    [3 / 2, -1 / 2],
    [23 / 12, -16 / 12, 5 / 12],
    [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    [1901 / 720, -2774 / 720, 2616 / 720, -1274 / 720, 251 / 720],
]
UNEVEN = np.array([1.0, 0.93, 0.61, 0.5, 0.12])


@pytest.mark.parametrize("newest_first", CLASSICAL, ids=lambda weights: f"order {len(weights)}")
@pytest.mark.parametrize("step", [1.0, 0.25, -0.02])
def test_classical_coefficients_on_even_grids(newest_first: list[float], step: float) -> None:
    nodes = 3.0 + step * np.arange(len(newest_first))
    found = adams_bashforth(nodes, nodes[-1] + step)[::-1]
    assert found.tolist() == pytest.approx([step * weight for weight in newest_first], rel=1e-10)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("end", [0.0, 0.1, -0.4])
def test_exact_on_polynomials_at_uneven_nodes(count: int, end: float) -> None:
    """The integral from the newest node of t^p is exact up to p = count - 1, and not beyond."""
    nodes = UNEVEN[-count:]
    weights = adams_bashforth(nodes, end)
    for power in range(count + 1):
        integral = (end ** (power + 1) - nodes[-1] ** (power + 1)) / (power + 1)
        error = abs(float(weights @ nodes**power) - integral)
        assert error < 1e-13 if power < count else error > 1e-5


def test_resample_by_hand() -> None:
    """The curve through 1, 0.8, 0.5, 0.2 and a final 0."""
    sigmas = np.array([1.0, 0.8, 0.5, 0.2])
    assert resample(sigmas, 1).tolist() == [1.0]
    assert resample(sigmas, 2).tolist() == [1.0, 0.5]
    assert resample(sigmas, 4).tolist() == [1.0, 0.8, 0.5, 0.2]
    assert resample(sigmas, 8).tolist() == pytest.approx([1.0, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1], abs=1e-15)


@pytest.mark.parametrize("count", [1, 3, 10, 25, 50])
def test_resample_of_even_levels_is_even(count: int) -> None:
    expected = TimeGrid.shifted(count).sigma.tolist()
    assert resample(TimeGrid.shifted(50).sigma, count).tolist() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("count", [2, 7, 10, 49])
def test_resample_keeps_the_start_and_falls(count: int) -> None:
    found = resample(TimeGrid.shifted(50, 3.0).sigma, count)
    assert found.shape == (count,)
    assert found[0] == 1.0
    assert (np.diff(found) < 0).all()
    assert found[-1] > 0
