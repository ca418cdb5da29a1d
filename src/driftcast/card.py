"""The static card of a method: everything that is known of it before a network runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from driftcast import names
from driftcast.grid import TimeGrid
from driftcast.samplers import Sampler, adams_bashforth, resample
from driftcast.tableau import amplification, degree_of_exactness, tableau


@dataclass(frozen=True)
class Card:
    """What `driftcast show` prints; weights are {forecast step: {evaluated step: weight}}."""

    method: str
    parts: str
    paper: str
    summary: str
    steps: int
    evaluated_steps: tuple[int, ...]
    degree_of_exactness: int | None
    cached_tensors: int
    cached: str
    weights: dict[int, dict[int, float]]
    amplification: dict[int, float]

    @property
    def evaluations(self) -> int:
        return len(self.evaluated_steps)

    def facts(self) -> list[tuple[str, str]]:
        """Label and text of every line above the weights."""
        degree = (
            "not defined (every step is evaluated)"
            if self.degree_of_exactness is None
            else str(self.degree_of_exactness)
        )
        worst = max(self.amplification.values(), default=1.0)
        return [
            ("method", self.method),
            ("parts", self.parts),
            ("paper", self.paper),
            ("evaluated", f"{self.evaluations} of {self.steps}: {', '.join(map(str, self.evaluated_steps))}"),
            ("degree of exactness", degree),
            ("largest sum of |w|", f"{worst:.3f}"),
            ("remembers", f"{self.cached_tensors} x {self.cached} per branch"),
        ]

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "evaluations": self.evaluations}


_CACHED = {
    "Output": "the network's output",
    "GlobalDrift": "image tokens x width",
    "LastHidden": "image tokens x width",
}


def card(spec: str, steps: int = 50, shift: float = 3.16) -> Card:
    """The card of a named method on a flow grid of `steps` steps.

    Raises:
        ValueError: unknown method, or one that cannot run with these steps.
    """
    chosen = names.method(spec)
    entry = names.REGISTRY[names.split(spec)[0]]
    grid = TimeGrid.shifted(steps, shift)
    if isinstance(chosen, Sampler):
        return _sampler_card(spec, chosen, entry, grid)
    table = tableau(chosen, grid)
    evaluated = tuple(int(i) for i in range(steps) if table[i, i] == 1.0)
    growth = amplification(table)
    try:
        degree: int | None = degree_of_exactness(chosen, grid)
    except ValueError:  # no forecast behind a full history: every step evaluated, or a very short run
        degree = None
    forecast = [i for i in range(steps) if i not in evaluated]
    return Card(
        method=spec,
        parts=repr(chosen),
        paper=entry.paper,
        summary=entry.summary,
        steps=steps,
        evaluated_steps=evaluated,
        degree_of_exactness=degree,
        cached_tensors=chosen.forecaster.window,
        cached=_CACHED.get(type(chosen.target).__name__, "the target"),
        weights={i: {int(j): float(table[i, j]) for j in np.flatnonzero(table[i])} for i in forecast},
        amplification={i: float(growth[i]) for i in forecast},
    )


def _sampler_card(spec: str, sampler: Sampler, entry: names.Named, grid: TimeGrid) -> Card:
    count = sampler.evaluations or len(grid)
    levels = resample(grid.sigma, count)
    order = {"ab2": 2, "ab3": 3}.get(sampler.name)
    weights: dict[int, dict[int, float]] = {}
    for i in range(count if order else 0):
        nodes = range(max(0, i - (order or 1) + 1), i + 1)
        end = levels[i + 1] if i + 1 < count else 0.0
        row = adams_bashforth(levels[list(nodes)], end) / (end - levels[i])
        weights[i] = {j: float(w) for j, w in zip(nodes, row, strict=True)}
    return Card(
        method=spec,
        parts=repr(sampler),
        paper=entry.paper,
        summary=entry.summary,
        steps=count,
        evaluated_steps=tuple(range(count)),
        degree_of_exactness=None,
        cached_tensors={"ab2": 2, "ab3": 3, "euler": 0}.get(sampler.name, 2),
        cached="the network's output, in the scheduler",
        weights=weights,
        amplification={i: sum(abs(w) for w in row.values()) for i, row in weights.items()},
    )
