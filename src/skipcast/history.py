"""The values that a forecast may use, and the state of a run that a controller may read.

The only place where weights meet tensors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipcast.checks import Checked, guarded
from skipcast.grid import TimeGrid, Vector


@dataclass(frozen=True)
class Point(Checked):
    """Where a run stands when it forecasts: a step, tau of every step of the run, (N,), and the probe shown there."""

    step: int
    taus: Vector
    probe: Tensor | None = None

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
    """A remembered value; `evaluated` is False for the forecasts that a recursive forecaster remembers too.

    `noted` is what the forecaster wanted to know of the probe at that step.
    """

    step: int
    node: float
    value: Tensor
    evaluated: bool = True
    noted: Tensor | None = None


class History:
    """The newest `window` values of one run, oldest first.

    `memo` is free for what a forecaster derives from values once per run, such as a basis; it ends with the run.
    """

    @guarded(window=1)
    def __init__(self, window: int) -> None:
        self.window = window
        self._items: deque[Item] = deque(maxlen=window)
        self.cut = False  # whether a value came with a gradient, which is not remembered
        self.memo: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: int) -> Item:
        """An item by place: 0 is the oldest, -1 the newest."""
        return self._items[place]

    @guarded(step=0)
    def push(
        self, step: int, node: float, value: Tensor, *, evaluated: bool = True, noted: Tensor | None = None
    ) -> None:
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
        noted = None if noted is None else noted.detach().clone()
        self._items.append(Item(step, node, value.detach().clone(), evaluated, noted))

    @guarded()
    def nodes(self, start: int = 0) -> Vector:
        """Coordinates of the remembered values from step `start` on, or of the newest alone: (K,)."""
        kept = [item.node for item in self._items if item.step >= start] or [self._items[-1].node]
        return np.array(kept, dtype=np.float64)

    def evaluated(self) -> NDArray[np.bool_]:
        """Which of the remembered values were evaluated, (K,)."""
        return np.array([item.evaluated for item in self._items], dtype=bool)

    @guarded()
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
        """Memory held by the remembered values, what is noted with them, and tensors in the memo, in bytes."""
        return tensor_bytes([(item.value, item.noted) for item in self._items]) + tensor_bytes(list(self.memo.values()))


@dataclass(frozen=True)
class StepRecord:
    """What happened at one step of a run.

    Args:
        step: its number.
        tau: its coordinate.
        evaluated: whether the network was evaluated.
        forecast_error: relative error of the forecast that the evaluation made unnecessary, a scalar tensor.
    """

    step: int
    tau: float
    evaluated: bool
    forecast_error: Tensor | None = None


@dataclass
class RunState:
    """What a controller may read of a run, and where it keeps its own state.

    Args:
        steps: N, the steps of the run.
        history: the remembered values.
        state: what the controller keeps of this run; its `begin` makes it.
        step: the step that is next.
        probe: what the controller looks at, at this step.
        verified: relative error of the newest forecast, where the target measures it.
        places: sizes of the grid that tokens lie on, such as (height, width), where the network tells them.
        trace: one record for every step that is done.
        taus: the coordinate of every step, (N,).
        imposed: whether this step is evaluated whatever the controller says, as outside a window.
        grid: the sampler's steps.
    """

    steps: int
    history: History
    state: Any = None
    step: int = 0
    probe: Tensor | None = None
    verified: Tensor | None = None
    places: tuple[int, ...] | None = None
    trace: list[StepRecord] = field(default_factory=list)
    taus: Vector = field(default_factory=lambda: np.zeros(0))
    imposed: bool = False
    grid: TimeGrid | None = None

    @property
    def since_evaluation(self) -> int:
        """Steps since the newest evaluation: 1 directly after it.

        Raises:
            IndexError: nothing has been evaluated yet.
        """
        return self.step - [record.step for record in self.trace if record.evaluated][-1]


def tensor_bytes(value: Any) -> int:
    """Bytes of a tensor, or of the tensors in containers and dataclasses."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(tensor_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(tensor_bytes, value))
    return sum(map(tensor_bytes, vars(value).values())) if is_dataclass(value) and hasattr(value, "__dict__") else 0
