"""The steps of a run that a compiler must leave alone: they are Python decisions on numbers, not tensor code."""

from __future__ import annotations

import torch
from torch import Tensor

from skipcast.run import Run


@torch.compiler.disable  # type: ignore[untyped-decorator]
def wants_evaluation(run: Run, probe: Tensor | None = None) -> bool:
    """`Run.wants_evaluation`, never traced."""
    return run.wants_evaluation(None if probe is None else probe.detach())


@torch.compiler.disable  # type: ignore[untyped-decorator]
def observe(run: Run, x: Tensor, y: Tensor) -> Tensor:
    """`Run.observe`, never traced; returns y itself, or what a corrector made of it."""
    return run.observe(x, y)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def forecast(run: Run, x: Tensor) -> Tensor:
    """`Run.forecast`, never traced."""
    return run.forecast(x)
