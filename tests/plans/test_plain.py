"""Plain samplers as rows: the same states as diffusers' own schedulers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from skipcast.grid import TimeGrid
from skipcast.methods.compiled import compile_plan
from skipcast.pipelines.samplers import AdamsBashforthFlow, EulerFlow
from skipcast.plans.plain import even, extrapolated_tables, plain_tables, sampler_rows, spacings
from skipcast.plans.propagation import Levels, grid_of, propagation

STEPS = 8
DIFFUSION = {
    "euler": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": True, "timestep_spacing": "trailing"}),
    "dpmpp2m": (DPMSolverMultistepScheduler, {"final_sigmas_type": "zero"}),
    "unipc": (UniPCMultistepScheduler, {"final_sigmas_type": "zero"}),
}


def states(rows: tuple[Any, ...]) -> Any:
    """x_0 .. x_m in the basis (x_0, y_0 .. y_{m-1})."""
    unit = np.eye(len(rows) + 1)
    found = [unit[0]]
    for row in rows:
        found.append(found[-1] + row[0] * found[-1] + row[1:] @ unit[1 : len(row)])
    return np.stack(found)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("name", list(DIFFUSION))
def test_diffusion_samplers_are_those_of_diffusers(name: str, prediction: str) -> None:
    kind, options = DIFFUSION[name]
    scheduler = kind(prediction_type=prediction, **options)
    scheduler.set_timesteps(STEPS)
    levels = Levels(grid_of(scheduler), (1.0, 0.0), prediction)  # type: ignore[arg-type]
    found = states(sampler_rows(name, levels, tuple(range(STEPS)), np.ones(STEPS)))
    np.testing.assert_allclose(found, propagation(scheduler), atol=2e-5)


@pytest.mark.parametrize(("name", "kind"), [("euler", EulerFlow), ("ab2", AdamsBashforthFlow)])
def test_flow_samplers_are_those_of_the_library(name: str, kind: type[Any]) -> None:
    scheduler = kind(shift=3.0)
    scheduler.set_timesteps(STEPS)
    levels = Levels(grid_of(scheduler), (1.0, 0.0), "velocity")
    found = states(sampler_rows(name, levels, tuple(range(STEPS)), np.ones(STEPS)))
    np.testing.assert_allclose(found, propagation(scheduler), atol=1e-6)


@pytest.mark.parametrize("evaluations", [1, 2, 3, 4, 7])
def test_extrapolated_outputs_are_the_compiled_method(evaluations: int) -> None:
    scheduler = DDIMScheduler(**DIFFUSION["euler"][1])
    scheduler.set_timesteps(20)
    grid, table = grid_of(scheduler), propagation(scheduler)
    found = list(extrapolated_tables(table, grid.timestep, np.ones(20), evaluations))
    assert [each.label for each in found] == [
        f"lagrange:order={order}" for order in range(1, min(3, evaluations - 1) + 1)
    ]
    for each in found:
        compiled = compile_plan(f"{each.label},evaluations={evaluations},schedule=even", scheduler)
        assert each.steps == compiled.steps
        np.testing.assert_array_equal(each.timesteps, compiled.evaluation_timesteps)
        for a, b in zip(each.rows, compiled.rows, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_own_spacings() -> None:
    assert even(4, 10) == (0, 2, 5, 7)
    sigma = np.exp(-np.linspace(-3.0, 3.0, 11))
    alpha = 1 / np.sqrt(1 + sigma**2)
    levels = Levels(TimeGrid(np.arange(11.0)[::-1], alpha, alpha * sigma), (1.0, 0.0), "epsilon")
    assert spacings(levels, 3) == [(0, 3, 7), (0, 5, 10)]
    assert spacings(Levels(TimeGrid.shifted(10), (1.0, 0.0), "velocity"), 5) == [(0, 2, 4, 6, 8)]


def test_a_constant_output_is_followed_exactly_by_every_sampler() -> None:
    grid = TimeGrid.shifted(20, 3.0)
    for table in plain_tables(Levels(grid, (1.0, 0.0), "velocity"), np.ones(20), 6):
        places = np.append(grid.sigma[list(table.steps)], 0.0)
        for n, row in enumerate(table.rows):
            assert row[1:].sum() == pytest.approx(places[n + 1] - places[n], abs=1e-6)


def test_unknown_predictions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prediction='noise' must be one of velocity, epsilon"):
        Levels(TimeGrid.shifted(4), (1.0, 0.0), "noise")  # type: ignore[arg-type]
