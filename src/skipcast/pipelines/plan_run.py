"""One trajectory of a plan: what it does, the outputs that are still needed, and the next sample made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from skipcast.grid import Vector
from skipcast.methods.compiled import rows_between
from skipcast.plans.plan import Plan, last_uses
from skipcast.plans.propagation import input_scale
from skipcast.run import NO_GRADIENT

if TYPE_CHECKING:
    from skipcast.pipelines.trust import Trust


@dataclass(frozen=True, eq=False)
class Course:
    """What one run of a plan does, from a step of the grid to another.

    Args:
        steps: the evaluated steps of the grid.
        end: the step at whose noise level the run ends; N for a clean sample.
        rows: one for each, as those of a plan.
        timesteps: what the network is told at each.
        scale: factors of the network's input at each.
        places: which evaluation of the plan each is; None for one that the plan does not make.
        forecasts: row n forecasts y_n from y_0 .. y_{n-1}; an empty one where an output it needs was not made.
    """

    steps: tuple[int, ...]
    end: int
    rows: tuple[Vector, ...]
    timesteps: Vector
    scale: Vector
    places: tuple[int | None, ...]
    forecasts: tuple[Vector, ...]

    def __len__(self) -> int:
        return len(self.steps)

    @classmethod
    def whole(cls, plan: Plan) -> Course:
        """All of a plan."""
        forecasts = plan.forecasts or tuple(row[1:1] for row in plan.rows)
        places = tuple(range(len(plan)))
        return cls(plan.steps, plan.origin.steps, plan.rows, plan.evaluation_timesteps, plan.scale, places, forecasts)

    @classmethod
    def part(cls, plan: Plan, scheduler: Any, begin: int, end: int) -> Course:
        """The part of a plan that begins and ends at the noise levels of these steps of the grid.

        A run that begins late has none of the outputs that the plan's rows weigh, and a sample that shows none of the
        errors they correct: it is evaluated where it begins, and its rows are the scheduler's own, along the line
        through the last two outputs. So is the last row of a run that ends early; the ones before it are the plan's.

        Args:
            plan: the plan.
            scheduler: the recorded one, prepared.
            begin: the step that the first evaluation is made at.
            end: the step at whose noise level the run ends, at most N.
        """
        kept = [n for n, step in enumerate(plan.steps) if begin <= step < end]
        if begin not in plan.steps:
            places, steps = (None, *kept), (begin, *(plan.steps[n] for n in kept))
        else:
            places, steps = tuple(kept), tuple(plan.steps[n] for n in kept)
        times = scheduler.timesteps.double().cpu().numpy()
        if begin:
            rows = rows_between(scheduler, steps, end)
            told, scale = times[list(steps)], input_scale(scheduler, begin)[[step - begin for step in steps]]
        else:
            told, scale, rows = (
                plan.evaluation_timesteps[: len(steps)],
                plan.scale[: len(steps)],
                plan.rows[: len(steps)],
            )
            if end < (*plan.steps, plan.origin.steps)[len(steps)]:
                rows = (*rows[:-1], rows_between(scheduler, steps, end)[-1])
        if end < plan.origin.steps:
            # Pipelines that end early count the timesteps before their cut, also those that a plan has moved.
            told = np.clip(told, *sorted((times[0], times[end - 1])))
        forecasts = tuple(_forecast(plan, places, n) for n in range(len(steps)))
        return cls(steps, end, rows, told, scale, places, forecasts)


def _forecast(plan: Plan, places: Sequence[int | None], n: int) -> Vector:
    """The plan's forecast of output n of a part of it; empty where it needs an output that the part does not make."""
    place = places[n]
    if not plan.forecasts or place is None:
        return np.zeros(0)
    made = {j: i for i, j in enumerate(places[:n]) if j is not None}
    needed = np.flatnonzero(plan.forecasts[place]).tolist()
    if not len(needed) or not set(needed) <= set(made):
        return np.zeros(0)
    forecast = np.zeros(n)
    forecast[[made[j] for j in needed]] = plan.forecasts[place][needed]
    return forecast


class PlanRun:
    """Takes y_n and x, returns x + a_n x + sum_{j <= n} b_{n,j} y_j.

    Args:
        course: the rows.
        trust: where to note the residuals of the plan's forecasts; None for no check.
    """

    def __init__(self, course: Course, trust: Trust | None) -> None:
        self.place, self._course, self._trust = 0, course, trust
        self._weights = [row[1:] for row in course.rows]
        self._forecasts = course.forecasts if trust else ()
        self._outputs: list[Tensor | None] = [None] * len(course)
        self._until = last_uses(self._weights, self._forecasts)

    def advance(self, y: Tensor, x: Tensor) -> Tensor:
        """The next sample, in the dtype of x; summed in float32 (float64 for float64 values)."""
        n, known = self.place, self._outputs
        dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
        place = self._course.places[n]
        if self._trust is not None and place is not None and len(self._forecasts[n]):
            self._trust.note(place, _summed(torch.zeros_like(y, dtype=dtype), self._forecasts[n], known), y.detach())
        if self._until[n] > n:
            if y.requires_grad and torch.is_grad_enabled():
                raise RuntimeError(NO_GRADIENT)
            known[n] = y.detach().clone()  # the network may reuse its output buffer
        total = _summed(x.to(dtype) * (1 + float(self._course.rows[n][0])), self._weights[n], [*known[:n], y])
        for j, last in enumerate(self._until):
            if last <= n:
                known[j] = None
        self.place += 1
        return total.to(x.dtype)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the samples."""
        self._outputs = [None if y is None else y[rows] for y in self._outputs]

    def bytes(self) -> int:
        """Memory held by the outputs, in bytes."""
        return sum(y.numel() * y.element_size() for y in self._outputs if y is not None)


def _summed(total: Tensor, weights: Vector, outputs: Sequence[Tensor | None]) -> Tensor:
    """total + sum_j w_j y_j, in place."""
    for weight, output in zip(weights.tolist(), outputs, strict=False):
        if weight != 0.0 and output is not None:
            total = total.add_(output.to(total.dtype), alpha=weight)
    return total
