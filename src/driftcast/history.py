"""The evaluations that a forecast may use; the only place where weights meet tensors."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from torch import Tensor

from driftcast.grid import Vector


class History:
    """The newest `window` evaluations of one run: step, node and value, oldest first."""

    def __init__(self, window: int) -> None:
        self._items: deque[tuple[int, float, Tensor]] = deque(maxlen=window)

    def __len__(self) -> int:
        return len(self._items)

    def push(self, step: int, node: float, value: Tensor) -> None:
        """Remember an evaluated value, forgetting the oldest when the window is full.

        Raises:
            ValueError: the shape changed within the run.
        """
        if self._items and self._items[-1][2].shape != value.shape:
            raise ValueError(
                f"the value at step {step} has shape {tuple(value.shape)}, earlier ones of this run "
                f"{tuple(self._items[-1][2].shape)}; batch and resolution must not change within a run."
            )
        # A copy: the caller, or a static output buffer, may overwrite what it handed in.
        self._items.append((step, node, value.detach().clone()))

    def nodes(self, since: int = 0) -> Vector:
        """Coordinates of the remembered evaluations from step `since` on, or of the newest alone: (K,)."""
        kept = [node for step, node, _ in self._items if step >= since] or [self._items[-1][1]]
        return np.array(kept, dtype=np.float64)

    def combine(self, weights: Vector) -> Tensor:
        """sum_k w_k y_k over the newest len(weights) values, summed in float32 (float64 for float64 values)."""
        values = [value for _, _, value in self._items][-len(weights) :]
        dtype = torch.promote_types(values[-1].dtype, torch.float32)
        total: Tensor | None = None
        for weight, value in zip(weights.tolist(), values, strict=True):
            if weight == 0.0:
                continue
            term = value.to(dtype)
            total = term * weight if total is None else total.add_(term, alpha=weight)
        return torch.zeros_like(values[-1]) if total is None else total.to(values[-1].dtype)

    def bytes(self) -> int:
        """Memory held by the remembered values, in bytes."""
        return sum(value.numel() * value.element_size() for _, _, value in self._items)
