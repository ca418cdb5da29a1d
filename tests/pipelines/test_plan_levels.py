"""The steps of a plan as the recorded scheduler takes them, by giving them to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

import skipcast as sc
from skipcast.pipelines.plan_levels import levels_of, mu_of, native
from skipcast.plans.plan import Origin

STEPS = (0, 3, 7, 12, 18)


def plan(scheduler: Any, count: int = 20, **given: Any) -> sc.Plan:
    scheduler.set_timesteps(**(given or {"num_inference_steps": count}))
    times = scheduler.timesteps.double().numpy()
    config = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    rows = tuple(np.zeros(n + 2) for n in range(len(STEPS)))
    origin = Origin("FluxPipeline", type(scheduler).__name__, config, len(times))
    return sc.Plan(STEPS, rows, times, times[list(STEPS)], np.ones(len(STEPS)), origin)


def levels(scheduler: Any, made: sc.Plan) -> np.ndarray:
    return scheduler.sigmas.double().numpy()[list(made.steps)]


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("mu", [0.5, 1.15, 2.0])
def test_dynamic_shifts_are_undone(kind: str, mu: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    even = np.linspace(1.0, 1 / 20, 20)
    made = plan(scheduler, sigmas=even, mu=mu)
    found = native(made)
    assert (found.name, found.mu) == ("sigmas", pytest.approx(mu, rel=1e-5))
    assert found.values == pytest.approx(even[list(STEPS)], abs=1e-5)
    fresh = FlowMatchEulerDiscreteScheduler.from_config(scheduler.config)
    fresh.set_timesteps(sigmas=list(found.values), mu=mu)
    assert fresh.sigmas[:-1].double().numpy() == pytest.approx(levels(scheduler, made), abs=5e-7)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_static_shifts_are_undone(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    made = plan(scheduler)
    found = native(made)
    assert (found.name, found.mu, mu_of(made)) == ("sigmas", None, None)
    fresh = FlowMatchEulerDiscreteScheduler(shift=shift)
    fresh.set_timesteps(sigmas=list(found.values))
    assert fresh.sigmas[:-1].double().numpy() == pytest.approx(levels(scheduler, made), abs=5e-7)


def test_diffusion_models_take_whole_timesteps() -> None:
    scheduler = EulerDiscreteScheduler(timestep_spacing="trailing")
    found = native(plan(scheduler))
    assert found.name == "timesteps"
    assert found.values == tuple(scheduler.timesteps[list(STEPS)].tolist())
    assert all(type(value) is int for value in found.values)


def test_a_scheduler_that_takes_none_or_makes_others_is_refused() -> None:
    with pytest.raises(ValueError, match="DDIMScheduler of this plan takes neither sigmas nor timesteps"):
        native(plan(DDIMScheduler()))
    made = plan(FlowMatchEulerDiscreteScheduler())
    stretched = FlowMatchEulerDiscreteScheduler(shift_terminal=0.1, use_dynamic_shifting=True)
    with pytest.raises(ValueError, match=r"no single mu|makes other steps"):
        native(plan(stretched, sigmas=np.linspace(1.0, 1 / 20, 20), mu=1.0))
    with pytest.raises(ValueError, match="denoiser without a pipeline"):
        native(replace(made, origin=replace(made.origin, scheduler="", config={})))


def test_levels_are_those_of_the_recorded_run() -> None:
    flow = plan(FlowMatchEulerDiscreteScheduler(shift=3.0))
    found = levels_of(flow)
    assert found is not None
    assert (found.prediction, found.end) == ("velocity", (1.0, 0.0))
    assert found.grid.sigma == pytest.approx(flow.timesteps / 1000, abs=1e-6)
    diffusion = levels_of(plan(UniPCMultistepScheduler(prediction_type="epsilon")))
    assert diffusion is not None
    assert diffusion.prediction == "epsilon"
    assert diffusion.grid.alpha**2 + diffusion.grid.sigma**2 == pytest.approx(1, abs=1e-6)


def test_the_shipped_plans_are_shifted_as_flux_is() -> None:
    for budget in (4, 10, 25):
        made = sc.shipped_plan("shapes-flux", budget)
        assert mu_of(made) == pytest.approx(1.15, abs=1e-6)
        assert native(made).values == pytest.approx([1 - step / 50 for step in made.steps], abs=1e-6)
