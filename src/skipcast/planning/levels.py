"""The noise levels of a prepared scheduler, as methods and plans see them."""

from __future__ import annotations

from typing import Any

import numpy as np

from skipcast.grid import TimeGrid, Vector


def grid_of(scheduler: Any, begin: int | None = None) -> TimeGrid:
    """The steps that a prepared scheduler is about to take, from `begin` on; by default from its begin index.

    A time that is evaluated twice in a row (PNDM's second step) stands for two steps: the first of them is placed
    halfway to the step before it.

    Raises:
        ValueError: its noise levels do not fall.
    """
    if begin is None:
        begin = getattr(scheduler, "begin_index", None) or 0
    config = scheduler.config
    timesteps = scheduler.timesteps.double().cpu().numpy()
    if not hasattr(scheduler, "sigmas"):
        signal = scheduler.alphas_cumprod.double().cpu().numpy()[timesteps.round().astype(int)]
        sigma = _apart(np.sqrt(1 - signal))
        return _from(begin, timesteps, np.sqrt(1 - sigma**2), sigma)
    sigma = scheduler.sigmas[: len(timesteps)].double().cpu().numpy()
    if config.get("invert_sigmas", False):  # Mochi counts from noise up
        sigma = 1 - sigma
    sigma = _apart(sigma)
    flow = config.get("use_flow_sigmas", False) or config.get("prediction_type") == "flow_prediction"
    # Every scheduler but those of flows, whose noise has size 1, tells how large its first noise is.
    if flow or not hasattr(scheduler, "init_noise_sigma"):
        return _from(begin, timesteps, 1 - sigma, sigma)
    scale = 1 / np.sqrt(1 + sigma**2)  # k-diffusion's sigma is noise over signal
    return _from(begin, timesteps, scale, sigma * scale)


def _from(begin: int, timesteps: Vector, alpha: Vector, sigma: Vector) -> TimeGrid:
    """The grid from a step on; cut last, because the place of a repeated step follows from the one before it."""
    return TimeGrid(timestep=timesteps[begin:], alpha=alpha[begin:], sigma=sigma[begin:])


def _apart(sigma: Vector) -> Vector:
    """The levels with the first of two equal neighbours moved halfway to the one before."""
    out = sigma.copy()
    for i in range(1, len(sigma) - 1):
        if sigma[i] == sigma[i + 1] and sigma[i - 1] > sigma[i]:
            out[i] = (sigma[i - 1] + sigma[i]) / 2
    return out
