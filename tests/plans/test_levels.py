"""The noise levels of schedulers that do not simply list them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from skipcast.coordinates import Angle, HalfLogSNR
from skipcast.plans.propagation import grid_of


def on(scheduler: Any, steps: int = 8, **options: Any) -> Any:
    """A scheduler on a grid."""
    scheduler.set_timesteps(steps, **options)
    return scheduler


def test_zero_terminal_snr_begins_at_pure_noise() -> None:
    grid = grid_of(on(DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")))
    assert (grid.timestep[0], grid.alpha[0], grid.sigma[0]) == (999.0, 0.0, 1.0)
    assert (np.diff(grid.sigma) < 0).all()
    assert Angle()(grid)[0] == pytest.approx(np.pi / 2, abs=1e-15)
    with pytest.raises(ValueError, match=r"at step 0 .* use Angle\(\)"):
        HalfLogSNR()(grid)


def test_schedulers_without_sigmas_are_read_by_their_timesteps() -> None:
    scheduler = on(DDIMScheduler(timestep_spacing="trailing"))
    grid = grid_of(scheduler)
    assert grid.timestep.tolist() == scheduler.timesteps.tolist()
    signal = scheduler.alphas_cumprod[scheduler.timesteps].double().numpy()
    assert grid.alpha**2 == pytest.approx(signal, rel=1e-12)
    assert grid.alpha**2 + grid.sigma**2 == pytest.approx(np.ones(8), rel=1e-15)


def test_ddim_and_euler_see_the_same_levels() -> None:
    options = {"timestep_spacing": "trailing"}
    ddim, euler = grid_of(on(DDIMScheduler(**options))), grid_of(on(EulerDiscreteScheduler(**options)))
    assert ddim.timestep == pytest.approx(euler.timestep)
    assert ddim.alpha == pytest.approx(euler.alpha, rel=1e-5)
    assert ddim.sigma == pytest.approx(euler.sigma, rel=1e-5)


def test_the_repeated_step_of_pndm_is_placed_half_way_to_the_one_before() -> None:
    scheduler = on(PNDMScheduler(skip_prk_steps=True))
    grid, ddim = grid_of(scheduler), grid_of(on(DDIMScheduler()))
    assert grid.timestep.tolist() == [875, 750, 750, 625, 500, 375, 250, 125, 0]
    assert grid.sigma[[0, *range(2, 9)]] == pytest.approx(ddim.sigma, rel=1e-12)
    assert grid.sigma[1] == pytest.approx((grid.sigma[0] + grid.sigma[2]) / 2, rel=1e-15)
    assert grid.alpha**2 + grid.sigma**2 == pytest.approx(np.ones(9), rel=1e-15)


@pytest.mark.parametrize("begin", [2, 5])
def test_pndm_may_begin_behind_its_repeated_step(begin: int) -> None:
    scheduler = on(PNDMScheduler(skip_prk_steps=True))
    assert grid_of(scheduler, begin).sigma.tolist() == grid_of(scheduler).sigma[begin:].tolist()


def test_pndm_may_begin_at_its_repeated_step() -> None:
    scheduler = on(PNDMScheduler(skip_prk_steps=True))
    assert grid_of(scheduler, 1).sigma.tolist() == grid_of(scheduler).sigma[1:].tolist()


def test_the_inverted_levels_of_mochi_are_read_as_noise() -> None:
    sigmas = [1.0, 0.75, 0.5, 0.25]
    inverted = on(FlowMatchEulerDiscreteScheduler(invert_sigmas=True), None, sigmas=sigmas)
    assert inverted.sigmas.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    grid = grid_of(inverted)
    assert grid.sigma.tolist() == sigmas
    assert grid.alpha.tolist() == [0.0, 0.25, 0.5, 0.75]
    assert grid.timestep.tolist() == [0.0, 250.0, 500.0, 750.0]  # what the network receives stays


@pytest.mark.parametrize("option", [{"use_flow_sigmas": True}, {"prediction_type": "flow_prediction"}])
def test_solvers_on_flow_levels_are_read_as_flows(option: dict[str, Any]) -> None:
    options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0, **option}
    scheduler = on(DPMSolverMultistepScheduler(**options))
    grid = grid_of(scheduler)
    assert grid.sigma == pytest.approx(scheduler.sigmas[:-1].numpy(), rel=1e-12)
    assert grid.alpha + grid.sigma == pytest.approx(np.ones(8), rel=1e-15)


def test_a_run_begins_where_the_scheduler_or_the_caller_says() -> None:
    scheduler = on(FlowMatchEulerDiscreteScheduler())
    whole = grid_of(scheduler)
    scheduler.set_begin_index(3)
    assert grid_of(scheduler).sigma.tolist() == whole.sigma[3:].tolist()
    assert grid_of(scheduler, 5).timestep.tolist() == whole.timestep[5:].tolist()
    assert grid_of(scheduler, 0).sigma.tolist() == whole.sigma.tolist()


def test_levels_that_rise_are_refused() -> None:
    scheduler = on(FlowMatchEulerDiscreteScheduler(), None, sigmas=[0.25, 0.5, 0.75])
    with pytest.raises(ValueError, match="must fall strictly"):
        grid_of(scheduler)
