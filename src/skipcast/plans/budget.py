"""From a profile and a wish (evaluations, speed-up or quality) to a plan."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skipcast.grid import Vector
from skipcast.plans.closed_loop import Evaluator, Table
from skipcast.plans.open_loop import OpenLoop, Steps, forecasts, placed, search
from skipcast.plans.plan import Plan, Prediction
from skipcast.plans.profile import Profile
from skipcast.plans.refine import EFFORTS, Effort, split
from skipcast.plans.refine import refine as close_the_loop

Advance = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What `Profile.plan` was asked for; see there.

    Raises:
        ValueError: contradicting arguments.
    """

    nfe: int | None = None
    speedup: float | None = None
    psnr: float | None = None
    steps: Sequence[int] | None = None
    effort: str | Effort = "normal"
    batch: int = 8

    def __post_init__(self) -> None:
        given = [name for name in ("nfe", "speedup", "psnr") if getattr(self, name) is not None]
        if self.steps is not None and not given:
            object.__setattr__(self, "nfe", len(self.steps))
        elif len(given) != 1:
            raise ValueError(
                f"plan() needs exactly one of nfe=, speedup= and psnr=, got {' and '.join(given) or None}."
            )
        if self.steps is not None and self.nfe != len(self.steps):
            raise ValueError(f"plan(steps=...) names {len(self.steps)} steps; nfe={self.nfe} says otherwise.")
        if self.speedup is not None and not self.speedup >= 1:
            raise ValueError(f"plan(speedup={self.speedup}) must be at least 1.")
        if isinstance(self.effort, str) and self.effort not in EFFORTS:
            raise ValueError(f"plan(effort={self.effort!r}) must be one of {', '.join(EFFORTS)}, or an Effort.")
        if self.batch < 1:
            raise ValueError(f"plan(batch={self.batch}) must be at least 1.")

    @property
    def work(self) -> Effort:
        return EFFORTS[self.effort] if isinstance(self.effort, str) else self.effort

    def evaluations(self, steps: int) -> int | None:
        """The number of evaluations that was asked for, of N steps; None where a quality was."""
        if self.psnr is not None:
            return None
        wanted = self.nfe if self.nfe is not None else math.floor(steps / float(self.speedup or 1) + 1e-9)
        if not 1 <= wanted <= steps:
            raise ValueError(f"plan() would need {wanted} evaluations; between 1 and the {steps} recorded steps exist.")
        return wanted


def plan(profile: Profile, request: Request, refine: Any, advance: Advance) -> Plan:
    """What `Profile.plan` returns."""
    evaluator = _evaluator(profile, refine, request.batch)
    wanted = request.evaluations(profile.origin.steps)
    solver = _Solver(profile, request, evaluator, advance)
    return solver.solve(wanted) if wanted is not None else solver.reach(float(request.psnr or 0.0))


def _evaluator(profile: Profile, refine: Any, batch: int) -> Evaluator | None:
    if refine is None or callable(getattr(refine, "call", None)):
        return refine  # type: ignore[no-any-return]
    # By name, like the front door's own lazy names: plans need no diffusers until a pipeline is at hand.
    backend = importlib.import_module("skipcast.pipelines.recording.replay")
    return backend.PipelineEvaluator(refine, profile.origin, batch)  # type: ignore[no-any-return]


class _Solver:
    def __init__(self, profile: Profile, request: Request, evaluator: Evaluator | None, advance: Advance) -> None:
        self.profile, self.request, self.evaluator, self.advance = profile, request, evaluator, advance
        self.gram = profile.grams.mean(axis=0)
        self.loop = OpenLoop(self.gram, profile.states)

    def solve(self, evaluations: int) -> Plan:
        """The plan of m evaluations."""
        sets = self._sets(evaluations)
        if self.evaluator is None:
            steps = sets[0]
            times = self.profile.timesteps[list(steps)], self.profile.scale[list(steps)]
            table = Table(steps, self.loop.rows(steps), *times)
            residual = self.loop.residual(steps)
            errors = np.einsum("a,pab,b->p", residual, self.profile.grams, residual)
            return self._finished(table, errors, closed=False)
        found = close_the_loop(self.profile, self.evaluator, sets, self.request.work, advance=self.advance)
        return self._finished(found.table, found.errors, closed=True)

    def reach(self, psnr: float) -> Plan:
        """The plan of the fewest evaluations that is predicted to reach `psnr`, by bisection.

        Raises:
            ValueError: not even every second step evaluated is predicted to reach it.
        """
        known: dict[int, Plan] = {}

        def quality(evaluations: int) -> float:
            if evaluations not in known:
                known[evaluations] = self.solve(evaluations)
            prediction = known[evaluations].predicted
            assert prediction is not None
            return prediction.psnr

        least, most = 1, max(2, self.profile.origin.steps // 2)
        if quality(most) < psnr:
            best = known[most]
            raise ValueError(
                f"plan(psnr={psnr:g}) is out of reach: the best plan of at most {most} evaluations is predicted to "
                f"reach {quality(most):.1f} dB ({best!r}). Ask for less, or give refine= and more pairs."
            )
        while most - least > 1:
            middle = (least + most) // 2
            least, most = (least, middle) if quality(middle) >= psnr else (middle, most)
        return known[most]

    def _sets(self, evaluations: int) -> list[Steps]:
        if self.request.steps is not None:
            steps, last = tuple(int(step) for step in self.request.steps), self.profile.origin.steps - 1
            if steps[:1] != (0,) or list(steps) != sorted(set(steps)) or steps[-1] > last:
                raise ValueError(f"plan(steps={steps}) must begin with 0, rise, and stay within the steps 0 to {last}.")
            return [steps]
        found = search(self.loop, evaluations)
        if self.evaluator is None:
            return found
        even = placed(evaluations, self.profile.origin.steps)
        return [found[0], *dict.fromkeys((even, *found[1:]))]

    def _finished(self, table: Table, errors: Vector, *, closed: bool) -> Plan:
        _, validate = split(len(self.profile))
        pairs = validate if closed and validate else list(range(len(self.profile)))
        psnr = -10 * np.log10(np.maximum(self.profile.gain[pairs] * errors[pairs], 1e-20))
        rows = forecasts(self.gram, table.steps)
        return Plan(
            steps=table.steps,
            rows=table.rows,
            timesteps=self.profile.timesteps,
            told=table.told,
            scale=table.scale,
            origin=self.profile.origin,
            forecasts=rows,
            expected=_expected(self.profile, table.steps, rows),
            predicted=Prediction.of(psnr, held_out=closed and bool(validate), closed=closed),
            label="refined" if closed else "open loop",
        )


def _expected(profile: Profile, steps: Steps, rows: Sequence[Vector]) -> Vector:
    """Relative residuals of the forecasts on the recorded pairs: mean and largest, (m, 2)."""
    found = np.zeros((len(steps), 2))
    for n in range(1, len(steps)):
        known, new = 1 + np.array(steps[:n]), 1 + steps[n]
        column = np.zeros(profile.grams.shape[1])
        column[known], column[new] = -rows[n], 1.0
        squared = np.einsum("a,pab,b->p", column, profile.grams, column) / profile.grams[:, new, new]
        residual = np.sqrt(np.maximum(squared, 0.0))
        found[n] = residual.mean(), residual.max()
    return found
