"""One recorded pipeline call: its Gram matrices, what its errors cost in the picture, its states."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipcast.backends.calls import undecoded
from skipcast.backends.converged import AdamsBashforth, FinePath, fine_path
from skipcast.backends.gain import decoded_gain
from skipcast.backends.partial import Part
from skipcast.backends.scripted import scripted, swapped
from skipcast.backends.tape import Places, Tape, check_batch
from skipcast.grid import Vector
from skipcast.planning.accumulate import Shelf, grams
from skipcast.planning.origin import Reference
from skipcast.planning.propagation import Matrix, input_scale, propagation


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
            if place + 1 == len(path.told):
                states.append(shelf.append(exact))
            advance(1)
            return exact

        made = scripted(self.pipe.scheduler, path.told.tolist(), move, path.scale.tolist(), len(arguments["generator"]))
        with swapped(self.pipe, made):
            self.pipe(**undecoded(self.pipe), **arguments)
        if len(states) != self.steps + 1:
            raise ValueError(
                f"{type(self.pipe).__name__} took {len(states) - 1} of {self.steps} steps; a profile needs whole runs."
            )
        return Places(tuple(states), tuple(outputs))

    def _compare(self, table: Matrix, dtype: torch.dtype) -> None:
        """Refuse a recording whose last state is not what the coefficients say; the last row of the table is its."""
        weights = np.append(self.propagation[-1], -1.0)
        squares = np.diagonal(table, axis1=1, axis2=2)
        error = np.sqrt(np.maximum(np.einsum("a,pab,b->p", weights, table, weights), 0.0))
        # Relative to the largest term: terms that cancel leave their roundings behind.
        size = np.sqrt(squares * weights**2).max(axis=1)
        unit = torch.finfo(dtype).eps
        allowed = 1e-4 if unit < 1e-6 else max(1e-2, unit * math.sqrt(self.steps))
        worst = float((error / size).max())
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
