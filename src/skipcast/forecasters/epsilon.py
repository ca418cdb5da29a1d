"""FSampler: the noise part extrapolated by finite differences, rescaled by what earlier extrapolations got wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skipcast.coordinates import Sigma
from skipcast.forecasters.base import Forecaster
from skipcast.grid import Vector
from skipcast.history import History, Point

#: The released bounds of L, and what is added to the norm it is divided by.
_LEAST, _MOST, _TINY = 0.5, 2.0, 1e-8


@dataclass(frozen=True)
class FSampler(Forecaster):
    """Finite differences of e = sigma F, the velocity's share in the sample, divided by a learned ratio of norms.

    e(tau) = sum_j (-1)^j binomial(n, j + 1) e_j over the n newest evaluations, whatever the steps between them: (2, -1)
    for n = 2, (3, -3, 1) for 3 and (4, -6, 4, -1) for 4, newest first; F(tau) = e(tau) / (sigma(tau) L). From the third
    evaluation on, each one moves L, at first 1, to decay L + (1 - decay) |e'| / (|e_0| + 1e-8), kept within [0.5, 2],
    where e' is the next extrapolation and e_0 the evaluation itself; before the third, L is not applied. The denoised
    sample is x - sigma F for a velocity, so that the released epsilon, denoised less x, is -e. The rule is for
    velocities at the levels of a flow. Degree of exactness: -1; a constant F is kept only where sigma falls evenly.

    The ratio follows from the values, so no tableau exists. Values are (B, ...): the ratio is one per item, in the
    released code one per batch, and there e is taken after guidance, here of each branch. Reference: FSampler,
    arXiv:2511.09180, checked against https://github.com/obisin/ComfyUI-FSampler at commit 128c7ff,
    `sampling/extrapolation.py` and `sampling/samplers/euler.py`. Its gradient estimation, its check of the
    extrapolation's size and the sigma-aware weights of a later commit are not here.

    Raises:
        ValueError: an option out of range; in a run, a forecast at sigma = 0.

    Args:
        order: n, 2 to 4, called h2 to h4; fewer evaluations give a lower one.
        decay: smoothing of L: 0.9999 in the simple node, 0.999 in the advanced one, 0.9 in the code's own signature.
        learned: n of e', by default `order`; the released adaptive mode forecasts with 3 and learns with 2.
    """

    coordinates = (Sigma,)

    order: int = 2
    decay: float = 0.9999
    learned: int | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.order <= 4:
            raise ValueError(f"FSampler(order=...) must be 2, 3 or 4, got {self.order}; they are the published ones.")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"FSampler(decay=...) must lie in [0, 1], got {self.decay}; 1 keeps L at 1.")

        if self.learned is not None and not 2 <= self.learned <= 4:
            raise ValueError(f"FSampler(learned=...) must be 2, 3 or 4, got {self.learned}; None is the order itself.")

    @property
    def window(self) -> int:
        return max(self.order, self.learned or 0, 3)  # L is applied from three evaluations on

    @property
    def min_evaluations(self) -> int:
        return self.order

    def memory(self, evaluations: int) -> int:
        return min(self.window, evaluations)

    def forecast(self, history: History, point: Point) -> Tensor:
        if point.tau == 0:
            raise ValueError(f"{self!r} divides by sigma, which is 0 at step {point.step}; evaluate the last steps.")
        values = history.combine(_weights(history.nodes(), self.order) / point.tau)
        if len(history) < 3:
            return values
        wide = values.to(torch.promote_types(values.dtype, torch.float32))
        return (wide / self._ratio(history, wide)).to(values.dtype)

    def correct(self, history: History, point: Point, value: Tensor) -> Tensor:
        if len(history) < 2 or value.shape != history[-1].value.shape:  # a changed shape is refused by the history
            return value
        wide = value.to(torch.promote_types(value.dtype, torch.float32))
        weights = _weights(np.append(history.nodes(), point.tau), self.learned or self.order)
        ahead = torch.add(history.combine(weights[:-1]).to(wide.dtype), wide, alpha=float(weights[-1]))
        seen = _norms(ahead) / (_norms(wide * point.tau) + _TINY)
        moved = self.decay * self._ratio(history, wide) + (1 - self.decay) * seen
        history.memo[repr(self)] = moved.clamp(_LEAST, _MOST)
        return value

    def _ratio(self, history: History, like: Tensor) -> Tensor:
        """L of each item, (B, 1, ...)."""
        kept = history.memo.get(repr(self))
        return like.new_ones(len(like), *[1] * (like.ndim - 1)) if kept is None else kept


def _weights(levels: Vector, order: int) -> Vector:
    """Weights on the newest of K values F at these levels that give e: (min(K, order),)."""
    kept = levels[-order:]
    signs = [(-1.0) ** j * math.comb(len(kept), j + 1) for j in reversed(range(len(kept)))]
    weights: Vector = np.array(signs) * kept
    return weights


def _norms(tensor: Tensor) -> Tensor:
    """The norm of each item, (B, 1, ...)."""
    norms: Tensor = torch.linalg.vector_norm(tensor.reshape(len(tensor), -1), dim=1)
    return norms.reshape(-1, *[1] * (tensor.ndim - 1))
