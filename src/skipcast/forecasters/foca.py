"""FoCa: forecast, then calibrate, on a history that holds forecasts too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipcast.forecasters.base import RecursiveForecaster
from skipcast.grid import Vector
from skipcast.history import History, Point

Slope = Literal["difference", "bdf2"]


def _slope(nodes: Vector) -> Vector:
    """Weights of the slope, at the newest node, of the polynomial through K values: sum_j w_j (t_j - t_0)^p = [p = 1].

    K = 2 is the backward difference, K = 3 BDF2, (3, -4, 1) / 2 on even nodes; a single value has no slope.
    """
    if len(nodes) == 1:
        return np.zeros(1)
    powers = np.arange(len(nodes))[:, None]
    weights: Vector = np.linalg.solve((nodes - nodes[-1]) ** powers, (powers[:, 0] == 1).astype(np.float64))
    return weights


@dataclass(frozen=True)
class FoCa(RecursiveForecaster):
    """A step of Heun's method with the slope last measured and the slope of the newest values, forecasts among them.

    F(tau) = F + h / 2 (m + d): F is the newest value, evaluated or forecast, h the way from it to tau, m the slope
    between the two newest evaluations, d the slope at F. The text's BDF2 predictor drops out, for its derivative
    applied to its own value returns the slope put in. On even steps, k behind an evaluation F_0, it is F_0 + k m +
    (e - m) (1 - 2^-k), where e is the move onto F_0 from the forecast before: a jump is carried on, and nearly all of
    it into the next window. Degree of exactness: 1. Reference: FoCa, arXiv:2508.16211. No code is known; this is its
    text read literally, with m divided by its gap. Of the re-implementations, one leaves that out and misses straight
    lines, another steps from the newest evaluation all the way with d at the newest forecast, which diverges.

    Args:
        slope: d from the two newest values, "difference", or from three, "bdf2"; the text leaves it open.
        refresh: an evaluation makes earlier values forgotten and its d is m; the rule is then `TaylorSeer(1)`.
    """

    slope: Slope = "difference"
    refresh: bool = False

    def __post_init__(self) -> None:
        if self.slope not in get_args(Slope):
            raise ValueError(f"FoCa(slope=...) must be one of {', '.join(get_args(Slope))}, got {self.slope!r}.")

    @property
    def window(self) -> int:
        return 2 if self.slope == "difference" else 3

    @property
    def least(self) -> int:
        return 2

    def held(self, evaluations: int) -> int:
        return self.window + 2  # the two newest evaluations, in the memo

    def weights(self, nodes: Vector, evaluated: NDArray[np.bool_], point: Point) -> Vector:
        measured = np.flatnonzero(evaluated)[-2:]
        newest = np.arange(len(nodes))[-self.window :]
        if self.refresh:
            newest = newest[newest >= measured[-1]]
        if len(newest) == 1:
            newest = measured
        half = (point.tau - nodes[-1]) / 2
        weights = np.zeros(len(nodes))
        weights[-1] = 1.0
        weights[measured] += half * _slope(nodes[measured])
        weights[newest] += half * _slope(nodes[newest])
        return weights

    def forecast(self, history: History, point: Point) -> Tensor:
        kept = self._evaluations(history)
        left = [step for step in kept if step < history[0].step]
        nodes = np.concatenate([point.taus[left], history.nodes()])
        weights = self.weights(nodes, np.pad(history.evaluated(), (len(left), 0), constant_values=True), point)
        total = history.combine(weights[len(left) :])
        for step, weight in zip(left, weights.tolist(), strict=False):
            total = torch.add(total, kept[step], alpha=weight)
        return total

    def _evaluations(self, history: History) -> dict[int, Tensor]:
        """The two newest evaluations by step; the memo keeps those that forecasts have pushed out of the window.

        The first forecast after an evaluation finds it in the window, and the one before it either there or in the
        memo. So two values beside the window suffice, whatever the gap.
        """
        known: dict[int, Tensor] = {int(step): value for step, value in history.memo.items()}
        items = [history[place] for place in range(len(history))]
        known |= {item.step: item.value for item in items if item.evaluated}
        newest = dict(sorted(known.items())[-2:])
        history.memo = {str(step): value for step, value in newest.items()}
        return newest
