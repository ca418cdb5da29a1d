"""The steps of a run that a compiler must leave alone: they are Python decisions on numbers, not tensor code."""

from __future__ import annotations

import torch
from torch import Tensor

from driftcast.run import Run


@torch.compiler.disable  # type: ignore[untyped-decorator]
def wants_evaluation(run: Run) -> bool:
    """`Run.wants_evaluation`, never traced."""
    return run.wants_evaluation()


@torch.compiler.disable  # type: ignore[untyped-decorator]
def observe(run: Run, x: Tensor, y: Tensor) -> None:
    """`Run.observe`, never traced."""
    run.observe(x, y)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def forecast(run: Run, x: Tensor) -> Tensor:
    """`Run.forecast`, never traced."""
    return run.forecast(x)
