"""Which guidance branch a denoiser call belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.hooks.hooks import BaseState, StateManager
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

#: Where a tensor lies: its storage, which cannot be taken by another one while the weak reference stands.
_Place = tuple[Any, ...]


#: What `cache_context` says in this thread or task: another one may be calling the same network for another branch.
_NAME: ContextVar[str | None] = ContextVar("skipcast_branch", default=None)


class Branch(StateManager):  # type: ignore[misc]
    """Learns the guidance branch from `cache_context`; the name is opaque, and None where a pipeline sets none."""

    def __init__(self) -> None:
        super().__init__(BaseState)

    @property
    def name(self) -> str | None:
        return _NAME.get()

    def set_context(self, context: Any) -> None:
        _NAME.set(getattr(context, "name", context))  # a name alone before diffusers 0.41

    def reset(self, *args: Any, **kwargs: Any) -> None:
        _NAME.set(None)


#: Beginnings of the names of arguments that make a branch what it is; others may change from step to step.
_CONDITIONS = ("encoder_hidden_states", "cap_feats", "pooled_projections", "prompt", "class_labels")


@dataclass
class _Known:
    """A branch without a name: what it was called with last, and what of that has stayed the same so far."""

    places: dict[str, _Place]
    contents: dict[str, Tensor]
    stable: set[str] | None = None  # None until its second call
    step: int = -1

    def moved(self, given: Mapping[str, Tensor]) -> set[str]:
        """Arguments that lie elsewhere and hold something else."""
        names = self.places.keys() if self.stable is None else self.stable
        return {name for name in names if not self._is_same(name, given.get(name))}

    def _is_same(self, name: str, value: Tensor | None) -> bool:
        if value is None or value.shape != self.places[name][2]:
            return False
        if _place(value) == self.places[name]:
            return True
        # Only where a condition has moved: this waits for a GPU.
        return name in self.contents and torch.equal(_content(value), self.contents[name])

    def likeness(self, given: Mapping[str, Tensor]) -> int:
        """How many arguments are those of this branch; -1 if one that tells branches apart is another."""
        moved = self.moved(given)
        if self.stable is not None:
            return -1 if moved else len(self.stable)
        if given.keys() != self.places.keys() or any(given[name].shape != self.places[name][2] for name in moved):
            return -1
        return -1 if any(name in self.contents for name in moved) else len(given) - len(moved)

    def take(self, given: Mapping[str, Tensor], step: int) -> None:
        self.stable = set(self.places if self.stable is None else self.stable) - self.moved(given)
        self.places = {name: _place(given[name]) for name in self.stable}
        self.step = step


class Branches:
    """Names the calls of a run in which the pipeline does not: "call 1", "call 2", in the order of their first calls.

    Pipelines pass the same embeddings of a prompt at every step, so a call belongs to the branch whose arguments lie
    where its own do, or, where they were made anew, hold the same. Branches may therefore start and stop half-way, as
    guidance intervals make them. Where nothing of a call stays the same, its place among the calls of the step counts.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A run begins."""
        self._known: list[_Known] = []
        self.by_order = 0  # calls of one step that only their order tells apart

    def name(self, step: int, given: Mapping[str, Any]) -> str:
        """The branch of a call at `step` with these arguments, the sample and the time left out."""
        tensors = dict(_tensors(given))
        waiting = [(known.likeness(tensors), -number) for number, known in enumerate(self._known) if known.step != step]
        best = max(waiting, default=(-1, 0))
        # A step without any waiting branch, or whose waiting ones all had other arguments, starts a new one.
        if best[0] < 0:
            alike = sum(known.step == step and known.likeness(tensors) >= 0 for known in self._known)
            self.by_order = max(self.by_order, alike + 1 if alike else 0)
            places = {name: _place(value) for name, value in tensors.items()}
            contents = {name: _content(value) for name, value in tensors.items() if name.startswith(_CONDITIONS)}
            self._known.append(_Known(places, contents, step=step))
            return f"call {len(self._known)}"
        number = -best[1]
        self._known[number].take(tensors, step)
        return f"call {number + 1}"


def _place(value: Tensor) -> _Place:
    """Where a tensor lies; weak references only, so nothing is kept alive."""
    try:
        storage = StorageWeakRef(value.untyped_storage())
    except (NotImplementedError, RuntimeError):  # wrapper subclasses have no storage of their own
        return (object(), 0, value.shape, ())  # so contents are compared
    return (storage, value.storage_offset(), value.shape, tuple(value.stride()))


def _content(value: Tensor) -> Tensor:
    """Two numbers that differ where the values do, still on their device."""
    flat = value.detach().reshape(-1).float()
    return torch.stack([flat.sum(), flat @ torch.linspace(1, 2, len(flat), device=flat.device)])


def _tensors(given: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor among these arguments, by name."""
    for name, value in given.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, list | tuple):
            yield from _tensors({str(i): item for i, item in enumerate(value)}, f"{prefix}{name}.")
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{name}.")
