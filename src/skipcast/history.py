"""The values that a forecast may use; the only place where weights meet tensors."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipcast.grid import Vector


@dataclass(frozen=True)
class Point:
    """Where a run stands when it forecasts: a step, and tau of every step of the run, (N,)."""

    step: int
    taus: Vector

    @property
    def tau(self) -> float:
        """The coordinate of this step."""
        return float(self.taus[self.step])

    @property
    def steps(self) -> int:
        """N, the steps of the whole run."""
        return len(self.taus)


@dataclass(frozen=True)
class Item:
    """A remembered value; `evaluated` is False for the forecasts that a recursive forecaster remembers too."""

    step: int
    node: float
    value: Tensor
    evaluated: bool = True


class History:
    """The newest `window` values of one run, oldest first.

    `memo` is free for what a forecaster derives from values once per run, such as a basis; it ends with the run.
    """

    def __init__(self, window: int) -> None:
        self._items: deque[Item] = deque(maxlen=window)
        self.memo: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: int) -> Item:
        """An item by place: 0 is the oldest, -1 the newest."""
        return self._items[place]

    def push(self, step: int, node: float, value: Tensor, *, evaluated: bool = True) -> None:
        """Remember a value, forgetting the oldest when the window is full.

        Raises:
            ValueError: the shape changed within the run.
        """
        if self._items and self._items[-1].value.shape != value.shape:
            raise ValueError(
                f"the value at step {step} has shape {tuple(value.shape)}, earlier ones of this run "
                f"{tuple(self._items[-1].value.shape)}; batch and resolution must not change within a run."
            )
        # A copy: the caller, or a static output buffer, may overwrite what it handed in.
        self._items.append(Item(step, node, value.detach().clone(), evaluated))

    def nodes(self, since: int = 0) -> Vector:
        """Coordinates of the remembered values from step `since` on, or of the newest alone: (K,)."""
        kept = [item.node for item in self._items if item.step >= since] or [self._items[-1].node]
        return np.array(kept, dtype=np.float64)

    def evaluated(self) -> NDArray[np.bool_]:
        """Which of the remembered values were evaluated, (K,)."""
        return np.array([item.evaluated for item in self._items], dtype=bool)

    def combine(self, weights: Vector) -> Tensor:
        """sum_k w_k y_k over the newest len(weights) values, summed in float32 (float64 for float64 values)."""
        values = [item.value for item in self._items][-len(weights) :]
        dtype = torch.promote_types(values[-1].dtype, torch.float32)
        total: Tensor | None = None
        for weight, value in zip(weights.tolist(), values, strict=True):
            if weight == 0.0:
                continue
            term = value.to(dtype)
            total = term * weight if total is None else total.add_(term, alpha=weight)
        return torch.zeros_like(values[-1]) if total is None else total.to(values[-1].dtype)

    def bytes(self) -> int:
        """Memory held by the remembered values and by tensors in the memo, in bytes."""
        held = [item.value for item in self._items] + [v for v in self.memo.values() if isinstance(v, Tensor)]
        return sum(value.numel() * value.element_size() for value in held)
