"""States as combinations of outputs, with the coefficients of the schedulers' own steps; and their noise levels."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    CogVideoXDPMScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    SASolverScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)

from skipcast.coordinates import Angle, HalfLogSNR
from skipcast.plans.propagation import check_linear, grid_of, input_scale, propagation

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
STEPS = 12

LINEAR = {
    "flow": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "flow, dynamic": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    "ddim": DDIMScheduler(clip_sample=False),
    "ddim, v": DDIMScheduler(clip_sample=False, prediction_type="v_prediction", timestep_spacing="trailing"),
    "2M++": DPMSolverMultistepScheduler(),
    "2M": DPMSolverMultistepScheduler(algorithm_type="dpmsolver", final_sigmas_type="sigma_min"),
    "2M++, v": DPMSolverMultistepScheduler(prediction_type="v_prediction"),
    "3M++, karras": DPMSolverMultistepScheduler(solver_order=3, use_karras_sigmas=True),
    "2M++, flow": DPMSolverMultistepScheduler(**FLOW),
    "unipc": UniPCMultistepScheduler(),
    "unipc, order 3": UniPCMultistepScheduler(solver_order=3),
    "unipc, flow": UniPCMultistepScheduler(**FLOW),
    "euler": EulerDiscreteScheduler(),
    "euler, v": EulerDiscreteScheduler(prediction_type="v_prediction"),
    "pndm": PNDMScheduler(skip_prk_steps=True),
}


def prepared(name: str) -> Any:
    scheduler = LINEAR[name]
    scheduler.set_timesteps(STEPS, **({"mu": 0.8} if name == "flow, dynamic" else {}))
    return scheduler


class _Wide:
    """`torch` whose float32 is float64, for a module that casts to it."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def run(scheduler: Any, drawn: torch.Tensor) -> torch.Tensor:
    """x_0 .. x_N of the scheduler's own steps."""
    states = [drawn[0]]
    for timestep, output in zip(scheduler.timesteps, drawn[1:], strict=True):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(states[-1], timestep)
        states.append(scheduler.step(output, timestep, states[-1], return_dict=False)[0])
    return torch.stack(states)


@pytest.mark.parametrize("name", LINEAR)
def test_agrees_with_the_scheduler_run_in_float64(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = prepared(name)
    table = propagation(scheduler)
    n = len(scheduler.timesteps)
    assert table.shape == (n + 1, n + 1)
    drawn = torch.randn(n + 1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for attribute in ("sigmas", "alphas_cumprod", "final_alpha_cumprod"):
        if isinstance(getattr(scheduler, attribute, None), torch.Tensor):
            monkeypatch.setattr(scheduler, attribute, getattr(scheduler, attribute).double())
    monkeypatch.setattr(sys.modules[type(scheduler).__module__], "torch", _Wide())
    states = run(scheduler, drawn)
    guess = torch.einsum("ik,k...->i...", torch.from_numpy(table), drawn)
    assert states.dtype == torch.float64
    assert float((guess - states).abs().max() / states.abs().max()) < 1e-10


@pytest.mark.parametrize("name", LINEAR)
def test_no_state_knows_later_outputs_and_the_scheduler_is_left_alone(name: str) -> None:
    scheduler = prepared(name)
    before, state = {key: str(value) for key, value in vars(scheduler).items()}, torch.get_rng_state()
    table = propagation(scheduler)
    input_scale(scheduler)
    assert (np.triu(table, 1) == 0).all()
    np.testing.assert_array_equal(table[0], np.eye(len(table))[0])
    assert {key: str(value) for key, value in vars(scheduler).items()} == before
    assert torch.equal(torch.get_rng_state(), state)


def test_euler_adds_the_increments_of_sigma() -> None:
    scheduler = prepared("flow")
    d = np.diff(scheduler.sigmas.double().numpy())
    expected = np.tril(np.tile(np.concatenate([[1.0], d]), (STEPS + 1, 1)))
    np.testing.assert_array_equal(expected != 0, propagation(scheduler) != 0)
    np.testing.assert_allclose(propagation(scheduler), expected, rtol=0, atol=1e-15)


def test_begins_where_the_pipeline_begins() -> None:
    scheduler = prepared("2M++")
    whole = propagation(scheduler)
    scheduler.set_begin_index(0)
    np.testing.assert_array_equal(propagation(scheduler), whole)
    scheduler.set_begin_index(4)
    assert propagation(scheduler).shape == (STEPS - 3, STEPS - 3)
    assert input_scale(scheduler).shape == (STEPS - 4,)


def test_input_scale_is_that_of_euler_and_one_elsewhere() -> None:
    scheduler = prepared("euler")
    sigma = scheduler.sigmas[:-1].double().numpy()
    np.testing.assert_allclose(input_scale(scheduler), 1 / np.sqrt(1 + sigma**2), rtol=1e-12)
    np.testing.assert_array_equal(input_scale(prepared("flow")), np.ones(STEPS))
    np.testing.assert_array_equal(input_scale(prepared("unipc")), np.ones(STEPS))


REFUSED = {
    r"DDIMScheduler.*clip_sample=False": DDIMScheduler(),
    r"thresholding=False": DPMSolverMultistepScheduler(thresholding=True),
    r"SDE|adds noise.*deterministic": DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
    r"EulerAncestral.*adds noise": EulerAncestralDiscreteScheduler(),
    r"LCMScheduler adds noise": LCMScheduler(clip_sample=False),
    r"FlowMatchLCMScheduler adds noise": FlowMatchLCMScheduler(),
    r"TCDScheduler adds noise": TCDScheduler(clip_sample=False),
    r"DDPMScheduler adds noise": DDPMScheduler(clip_sample=False),
    r"FlowMatchEuler.*adds noise": FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
    r"HeunDiscreteScheduler is of order 2": HeunDiscreteScheduler(),
    r"SASolverScheduler adds noise": SASolverScheduler(),
    r"UniPCMultistepScheduler gives no finite states": UniPCMultistepScheduler(solver_type="bh1"),
    r"CogVideoXDPMScheduler.*step": CogVideoXDPMScheduler(clip_sample=False),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses_by_name(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        propagation(on(REFUSED[message]))


class Squared(FlowMatchEulerDiscreteScheduler):
    def step(self, model_output: Any, timestep: Any, sample: Any, return_dict: bool = True) -> Any:
        moved = super().step(model_output, timestep, sample, return_dict=False)[0]
        return (moved + 1e-3 * sample**2,)


class Shifted(Squared):
    def scale_model_input(self, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        return sample + 1


def test_refuses_what_is_not_linear_without_knowing_its_name() -> None:
    scheduler = on(Squared())
    with pytest.raises(ValueError, match="Squared is not linear"):
        propagation(scheduler)
    check_linear(scheduler)
    with pytest.raises(ValueError, match=r"Shifted does not scale .* at step 0"):
        input_scale(on(Shifted()))


def test_refuses_a_scheduler_that_is_not_ready() -> None:
    begun = on(FlowMatchEulerDiscreteScheduler())
    begun.step(torch.zeros(1, 2), begun.timesteps[0], torch.zeros(1, 2))
    for scheduler, message in (
        (DDIMScheduler(clip_sample=False), r"not prepared; call its set_timesteps\(\)"),
        (begun, "middle of a run"),
        (object(), "object is not supported: it has no 'set_timesteps'"),
    ):
        with pytest.raises(ValueError, match=message):
            propagation(scheduler)


# The noise levels of schedulers that do not simply list them --------------------------------------------------------


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


@pytest.mark.parametrize("begin", [1, 2, 5])
def test_pndm_may_begin_at_or_behind_its_repeated_step(begin: int) -> None:
    scheduler = on(PNDMScheduler(skip_prk_steps=True))
    assert grid_of(scheduler, begin).sigma.tolist() == grid_of(scheduler).sigma[begin:].tolist()


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
