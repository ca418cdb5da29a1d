"""Told times: what they minimise, in which order, and what cannot be tuned; on mixtures whose predictions are exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import skipcast as sc
from skipcast.pipelines.denoiser import unaccelerated
from skipcast.plans.plain import sampler_rows
from skipcast.plans.propagation import Levels

DRAW = torch.Generator().manual_seed(3)
CENTRES = 2 * torch.randn(5, 6, generator=DRAW, dtype=torch.float64)
SPREAD = 0.2
DATA = CENTRES.repeat(40, 1) + SPREAD * torch.randn(200, 6, generator=DRAW, dtype=torch.float64)
NOISE = torch.randn(512, 6, generator=DRAW, dtype=torch.float64)


def grid(steps: int) -> sc.TimeGrid:
    s = np.linspace(1, 0, steps + 1)[:-1]
    return sc.TimeGrid(timestep=s, alpha=1 - s, sigma=s)


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """noise - clean of a flow from equal Gaussians; t has no dimensions and may carry a gradient."""
    t = torch.as_tensor(t).double()
    alpha, sigma = 1 - t, t
    total = (alpha * SPREAD) ** 2 + sigma**2
    weight = torch.softmax(-(torch.cdist(x, alpha * CENTRES) ** 2) / (2 * total), 1)
    mean = weight @ CENTRES
    clean = mean + alpha * SPREAD**2 / total * (x - alpha * mean)
    noise = (x - alpha * mean) * sigma / total
    return noise - clean


def euler(steps: int) -> sc.Plan:
    return unaccelerated(grid(steps), (1.0, 0.0), "velocity", None, "test")[0]


def tuned(steps: int = 5, **options: Any) -> sc.Plan:
    given: dict[str, Any] = {"grid": grid(steps), "batches": 40, "batch": 64, "rate": 3e-2, "progress": False}
    return sc.tune(velocity, DATA, **{**given, **options})


def ratios(plan: sc.Plan) -> np.ndarray[Any, Any]:
    return plan.evaluation_timesteps / plan.timesteps


def error(plan: sc.Plan) -> float:
    """Of the final samples beside a run of many steps."""
    fine = euler(200)
    return float((sc.sample(velocity, plan, NOISE) - sc.sample(velocity, fine, NOISE)).square().mean().sqrt())


def test_the_teacher_is_approached_at_every_step() -> None:
    plan, plain = tuned(loss="teacher", fine=grid(50)), euler(5)
    assert plan.evaluations == 5
    np.testing.assert_array_equal(plan.rows[2], plain.rows[2])
    assert error(plan) < 0.8 * error(plain)
    assert (ratios(plan)[:3] < 0.95).all()  # a step of Euler's wants the output from its middle


def test_the_paper_s_loss_leaves_the_last_step_alone() -> None:
    found = ratios(tuned())
    assert found[-1] == 1
    assert (np.abs(found[1:-1] - 1) > 0.01).all()


def test_both_orders_see_nearly_the_same_samples() -> None:
    np.testing.assert_allclose(
        ratios(tuned(order="sequential")), ratios(tuned()), atol=0.15
    )  # large steps leave the samples of their level


def test_the_ratio_is_the_minimum_of_its_loss() -> None:
    """Of the first step, by trying ratios beside it on many samples."""
    found = ratios(tuned())[1]
    steps = grid(5)
    x = float(steps.alpha[1]) * DATA[:200] + float(steps.sigma[1]) * NOISE[:200]
    now, behind = (float(t) for t in steps.timestep[1:3])

    def noise(x: Tensor, t: float) -> Tensor:
        return x + (1 - t) * velocity(x, torch.tensor(t))

    def loss(ratio: float) -> float:
        moved = x + (behind - now) * velocity(x, torch.tensor(ratio * now))
        return float((noise(moved, behind) - noise(x, now)).square().sum(1).mean())

    tried = np.linspace(0.5, 1.5, 201)
    assert abs(tried[int(np.argmin([loss(r) for r in tried]))] - found) < 0.08


def test_several_step_solvers_are_tuned_in_order() -> None:
    plan = tuned(solver="ab2", order="sequential", batches=20)
    rows = sampler_rows("ab2", Levels(grid(5), (1.0, 0.0), "velocity"), tuple(range(5)), np.ones(5))
    np.testing.assert_array_equal(plan.rows[3], rows[3])
    with pytest.raises(ValueError, match='order="sequential"'):
        tuned(solver="ab2")


def test_without_tuning_it_is_the_sampler() -> None:
    plan = tuned(batches=1, rate=1e-300)
    np.testing.assert_array_equal(ratios(plan), np.ones(5))
    torch.testing.assert_close(sc.sample(velocity, plan, NOISE), sc.sample(velocity, euler(5), NOISE), rtol=0, atol=0)


def never(x: Tensor, t: Tensor) -> Tensor:
    raise AssertionError("evaluated")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": [1.0]}, "tune\\(data=...\\)"),
        ({"data": torch.ones(3, dtype=torch.int64)}, "clean samples"),
        ({"solver": "rk4"}, "solver='rk4'.* euler, ab2"),
        ({"loss": "teacher"}, "needs fine="),
        ({"loss": "teacher", "fine": grid(12)}, "k times the 5 steps"),
        ({"loss": "teacher", "fine": sc.TimeGrid.shifted(50)}, "every 10th"),
        ({"fine": grid(50)}, "leave it out"),
        ({"rate": 0.0}, "rate=0.0"),
        ({"batches": 0}, "batches"),
        ({"end": (1.0, 2.0)}, "end="),
        ({"prediction": "noise"}, "prediction"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_any_evaluation(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sc.tune(**{"denoiser": never, "data": DATA, "grid": grid(5), "progress": False, **options})


def test_a_denoiser_must_be_smooth_in_the_timestep() -> None:
    with pytest.raises(ValueError, match="no gradient by the timestep"):
        sc.tune(lambda x, t: velocity(x, t.detach()), DATA, grid=grid(3), progress=False)
    with pytest.raises(ValueError, match="one tensor of x's shape"):
        sc.tune(lambda x, t: x[:, :2], DATA, grid=grid(3), progress=False)
    with pytest.raises(ValueError, match="not finite"):
        sc.tune(lambda x, t: x / (0 * t), DATA, grid=grid(3), progress=False)
