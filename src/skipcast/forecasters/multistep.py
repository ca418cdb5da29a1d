"""Multistep rules for differential equations as forecasters: Adams-Bashforth, BDF2 with Heun, mean velocities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipcast.coordinates import Sigma
from skipcast.forecasters.base import LinearForecaster, RecursiveForecaster
from skipcast.grid import Vector
from skipcast.history import History, Point
from skipcast.samplers import adams_bashforth

# Linear multistep rules in feature space: PrediT, for uneven evaluations, and AB-Cache, which looks at no gap.


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
    def min_evaluations(self) -> int:
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

    Weights, newest first: (-1)^j binomial(terms, j + 1), that is (2, -1) for two terms and (5, -10, 10, -5, 1) for
    five, the two rules of the released code. Degree of exactness: 0; `terms - 1` one gap ahead of even evaluations.
    Reference: AB-Cache, arXiv:2504.10540, as quoted line by line from aSleepyTree/AB-Cache.
    """

    terms: int = 2

    def __post_init__(self) -> None:
        if self.terms < 1:
            raise ValueError(f"ABCache(terms=...) must be at least 1, got {self.terms}; the code takes 2 or 5.")

    @property
    def window(self) -> int:
        return self.terms

    @property
    def min_evaluations(self) -> int:
        return self.terms

    def weights(self, nodes: Vector, tau: float) -> Vector:
        count = len(nodes)
        return np.array([(-1.0) ** j * math.comb(count, j + 1) for j in reversed(range(count))])


# FoCa: forecast, then calibrate, on a history that holds forecasts too.

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
    it into the next window. Degree of exactness: 1. Reference: FoCa, arXiv:2508.16211. Its authors have published no
    code, so where it hooks is unknown; this is its text read literally, with m divided by its gap. Of the ports,
    cache-dit (f86744a, calibrators/foca.py) starts every forecast from the newest evaluation, at most 3 steps ahead,
    and leaves that division out, so it misses straight lines; BRACE's repository takes a BDF2 predictor whose slope
    counts 0.386 times; another steps from the newest evaluation all the way with d at the newest forecast, which
    diverges.

    Args:
        slope: d from the two newest values, "difference", or from three, "bdf2"; the text leaves it open.
        refresh: an evaluation makes earlier values forgotten and its d is m; the rule is then `TaylorSeer(1)`.
    """

    min_evaluations = 2

    slope: Slope = "difference"
    refresh: bool = False

    @property
    def window(self) -> int:
        return 2 if self.slope == "difference" else 3

    def memory(self, evaluations: int) -> int:
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
        memo. So two values besides the window suffice, whatever the gap.
        """
        known: dict[int, Tensor] = {int(step): value for step, value in history.memo.items()}
        items = [history[place] for place in range(len(history))]
        known |= {item.step: item.value for item in items if item.evaluated}
        newest = dict(sorted(known.items())[-2:])
        history.memo = {str(step): value for step, value in newest.items()}
        return newest


# MeanCache: the trend between a velocity and the mean velocity since then.


@dataclass(frozen=True)
class MeanVelocity(RecursiveForecaster):
    """The newest velocity, continued by the trend from the one m steps ago to the mean of all since then.

    v = v_{s-1} + J (sigma_{s+1} - sigma_s), J = (u - v_r) / (sigma_s - sigma_r), u = (z_s - z_r) / (sigma_s - sigma_r),
    r = s - m, velocities evaluated or forecast. Euler's method moves the latents by z_{i+1} - z_i = v_i (sigma_{i+1} -
    sigma_i), so u is a weighted mean of velocities and no latent is kept; with another sampler this is an
    approximation. Sigma after the last step is 0. The target is the output, a velocity. For v linear in sigma J is half
    the slope, less the Euler error: (m - 1) / 2m of it on even levels. m = 1 is reuse. Degree of exactness: 0.
    Reference: MeanCache, arXiv:2601.19961; the released code caches the velocity after guidance.

    Args:
        span: m, capped by what is remembered; or pairs (step, m), each holding from that step until the next pair's.
            The released sets give m per edge, by the evaluation that begins it, and return to 1 behind it.
        of: steps of the run that the pairs were made for, in a run of other length moved along as `Searched` moves its
            steps; those of the run itself when left out.
    """

    coordinates = (Sigma,)

    span: int | tuple[tuple[int, int], ...] = 2
    of: int | None = None

    def __post_init__(self) -> None:
        pairs = ((0, self.span),) if isinstance(self.span, int) else tuple((step, m) for step, m in self.span)
        if not isinstance(self.span, int):
            object.__setattr__(self, "span", pairs)
        steps = [step for step, _ in pairs]
        if not steps or steps[0] != 0 or any(b <= a for a, b in zip(steps, steps[1:], strict=False)):
            raise ValueError(f"MeanVelocity(span=...) must be pairs whose steps ascend from 0, got {self.span}.")
        if any(m < 1 for _, m in pairs):
            raise ValueError(f"MeanVelocity(span=...) must be at least 1 everywhere, got {self.span}; 1 is reuse.")
        if self.of is not None and self.of < 2:
            raise ValueError(f"MeanVelocity(of=...) must be at least 2, got {self.of}; leave it out for the run's own.")

    def _at(self, step: int, steps: int) -> int:
        """m at a step of a run of so many."""
        if isinstance(self.span, int):
            return self.span
        scale = 1.0 if self.of is None else (steps - 1) / (self.of - 1)
        return [m for first, m in self.span if math.floor(first * scale + 0.5) <= step][-1]

    @property
    def window(self) -> int:
        return self.span if isinstance(self.span, int) else max(m for _, m in self.span)

    @property
    def min_evaluations(self) -> int:
        return min(self.window, 2)  # forecasts from one evaluation repeat it, and their trend is 0

    def weights(self, nodes: Vector, evaluated: NDArray[np.bool_], point: Point) -> Vector:
        span = min(self._at(point.step, point.steps), len(nodes))
        levels = np.append(nodes[-span:], point.tau)  # sigma_r ... sigma_s
        way = levels[-1] - levels[0]
        after = point.taus[point.step + 1] if point.step + 1 < point.steps else 0.0
        trend = np.diff(levels) / way  # u
        trend[0] -= 1.0  # u - v_r
        weights = np.zeros(len(nodes))
        weights[-1] = 1.0
        weights[-span:] += trend / way * (after - point.tau)
        return weights
