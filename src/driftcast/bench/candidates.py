"""The rows of a comparison: which methods run at which budgets, and which cannot and why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from driftcast import names
from driftcast.bench.calibrate import dial_of
from driftcast.bench.settings import ALL, Settings
from driftcast.card import decides_by_values
from driftcast.controllers import StaticController
from driftcast.method import Method
from driftcast.samplers import Sampler

_LISTED_STEPS = re.compile(r"\d+(\.\d+)*")  # a schedule such as 0.1.2.4 holds its own number of evaluations


@dataclass(frozen=True)
class Candidate:
    """One row: a label, the method, and the evaluations that were asked for.

    A method that decides by values has a budget of 0, or a dial to be found, until `compare` has measured it on
    calibration pictures.
    """

    label: str
    method: Method | Sampler
    budget: int
    named: bool = True  # by the user, so that a failure is an error rather than a row left out
    dial: str | None = None  # the option to be calibrated
    calibrated_on: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        return names.split(self.label)[0]

    @property
    def key(self) -> tuple[str, int]:
        return self.label, self.budget

    @property
    def data_driven(self) -> bool:
        """Whether the evaluated steps follow from values, so that they are known only after a run."""
        return decides_by_values(self.method)

    @property
    def open(self) -> bool:
        """Whether its threshold or its budget is still to be found."""
        return self.dial is not None or not self.budget


@dataclass(frozen=True)
class LeftOut:
    """A row that `all` asked for and that cannot run."""

    label: str
    budget: int
    reason: str

    def __str__(self) -> str:
        return self.reason if self.reason.startswith(self.label) else f"{self.label}: {self.reason}"

    def record(self) -> dict[str, Any]:
        """Its line among the records."""
        return {
            "kind": "left out",
            "method": self.label,
            "name": names.split(self.label)[0],
            "budget": self.budget,
            "evaluations": None,
            "reason": self.reason,
        }


def candidates(settings: Settings) -> list[Candidate]:
    """Every method at every budget; a specification that fixes its own evaluations or interval appears once.

    Raises:
        ValueError: a method named by the user that cannot run with these steps, before anything is evaluated.
    """
    return selection(settings)[0]


def selection(settings: Settings) -> tuple[list[Candidate], list[LeftOut]]:
    """The candidates, and what `all` would have held but cannot run.

    Raises:
        ValueError: as `candidates`.
    """
    found: dict[tuple[str, int], Candidate] = {}
    left: list[LeftOut] = []
    for asked in settings.methods:
        named = asked != ALL
        for spec in [asked] if named else _everything():
            for label, budget, dial in _variants(spec, settings):
                try:
                    method = names.method(label)
                    actual = _evaluations(method, settings.steps)
                except ValueError as error:
                    if named:
                        raise ValueError(f"{label}: {error}") from error
                    left.append(LeftOut(label, budget, str(error)))
                    continue
                row = Candidate(label, method, budget or actual, named, dial)
                if named or row.key not in found:
                    found[row.key] = row
    return list(found.values()), left


def _everything() -> list[str]:
    return [spec for entry in names.REGISTRY.values() for spec in entry.variants]


def _variants(spec: str, settings: Settings) -> Iterator[tuple[str, int, str | None]]:
    """Label, budget (0: as it turns out) and dial of every row that a specification makes."""
    name, options = names.split(spec)
    known = names.REGISTRY[name].options() if name in names.REGISTRY else {"evaluations": None}
    listed = _LISTED_STEPS.fullmatch(options.get("schedule", "")) is not None
    fixed = listed or "evaluations" not in known or not {"evaluations", "interval"}.isdisjoint(options)
    dial = dial_of(spec)
    if _driven(spec) and dial is not None and dial not in options:
        for budget in settings.evaluations:
            yield spec, budget, dial
    elif fixed or (dial is not None and dial in options):
        yield spec, 0, None
    else:
        for budget in settings.evaluations:
            yield names.with_evaluations(spec, budget), budget, None


def _driven(spec: str) -> bool:
    try:
        return decides_by_values(names.method(spec))
    except ValueError:  # named again, with the reason, once it has its evaluations
        return False


def _evaluations(method: Method | Sampler, steps: int) -> int:
    """Evaluations that are known beforehand, else 0."""
    if isinstance(method, Sampler):
        return method.evaluations or steps
    method.check(steps)
    return len(method.controller.evaluated(steps)) if isinstance(method.controller, StaticController) else 0
