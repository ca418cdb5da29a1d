"""What ComfyUI's `model_sampling` says of a model: how its network is called, and what it predicts.

Found by calling it with numbers, not by its class: models to come bring classes of their own.
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from skipcast.grid import TimeGrid, Vector
from skipcast.plans.propagation import Levels, Prediction

#: What flows tell their network, per unit of noise level, in plans; ComfyUI gives the level itself.
TRAINED = 1000.0
#: Times and levels that differ by less, relative to their size, are one.
SAME = 1e-4


class Network:
    """The network of a model of ComfyUI, as its samplers see it.

    A sampler holds x and is given the denoised sample D, after guidance. The network sees k x and returns y, and
    D = a x + b y, with k, a and b known at every noise level sigma.

    Args:
        sampling: the model's `model_sampling`.

    Raises:
        ValueError: it denoises otherwise than by a weighted sum of the sample and the output.
    """

    def __init__(self, sampling: Any) -> None:
        self.sampling = sampling
        try:
            half = torch.tensor([0.5])
            clean = float(sampling.noise_scaling(half, torch.zeros(1, 1), torch.ones(1, 1)))
            self.weights(0.5)
        except (AttributeError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"{type(sampling).__name__} is no model_sampling that a plan or a forecast can follow ({error}); use a "
                "model that ComfyUI's own samplers take."
            ) from error
        #: Whether x = (1 - sigma) clean + sigma noise, and not clean + sigma noise.
        self.flow = abs(clean - 0.5) < SAME
        kinds: tuple[Prediction, ...] = get_args(Prediction)
        self.prediction = next((kind for kind in kinds if self._predicts(kind)), None)

    def weights(self, sigma: float) -> tuple[float, float]:
        """(a, b) of D = a x + b y."""
        at = torch.tensor([sigma], dtype=torch.float64)
        one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
        of_x = self.sampling.calculate_denoised(at, zero, one)
        of_y = self.sampling.calculate_denoised(at, one, zero)
        return float(of_x), float(of_y)

    def scale(self, sigma: float) -> float:
        """k, the factor of the network's input."""
        at = torch.tensor([sigma], dtype=torch.float64)
        return float(self.sampling.calculate_input(at, torch.ones(1, 1, dtype=torch.float64)))

    def output(self, sigma: float, denoised: Tensor, x: Tensor) -> Tensor:
        """y, from D."""
        of_x, of_y = self.weights(sigma)
        return (denoised - x * of_x) / of_y

    def denoised(self, sigma: float, output: Tensor, x: Tensor) -> Tensor:
        """D, from y."""
        of_x, of_y = self.weights(sigma)
        return x * of_x + output * of_y

    def timestep(self, sigma: float) -> float:
        """What the network is told at a noise level; of a flow as plans count it."""
        return sigma * TRAINED if self.flow else float(self.sampling.timestep(torch.tensor([sigma])).flatten()[0])

    def sigma(self, timestep: float) -> float:
        """The noise level at which a network that is no flow's is told this."""
        return float(self.sampling.sigma(torch.tensor([timestep])).flatten()[0])

    def keeps(self, timestep: float) -> bool:
        """Whether the network is told this timestep as it is; models with a table of levels tell the nearest in it."""
        return self.flow or abs(self.timestep(self.sigma(timestep)) - timestep) <= SAME * max(1.0, abs(timestep))

    @property
    def rounds(self) -> bool:
        """Whether timesteps are rounded to whole ones."""
        return not self.flow and not self.keeps(0.25)

    def even(self, shares: Vector) -> Vector:
        """The noise levels at these shares of the model's own way from clean (0) to noise (1)."""
        return np.array([float(self.sampling.percent_to_sigma(1.0 - float(share))) for share in shares])

    def levels(self, sigmas: Vector) -> Levels | None:
        """Where steps at these noise levels lie, the last of them the end; None where the prediction is not known."""
        alpha, sigma = self.shares(sigmas)
        times = np.array([self.timestep(float(level)) for level in sigmas[:-1]])
        if self.prediction is None:
            return None
        return Levels(TimeGrid(times, alpha[:-1], sigma[:-1]), (float(alpha[-1]), float(sigma[-1])), self.prediction)

    def shares(self, sigmas: Vector) -> tuple[Vector, Vector]:
        """alpha and sigma of what the network sees at these noise levels, k x = alpha clean + sigma noise."""
        if self.flow:
            return 1 - sigmas, sigmas
        alpha = 1 / np.sqrt(1 + sigmas**2)
        return alpha, sigmas * alpha

    def _predicts(self, kind: Prediction) -> bool:
        """Whether D is what such a prediction gives, at two noise levels."""
        for sigma in (0.3, 0.8):
            (alpha,), (noise,) = self.shares(np.array([sigma]))
            levels = Levels(TimeGrid(np.ones(1), np.array([alpha]), np.array([noise])), (1.0, 0.0), kind)
            of_x, of_y = self.weights(sigma)
            k = self.scale(sigma)
            if (kind == "velocity") != self.flow or abs(k - (1.0 if self.flow else alpha)) > SAME:
                return False
            if not np.allclose((of_x / k, of_y), levels.clean(float(alpha), float(noise)), atol=SAME):
                return False
        return True
