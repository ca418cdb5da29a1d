"""FSampler's steps: single ones between several evaluations, and those on which two forecasts agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from research.fidelity.decisions import fsampler_adaptive
from research.fidelity.sequences import GRIDS
from skipcast import Method, Run, TimeGrid, method
from skipcast.controllers import DualOrder, Interleaved
from skipcast.coordinates import Sigma
from skipcast.forecasters import FSampler, Lagrange


@pytest.mark.parametrize(
    "controller, steps, forecast",
    [
        (Interleaved(), 20, (4, 7, 10, 13, 16)),
        (Interleaved(2, 2, 2, 4), 20, (4, 7, 10, 13)),
        (Interleaved(3), 20, (6, 10, 14)),
        (Interleaved(4), 20, (8, 13)),
        (Interleaved(4, 5, 6, 2), 20, (11, 17)),
        (Interleaved(2, 1, 1, 0), 8, (3, 5, 7)),
        (Interleaved(), 5, ()),
    ],
)
def test_which_steps_are_forecast(controller: Interleaved, steps: int, forecast: tuple[int, ...]) -> None:
    assert tuple(step for step in range(steps) if step not in controller.evaluated(steps)) == forecast


def test_a_count_is_met_as_closely_as_it_can_be() -> None:
    assert len(Interleaved(evaluations=35).evaluated(50)) == 35
    assert Interleaved(evaluations=28).evaluated(50) == Interleaved(2, 1).evaluated(50)
    assert Interleaved(evaluations=10).evaluated(50) == (0, 1, 2, 11, 20, 29, 38, 47, 48, 49)
    assert len(Interleaved(evaluations=50).evaluated(50)) == 50


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"takes calls=... or evaluations=..., not both"):
        Interleaved(2, 2, evaluations=20)
    with pytest.raises(ValueError, match=r"Interleaved\(calls=...\) must be at least 1, got 0"):
        Interleaved(2, 0)
    with pytest.raises(ValueError, match=r"Interleaved\(evaluations=...\) must be at least 5, got 4"):
        Interleaved(evaluations=4)
    with pytest.raises(ValueError, match="num_inference_steps=4 is fewer than the warm-up of 5"):
        Interleaved().evaluated(4)


# The adaptive mode.


@pytest.mark.parametrize("grid", GRIDS, ids=len)
@pytest.mark.parametrize("anchor, most", [(4, 4), (4, 2), (0, 3), (5, 1)])
@pytest.mark.parametrize("tolerance", [0.1, 0.02, 0.005])
def test_the_adaptive_mode_is_the_released_one(grid: TimeGrid, anchor: int, most: int, tolerance: float) -> None:
    gate = DualOrder(tolerance, 2, 3, anchor, most)
    for seed in range(3):
        walk = np.random.default_rng(seed).standard_normal((len(grid), 1, 4, 6)).cumsum(axis=0).cumsum(axis=0) / 30
        x = np.random.default_rng(5).standard_normal(walk.shape[1:])
        called, used = fsampler_adaptive(walk, grid.sigma, x, (tolerance, 2, 3, anchor, most), 0.9)
        run = Run(Method(FSampler(3, 0.9, 2), gate, Sigma()), grid)
        after = np.append(grid.sigma[1:], 0.0)
        for step, velocity in enumerate(torch.from_numpy(walk)):
            v = run.advance(torch.from_numpy(x), lambda velocity=velocity: velocity).numpy()
            assert np.abs(v - used[step]).max() < 1e-10
            x = x + (after[step] - grid.sigma[step]) * v
        assert tuple(record.step for record in run.trace if record.evaluated) == called
        assert len(called) < len(grid) or tolerance < 0.1


def test_the_adaptive_mode_by_name() -> None:
    assert method("fsampler:mode=adaptive") == Method(FSampler(3, 0.9999, 2), DualOrder(), Sigma())
    assert method("fsampler:mode=adaptive,tolerance=0.02,tail=4,warmup=3") == Method(
        FSampler(3, 0.9999, 2), DualOrder(0.02, 3, 4), Sigma()
    )
    with pytest.raises(ValueError, match="calls=3 changes nothing with mode=adaptive"):
        method("fsampler:mode=adaptive,calls=3")
    with pytest.raises(ValueError, match=r"tolerance=0.2 changes nothing with mode=fixed"):
        method("fsampler:tolerance=0.2")


def test_the_adaptive_mode_refuses() -> None:
    with pytest.raises(ValueError, match=r"DualOrder\(tolerance=...\) must be >= 0, got -1"):
        DualOrder(-1)
    with pytest.raises(ValueError, match=r"DualOrder\(most=...\) must be at least 1, got 0"):
        DualOrder(most=0)
    run = Run(Method(Lagrange(2), DualOrder(anchor=0)), TimeGrid.shifted(20))
    with pytest.raises(ValueError, match=r"DualOrder.* is a rule in sigma; choose coordinate=sigma"):
        for _ in range(5):
            run.advance(torch.ones(1, 2), lambda: torch.ones(1, 2))
