"""The one value in what a denoiser takes or returns, and the form around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor


def value_of(given: Any) -> Tensor:
    """A sample as one tensor; a list of equally large ones is stacked.

    Raises:
        ValueError: neither a tensor nor such a list.
    """
    if isinstance(given, Tensor):
        return given
    if isinstance(given, list | tuple) and given and all(isinstance(item, Tensor) for item in given):
        if len({item.shape for item in given}) != 1:
            raise ValueError("samples of different sizes in one call cannot be forecast; call the pipeline for each.")
        return torch.stack(list(given))
    raise ValueError(f"the denoiser was given or returned {type(given).__name__}; only tensors can be forecast.")


class Form:
    """How a denoiser's output holds its value, learnt from an evaluated one.

    Besides the value an output may hold masks or counts, which are handed out again as they were.
    """

    def __init__(self, output: Any) -> None:
        self._bare = isinstance(output, Tensor)
        self._class: Callable[..., Any] = Transformer2DModelOutput  # for one that has answered in tuples so far
        self._names = ["sample"]
        if isinstance(output, Mapping):
            self._class, self._names = type(output), list(output)
        first, *self._others = _parts(output)
        self._listed = not isinstance(first, Tensor)
        further = [other for other in self._others if isinstance(other, Tensor) and other.is_floating_point()]
        if further:
            raise ValueError(
                f"the denoiser returned {1 + len(further)} values; only a single output can be forecast. Run the "
                "pipeline without a method."
            )

    def filled(self, value: Tensor, *, return_dict: bool) -> Any:
        """An output around another value, in the form that the call asks for."""
        first = list(value.unbind(0)) if self._listed else value
        if self._bare:
            return first
        values = (first, *self._others)
        return self._class(**dict(zip(self._names, values, strict=False))) if return_dict else values


def output_of(output: Any) -> Tensor:
    """The value in a denoiser's output."""
    return value_of(_parts(output)[0])


def _parts(output: Any) -> tuple[Any, ...]:
    if isinstance(output, Mapping):
        return tuple(output.values())
    return output if isinstance(output, tuple) else (output,)
