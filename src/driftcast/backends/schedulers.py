"""Which diffusers schedulers a run can follow."""

from __future__ import annotations

from typing import Any

from driftcast.planning.propagation import adds_noise


def check_scheduler(scheduler: Any) -> None:
    """Refuse a scheduler whose steps cannot be known, or which is stochastic or of second order, by name."""
    name = type(scheduler).__name__
    levels = "sigmas" if hasattr(scheduler, "sigmas") else "alphas_cumprod"
    for attribute in ("set_timesteps", "step", "timesteps", levels):
        if not hasattr(scheduler, attribute):
            raise ValueError(
                f"scheduler {name} is not supported: it has no {attribute!r}, from which its steps would be known; use "
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
