"""What closing the loop needs of a pipeline: its network, at any samples and told times, for chosen pairs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Protocol

from torch import Tensor

#: Takes the initial samples x_0, yields the samples to evaluate (x_0 itself first) and is sent the outputs.
Program = Callable[[Tensor], Generator[Tensor, Tensor, None]]


class Evaluator(Protocol):
    """The network of a pipeline with the prompts and seeds of a profile.

    A guided network is what the scheduler receives of it: after guidance.
    """

    evaluations: int  # network evaluations so far, one per pair and sample
    coarse: bool  # whether outputs are rounded to half precision

    def groups(self, pairs: Sequence[int]) -> list[list[int]]:
        """The pairs as they can go together into calls."""

    def call(self, pairs: Sequence[int], told: Sequence[float], scale: Sequence[float], program: Program) -> None:
        """Run `program` on the pairs, (len(pairs), *shape) float32, with len(told) evaluations at the told times."""
