"""What a diffusers scheduler is to us: a grid of steps, and a position on it."""

from __future__ import annotations

from typing import Any

import numpy as np

from driftcast.grid import TimeGrid
from driftcast.planning.propagation import adds_noise


def grid_of(scheduler: Any) -> TimeGrid:
    """The steps that a prepared scheduler is about to take, from its begin index on.

    Raises:
        ValueError: its noise levels do not fall strictly (second-order schedulers repeat them).
    """
    begin = scheduler.begin_index or 0
    timesteps = scheduler.timesteps[begin:].double().cpu().numpy()
    sigma = scheduler.sigmas[begin : begin + len(timesteps)].double().cpu().numpy()
    if "FlowMatch" in type(scheduler).__name__ or scheduler.config.get("use_flow_sigmas", False):
        return TimeGrid(timestep=timesteps, alpha=1 - sigma, sigma=sigma)
    scale = 1 / np.sqrt(1 + sigma**2)  # k-diffusion's sigma is noise over signal
    return TimeGrid(timestep=timesteps, alpha=scale, sigma=sigma * scale)


def check_scheduler(scheduler: Any) -> None:
    """Refuse a scheduler whose position cannot be known, or which is stochastic or of second order, by name."""
    name = type(scheduler).__name__
    for attribute in ("set_timesteps", "step_index", "begin_index", "sigmas"):
        if not hasattr(scheduler, attribute):
            raise ValueError(
                f"scheduler {name} is not supported: it has no {attribute!r}, from which the step would be known; use "
                "a scheduler such as FlowMatchEulerDiscreteScheduler or DPMSolverMultistepScheduler."
            )
    if getattr(scheduler, "order", 1) != 1:
        raise ValueError(
            f"scheduler {name} is of order {scheduler.order} and evaluates every noise level more than once; "
            "use a first-order or multistep scheduler such as FlowMatchEulerDiscreteScheduler."
        )
    if adds_noise(scheduler):
        raise ValueError(
            f"scheduler {name} adds noise at every step, which no forecast can know; use a deterministic one."
        )
