"""The noise levels of a plan's steps, and the same steps as arguments for the scheduler that was recorded."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from skipcast.grid import Vector
from skipcast.pipelines.plan_check import keep_own_grid, recorded_scheduler
from skipcast.plans.plan import Plan
from skipcast.plans.propagation import Levels, grid_of, prediction_of

#: Levels that differ by less are one: schedulers keep them in float32.
_SAME = 1e-5


def levels_of(plan: Plan) -> Levels | None:
    """Where the N steps of a plan lie, by its recorded scheduler; None where what the network predicts has no name.

    Raises:
        ValueError: the plan names no scheduler, or one that the installed diffusers does not have.
    """
    base = _on_its_grid(plan)
    prediction = prediction_of(base)
    return None if prediction is None else Levels(grid_of(base), (1.0, 0.0), prediction)


@dataclass(frozen=True)
class Native:
    """The evaluated steps of a plan as an argument of a pipeline's call.

    Args:
        name: "sigmas" or "timesteps".
        values: one for each evaluation.
        mu: with which the scheduler of the recording shifted its levels; None where it does not.
    """

    name: str
    values: tuple[float, ...]
    mu: float | None = None


def native(plan: Plan) -> Native:
    """The evaluated steps as the recorded scheduler takes them, checked by giving them to it.

    Schedulers of flows shift the sigmas that they are given, so these are the unshifted ones.

    Raises:
        ValueError: it takes no steps of one's own, or makes others of them.
    """
    base, again = _on_its_grid(plan), recorded_scheduler(plan.origin)
    kind, taken, steps = type(base).__name__, inspect.signature(base.set_timesteps).parameters, list(plan.steps)
    if "sigmas" in taken and "FlowMatch" in kind:
        wanted = base.sigmas.double().numpy()[steps]
        mu = mu_of(plan)
        found = Native("sigmas", tuple(_unshifted(wanted, plan.origin.config, mu).tolist()), mu)
        again.set_timesteps(sigmas=np.array(found.values), **({} if mu is None else {"mu": mu}))
        made = again.sigmas.double().numpy()[:-1]
    elif "timesteps" in taken:
        wanted = plan.timesteps[steps]
        found = Native("timesteps", tuple(_whole(wanted)))
        again.set_timesteps(timesteps=list(found.values))
        made = again.timesteps.double().numpy()
    else:
        raise ValueError(
            f"the {kind} of this plan takes neither sigmas nor timesteps of one's own, so its steps cannot be given to "
            "it; run the plan itself with sc.PlanScheduler(plan)."
        )
    if made.shape != wanted.shape or np.abs(made - wanted).max() > _SAME * max(1.0, float(np.abs(wanted).max())):
        raise ValueError(
            f"the {kind} of this plan makes other steps of the {found.name} that it is given, as with Karras levels or "
            "a shift of its end; run the plan itself with sc.PlanScheduler(plan)."
        )
    return found


def mu_of(plan: Plan) -> float | None:
    """The mu by which the recorded scheduler shifted even levels to the plan's grid; None where it shifts by no mu.

    Pipelines compute it from the size of the image, so it tells for which one a plan was made.
    """
    config, n = plan.origin.config, plan.origin.steps
    if not config.get("use_dynamic_shifting", False) or n < 2:
        return None
    even = np.linspace(1.0, 1 / n, n)
    levels = plan.timesteps / config.get("num_train_timesteps", 1000)
    inner = (levels > 0) & (levels < 1) & (even < 1)
    factors = (levels * (1 - even))[inner] / (even * (1 - levels))[inner]
    if not len(factors) or not np.allclose(factors, factors[0], rtol=1e-3):
        return None
    factor = float(np.median(factors))
    return math.log(factor) if config.get("time_shift_type", "exponential") == "exponential" else factor


def _on_its_grid(plan: Plan) -> Any:
    """The recorded scheduler, prepared for the plan's grid.

    Raises:
        ValueError: the plan was made for a denoiser without a pipeline.
    """
    if not plan.origin.scheduler:
        raise ValueError(
            "this plan was made for a denoiser without a pipeline, so no scheduler of others knows its levels; run it "
            "with sc.sample()."
        )
    base = recorded_scheduler(plan.origin)
    keep_own_grid(base, plan)
    return base


def _unshifted(levels: Vector, config: Any, mu: float | None) -> Vector:
    """The levels s of which the scheduler makes e s / (1 + (e - 1) s)."""
    factor = float(config.get("shift", 1.0))
    if config.get("use_dynamic_shifting", False):
        if mu is None:
            raise ValueError(
                "the levels of this plan follow from no single mu, so no sigmas give them back; run the plan itself "
                "with sc.PlanScheduler(plan)."
            )
        factor = math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu
    found: Vector = levels / (factor * (1 - levels) + levels)
    return found


def _whole(values: Vector) -> list[float]:
    """Timesteps as whole numbers where they are some, as schedulers of eps and v models want them."""
    return [int(value) if value == int(value) else value for value in values.tolist()]
