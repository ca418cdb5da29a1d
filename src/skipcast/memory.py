"""What a run keeps between steps: told before it, and counted in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from torch import Tensor

from skipcast.method import Method
from skipcast.targets import StagedSpans

_OF = {
    "Output": "the network's output",
    "OutputDrift": "the network's output",
    "GlobalDrift": "image tokens x width",
    "CarriedDrift": "image tokens x width",
    "LastHidden": "image tokens x width",
    "SpanDrift": "image tokens x width (and text tokens where later blocks need them)",
    "StagedSpans": "all tokens x width, of two spans",
    "ModuleOutputs": "tokens x width, of every module",
}


@dataclass(frozen=True)
class Memory:
    """What a method keeps between steps: `tensors` times one `of` these, per guidance branch."""

    tensors: int
    of: str

    def bytes(self, shape: tuple[int, ...], itemsize: int = 2) -> int:
        """Of tensors of this shape, in bytes; `itemsize` is 2 in half precision."""
        count = self.tensors
        for size in shape:
            count *= size
        return count * itemsize


def memory(method: Method, evaluations: int) -> Memory:
    """What a method remembers in a run of so many evaluations.

    Controllers that compare a probe with the step before keep one more tensor of the probe's size.
    """
    target = method.target
    kept = method.forecaster.held(evaluations) * (2 if isinstance(target, StagedSpans) or target.verifies else 1)
    return Memory(kept + target.carries_input, _OF.get(type(target).__name__, "the target"))


def tensor_bytes(held: Any) -> int:
    """Bytes of the tensors in containers and records."""
    if isinstance(held, Tensor):
        return held.numel() * held.element_size()
    if isinstance(held, Mapping):
        return sum(map(tensor_bytes, held.values()))
    if isinstance(held, list | tuple):
        return sum(map(tensor_bytes, held))
    return sum(map(tensor_bytes, vars(held).values())) if is_dataclass(held) and hasattr(held, "__dict__") else 0
