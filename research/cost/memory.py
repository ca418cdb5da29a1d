"""What a run holds on to between its steps, to the byte."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Held(TorchDispatchMode):
    """Counts the bytes of every storage that came up inside and is still alive.

    A storage is noted when an operation first touches it and is forgotten when its last owner lets go of it, whoever
    that is: no method reports what it keeps. Storages that existed before are left out. A view costs nothing, and two
    tensors on one storage are counted once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._noted: dict[int, tuple[StorageWeakRef, int]] = {}
        # The weak references also keep the addresses of these storages from being given to others.
        known = (StorageWeakRef(tensor.untyped_storage()) for tensor in _tensors())
        self._before = {reference.cdata: reference for reference in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        output = func(*args, **given)
        for value in tree_leaves((args, given, output)):
            if isinstance(value, Tensor):
                self._note(value)
        return output

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place = storage._cdata
        if place not in self._before and place not in self._noted:
            self._noted[place] = StorageWeakRef(storage), storage.nbytes()

    def bytes(self) -> int:
        """Alive now."""
        self._noted = {place: noted for place, noted in self._noted.items() if not noted[0].expired()}
        return sum(size for _, size in self._noted.values())


def _tensors() -> Iterator[Tensor]:
    """Every tensor that Python knows of."""
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor):  # isinstance would wake lazily imported modules
            try:
                thing.untyped_storage()
            except (NotImplementedError, RuntimeError):  # without a storage, as in tracing
                continue
            yield thing


def allocated(device: str) -> int:
    """Peak bytes of the CUDA allocator since `clear`."""
    return torch.cuda.max_memory_allocated(device)


def clear(device: str) -> None:
    """Give back what is unused and begin a new peak."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
