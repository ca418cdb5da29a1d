"""A scheduler that notes what it receives."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from skipcast.backends.calls import unpaired
from skipcast.grid import Vector
from skipcast.planning.accumulate import Shelf


@dataclass(frozen=True)
class Places:
    """Where the tensors of one call lie on its shelf."""

    states: tuple[int, ...]  # x_0 .. x_N, or only the first and the last
    outputs: tuple[int, ...]


class Tape:
    """A copy of a scheduler whose `step` notes what it receives; it moves the sample as ever."""

    def __init__(
        self,
        scheduler: Any,
        timesteps: Vector,
        pairs: int,
        shelf: Shelf,
        keep: bool,
        advance: Callable[[int], None],
    ) -> None:
        self.scheduler = copy.deepcopy(scheduler)
        self.timesteps, self.pairs, self.shelf, self.keep, self.advance = timesteps, pairs, shelf, keep, advance
        self.states: list[int] = []
        self.outputs: list[int] = []
        self.last: Tensor | None = None
        self._wrap(self.scheduler.set_timesteps, self.scheduler.step)

    def _wrap(self, begin: Any, step: Any) -> None:
        names = inspect.signature(step)

        # Pipelines look at the signatures of both functions, which functools.wraps keeps.
        @functools.wraps(begin)
        def set_timesteps(*args: Any, **kwargs: Any) -> Any:
            result = begin(*args, **kwargs)
            if not np.array_equal(self.scheduler.timesteps.cpu().double().numpy(), self.timesteps):
                raise ValueError(
                    "the steps of the pipeline's calls differ; record pictures of one size in one profile."
                )
            return result

        @functools.wraps(step)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            given = names.bind(*args, **kwargs).arguments
            self._note(given)
            result = step(*args, **kwargs)
            moved = result[0] if isinstance(result, tuple) else result.prev_sample
            self.last = unpaired(moved, self.pairs)
            self.advance(1)
            return result

        self.scheduler.set_timesteps, self.scheduler.step = set_timesteps, recorded

    def _note(self, given: Mapping[str, Any]) -> None:
        output, sample = (unpaired(given[name], self.pairs) for name in ("model_output", "sample"))
        kind = type(self.scheduler).__name__
        for name in ("eta", "s_churn"):
            if (given.get(name) or 0) > 0:
                raise ValueError(f"the pipeline steps {kind} with {name}={given[name]}, which adds noise; set it to 0.")
        if getattr(self.scheduler, "begin_index", None):
            raise ValueError("the pipeline begins in the middle of the grid (strength < 1); record a run from noise.")
        check_batch(output, sample, self.pairs)
        if not self.states or self.keep:
            self.states.append(self.shelf.append(sample))
        self.outputs.append(self.shelf.append(output))

    def finish(self) -> Places:
        """The places of everything, after the call."""
        if len(self.outputs) != len(self.timesteps) or self.last is None:
            raise ValueError(
                f"the pipeline took {len(self.outputs)} steps where {type(self.scheduler).__name__} has "
                f"{len(self.timesteps)}; a profile needs whole runs."
            )
        return Places((*self.states, self.shelf.append(self.last)), tuple(self.outputs))


def check_batch(output: Tensor, sample: Tensor, pairs: int) -> None:
    """Refuse, with ValueError, a step that is not one output and one sample of the same shape per pair."""
    if output.shape != sample.shape or len(sample) != pairs:
        raise ValueError(
            f"the scheduler receives an output of shape {tuple(output.shape)} and a sample of shape "
            f"{tuple(sample.shape)} for {pairs} pairs; a recording needs one of each per pair, of the same shape."
        )
