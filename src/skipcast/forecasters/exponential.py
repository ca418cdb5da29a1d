"""HiCache++: a sum of exponentials fitted to the run's own evaluations, by dynamic mode decomposition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipcast.coordinates import StepIndex
from skipcast.forecasters.base import Forecaster
from skipcast.forecasters.spectral import HiCache
from skipcast.grid import Vector
from skipcast.history import History, Point

#: Fewer evaluations do not determine even one oscillation: its pair of poles takes three pairs of neighbours.
_FEWEST = 4
#: Singular values below this share of the largest one are noise.
_CUT = 1e-4


@dataclass(frozen=True)
class DMD(Forecaster):
    """Sums of exponentials, damped or oscillating, whose poles are those of the linear map from value to value.

    The newest evaluations at one spacing h, at least four, are the columns of V. With X all but its last column, Y all
    but its first, and X = U S W^T cut at S > 1e-4 S_0: A = U^T Y W / (S + ridge), A = Q L Q^-1, modes
    P = Y W / (S + ridge) Q, amplitudes b = P^+ v_newest, and k steps behind the newest evaluation
    F = Re P L^(k / h) b. That is Prony's method with a singular value decomposition in front, exact on sums of fewer
    real exponentials than values (a decaying oscillation counts for two). Before four evaluations lie at one spacing it
    is `HiCache` of order `order`; where the result is not finite it is reuse. Degree of exactness: 0.

    Weights follow from the values, so no tableau exists. Values are (B, ...): each item is fitted by itself, once per
    evaluation, in float64; the released code folds the batch into one. Reference: HiCache++,
    https://github.com/Archerkattri/hicache-plus-plus, checked against commit 031a440, `hicache_pp/dmd.py`, functions
    `dmd_fit` and `dmd_forecast_state`; its author forecasts the velocity after guidance, here each branch by itself.
    Its third backend, which chooses between the two rules by a held-out value, is not here.

    Args:
        history: most evaluations in the fit: 6 in the author's example and in cache-dit, 5 in the code's signature.
        order: of HiCache before the fit is possible.
        scale: of HiCache before the fit is possible.
        ridge: added to the singular values that are divided by.
    """

    coordinates = (StepIndex,)
    min_evaluations = 2

    history: int = 6
    order: int = 1
    scale: float = 0.5
    ridge: float = 1e-8

    def __post_init__(self) -> None:
        if self.history < _FEWEST:
            raise ValueError(
                f"DMD(history=...) must be at least {_FEWEST}, got {self.history}; fewer evaluations do not determine "
                "a fit. The author takes 6."
            )
        if not 1 <= self.order < self.history:
            raise ValueError(
                f"DMD(order=...) must be 1 to history - 1 = {self.history - 1}, got {self.order}; it is the order of "
                "HiCache until the fit is possible."
            )
        if not self.ridge >= 0:
            raise ValueError(f"DMD(ridge=...) must be >= 0, got {self.ridge}; the author takes 1e-8.")
        HiCache(self.order, self.scale)  # refuses its scale

    @property
    def window(self) -> int:
        return self.history

    def forecast(self, history: History, point: Point) -> Tensor:
        newest = history[-1].value
        places = _evenly_spaced(history)
        if len(places) < _FEWEST:
            early = HiCache(self.order, self.scale)
            return history.combine(early.weights(history.nodes()[-early.window :], point.tau))
        spacing = history[-1].step - history[-2].step
        weights = [fit.weights((point.step - history[-1].step) / spacing) for fit in self._fits(history, places)]
        dtype = torch.promote_types(newest.dtype, torch.float32)
        each = torch.as_tensor(np.array(weights), dtype=dtype, device=newest.device)  # (B, K)
        total = torch.zeros_like(newest, dtype=dtype)
        for column, place in zip(each.unbind(1), places, strict=True):
            total += column.reshape(-1, *[1] * (newest.ndim - 1)) * history[place].value.to(dtype)
        found: Tensor = total.to(newest.dtype)
        finite = found.isfinite().reshape(len(found), -1).all(1).reshape(-1, *[1] * (newest.ndim - 1))
        return torch.where(finite, found, newest)

    def _fits(self, history: History, places: list[int]) -> list[_Modes]:
        """The fit of each item, made once per evaluation."""
        key, kept = (history[-1].step, len(places)), history.memo.get(repr(self))
        if kept is None or kept[0] != key:
            values = [history[place].value for place in places]
            columns = [value.reshape(len(value), -1).double() for value in values]
            # V = Q R: all that the fit needs of V is R, (K, K), so that large values are read once.
            factors = torch.linalg.qr(torch.stack(columns, dim=-1), mode="r").R.cpu().numpy()
            kept = history.memo[repr(self)] = (key, [_modes(factor, self.ridge) for factor in factors])
        fits: list[_Modes] = kept[1]
        return fits


@dataclass(frozen=True)
class _Modes:
    """A fit: the map from the poles' powers to weights on Y, the poles, and their amplitudes."""

    mixing: NDArray[np.complex128]
    poles: NDArray[np.complex128]
    amplitudes: NDArray[np.complex128]

    def weights(self, gaps: float) -> Vector:
        """Weights on the columns of V, oldest first, `gaps` spacings behind the newest: (K,)."""
        with np.errstate(all="ignore"):
            moved = (self.mixing @ (self.poles**gaps * self.amplitudes)).real
        return np.append(0.0, moved)  # the oldest value is in no column of Y


def _modes(factor: NDArray[Any], ridge: float) -> _Modes:
    """The fit from R of V = Q R, in which V is R itself."""
    if not np.isfinite(factor).all():
        return _unfit(factor.shape[1])
    x, y = factor[:, :-1], factor[:, 1:]
    left, singular, right = np.linalg.svd(x, full_matrices=False)
    rank = max(1, int((singular > _CUT * singular[0]).sum()))
    if singular[rank - 1] + ridge == 0:
        return _unfit(factor.shape[1])
    onto = right[:rank].T / (singular[:rank] + ridge)
    poles, vectors = np.linalg.eig((left[:, :rank].T @ y @ onto).astype(np.complex128))
    mixing = onto @ vectors
    amplitudes = np.linalg.lstsq(y @ mixing, factor[:, -1].astype(np.complex128), rcond=None)[0]
    return _Modes(mixing, poles, amplitudes)


def _unfit(count: int) -> _Modes:
    """A fit whose weights are no numbers, so that the forecast is reuse."""
    nothing = np.full(1, np.nan, dtype=np.complex128)
    return _Modes(np.full((count - 1, 1), np.nan, dtype=np.complex128), nothing, nothing)


def _evenly_spaced(history: History) -> list[int]:
    """Places of the newest evaluations that lie at one spacing, oldest first; of a single one, none."""
    steps = [history[place].step for place in range(len(history))]
    if len(steps) < 2:
        return []
    first = len(steps) - 2
    while first > 0 and steps[first] - steps[first - 1] == steps[-1] - steps[-2]:
        first -= 1
    return list(range(first, len(steps)))
