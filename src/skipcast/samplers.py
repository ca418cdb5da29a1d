"""Plain samplers with fewer steps, the baselines of every comparison; here as data and weights, without diffusers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipcast.checks import Checked
from skipcast.grid import Vector

#: Name -> the fewest evaluations that make sense.
SAMPLERS = {"euler": 1, "heun": 2, "ab2": 2, "ab3": 3, "dpmpp2m": 2, "unipc": 2}


@dataclass(frozen=True)
class Sampler(Checked):
    """The model's own sampling problem solved with `evaluations` network calls and no forecast.

    Args:
        name: "euler", "heun", "ab2", "ab3" (Adams-Bashforth), "dpmpp2m" or "unipc".
        evaluations: network calls per branch; None keeps the pipeline's own number of steps.
    """

    name: str
    evaluations: int | None = None

    def __post_init__(self) -> None:
        if self.name not in SAMPLERS:
            raise ValueError(f"Sampler(name=...) must be one of {', '.join(SAMPLERS)}, got {self.name!r}.")
        if self.evaluations is not None and self.evaluations < SAMPLERS[self.name]:
            raise ValueError(
                f"Sampler(evaluations=...) must be at least {SAMPLERS[self.name]} for {self.name}, "
                f"got {self.evaluations}."
            )


#: TimeTuner's ratios of told times to the times of the steps, for Euler's steps, by model and evaluations.
TIMETUNER: dict[str, dict[int, tuple[float, ...]]] = {
    # At guidance 2, by the published loss, in parallel: docs/results/neighbours.md.
    "shapes-flux": {10: (0.9832, 0.992, 0.9811, 1.1231, 1.1955, 1.0374, 1.0454, 1.0046, 1.0034, 1.0)},
}


@dataclass(frozen=True)
class Told(Sampler):
    """Euler's steps, of which the network is told other times than those where they are (arXiv:2310.09469).

    Args:
        name: "euler".
        evaluations: network calls per branch, which is the number of ratios.
        ratios: of the told time to that of each step.
    """

    ratios: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name != "euler":
            raise ValueError(f'Told(name=...) must be "euler", got {self.name!r}.')
        if not self.ratios or not all(0 < ratio < 10 for ratio in self.ratios):
            raise ValueError(f"Told(ratios=...) must be positive numbers below 10, one per step, got {self.ratios}.")
        if self.evaluations != len(self.ratios):
            raise ValueError(f"Told(evaluations={self.evaluations}) must be the number of ratios, {len(self.ratios)}.")


def adams_bashforth(nodes: Vector, end: float) -> Vector:
    """Weights b with x(end) = x(nodes[-1]) + sum_j b_j v_j, exact for velocities that are polynomials of degree K - 1.

    b_j is the integral of the j-th Lagrange polynomial over [nodes[-1], end]; any distinct nodes, oldest first. On an
    even grid these are Adams and Bashforth's: h (3/2, -1/2) and h (23, -16, 5) / 12.
    """
    scale = end - nodes[-1]
    if scale == 0:
        raise ValueError(f"adams_bashforth(end=...) must differ from the newest node {nodes[-1]:g}.")
    powers = np.arange(len(nodes))
    moments = 1.0 / (powers + 1)  # integral of s^p over [0, 1], s = (t - newest) / scale
    vandermonde = ((nodes - nodes[-1]) / scale)[None, :] ** powers[:, None]
    weights: Vector = scale * np.linalg.solve(vandermonde, moments)
    return weights


def resample(sigmas: Vector, count: int) -> Vector:
    """The noise levels of `count` steps on the curve that N given ones describe, (N,) -> (count,).

    The N levels and a final zero are read as a curve over [0, 1] and sampled evenly, so that N equal steps become
    `count` equal steps.
    """
    curve = np.append(np.asarray(sigmas, dtype=np.float64), 0.0)
    places = np.linspace(0.0, 1.0, count + 1)[:-1]
    levels: Vector = np.interp(places, np.linspace(0.0, 1.0, len(curve)), curve)
    return levels
