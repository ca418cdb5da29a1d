"""Integration of the recorded model with small steps, which gives the converged result of the sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from skipcast.grid import Vector
from skipcast.plans.propagation import input_scale

#: Schedulers whose noise levels and predictions `fine_path` can interpret.
_FLOW = ("FlowMatchEulerDiscreteScheduler", "EulerFlow", "AdamsBashforthFlow", "DPMSolverFlow", "UniPCFlow")
_SOLVERS = (
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
)
_SCALED = ("EulerDiscreteScheduler", "LMSDiscreteScheduler")
_KNOWN = (*_FLOW, *_SOLVERS, *_SCALED, "DDIMScheduler")


@dataclass(frozen=True, eq=False)
class FinePath:
    """The evaluations of a fine integration: F = N substeps of them, every substeps-th at a node of the grid.

    The variable u in which the equation is dx_hat/du = f(x, y) is the noise level sigma of a flow, where f = y, and
    sigma / alpha elsewhere, where f is the noise that y predicts and x = alpha x_hat.

    Args:
        level: u, (F + 1,).
        timesteps: the timesteps that the network receives, (F,).
        scale: factors of the network's input, (F,).
        alpha: the ratio of the state x to x_hat, (F + 1,).
        prediction: "flow", "epsilon", "v_prediction" or "sample", which says what the output y means.
        substeps: number of equal parts of each interval of the grid.
    """

    level: Vector
    timesteps: Vector
    scale: Vector
    alpha: Vector
    prediction: str
    substeps: int

    def slope(self, place: int, output: Tensor, state: Tensor) -> Tensor:
        """Return dx_hat/du at an evaluation, given the network's output and the state there."""
        if self.prediction in ("flow", "epsilon"):
            return output
        u, hat = float(self.level[place]), state / float(self.alpha[place])
        if self.prediction == "sample":
            return (hat - output) / u
        # v = alpha e - sigma x_clean, hence e = alpha v + sigma x on the circle alpha^2 + sigma^2 = 1.
        alpha = 1 / np.sqrt(1 + u * u)
        return float(alpha) * output + float(u * alpha * alpha) * hat


class AdamsBashforth:
    """The two-step Adams-Bashforth method along a fine path, with an Euler step first:

        x_hat  <-  x_hat + h_n ((1 + r/2) f_n - r/2 f_{n-1}),      r = h_n / h_{n-1}

    Reference: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, III.5 (variable steps).
    """

    def __init__(self, path: FinePath) -> None:
        self.path = path
        self._before: Tensor | None = None

    def move(self, place: int, output: Tensor, state: Tensor) -> Tensor:
        """Return the state after evaluation `place`."""
        path, slope = self.path, self.path.slope(place, output, state)
        width = float(path.level[place + 1] - path.level[place])
        rise = slope
        if place and self._before is not None:
            ratio = width / float(path.level[place] - path.level[place - 1])
            rise = (1 + ratio / 2) * slope - ratio / 2 * self._before
        self._before = slope
        hat = state / float(path.alpha[place]) + width * rise
        return hat * float(path.alpha[place + 1])


def fine_path(scheduler: Any, substeps: int = 4) -> FinePath:
    """Divide every step of a prepared scheduler's grid into `substeps` equal parts of the variable u.

    Raises:
        ValueError: the noise levels of this scheduler are unknown or not finite, or its prediction type is unknown.
    """
    kind, config = type(scheduler).__name__, scheduler.config
    if kind not in _KNOWN:
        raise ValueError(
            f'reference="converged" does not know the noise levels of scheduler {kind}; use reference="default" or '
            f"one of {', '.join(_KNOWN)}."
        )
    if substeps < 1:
        raise ValueError(f"substeps={substeps} must be at least 1.")
    flow = kind in _FLOW or bool(config.get("use_flow_sigmas", False))
    prediction = "flow" if kind in _FLOW else str(config.get("prediction_type", "epsilon"))
    prediction = prediction.replace("flow_prediction", "flow")
    if flow != (prediction == "flow") or prediction not in ("flow", "epsilon", "v_prediction", "sample"):
        raise ValueError(
            f'reference="converged" cannot integrate scheduler {kind} with prediction_type={prediction!r} on '
            f'{"flow" if flow else "diffusion"} noise levels; use reference="default".'
        )
    timesteps = scheduler.timesteps.cpu().double().numpy()[getattr(scheduler, "begin_index", None) or 0 :]
    nodes = _levels(scheduler, timesteps)
    if not np.isfinite(nodes).all():
        raise ValueError(
            f'reference="converged" needs finite noise levels, scheduler {kind} has sigma / alpha = {nodes.max()} '
            '(zero terminal signal); use reference="default".'
        )
    share = np.arange(substeps) / substeps
    inner = nodes[:-1, None] + share * np.diff(nodes)[:, None]
    level = np.append(inner.ravel(), nodes[-1])
    fine = _timesteps(scheduler, nodes, timesteps, flow=flow)(inner)
    fine[:, 0] = timesteps
    alpha, scale = np.ones_like(level), np.ones(level.size - 1)
    if kind in _SCALED:
        scale = 1 / np.sqrt(1 + level[:-1] ** 2)
    elif not flow:
        alpha = 1 / np.sqrt(1 + level**2)
    if not np.allclose(scale[::substeps], input_scale(scheduler), rtol=1e-4):
        raise ValueError(f'reference="converged" cannot follow how {kind} scales its input; use reference="default".')
    return FinePath(level, fine.ravel(), scale, alpha, prediction, substeps)


def _levels(scheduler: Any, timesteps: Vector) -> Vector:
    """Return sigma for a flow and sigma / alpha otherwise, at the N steps and at the end, (N + 1,)."""
    if type(scheduler).__name__ != "DDIMScheduler":
        begin = getattr(scheduler, "begin_index", None) or 0
        levels: Vector = scheduler.sigmas.cpu().double().numpy()[begin:]
        return levels
    kept = scheduler.alphas_cumprod.cpu().double().numpy()
    last = int(timesteps[-1]) - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    final = kept[last] if last >= 0 else float(scheduler.final_alpha_cumprod)
    signal = np.append(kept[timesteps.astype(int)], final)
    with np.errstate(divide="ignore"):
        return np.sqrt((1 - signal) / signal)


def _timesteps(scheduler: Any, nodes: Vector, timesteps: Vector, *, flow: bool) -> Callable[[Vector], Vector]:
    """Return a function from levels to timesteps: interpolated on the grid for a flow, else as in training."""
    config = scheduler.config
    if flow:
        # A timestep of a flow is a multiple of sigma, which straight lines keep; also below the last node.
        slope = timesteps[-1] / nodes[-2] if nodes[-2] else 0.0
        known = np.append(timesteps, timesteps[-1] + slope * (nodes[-1] - nodes[-2]))
        order = np.argsort(nodes)
        return lambda levels: np.interp(levels, nodes[order], known[order])
    continuous = config.get("timestep_type", "discrete") == "continuous"
    if continuous and config.get("prediction_type") == "v_prediction":
        return lambda levels: 0.25 * np.log(levels)
    signal = scheduler.alphas_cumprod.cpu().double().numpy()
    with np.errstate(divide="ignore"):
        trained = 0.5 * np.log((1 - signal) / signal)
    return lambda levels: np.interp(np.log(levels), trained, np.arange(len(trained)))
