"""BRACE against its released formula (youngkinlon/BRACE at 4aac13b) and numbers worked out from it."""

from __future__ import annotations

import numpy as np
import pytest

from research.fidelity.forecasts import brace
from research.fidelity.sequences import GRIDS, largest_difference
from skipcast import Method, TimeGrid, evaluated_steps, method
from skipcast.controllers import Periodic
from skipcast.forecasters import Brace, Lagrange
from skipcast.targets import ModuleOutputs


@pytest.mark.parametrize("grid", GRIDS, ids=len)
@pytest.mark.parametrize(
    "gamma, window, warmup, interval",
    [(0.7, 2, 3, 5), (0.7, 2, 3, 6), (0.6, 2, 1, 6), (0.6, 2, 3, 3), (0.8, 3, 3, 5), (0.5, 4, 2, 4)],
)
def test_it_is_the_released_formula(grid: TimeGrid, gamma: float, window: int, warmup: int, interval: int) -> None:
    built = Method(Brace(gamma, window), Periodic(warmup, interval))
    spec = f"brace:gamma={gamma},window={window},warmup={warmup},interval={interval},target=output"
    assert method(spec) == built
    for seed in range(3):
        assert largest_difference(built, brace(gamma, window), grid, seed) < 1e-10


@pytest.mark.parametrize(
    "gamma, moves",
    [
        (0.7, [0.135135, 0.25641, 0.365854, 0.465116]),
        (0.6, [0.16129, 0.3125, 0.454545, 0.588235]),
    ],
)
def test_weights_of_two_values(gamma: float, moves: list[float]) -> None:
    for tau, move in zip((8.0, 9.0, 10.0, 11.0), moves, strict=True):
        assert Brace(gamma).weights(np.array([2.0, 7.0]), tau) == pytest.approx([-move, 1 + move], abs=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 0.55, 0.7, 1.0])
@pytest.mark.parametrize("k", [1.0, 4.0, 30.0])
def test_two_values_are_a_damped_line(gamma: float, k: float) -> None:
    h = 5.0
    move = k / (2 * gamma * h + (2 * gamma - 1) * k)
    assert Brace(gamma).weights(np.array([0.0, h]), h + k) == pytest.approx([-move, 1 + move], abs=1e-6)


def test_at_one_half_it_is_the_line() -> None:
    nodes = np.array([2.0, 8.0])
    assert Brace(0.5).weights(nodes, 11.0) == pytest.approx(Lagrange(1).weights(nodes, 11.0), abs=1e-6)


def test_no_denominator_vanishes_on_published_steps() -> None:
    """With up to four values, at the published gammas, weights stay below those of the cubic."""
    for gamma in (0.5, 0.6, 0.7):
        for nodes in ([0, 1, 5], [0, 1, 5, 9], [1, 5, 9, 13], [0, 1, 2, 8], [2, 8, 14, 20]):
            for tau in range(nodes[-1] + 1, nodes[-1] + 8):
                own = np.abs(Brace(gamma, 4).weights(np.array(nodes, dtype=float), float(tau))).sum()
                assert own < 1 + 2 * np.abs(Lagrange(3).weights(np.array(nodes, dtype=float), float(tau))).sum()


def test_by_name() -> None:
    assert method("brace") == Method(Brace(0.7, 2), Periodic(3, 5), target=ModuleOutputs())
    assert evaluated_steps(method("brace"), GRIDS[0]) == (0, 1, 2, 7, 12, 17, 22, 27, 32, 37, 42, 47)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"Brace\(gamma=...\) must be at least 0.5, got 0.4; .*pole"):
        Brace(0.4)
    with pytest.raises(ValueError, match=r"Brace\(gamma=...\)"):
        Brace(float("nan"))
    with pytest.raises(ValueError, match=r"Brace\(window=...\) must be at least 2, got 1"):
        Brace(0.7, 1)
