"""Which guidance branch a denoiser call belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from diffusers.hooks.hooks import BaseState, StateManager
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

#: Where a tensor lies: its storage, which cannot be taken by another one while the weak reference stands.
_Place = tuple[Any, ...]


class Branch(StateManager):  # type: ignore[misc]
    """Learns the guidance branch from `cache_context`; the name is opaque, and None where a pipeline sets none."""

    def __init__(self) -> None:
        super().__init__(BaseState)
        self.name: str | None = None

    def set_context(self, context: Any) -> None:
        self.name = getattr(context, "name", context)  # a name alone before diffusers 0.41

    def reset(self, *args: Any, **kwargs: Any) -> None:
        self.name = None


@dataclass
class _Known:
    """A branch without a name: what it was called with last, and what of that has stayed in place so far."""

    places: dict[str, _Place]
    stable: set[str] | None = None  # None until its second call
    step: int = -1

    def likeness(self, places: Mapping[str, _Place]) -> int:
        """How many arguments lie where this branch had them; -1 if one that had always stayed has moved."""
        if self.stable is None:
            return sum(places.get(name) == place for name, place in self.places.items())
        if any(places.get(name) != self.places[name] for name in self.stable):
            return -1
        return len(self.stable)

    def take(self, places: dict[str, _Place], step: int) -> None:
        same = {name for name, place in places.items() if self.places.get(name) == place}
        self.stable = same if self.stable is None else self.stable & same
        self.places, self.step = {name: places[name] for name in self.stable}, step


class Branches:
    """Names the calls of a run in which the pipeline does not: "call 1", "call 2", in the order of their first calls.

    Pipelines pass the same embeddings of a prompt at every step, so a call belongs to the branch whose arguments lie
    where its own do. Branches may therefore start and stop half-way, as guidance intervals make them. Where every
    argument is made anew at each step, what counts is the place among the calls of the step.
    """

    def __init__(self) -> None:
        self._known: list[_Known] = []

    def begin(self) -> None:
        """A run begins."""
        self._known = []

    def name(self, step: int, given: Mapping[str, Any]) -> str:
        """The branch of a call at `step` with these arguments, the sample and the time left out."""
        places = dict(_places(given))
        waiting = [(known.likeness(places), -number) for number, known in enumerate(self._known) if known.step != step]
        best = max(waiting, default=(-1, 0))
        # A step without any waiting branch, or whose waiting ones all had other arguments, starts a new one.
        if best[0] < 0:
            self._known.append(_Known(places, step=step))
            return f"call {len(self._known)}"
        number = -best[1]
        self._known[number].take(places, step)
        return f"call {number + 1}"


def _places(given: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, _Place]]:
    """Where every tensor among these arguments lies, by name; weak references only, so nothing is kept alive."""
    for name, value in given.items():
        if isinstance(value, Tensor):
            try:
                storage = StorageWeakRef(value.untyped_storage())
                yield prefix + name, (storage, value.storage_offset(), tuple(value.shape), tuple(value.stride()))
            except (NotImplementedError, RuntimeError):  # wrapper subclasses have no storage of their own
                continue
        elif isinstance(value, list | tuple):
            yield from _places({str(i): item for i, item in enumerate(value)}, f"{prefix}{name}.")
        elif isinstance(value, Mapping):
            yield from _places(value, f"{prefix}{name}.")
