"""BRACE: a barycentric rational function through the remembered values, with Chebyshev's weights adapted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipcast.forecasters.base import LinearForecaster
from skipcast.grid import Vector

#: What the released code adds to every |x - x_i| against division by zero; it moves weights by about as much.
_GUARD = 1e-8


@dataclass(frozen=True)
class Brace(LinearForecaster):
    """A barycentric rational function whose newest weight is raised, so that it moves less than the line does.

    F = sum_i b_i F_i / (x - x_i) / sum_i b_i / (x - x_i), i from the oldest, with b_i = (-1)^(i+1), the first one
    halved and the last one times gamma; x = 2 (tau - t_oldest) / (t_newest - t_oldest) - 1. Two values h apart give
    F_0 + k / (2 gamma h + (2 gamma - 1) k) (F_0 - F_1) at the distance k: the line at gamma = 0.5, above it a slope
    that fades and never carries further than (F_0 - F_1) / (2 gamma - 1). Degree of exactness: 0; 1 at gamma = 0.5,
    where the b_i add up to 0, as far as the guard of 1e-8 lets it be, which the released code adds to every |x - x_i|.

    Reference: BRACE, https://github.com/youngkinlon/BRACE, checked against `BRACE-FLUX` (`bary_formula_true`),
    `BRACE-HunyuanVideo` and `BRACE-DiT` (`bary_formula_fast`) at commit 4aac13b, `BRACE-Wan2.1` at 0dc36b5,
    `BRACE-qwen-image` at 5877d13 and `BRACE_flux_diffuser` at 84ab283, which are one formula. As committed,
    `BRACE-FLUX` calls an ablation in its place and `BRACE_flux_diffuser` the formula.

    Args:
        gamma: factor of the newest weight: 0.7 for FLUX, 0.6 for HunyuanVideo and Wan, 0.8 for Qwen-Image, 0.5 for DiT.
        window: values it passes through: 3 for Qwen-Image, 4 for DiT, 2 for the others.
    """

    gamma: float = 0.7
    window: int = 2

    def __post_init__(self) -> None:
        if not self.gamma >= 0.5:
            raise ValueError(
                f"Brace(gamma=...) must be at least 0.5, got {self.gamma}; below it the function has a pole ahead of "
                "two values. The authors take 0.5 to 0.8."
            )
        if self.window < 2:
            raise ValueError(f"Brace(window=...) must be at least 2, got {self.window}; one value is Reuse().")

    @property
    def min_evaluations(self) -> int:
        return self.window

    def weights(self, nodes: Vector, tau: float) -> Vector:
        if len(nodes) == 1:
            return np.ones(1)
        offset = 2 * (tau - nodes) / (nodes[-1] - nodes[0])  # x - x_i
        at_node = np.flatnonzero(np.abs(offset) < 1e-5)
        if len(at_node):
            weights: Vector = np.eye(len(nodes))[at_node[0]]
            return weights
        numerators = np.where(np.arange(len(nodes)) % 2, 1.0, -1.0)
        numerators[0] *= 0.5
        numerators[-1] *= self.gamma
        terms: Vector = numerators / (offset + np.copysign(_GUARD, offset))
        terms /= terms.sum()
        return terms
