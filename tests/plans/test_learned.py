"""L2P: the closed form against the port's, and a run with what it finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skipcast import Method, Profile, Run, TimeGrid
from skipcast.controllers import FixedSteps, Periodic
from skipcast.forecasters import L2P
from skipcast.plans.learned import fit_l2p
from skipcast.plans.plan import Origin
from support.cases import drive
from support.toy import profile


def recorded(outputs: np.ndarray) -> Profile:
    """A profile of these outputs, (M, N, elements), from a noise of ones."""
    pairs, steps, size = outputs.shape
    basis = np.concatenate([np.ones((pairs, 1, size)), outputs], axis=1)
    grams = basis @ basis.transpose(0, 2, 1) / size
    origin = Origin("Toy", "Euler", {}, steps, prompts=("",) * pairs, seeds=tuple(range(pairs)), shape=(size,))
    return Profile(grams, np.eye(steps + 1), np.linspace(1000, 1, steps), np.ones(steps), np.ones(pairs), origin)


def solve_l2p_weights(gram: np.ndarray, ridge: float) -> np.ndarray:
    """The port's: normal equations of each step with the ridge times the mean of their diagonal."""
    weights = np.zeros_like(gram)
    for step in range(1, len(gram)):
        left = gram[:step, :step].copy()
        left += ridge * max(left.diagonal().mean(), 1.0) * np.eye(step)
        weights[step, :step] = np.linalg.solve(left, gram[:step, step])
    return weights


@pytest.mark.parametrize("steps", [12, 28, 50])
def test_the_fit_is_the_port_s(steps: int) -> None:
    """Which sums over runs and elements, so that its mean is far above 1."""
    outputs = np.random.default_rng(steps).standard_normal((4, steps, 300)).cumsum(axis=1)
    features = outputs.transpose(1, 0, 2).reshape(steps, -1)
    theirs = solve_l2p_weights(features @ features.T, 1e-5)
    ours = fit_l2p(recorded(outputs)).rows
    assert max(np.abs(np.array(row) - theirs[i, :i]).max(initial=0.0) for i, row in enumerate(ours)) < 1e-10


@pytest.mark.parametrize(
    "grid", [TimeGrid.shifted(50, 3.0), TimeGrid.shifted(28, 3.16), TimeGrid.shifted(30, 5.0)], ids=len
)
def test_a_run_is_the_port_s_weighted_history(grid: TimeGrid) -> None:
    """Forecasts enter the history beside evaluations."""
    weights = np.tril(np.random.default_rng(1).standard_normal((len(grid), len(grid))) / len(grid), -1)
    values = np.random.default_rng(2).standard_normal((len(grid), 2, 5)).cumsum(axis=0)
    history: list[np.ndarray] = []
    for step, value in enumerate(values):
        evaluated = step % 5 == 0
        history.append(value if evaluated else sum(weights[step, j] * history[j] for j in range(step)))
    found = drive(Method(L2P.of(weights), Periodic(1, 5)), grid, torch.from_numpy(values)).numpy()
    assert np.abs(found - np.array(history)).max() < 1e-10


def test_outputs_that_follow_a_linear_law_are_forecast_exactly() -> None:
    """F_i = 1.6 F_{i-1} - 0.8 F_{i-2}: learned on four runs, right on a fifth, from two evaluations."""

    def runs(seed: int, pairs: int) -> np.ndarray:
        first, second = np.random.default_rng(seed).standard_normal((2, pairs, 40))
        found = [first, second]
        for _ in range(10):
            found.append(1.6 * found[-1] - 0.8 * found[-2])
        return np.array(found).transpose(1, 0, 2)

    forecaster = fit_l2p(recorded(runs(0, 4)), ridge=1e-12)
    new = torch.from_numpy(runs(1, 1)[0])[:, None]
    found = drive(Method(forecaster, FixedSteps((0, 1))), TimeGrid.shifted(12), new)
    assert torch.allclose(found, new, atol=1e-4 * float(new.abs().max()))


def test_the_toy_is_learned_from_its_profile() -> None:
    forecaster = fit_l2p(profile())
    assert len(forecaster.rows) == profile().origin.steps
    assert repr(forecaster) == repr(fit_l2p(profile())) != repr(fit_l2p(profile(), ridge=1e-2))


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"fit_l2p\(ridge=...\) must be at least 0, got -1"):
        fit_l2p(profile(), ridge=-1)
    with pytest.raises(ValueError, match=r"fit_l2p.*leaves weights open"):
        fit_l2p(recorded(np.ones((1, 4, 3))), ridge=0)
    with pytest.raises(ValueError, match=r"L2P\(rows=...\) must have 0, 1, 2, ... weights"):
        L2P(((), (1.0, 0.0)))
    with pytest.raises(ValueError, match=r"L2P\(rows=...\) must be finite"):
        L2P(((), (float("nan"),)))
    run = Run(Method(L2P.of(np.eye(4, k=-1)), Periodic(1, 2)), TimeGrid.shifted(5))
    run.observe(torch.zeros(1, 2), torch.ones(1, 2))
    with pytest.raises(ValueError, match="learned on runs of 4 steps, this one has 5"):
        run.forecast(torch.zeros(1, 2))
