"""Counting the steps of a scheduler."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor

#: Names of the argument of a denoiser that is its timestep.
TIMES = ("timestep", "timesteps", "t")
#: Times that differ by less, relative to the largest of the grid, are one: pipelines round them to the model's dtype.
_SAME = 4e-3


class Clock:
    """Counts the steps of a run from its first one, by watching the scheduler.

    Most schedulers know their place (`step_index`). Those of DDIM's age do not, so the place is that of the timestep
    that the denoiser and `step` are given, which pipelines take from the scheduler's own table: they may step several
    views one after the other. Where a timestep was computed anew, the calls of `step` are counted. A pipeline that
    begins late either says so (`set_begin_index`) or leaves out the first timesteps; then the first timestep of the
    denoiser gives the place.
    """

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.indexed = hasattr(scheduler, "step_index") and hasattr(scheduler, "begin_index")
        self.running = False
        self.taken = 0
        self._begin: int | None = None
        self._table: Any = None

    def begin(self) -> None:
        """Start counting a new run; called after the scheduler's `set_timesteps`."""
        self.running, self.taken, self._begin = True, 0, None
        self._table = self.scheduler.timesteps  # as the pipeline has it, whatever becomes of the scheduler's own

    def first(self, timestep: Any) -> int:
        """Return the index in the scheduler's timesteps of the first step of this run."""
        if self._begin is None:
            set_by_pipeline = getattr(self.scheduler, "begin_index", None)
            self._begin = self._found(timestep) if set_by_pipeline is None else int(set_by_pipeline)
        return self._begin

    def step(self, timestep: Any) -> int:
        """Return the number of the next step, which is 0 at the beginning of the run."""
        begin = self.first(timestep)
        if self.indexed:
            index = self.scheduler.step_index
            return 0 if index is None else int(index) - begin
        place = self._place(timestep)
        return self.taken if place is None else place - begin

    def _place(self, timestep: Any) -> int | None:
        """The place of a timestep that is an element of the scheduler's table; None for any other. Nothing is read."""
        grid = self._table
        if not isinstance(timestep, Tensor) or not isinstance(grid, Tensor) or timestep.dtype != grid.dtype:
            return None
        if timestep.device != grid.device or timestep.numel() == 0:
            return None
        one = timestep.numel() == 1 or not any(timestep.stride())  # the same element for every image of the batch
        if not one or timestep.untyped_storage().data_ptr() != grid.untyped_storage().data_ptr():
            return None
        place, rest = divmod(int(timestep.storage_offset()) - int(grid.storage_offset()), grid.stride(0))
        return place if not rest and 0 <= place < len(grid) else None

    def _found(self, timestep: Any) -> int:
        """Return the index of a timestep in the grid, or 0 if it is not found there.

        Networks receive t, t / T or 1 - t / T. If several of these readings match, the smallest index is taken.
        """
        if timestep is None:
            return 0
        value = float(torch.as_tensor(timestep).flatten()[0])
        grid: Tensor = torch.as_tensor(self.scheduler.timesteps).double().cpu().flatten()
        share = grid / self.scheduler.config.get("num_train_timesteps", 1000)
        places = []
        for reading in (grid, share, 1 - share):
            distance = (reading - value).abs()
            if float(distance.min()) <= _SAME * float(reading.abs().max()):
                places.append(int(distance.argmin()))
        return min(places, default=0)

    @contextmanager
    def counting(
        self, ended: Callable[[Any], None], check: Callable[[], None] = lambda: None, *, noise: bool = False
    ) -> Iterator[None]:
        """Count the scheduler's steps within the context; call `check` before each.

        `ended` is called after the last one, with the final sample. A step that adds `noise` is refused unless allowed.
        """
        original = self.scheduler.step

        # Pipelines look at the signature of step, which functools.wraps keeps.
        @functools.wraps(original)
        def step(*args: Any, **kwargs: Any) -> Any:
            check()
            if kwargs.get("eta") and not noise:
                raise ValueError(
                    f"eta={kwargs['eta']} adds noise at every step, which no forecast can know; call with eta=0.0."
                )
            given = kwargs["timestep"] if "timestep" in kwargs else args[1] if len(args) > 1 else None
            place = None if self.indexed else self._place(given)
            result = original(*args, **kwargs)
            self.taken = self.taken + 1 if place is None else place + 1 - (self._begin or 0)
            index = self.scheduler.step_index if self.indexed else (self._begin or 0) + self.taken
            if index is not None and index >= len(self.scheduler.timesteps):
                ended(result[0])
            return result

        with overridden(self.scheduler, "step", step):
            yield


def reference_to(owner: Any) -> Callable[[], Any]:
    """What gives an object as long as somebody else holds it; objects of some kinds are held."""
    try:
        return weakref.ref(owner)
    except TypeError:
        return lambda: owner


class Override:
    """A function that replaces a method of one object; copies of the object get the original method again."""

    def __init__(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.owner, self._name, self._function = owner, name, function
        self.had, self.before = name in vars(owner), getattr(owner, name)
        self.over = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made = memo.get(id(self.owner))
        return self if made is None else MethodType(getattr(type(made), self._name), made)

    def end(self) -> None:
        """Give the object its method back; where another function came on top meanwhile, let it call that method."""
        self.over, self._function = True, self.before
        if vars(self.owner).get(self._name) is self:
            found = self
            while isinstance(found.before, Override) and found.before.over:  # ended before this one
                found = found.before
            if found.had:
                setattr(self.owner, self._name, found.before)
            else:
                delattr(self.owner, self._name)


def state_of(owner: Any) -> dict[str, Any]:
    """What copies and pickles of an object with replaced methods are made of: its attributes without them."""
    found = {name: value for name, value in vars(owner).items() if name != "__getstate__"}
    for name, value in list(found.items()):
        while isinstance(value, Override) and value.had:
            found[name] = value = value.before
        if isinstance(value, Override):
            del found[name]
    return found


@contextmanager
def overridden(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Replace a method of one object within the context, and restore it on exit."""
    override = Override(owner, name, function)
    setattr(owner, name, override)
    try:
        yield
    finally:
        override.end()
