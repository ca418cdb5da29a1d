"""The static card of a method: everything that is known of it before a network runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from skipcast.checks import guarded
from skipcast.controllers import StaticController
from skipcast.grid import TimeGrid
from skipcast.methods import names
from skipcast.parts import Method, memory
from skipcast.plans.plan import Plan
from skipcast.samplers import Sampler, adams_bashforth, resample
from skipcast.tableaux import amplification, degree_of_exactness, evaluated_steps, tableau


@dataclass(frozen=True)
class Card:
    """What `skipcast show` prints; weights are {forecast step: {evaluated step: weight}}."""

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
    data_driven: bool = False
    weighs_by_values: bool = False
    checked_against: str = ""

    @property
    def evaluations(self) -> int:
        return len(self.evaluated_steps)

    def facts(self) -> list[tuple[str, str]]:
        """Label and text of every line above the weights."""
        listed = f"{self.evaluations} of {self.steps}: {', '.join(map(str, self.evaluated_steps))}"
        known = not self.data_driven and not self.weighs_by_values
        degree = "not defined (every step is evaluated)" if known else "not defined (it looks at values)"
        if self.degree_of_exactness is not None:
            degree = str(self.degree_of_exactness)
        facts = [
            ("method", self.method),
            ("parts", self.parts),
            ("paper", self.paper),
            ("checked against", self.checked_against),
            ("evaluated", "decided step by step, by the values" if self.data_driven else listed),
            ("degree of exactness", degree),
        ]
        if known:
            facts.append(("largest sum of |w|", f"{max(self.amplification.values(), default=1.0):.3f}"))
        return [*facts, ("remembers", f"{self.cached_tensors} x {self.cached} per branch")]

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "evaluations": self.evaluations}


def decides_by_values(method: Method | Sampler | Plan) -> bool:
    """Whether the evaluated steps follow from values, so that they are known only after a run."""
    return isinstance(method, Method) and not isinstance(method.controller, StaticController)


def needs_calibration(entry: names.Named, method: Method | Sampler) -> bool:
    """Whether a number of evaluations is met only by trying thresholds on the model."""
    return decides_by_values(method) and entry.threshold_option is not None


@guarded(steps=1)
def card(spec: str, steps: int = 50, shift: float = 3.16, family: str | None = None) -> Card:
    """The card of a named method on a flow grid of `steps` steps, as it is set on a family of networks.

    Raises:
        ValueError: unknown method, or one that cannot run with these steps.
    """
    chosen = names.published(spec, family)
    entry = names.REGISTRY[names.split(spec)[0]]
    grid = TimeGrid.shifted(steps, shift)
    if isinstance(chosen, Sampler):
        return _sampler_card(spec, chosen, entry, grid)
    chosen.check(steps)
    driven = decides_by_values(chosen)
    evaluated = () if driven else evaluated_steps(chosen, grid)
    kept = memory(chosen, len(evaluated) or steps)
    degree: int | None = None
    weights: dict[int, dict[int, float]] = {}
    growth: dict[int, float] = {}
    if chosen.forecaster.linear and not driven:
        table = tableau(chosen, grid)
        forecast = [i for i in range(steps) if i not in evaluated]
        weights = {i: {int(j): float(table[i, j]) for j in np.flatnonzero(table[i])} for i in forecast}
        growth = {i: float(amplification(table)[i]) for i in forecast}
        try:
            degree = degree_of_exactness(chosen, grid)
        except ValueError:  # no forecast behind a full history: every step evaluated, or a very short run
            degree = None
    return Card(
        method=spec,
        parts=repr(chosen),
        paper=entry.paper,
        summary=entry.summary,
        steps=steps,
        evaluated_steps=evaluated,
        degree_of_exactness=degree,
        cached_tensors=kept.tensors,
        cached=kept.of,
        weights=weights,
        amplification=growth,
        data_driven=driven,
        weighs_by_values=not chosen.forecaster.linear,
        checked_against=entry.checked_against,
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
        checked_against=entry.checked_against,
    )
