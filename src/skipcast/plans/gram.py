"""Gram matrices of tensors of which only a few fit in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from skipcast.grid import Vector

_BLOCK = 1 << 23  # float64 numbers that a block holds at most, 64 MiB


class Shelf:
    """Batches of one shape, (M, ...), in the order in which they came; only the newest stay in memory.

    Args:
        in_memory: how many stay in memory; older ones go to a temporary directory. None keeps all.
    """

    def __init__(self, in_memory: int | None = None) -> None:
        self.in_memory = in_memory
        self.shape: tuple[int, ...] = ()
        self.dtype = torch.float64  # the coarsest that came
        self._held: dict[int, Tensor] = {}
        self._count = 0
        self._folder: TemporaryDirectory[str] | None = None

    def __enter__(self) -> Shelf:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> Tensor:
        kept = self._held[place] if place in self._held else load_file(self._path(place))["batch"]
        return kept.view(self.shape)

    def append(self, batch: Tensor) -> int:
        """Keep a copy in its own dtype; returns its place."""
        self.shape = self.shape or tuple(batch.shape)
        if batch.shape != self.shape:
            raise ValueError(f"Shelf.append(batch=...) must be {self.shape} as those before, got {tuple(batch.shape)}.")
        if torch.finfo(batch.dtype).eps > torch.finfo(self.dtype).eps:
            self.dtype = batch.dtype
        place = self._count
        self._held[place] = batch.detach().to("cpu", copy=True).flatten(1).contiguous()
        self._count += 1
        while self.in_memory is not None and len(self._held) > self.in_memory:
            oldest = next(iter(self._held))
            try:
                save_file({"batch": self._held.pop(oldest)}, self._path(oldest))
            except SafetensorError as error:  # such as a full disk
                raise OSError(f"a temporary file of a run cannot be written, {error}; set TMPDIR elsewhere") from error
        return place

    def _path(self, place: int) -> Path:
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="skipcast-")
        return Path(self._folder.name, f"{place:06d}.safetensors")

    def blocks(self, places: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """These batches by slices of their elements: (first element, (M, len(places), slice) float64)."""
        pairs, elements = self.shape[0], math.prod(self.shape[1:])
        numbers = _BLOCK
        if self.in_memory is not None:
            numbers = min(numbers, self.in_memory * pairs * elements)
        width = min(elements, max(1, numbers // (pairs * len(places))))
        with ExitStack() as stack:
            slices = {}
            for place in set(places) - set(self._held):
                file = stack.enter_context(safe_open(self._path(place), framework="pt"))
                slices[place] = file.get_slice("batch")
            for start in range(0, elements, width):
                end = min(elements, start + width)
                block = torch.empty(pairs, len(places), end - start, dtype=torch.float64)
                for row, place in enumerate(places):
                    source = slices[place] if place in slices else self._held[place]
                    block[:, row] = source[:, start:end]
                yield start, block


def grams(shelf: Shelf, places: Sequence[int]) -> NDArray[np.float64]:
    """G[p, a, b] = mean over the elements of a_p b_p, for the batches at these places, (M, K, K) float64."""
    total = torch.zeros(shelf.shape[0], len(places), len(places), dtype=torch.float64)
    for _, block in shelf.blocks(places):
        total += block @ block.mT
    upper = total.triu()  # a product may round its two halves differently; files keep one of them
    return ((upper + upper.triu(1).mT) / math.prod(shelf.shape[1:])).numpy()


def remainder(table: NDArray[np.float64], weights: Vector) -> float:
    """||sum_k weights[k] a_k|| relative to its largest term, of the worst pair; `table` is what `grams` gives.

    Relative to the largest term, because terms that cancel leave their roundings behind.
    """
    squares = np.diagonal(table, axis1=1, axis2=2)
    error = np.sqrt(np.maximum(np.einsum("a,pab,b->p", weights, table, weights), 0.0))
    return float((error / np.sqrt(squares * weights**2).max(axis=1)).max())


def combination(shelf: Shelf, places: Sequence[int], weights: Vector) -> Tensor:
    """The batch sum_k weights[k] a_k over these places, float64."""
    row = torch.tensor(weights, dtype=torch.float64)
    parts = [torch.einsum("k,mke->me", row, block) for _, block in shelf.blocks(places)]
    return torch.cat(parts, dim=1).view(shelf.shape)
