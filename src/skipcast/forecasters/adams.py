"""Linear multistep rules in feature space: PrediT, for uneven evaluations, and AB-Cache, which looks at no gap."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skipcast.forecasters.base import LinearForecaster
from skipcast.grid import Vector
from skipcast.history import History, Point
from skipcast.samplers import adams_bashforth


def _on_values(nodes: Vector, start: int, integrals: Vector) -> Vector:
    """F_start + sum_j integral_j d_j as weights on K values; d_j is the slope from node j - 1 to node j, (K - 1,)."""
    rates = integrals / np.diff(nodes)
    weights: Vector = np.append(0.0, rates) - np.append(rates, 0.0)
    weights[start] += 1.0
    return weights


@dataclass(frozen=True)
class AdamsBashforth(LinearForecaster):
    """The newest value plus the integral of the polynomial through the `order` newest slopes between evaluations.

    F(tau) = F_0 + sum_j d_j int_{t_0}^{tau} l_j, d_j = (F_j - F_{j+1}) / (t_j - t_{j+1}), with l_j the Lagrange basis
    on t_0 ... t_{order-1}; on even nodes, one gap ahead, (3/2, -1/2) and (23, -16, 5) / 12. A slope between two
    evaluations is taken for the one at the newer, so the degree of exactness is 1 at every order; order 2 is
    `TaylorSeer(2)` at any gaps. Reference: PrediT, arXiv:2602.18093; no code is known and its text gives the rule on
    even nodes, so the integrals for uneven ones and the corrector are reconstructed.

    Args:
        order: slopes, from evaluations one more.
        corrector: 0 for none; q = 2 ... order + 1 replaces an evaluation by the Adams-Moulton step to it, F_0 +
            sum_j d_j int_{t_0}^{tau} l_j over q slopes of which the newest ends at the evaluation itself: on even
            nodes (1, 1) / 2 and (5, 8, -1) / 12. It averages what was evaluated with a forecast. Used and remembered
            in the evaluation's place, at every evaluation that follows another.
    """

    order: int = 2
    corrector: int = 0

    def __post_init__(self) -> None:
        if self.order < 1:
            raise ValueError(f"AdamsBashforth(order=...) must be at least 1, got {self.order}; order 0 is Reuse().")
        if self.corrector and not 2 <= self.corrector <= self.order + 1:
            raise ValueError(
                f"AdamsBashforth(corrector=...) must be 0 or 2 to order + 1 = {self.order + 1}, got {self.corrector}; "
                "0 leaves evaluations as they are, a higher one needs a higher order."
            )

    @property
    def window(self) -> int:
        return self.order + 1

    @property
    def least(self) -> int:
        return self.order + 1

    def weights(self, nodes: Vector, tau: float) -> Vector:
        if len(nodes) == 1 or tau == nodes[-1]:  # no slope yet, or no way to go
            return _on_values(nodes, -1, np.zeros(len(nodes) - 1))
        return _on_values(nodes, -1, adams_bashforth(nodes[1:], tau))

    def correct(self, history: History, point: Point, value: Tensor) -> Tensor:
        if not self.corrector or len(history) == 1:  # with one slope, that to the evaluation, nothing changes
            return value
        nodes = np.append(history.nodes()[-self.corrector :], point.tau)
        # Adams-Moulton is Adams-Bashforth back from the new node to the one before.
        weights = _on_values(nodes, -2, -adams_bashforth(nodes[1:], float(nodes[-2])))
        return torch.add(history.combine(weights[:-1]), value, alpha=float(weights[-1]))


@dataclass(frozen=True)
class ABCache(LinearForecaster):
    """The next value of the polynomial through evaluations taken as equally spaced, at whatever distance.

    Weights, newest first: (-1)^j binomial(terms, j + 1), that is (2, -1) for two terms and (4, -6, 4, -1) for four.
    Degree of exactness: 0; `terms - 1` one gap ahead of even evaluations. Reference: AB-Cache, arXiv:2504.10540, whose
    two-term rule is known from ports and whose four-term rule is inferred.
    """

    terms: int = 2

    def __post_init__(self) -> None:
        if self.terms < 1:
            raise ValueError(f"ABCache(terms=...) must be at least 1, got {self.terms}; the paper takes 2 or 4.")

    @property
    def window(self) -> int:
        return self.terms

    @property
    def least(self) -> int:
        return self.terms

    def weights(self, nodes: Vector, tau: float) -> Vector:
        count = len(nodes)
        return np.array([(-1.0) ** j * math.comb(count, j + 1) for j in reversed(range(count))])
