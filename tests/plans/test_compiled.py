"""Compiled plans: for every method that can be one, the plan and the method give the same samples."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

import skipcast as sc
from skipcast.controllers import Even, FixedSteps, Periodic, StaticController
from skipcast.forecasters import AdamsBashforth, ChebyshevRidge, Forecaster, Lagrange, Reuse
from skipcast.methods.published import EVERYTHING
from skipcast.plans.propagation import grid_of, propagation
from skipcast.targets import OutputDrift, Target
from support.cases import ALL_FORECASTERS, ALL_RECURSIVE, GRID, GRIDS, SCHEDULE, Case, named
from support.tiny import PROMPT, flux_pipeline, latents

FLOW = sc.TimeGrid.shifted(20, 3.0)


def at_the_output() -> list[str]:
    """Every registered variant that is linear, of fixed steps and forecasts the output, where need be as an option."""
    found = []
    for spec in EVERYTHING:
        for candidate in (spec, f"{spec}{',' if ':' in spec else ':'}target=output"):
            try:
                method = sc.method(candidate)
            except ValueError:
                continue  # the target is the method itself, or is given already
            static = isinstance(method, sc.Method) and isinstance(method.controller, StaticController)
            if static and method.forecaster.linear and method.target.seam == "output":
                found.append(candidate)
    return found


def field(x: Tensor, t: float) -> Tensor:
    """A nonlinear network: (B, 6) float64."""
    mixed = x @ torch.linspace(-1, 1, 36, dtype=torch.float64).view(6, 6)
    return torch.tanh(mixed + t / 500) + 0.3 * torch.sin(3 * x) * np.cos(t / 200) - 0.5 * x


def noise() -> Tensor:
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def by_method(method: sc.Method, grid: sc.TimeGrid) -> Tensor:
    """The final sample of the method's run of Euler's sampler."""
    run, x = sc.Run(method, grid), noise()
    for t, width in zip(grid.timestep.tolist(), np.diff(np.append(grid.sigma, 0.0)), strict=True):
        x = x + width * run.advance(x, lambda x=x, t=t: field(x, t))  # type: ignore[misc]
    return x


def by_plan(plan: sc.Plan) -> Tensor:
    """The final sample of the plan, run by its scheduler."""
    scheduler = sc.PlanScheduler(plan)
    scheduler.set_timesteps(plan.origin.steps)
    scheduler.set_begin_index(0)
    x = noise() * scheduler.init_noise_sigma
    for t, received in zip(scheduler.timesteps, plan.evaluation_timesteps.tolist(), strict=True):
        x = scheduler.step(field(scheduler.scale_model_input(x, t), received), t, x).prev_sample
    return x


def assert_same(method: sc.Method, grid: sc.TimeGrid) -> sc.Plan:
    plan = sc.compile_plan(method, grid)
    found, expected = by_plan(plan), by_method(method, grid)
    assert (found - expected).norm() <= 1e-10 * expected.norm()
    return plan


@pytest.mark.parametrize("spec", at_the_output())
def test_every_named_method_is_its_plan(spec: str) -> None:
    method = sc.method(spec)
    assert isinstance(method, sc.Method)
    plan = assert_same(method, FLOW)
    assert plan.steps == sc.evaluated_steps(method, FLOW)
    assert plan.label == repr(method)


def test_the_walk_over_the_registry_finds_what_it_should() -> None:
    expected = {"taylorseer:target=output", "predit:schedule=periodic,corrector=2", "foca:target=output"}
    assert expected <= set(at_the_output())


@pytest.mark.parametrize("case", **named([*ALL_FORECASTERS, *ALL_RECURSIVE]))
def test_every_forecaster_is_its_plan(case: Case) -> None:
    assert_same(case.method(), GRID)


@pytest.mark.parametrize("rule", [Reuse(), Lagrange(2), AdamsBashforth(2, corrector=2), ChebyshevRidge()], ids=repr)
def test_the_drift_of_the_output_is_a_plan_too(rule: Forecaster) -> None:
    plan = assert_same(sc.Method(rule, SCHEDULE, target=OutputDrift()), GRID)
    # A rule that keeps constants puts back the sample that it took away.
    assert any(row[0] != 0 for row in plan.rows) == isinstance(rule, ChebyshevRidge)


@pytest.mark.parametrize("controller", [Even(20), FixedSteps((0, 7, 12))], ids=str)
def test_reuse_is_one_euler_step_from_evaluation_to_evaluation(controller: StaticController) -> None:
    plan = sc.compile_plan(sc.Method(Reuse(), controller), FLOW)
    steps = list(controller.evaluated(20))
    assert plan.steps == tuple(steps)
    assert [np.count_nonzero(row) for row in plan.rows] == [1] * len(steps)
    assert [row[-1] for row in plan.rows] == pytest.approx(np.diff([*FLOW.sigma[steps], 0.0]), rel=1e-12)
    assert plan.evaluation_timesteps.tolist() == FLOW.timestep[steps].tolist()
    assert plan.timesteps.tolist() == FLOW.timestep.tolist()


def test_rows_of_a_method_that_keeps_constants_sum_to_the_distance() -> None:
    plan = sc.compile_plan(sc.Method(Lagrange(2), SCHEDULE), GRID)
    distances = np.diff([*GRID.sigma[list(plan.steps)], 0.0])
    assert [row[1:].sum() for row in plan.rows] == pytest.approx(distances, rel=1e-9)


PREPARED: list[Any] = [
    FlowMatchEulerDiscreteScheduler(shift=3.0),
    EulerDiscreteScheduler(),
    DDIMScheduler(clip_sample=False, timestep_spacing="trailing"),
    DPMSolverMultistepScheduler(),
]


@pytest.mark.parametrize("target", [sc.Output(), OutputDrift()], ids=repr)
@pytest.mark.parametrize("scheduler", PREPARED, ids=lambda scheduler: type(scheduler).__name__)
def test_any_linear_scheduler_can_be_the_sampler(scheduler: Any, target: Target) -> None:
    scheduler.set_timesteps(20)
    method = sc.Method(Lagrange(2), Periodic(3, 4), target=target)
    plan = sc.compile_plan(method, scheduler)
    assert plan.origin.scheduler == type(scheduler).__name__

    run, x = sc.Run(method, grid_of(scheduler)), noise() * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        y = run.advance(seen, lambda seen=seen, t=t: field(seen, float(t)))  # type: ignore[misc]
        x = scheduler.step(y, t, x, return_dict=False)[0]
    found = by_plan(plan)
    assert (found - x).norm() <= 1e-5 * x.norm()  # schedulers compute in float32


def test_states_replace_the_euler_steps() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(20)
    method = sc.Method(Lagrange(1), Periodic(3, 4))
    numeric = sc.compile_plan(method, grid_of(scheduler), states=propagation(scheduler))
    whole = sc.compile_plan(method, scheduler)
    for a, b in zip(numeric.rows, whole.rows, strict=True):
        assert a.tolist() == b.tolist()


PREPARED_LATER = FlowMatchEulerDiscreteScheduler()
PREPARED_LATER.set_timesteps(20)
PREPARED_LATER.set_begin_index(5)


@pytest.mark.parametrize(
    "method, grid, states, says",
    [
        (sc.method("svd-cache:variant=linear,target=output"), FLOW, None, "Within"),
        (sc.method("predit"), FLOW, None, "DynamicHorizon"),
        (sc.method("resilphase"), FLOW, None, r"GlobalDrift\(\) is forecast inside the network"),
        (sc.method("tc-pade:variant=code"), FLOW, None, "CarriedDrift"),
        (sc.method("ab2:evaluations=5"), FLOW, None, "must be text or a Method"),
        (sc.method("reuse"), GRIDS["preserving"], None, "not the grid of a flow"),
        (sc.method("reuse"), FLOW, np.eye(3), r"states=\.\.\.\) must be \(21, 21\)"),
        (sc.method("reuse"), PREPARED_LATER, None, "whole run"),
        (sc.method("reuse"), FLOW, np.diag([1.0] + 20 * [0.0]), "holds nothing of the noise"),
    ],
)
def test_what_is_no_plan_is_refused_by_name(method: Any, grid: Any, states: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        sc.compile_plan(method, grid, states=states)


LINE = "lagrange:order=1,interval=3"


@pytest.mark.parametrize("spec", [LINE, "taylorseer:target=output", "predit:schedule=periodic,corrector=2"])
def test_a_pipeline_runs_the_plan_as_the_method(spec: str) -> None:
    """Compiled for its scheduler, on the grid that the run has left, or from the bare grid of the run."""
    pipe = flux_pipeline()
    method = sc.method(spec)
    assert isinstance(method, sc.Method)
    with sc.accelerate(pipe, method) as acceleration:
        expected = latents(pipe, 12)
    (run, *_) = acceleration.runs.values()
    prepared = copy.deepcopy(pipe.scheduler)
    prepared._step_index = None
    for source in (prepared, run.grid):
        plan = sc.compile_plan(method, source)
        with sc.accelerate(pipe, plan) as acceleration:
            found = latents(pipe, 12)
            with pytest.raises(ValueError, match="give 12, or the"):
                pipe(PROMPT, num_inference_steps=13)
        assert acceleration.summary().evaluated_steps == plan.steps
        assert (found - expected).norm() <= 2e-5 * expected.norm()


def test_a_pipeline_gives_its_own_grid() -> None:
    """Its sigmas and the shift that its resolution means; and its denoiser is not evaluated for it."""
    pipe = flux_pipeline()
    with sc.accelerate(pipe, LINE):
        expected = latents(pipe, 12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(pipe.transformer), "forward", None)
        plan = sc.compile_plan(LINE, pipe, prompt=PROMPT, num_inference_steps=12)
    assert (plan.origin.pipeline, len(plan.timesteps)) == ("FluxPipeline", 12)
    with sc.accelerate(pipe, plan):
        found = latents(pipe, 12)
    assert (found - expected).norm() <= 2e-5 * expected.norm()
    with pytest.raises(ValueError, match=r"prompt=\.\.\.\) is for a pipeline's call"):
        sc.compile_plan(LINE, FLOW, prompt=PROMPT)
