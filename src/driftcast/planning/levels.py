"""The noise levels of a prepared scheduler, as methods and plans see them."""

from __future__ import annotations

from typing import Any

import numpy as np

from driftcast.grid import TimeGrid


def grid_of(scheduler: Any) -> TimeGrid:
    """The steps that a prepared scheduler is about to take, from its begin index on.

    Raises:
        ValueError: its noise levels do not fall strictly (second-order schedulers repeat them).
    """
    begin = getattr(scheduler, "begin_index", None) or 0
    timesteps = scheduler.timesteps[begin:].double().cpu().numpy()
    if hasattr(scheduler, "sigmas"):
        sigma = scheduler.sigmas[begin : begin + len(timesteps)].double().cpu().numpy()
    else:
        signal = scheduler.alphas_cumprod.double().cpu().numpy()[timesteps.round().astype(int)]
        sigma = np.sqrt((1 - signal) / signal)
    if "FlowMatch" in type(scheduler).__name__ or scheduler.config.get("use_flow_sigmas", False):
        return TimeGrid(timestep=timesteps, alpha=1 - sigma, sigma=sigma)
    scale = 1 / np.sqrt(1 + sigma**2)  # k-diffusion's sigma is noise over signal
    return TimeGrid(timestep=timesteps, alpha=scale, sigma=sigma * scale)
