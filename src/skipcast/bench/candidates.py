"""The rows of a comparison: which methods run at which budgets, and which cannot and why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from skipcast.bench.calibrate import dial_of
from skipcast.bench.plan_rows import NAME, Planned, at_budgets, check_steps
from skipcast.bench.records import Options, options_of
from skipcast.bench.settings import ALL, METHODS, Settings
from skipcast.card import decides_by_values
from skipcast.controllers import StaticController
from skipcast.methods import names
from skipcast.methods.base import Method
from skipcast.models.shipped import shipped_budgets
from skipcast.plans.plan import Plan
from skipcast.samplers import Sampler

_LISTED_STEPS = re.compile(r"\d+(\.\d+)*")  # a schedule such as 0.1.2.4 holds its own number of evaluations


@dataclass(frozen=True)
class Candidate:
    """One row: a label, the method, and the evaluations that were asked for.

    A method that decides by values has a budget of 0, or a dial to be found, until `compare` has measured it on
    calibration pictures.
    """

    label: str
    method: Method | Sampler | Plan
    budget: int
    named: bool = True  # by the user, so that a failure is an error rather than a row left out
    dial: str | None = None  # the option to be calibrated
    calibrated_on: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        return _name(self.label)

    @property
    def options(self) -> Options:
        return _options(self.label)

    @property
    def key(self) -> tuple[str, int]:
        return self.label, self.budget

    @property
    def data_driven(self) -> bool:
        """Whether the evaluated steps follow from values, so that they are known only after a run."""
        return not isinstance(self.method, Plan) and decides_by_values(self.method)

    @property
    def from_file(self) -> bool:
        """Whether it is a plan from a file, whose label does not say its evaluations."""
        return isinstance(self.method, Plan) and "evaluations" not in self.options

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
            "name": _name(self.label),
            "options": _options(self.label),
            "budget": self.budget,
            "evaluations": None,
            "reason": self.reason,
        }


def candidates(settings: Settings, model: str | None = None) -> list[Candidate]:
    """Every method at every budget; a specification that fixes its own evaluations or interval appears once.

    Args:
        settings: what is compared.
        model: name of the model, for the plans that ship with it.

    Raises:
        FileNotFoundError: the file of a plan is missing.
        ValueError: a method named by the user that cannot run with these steps, before anything is evaluated.
    """
    return selection(settings, model)[0]


def selection(settings: Settings, model: str | None = None) -> tuple[list[Candidate], list[LeftOut]]:
    """The candidates, and what `all` would have held but cannot run.

    Raises:
        FileNotFoundError, ValueError: as `candidates`.
    """
    found: dict[tuple[str, int], Candidate] = {}
    left: list[LeftOut] = []
    for row in _plans(settings, model):
        _add_plan(found, row)
    for asked in settings.methods or METHODS:
        if names.means_a_plan(asked):
            continue
        named = asked != ALL
        for spec in [asked] if named else _everything():
            for label, budget, dial in _variants(spec, settings):
                try:
                    method = names.published(label)
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


def _plans(settings: Settings, model: str | None) -> Iterator[Candidate]:
    """The rows of plans, which stand before all others."""
    if not settings.methods and model is not None:
        shipped = shipped_budgets(model)
        for found in at_budgets(NAME, [n for n in settings.evaluations if n in shipped], model):
            if found.plan.origin.steps == settings.steps:
                yield _plan_row(found, named=False)
    for spec in (*filter(names.means_a_plan, settings.methods), *(f"{NAME}:file={file}" for file in settings.plans)):
        for found in at_budgets(spec, settings.evaluations, model):
            check_steps(found, settings.steps)
            yield _plan_row(found, named=True)


def _plan_row(found: Planned, *, named: bool) -> Candidate:
    return Candidate(found.label, found.plan, found.plan.evaluations, named)


def _add_plan(rows: dict[tuple[str, int], Candidate], row: Candidate) -> None:
    """Add a row; another plan under the same label gets a number behind it."""
    label, number = row.label, 1
    while (known := rows.get(row.key)) and isinstance(known.method, Plan) and isinstance(row.method, Plan):
        if known.method.as_dict() == row.method.as_dict():
            return
        number += 1
        row = replace(row, label=f"{label}-{number}")
    rows[row.key] = row


def _name(label: str) -> str:
    return label.partition(":")[0].strip()


def _options(label: str) -> Options:
    tail = label.partition(":")[2]
    return options_of(names.split(label)[1]) if "=" in tail else {"file": tail} if tail else {}


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
        return decides_by_values(names.published(spec))
    except ValueError:  # named again, with the reason, once it has its evaluations
        return False


def _evaluations(method: Method | Sampler, steps: int) -> int:
    """Evaluations that are known beforehand, else 0."""
    if isinstance(method, Sampler):
        return method.evaluations or steps
    method.check(steps)
    return len(method.controller.evaluated(steps)) if isinstance(method.controller, StaticController) else 0
