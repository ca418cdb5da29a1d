"""A small method that decides by values, for the tests of what is made for such methods."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from skipcast.controllers import Controller
from skipcast.forecasters import Reuse
from skipcast.methods import names
from skipcast.methods.published import Shared
from skipcast.parts import Method
from skipcast.run import Run


@dataclass(frozen=True)
class Patience(Controller):
    """Waits the longer, the slower the newest two evaluations changed: threshold / (relative change per step)."""

    threshold: float = 0.1
    warmup: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 50:
            raise ValueError(f"Patience(threshold=...) must lie between 0 and 50, got {self.threshold}.")

    def check(self, steps: int) -> None:
        if steps < self.warmup:
            raise ValueError(f"{steps} steps are fewer than the warm-up.")

    def begin(self) -> Any:
        return {"step": 0, "y": None, "until": 0}

    def evaluate(self, run: Run) -> bool:
        return run.step < self.warmup or run.step >= run.state["until"]

    def observed(self, run: Run, x: Tensor, y: Tensor) -> None:
        notes = run.state
        if notes["y"] is not None:
            change = float((y - notes["y"]).norm() / y.norm()) / (run.step - notes["step"])
            notes["until"] = run.step + 1 + math.floor(min(self.threshold / max(change, 1e-9), 1e6))
        notes["step"], notes["y"] = run.step, y


def patience(shared: Shared, threshold: float = 0.1) -> Method:
    return Method(Reuse(), Patience(threshold, shared.warmup))


ENTRY = names.Named(patience, "none", "for tests", Shared(warmup=2), ("patience",), "threshold")
