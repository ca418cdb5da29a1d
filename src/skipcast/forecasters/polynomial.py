"""Forecasters that continue a polynomial: reuse, Lagrange, and TaylorSeer as published."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipcast.forecasters.base import LinearForecaster
from skipcast.grid import Vector


def _unit(count: int, place: int) -> Vector:
    row = np.zeros(count)
    row[place] = 1.0
    return row


def _check_order(name: str, order: int) -> None:
    if order < 0:
        raise ValueError(f"{name}(order=...) must be >= 0, got {order}.")


@dataclass(frozen=True)
class Reuse(LinearForecaster):
    """The newest evaluation again. Degree of exactness: 0. Reference: FORA, arXiv:2407.01425."""

    window = 1

    def weights(self, nodes: Vector, tau: float) -> Vector:
        return _unit(len(nodes), len(nodes) - 1)


@dataclass(frozen=True)
class Lagrange(LinearForecaster):
    """The polynomial through the newest `order + 1` evaluations, in barycentric form.

    w_k proportional to beta_k / (tau - t_k), beta_k = 1 / prod_{j != k} (t_k - t_j), scaled to sum 1. Degree of
    exactness: `order`. Reference: Berrut and Trefethen 2004, doi:10.1137/S0036144502417715.
    """

    order: int = 2

    def __post_init__(self) -> None:
        _check_order("Lagrange", self.order)

    @property
    def window(self) -> int:
        return self.order + 1

    @property
    def min_evaluations(self) -> int:
        return self.order + 1

    def weights(self, nodes: Vector, tau: float) -> Vector:
        offset = tau - nodes
        at_node = np.flatnonzero(offset == 0)
        if len(at_node):
            return _unit(len(nodes), int(at_node[-1]))
        gaps = nodes[:, None] - nodes + np.eye(len(nodes))
        terms: Vector = 1 / (gaps.prod(axis=1) * offset)
        terms /= terms.sum()
        return terms


def difference_quotients(nodes: Vector) -> Vector:
    """TaylorSeer's D_0 ... D_{K-1} after the newest of K evaluations, as weights on them: (K, K), a row per D_i.

    D_0 = F, D_{i+1} = (D_i - D_i of the evaluation before) / (newest gap), the same gap for every order.
    """
    unit = np.eye(len(nodes))
    table = unit[:1]
    for n in range(1, len(nodes)):
        rows = [unit[n]]
        for older in table:
            rows.append((rows[-1] - older) / (nodes[n] - nodes[n - 1]))
        table = np.array(rows)
    return table


@dataclass(frozen=True)
class TaylorSeer(LinearForecaster):
    """Difference quotients over the newest gap in a Taylor series, as released.

    D_0 = F, D_{i+1} = (D_i - D_i of the evaluation before) / (t_0 - t_1), forecast = sum_i D_i k^i / i! with
    k = tau - t_0; the same newest gap divides every order. Degree of exactness: 1 at every order >= 1; `Lagrange` is
    the exact rule. Reference: arXiv:2503.06923.

    Args:
        order: highest derivative, in evaluations beyond the newest.
        start: step of the first evaluation that may enter a difference: `warmup - 2` in the released code, which
            builds derivatives from step `warmup - 1` on.
    """

    order: int = 1
    start: int = 0

    def __post_init__(self) -> None:
        _check_order("TaylorSeer", self.order)

    @property
    def window(self) -> int:
        return self.order + 1

    @property
    def min_evaluations(self) -> int:
        return self.order + 1

    def weights(self, nodes: Vector, tau: float) -> Vector:
        distance = tau - nodes[-1]
        terms = np.cumprod([1.0, *(distance / i for i in range(1, len(nodes)))])  # k^i / i!
        weights: Vector = terms @ difference_quotients(nodes)
        return weights
