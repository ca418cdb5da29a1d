"""One trajectory of a plan: the outputs that are still needed, and the next sample made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from skipcast.grid import Vector
from skipcast.plans.plan import Plan, last_uses
from skipcast.run import NO_GRADIENT

if TYPE_CHECKING:
    from skipcast.pipelines.plan_check import Trust  # with diffusers


class PlanRun:
    """Takes y_n and x, returns x + a_n x + sum_{j <= n} b_{n,j} y_j.

    Args:
        plan: the rows.
        begin: the first evaluation of this run. Weights of outputs before it, which do not exist, are moved onto its
            first output, so that every row keeps its sum and stays exact for a constant output.
        trust: where to note the residuals of the plan's forecasts; None for no check.
    """

    def __init__(self, plan: Plan, begin: int, trust: Trust | None) -> None:
        self.place, self._begin, self._trust = begin, begin, trust
        self._shares = [float(row[0]) for row in plan.rows]
        self._weights = [_moved(row[1:], begin) for row in plan.rows]
        self._forecasts = [row if _reaches(row, begin) else row[:0] for row in plan.forecasts] if trust else []
        self._outputs: list[Tensor | None] = [None] * len(plan)
        self._until = last_uses(self._weights, self._forecasts)

    def advance(self, y: Tensor, x: Tensor) -> Tensor:
        """The next sample, in the dtype of x; summed in float32 (float64 for float64 values)."""
        n, known = self.place, self._outputs
        dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
        if self._trust is not None and len(self._forecasts[n]):
            self._trust.note(n, _summed(torch.zeros_like(y, dtype=dtype), self._forecasts[n], known), y.detach())
        if self._until[n] > n:
            if y.requires_grad and torch.is_grad_enabled():
                raise RuntimeError(NO_GRADIENT)
            known[n] = y.detach().clone()  # the network may reuse its output buffer
        total = _summed(x.to(dtype) * (1 + self._shares[n]), self._weights[n], [*known[:n], y])
        for j, last in enumerate(self._until):
            if last <= n:
                known[j] = None
        self.place += 1
        return total.to(x.dtype)

    def bytes(self) -> int:
        """Memory held by the outputs, in bytes."""
        return sum(y.numel() * y.element_size() for y in self._outputs if y is not None)


def _moved(weights: Vector, begin: int) -> Vector:
    """Weights of a run that begins at evaluation `begin`."""
    if not begin or len(weights) <= begin:
        return weights
    kept = weights.copy()
    kept[begin] += kept[:begin].sum()
    kept[:begin] = 0.0
    return kept


def _reaches(forecast: Vector, begin: int) -> bool:
    """Whether a forecast needs no output before `begin`; moving its weights would spoil the comparison."""
    return not forecast[:begin].any()


def _summed(total: Tensor, weights: Vector, outputs: Sequence[Tensor | None]) -> Tensor:
    """total + sum_j w_j y_j, in place."""
    for weight, output in zip(weights.tolist(), outputs, strict=False):
        if weight != 0.0 and output is not None:
            total = total.add_(output.to(total.dtype), alpha=weight)
    return total
