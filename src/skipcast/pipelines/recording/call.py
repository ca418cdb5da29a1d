"""One recorded pipeline call: what its scheduler saw, the grams of it, and how errors come through the decoder."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipcast.grid import Vector
from skipcast.pipelines.calls import undecoded, unpaired
from skipcast.pipelines.recording.fine import AdamsBashforth, FinePath, fine_path
from skipcast.pipelines.recording.replay import decoded, scripted, swapped
from skipcast.pipelines.steps import Override
from skipcast.plans.gram import Shelf, combination, grams, remainder
from skipcast.plans.plan import Reference
from skipcast.plans.propagation import Matrix, input_scale, propagation

Part = dict[str, Tensor]  # what one call of a recording adds to the profile


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
                raise ValueError("the steps of the pipeline's calls differ; record images of one size in one profile.")
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

        # A pipeline that samples something else beside, such as sound, does so with a copy of the scheduler.
        for name, function in (("set_timesteps", set_timesteps), ("step", recorded)):
            setattr(self.scheduler, name, Override(self.scheduler, name, function))

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


# How much an error of the final sample counts in the decoded image.

#: Norm of the error that is decoded, relative to the sample: small enough to be linear, large against rounding.
_SIZE = 0.02


def decoded_gain(
    pipe: Any, shelf: Shelf, basis: Sequence[int], delta: Vector, timestep: float, arguments: dict[str, Any]
) -> Tensor:
    """Squared error of the image in [0, 1] over that of the sample, for an error in the direction of `delta`, (M,).

    The last of the basis is the final sample, delta are weights on the basis. Where a pipeline returns no float
    images in [0, 1], the gain is 1 and a PSNR is that of the sample itself.
    """
    final = shelf[basis[-1]]
    exact = final.double()
    error = combination(shelf, basis, delta)
    pairs = (slice(None), *([None] * (exact.ndim - 1)))
    norms = [value.flatten(1).norm(dim=1) for value in (exact, error)]
    # A run of five steps or fewer may hold nothing over; its noise is then a direction as good as any.
    void = norms[1] <= 1e-6 * norms[0]
    if void.any():
        noise = shelf[basis[0]].double()
        error = torch.where(void[pairs], noise, error)
        norms[1] = error.flatten(1).norm(dim=1)
    moved = (exact + error * (_SIZE * norms[0] / norms[1])[pairs]).to(final.dtype)
    clean, other = (decoded(pipe, sample, timestep, arguments) for sample in (final, moved))
    ones = torch.ones(len(final), dtype=torch.float64)
    if clean is None or other is None:
        return ones
    above = (other - clean).square().flatten(1).mean(dim=1)
    below = (moved.double() - exact).square().flatten(1).mean(dim=1)
    gain = above / below
    return torch.where(gain.isfinite() & (gain > 0), gain, ones)


# One recorded pipeline call: its Gram matrices, what its errors cost in the image, its states.


class Recorder:
    """One pipeline call after the other, recorded."""

    def __init__(
        self, pipe: Any, prepared: Any, reference: Reference, keep: bool, in_memory: int | None, substeps: int
    ) -> None:
        self.pipe, self.reference, self.keep, self.in_memory = pipe, reference, keep, in_memory
        self.propagation = propagation(prepared)
        self.scale = input_scale(prepared)
        self.timesteps: Vector = prepared.timesteps.cpu().double().numpy()
        self.steps = len(self.timesteps)
        self.path: FinePath | None = fine_path(prepared, substeps) if reference == "converged" else None
        self.evaluations = self.steps * (1 if self.path is None else substeps)

    @property
    def states(self) -> Matrix:
        """The states of the reference in the basis of the profile."""
        if self.path is None:
            return self.propagation
        n = self.steps
        return np.eye(2 * n + 1)[[0, *range(n + 1, 2 * n + 1)]]

    def __call__(self, arguments: dict[str, Any], advance: Callable[[int], None]) -> Part:
        """Record one call: grams, gain, and the trajectory if wanted."""
        with Shelf(self.in_memory) as shelf:
            places = (self._default if self.path is None else self._converged)(arguments, shelf, advance)
            first, last = places.states[0], places.states[-1]
            if self.path is None:
                # The last state goes along, so that the same matrix says whether the coefficients explain it.
                basis = (first, *places.outputs, last)
                table = grams(shelf, basis)
                self._compare(table, shelf.dtype)
                table = table[:, :-1, :-1]
            else:
                basis = (first, *places.outputs, *places.states[1:])
                table = grams(shelf, basis)
            part = {
                "grams": torch.from_numpy(np.ascontiguousarray(table)),
                "gain": decoded_gain(self.pipe, shelf, basis, self._delta(len(basis)), self.timesteps[-1], arguments),
                "shape": torch.tensor(shelf.shape[1:]),
            }
            if self.keep:
                part["trajectory"] = torch.stack([shelf[place].float() for place in places.states], dim=1)
        return part

    def _default(self, arguments: dict[str, Any], shelf: Shelf, advance: Callable[[int], None]) -> Places:
        tape = Tape(self.pipe.scheduler, self.timesteps, len(arguments["generator"]), shelf, self.keep, advance)
        with swapped(self.pipe, tape.scheduler):
            self.pipe(**undecoded(self.pipe), **arguments)
        return tape.finish()

    def _converged(self, arguments: dict[str, Any], shelf: Shelf, advance: Callable[[int], None]) -> Places:
        path = self.path
        assert path is not None
        rule, states, outputs = AdamsBashforth(path), list[int](), list[int]()
        exact: Tensor | None = None

        def move(place: int, output: Tensor, sample: Tensor) -> Tensor:
            # Carried on in float32: rounding every small step to the pipeline's dtype would add up.
            nonlocal exact
            check_batch(output, sample, len(arguments["generator"]))
            exact = sample if place == 0 or exact is None else exact
            if place % path.substeps == 0:
                states.append(shelf.append(exact))
                outputs.append(shelf.append(output))
            exact = rule.move(place, output, exact)
            if place + 1 == len(path.timesteps):
                states.append(shelf.append(exact))
            advance(1)
            return exact

        made = scripted(
            self.pipe.scheduler, path.timesteps.tolist(), move, path.scale.tolist(), len(arguments["generator"])
        )
        with swapped(self.pipe, made):
            self.pipe(**undecoded(self.pipe), **arguments)
        if len(states) != self.steps + 1:
            raise ValueError(
                f"{type(self.pipe).__name__} took {len(states) - 1} of {self.steps} steps; a profile needs whole runs."
            )
        return Places(tuple(states), tuple(outputs))

    def _compare(self, table: Matrix, dtype: torch.dtype) -> None:
        """Refuse a recording whose last state is not what the coefficients say; the last row of the table is its."""
        unit = torch.finfo(dtype).eps
        allowed = 1e-4 if unit < 1e-6 else max(1e-2, unit * math.sqrt(self.steps))
        worst = remainder(table, np.append(self.propagation[-1], -1.0))
        if not worst <= allowed:
            raise ValueError(
                f"the final sample of {type(self.pipe).__name__} is off by {worst:.1e} (relative) from what "
                f"{type(self.pipe.scheduler).__name__} makes of the recorded outputs (allowed: {allowed:.0e}); "
                "something else changes the sample between the steps, such as a mask or a callback: leave it out."
            )

    def _delta(self, length: int) -> Vector:
        """Weights of the difference between the result with every fifth output held and the result, (length,)."""
        crude = np.zeros(length)
        crude[0] = self.propagation[-1, 0]
        for i in range(self.steps):
            crude[1 + 5 * (i // 5)] += self.propagation[-1, 1 + i]
        crude[-1] -= 1  # the last of the basis is the final state
        return crude
