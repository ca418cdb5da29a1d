"""What a plan's steps are worth without its weights, from the recorded inner products alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import skipcast as sc
from skipcast.plans.open_loop import OpenLoop
from skipcast.plans.plain import sampler_rows
from skipcast.plans.propagation import Levels
from skipcast.plans.steps_alone import open_error, with_forecasts, with_sampler
from support import toy

PROFILE = toy.profile()
LEVELS = Levels(toy.GRID, (1.0, 0.0), "velocity")
PLAN = PROFILE.plan(evaluations=6)


def test_the_error_of_solved_rows_is_that_of_their_solve() -> None:
    loop = OpenLoop(PROFILE.grams.mean(axis=0), PROFILE.states)
    found = open_error(PROFILE.states, PLAN.steps, loop.rows(PLAN.steps))
    assert found == pytest.approx(loop.residual(PLAN.steps), abs=1e-12)


def test_the_recorded_sampler_on_every_step_has_no_error() -> None:
    every = PROFILE.plan(steps=range(toy.STEPS))
    assert with_sampler(PROFILE, every, "euler", LEVELS).worst > 150
    assert with_forecasts(PROFILE, every, 2).worst > 150


def test_euler_is_reuse_of_the_newest_output() -> None:
    assert with_sampler(PROFILE, PLAN, "euler", LEVELS).psnr == pytest.approx(with_forecasts(PROFILE, PLAN, 0).psnr)


@pytest.mark.parametrize("name", ["euler", "ab2", "dpmpp2m", "unipc"])
def test_it_is_the_error_of_a_run_on_the_recorded_outputs(name: str) -> None:
    """Every segment from the recorded state, its error added to the others'."""
    rows = sampler_rows(name, LEVELS, PLAN.steps, PROFILE.scale)
    states, outputs = (tensor.numpy() for tensor in toy.trajectories(toy.noise(8)))
    total = np.zeros_like(states[:, 0])
    for n, (begin, end) in enumerate(zip(PLAN.steps, (*PLAN.steps[1:], toy.STEPS), strict=True)):
        moved = (1 + rows[n][0]) * states[:, begin]
        moved = moved + sum(w * outputs[:, step] for w, step in zip(rows[n][1:], PLAN.steps, strict=False))
        total += moved - states[:, end]
    found = with_sampler(PROFILE, PLAN, name, LEVELS)
    assert found.psnr == pytest.approx(float((-10 * np.log10((total**2).mean(axis=1))).mean()), rel=1e-9)
    assert (found.pairs, found.held_out, found.closed) == (8, False, False)
    assert found.psnr < PLAN.predicted.psnr  # type: ignore[union-attr]


def test_pairs_of_one_value_tell_of_it_and_two_of_what_is_between() -> None:
    scales = (1.0, 3.0) * 4
    origin = replace(PROFILE.origin, varied={"guidance_scale": scales})
    profile = replace(PROFILE, origin=origin, gain=np.where(np.array(scales) == 1.0, 1.0, 100.0))
    plan = profile.plan(evaluations=6)
    at = {value: with_forecasts(profile, plan, 1, value).psnr for value in (1.0, 2.0, 3.0)}
    assert at[2.0] == pytest.approx((at[1.0] + at[3.0]) / 2)
    assert at[1.0] > at[3.0] + 15
    assert with_forecasts(profile, plan, 1).psnr == at[3.0]  # the middle knot, as the plan's own numbers
    with pytest.raises(ValueError, match="holds pairs from 1 to 3 alone, not at 5"):
        with_forecasts(profile, plan, 1, 5.0)


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(ValueError, match=r"name='heun'.* must be one of euler, ab2, dpmpp2m, unipc"):
        with_sampler(PROFILE, PLAN, "heun", LEVELS)
    other = replace(PLAN, timesteps=PLAN.timesteps * 0.9)
    with pytest.raises(ValueError, match="give the profile that the plan was solved from"):
        with_sampler(PROFILE, other, "euler", LEVELS)
    of_another = replace(PLAN, origin=replace(PLAN.origin, scheduler="DDIMScheduler"))
    with pytest.raises(ValueError, match="of 20 of DDIMScheduler"):
        with_forecasts(PROFILE, of_another, 1)
    converged = sc.Profile.taped(
        [tuple(toy.trajectories(toy.noise(2)))],
        timesteps=toy.GRID.timestep,
        states=None,  # type: ignore[list-item]
    )
    with pytest.raises(ValueError, match="do not lead to a converged reference"):
        with_forecasts(converged, converged.plan(evaluations=4), 1)
    assert with_sampler(converged, converged.plan(evaluations=4), "euler", LEVELS).psnr > 0
