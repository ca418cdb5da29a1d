"""A method as a plan: weights of a whole run, folded into one row per evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from skipcast.checks import guarded
from skipcast.controllers import FixedSteps, StaticController
from skipcast.forecasters import Lagrange
from skipcast.grid import TimeGrid, Vector
from skipcast.methods.names import method as parse
from skipcast.parts import Method
from skipcast.plans.plan import Origin, Plan
from skipcast.plans.propagation import Matrix, first_order, grid_of, input_scale, propagation, segments
from skipcast.run import Run
from skipcast.samplers import Sampler


@guarded()
def compile_plan(method: str | Method, grid: Any, *, states: ArrayLike | None = None, **call: Any) -> Plan:
    """The plan that does what a method does: same evaluations, same samples, no hook in the network.

        plan = sc.compile_plan("lagrange:order=2,evaluations=10", pipe, prompt="a cat", num_inference_steps=50)

    The run is applied to vectors of coefficients in the basis (x_0, evaluated outputs), as `tableau` does, and every
    state X[i] is moved on by the sampler's own coefficients. With X at evaluated steps s_n and s_{n+1}:

        a_n = X[s_{n+1}, x_0] / X[s_n, x_0] - 1,      b_n = X[s_{n+1}, y] - (1 + a_n) X[s_n, y]

    Args:
        method: or its name; linear, with known steps, and forecasting at the network's output.
        grid: a diffusers pipeline, called with `call` until it has prepared its scheduler, so that its own levels and
            shift are taken and its denoiser is not evaluated; or a diffusers scheduler on which `set_timesteps` was
            called; or the `TimeGrid` of a flow, integrated by Euler steps down to sigma = 0. A plan from a bare grid
            names FlowMatchEulerDiscreteScheduler without a configuration as its origin, and of a run its scheduler can
            check nothing but the number of steps.
        states: x_i = sum_b states[i, b] basis_b in the basis (x_0, y_0 .. y_{N-1}), (N + 1, N + 1), where known.
        call: arguments of the pipeline's call.

    Raises:
        ValueError: weights or decisions depend on values, the target lies inside the network, the grid is not a
            flow's, or the run cannot be written as rows.
    """
    found = parse(method)
    _check(found)
    assert isinstance(found, Method)
    pipeline = ""
    if callable(grid) and hasattr(grid, "scheduler"):
        from skipcast.pipelines.recording.replay import prepare  # only with a pipeline at hand

        pipeline, grid = type(grid).__name__, prepare(grid, call)
    elif call:
        raise ValueError(f"compile_plan({next(iter(call))}=...) is for a pipeline's call; give the pipeline.")
    if isinstance(grid, TimeGrid):
        levels, scale = grid, np.ones(len(grid))
        table = _flow(grid) if states is None else np.array(states, dtype=np.float64)
        origin = Origin("", "FlowMatchEulerDiscreteScheduler", {}, len(grid))
    elif not hasattr(grid, "set_timesteps"):
        raise ValueError(
            f"compile_plan(grid=...) must be a pipeline, a prepared scheduler or a TimeGrid, got {type(grid).__name__}."
        )
    else:
        table = propagation(grid) if states is None else np.array(states, dtype=np.float64)
        if (getattr(grid, "begin_index", None) or 0) > 0:
            raise ValueError("compile_plan(grid=...) needs a whole run; call the scheduler's set_timesteps() again.")
        levels, scale = grid_of(grid), input_scale(grid)
        config = {key: value for key, value in dict(grid.config).items() if not key.startswith("_")}
        origin = Origin(pipeline, type(grid).__name__, config, len(levels))
    if table.shape != (len(levels) + 1,) * 2:
        raise ValueError(f"compile_plan(states=...) must be {(len(levels) + 1,) * 2}, got {table.shape}.")
    assert isinstance(found.controller, StaticController)
    steps = found.controller.evaluated(len(levels))
    reached = _reached(found, levels, scale, table)
    return Plan(
        steps=steps,
        rows=tuple(segments(reached, steps)),
        timesteps=levels.timestep,
        evaluation_timesteps=levels.timestep[list(steps)],
        scale=scale[list(steps)],
        origin=origin,
        label=repr(found),
    )


def rows_between(scheduler: Any, steps: Sequence[int], end: int) -> tuple[Vector, ...]:
    """Rows of a run that starts anew at steps[0] and ends at the level of step `end`, one per evaluated step.

    At the steps between, the output follows the line through the last two evaluated ones. With every step evaluated
    these are the rows of the scheduler itself.

    Args:
        scheduler: one on which `set_timesteps` was called; it is left alone.
        steps: evaluated steps of its grid, rising.
        end: above the last of them, at most N.
    """
    begin = steps[0]
    places = [step - begin for step in steps]
    line = Method(Lagrange(min(1, len(steps) - 1)), FixedSteps(tuple(places)))
    levels, scale = grid_of(scheduler, begin), input_scale(scheduler, begin)
    reached = _reached(line, levels, scale, propagation(scheduler, begin))
    return tuple(segments(reached[: end - begin + 1], places))


def _check(method: Method | Sampler | Plan) -> None:
    if not isinstance(method, Method):
        raise ValueError(f"compile_plan(method=...) must be a Method, got {method!r}.")
    if method.target.seam != "output":
        raise ValueError(
            f"{method.target!r} is forecast inside the network, where no scheduler reaches; use target Output() or "
            "OutputDrift()."
        )
    if not method.forecaster.linear:
        raise ValueError(f"{method.forecaster!r} weighs by the values themselves, so no fixed rows exist.")
    if not isinstance(method.controller, StaticController):
        raise ValueError(
            f"{method.controller!r} decides by the values themselves, so its steps are not known before the run; use "
            "a controller of fixed steps, such as Even(10)."
        )


def _flow(grid: TimeGrid) -> Matrix:
    if not np.allclose(grid.alpha, 1 - grid.sigma, atol=1e-6):
        raise ValueError(
            "compile_plan(grid=...) is not the grid of a flow, alpha = 1 - sigma; give the prepared scheduler instead, "
            "or states=, as skipcast.plans.propagation.first_order(grid, end, prediction) makes them."
        )
    return first_order(grid)


def _reached(method: Method, grid: TimeGrid, scale: Vector, table: Matrix) -> Matrix:
    """The states x_0 .. x_N of the method's run in the basis (x_0, y_0 .. y_{N-1}), the y evaluated: (N + 1, N + 1)."""
    run = Run(method, grid, forecast_error=False)
    basis = torch.eye(len(grid) + 1, dtype=torch.float64)
    known, states = [basis[0]], [basis[0]]  # x_0 and what the sampler received; x_0 .. x_i
    for i, coefficients in enumerate(torch.tensor(table[1:])):
        seen = float(scale[i]) * states[-1]  # a method sees what the network sees
        known.append(run.advance(seen, lambda unit=basis[i + 1]: unit))  # type: ignore[misc]
        states.append(coefficients[: i + 2] @ torch.stack(known))
    return torch.stack(states).numpy()
