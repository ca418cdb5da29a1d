"""Methods and plans x budgets -> the rows that run, and those that cannot and why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from skipcast.bench.calibrate import threshold_of
from skipcast.bench.models import ModelSpec
from skipcast.bench.records import options_of
from skipcast.bench.spec import ALL, METHODS, Spec
from skipcast.card import decides_by_values
from skipcast.controllers import StaticController
from skipcast.methods import names
from skipcast.models.shipped import shipped_budgets
from skipcast.parts import Method
from skipcast.plans.plan import Plan
from skipcast.samplers import Sampler

NAME = names.PLAN
REFERENCE, CONVERGED_ROW = "reference", "converged"  # rows that others are measured against
CONVERGED = "ab2"  # of second order; records show how far its result still moves when its steps are halved
_LISTED_STEPS = re.compile(r"\d+(\.\d+)*")  # a schedule such as 0.1.2.4 holds its own number of evaluations


@dataclass(frozen=True)
class Row:
    """A method, sampler or plan at a number of evaluations.

    A method that decides by values has a budget of 0, or a threshold to be found, until it was run on calibration
    pairs.

    Args:
        name: of the registry, or "plan".
        options: as texts, in the order given; of a plan from a file, `file` is the name without folder and ending.
        method: what they stand for.
        budget: evaluations requested.
        named: by the user, so that a failure is an error rather than a row left out.
        threshold: the option to be calibrated.
        calibrated_on: what the threshold was found with.
    """

    name: str
    options: Mapping[str, str]
    method: Method | Sampler | Plan
    budget: int
    named: bool = True
    threshold: str | None = None
    calibrated_on: Mapping[str, Any] | None = None
    label: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", _label(self.name, self.options))

    @property
    def key(self) -> tuple[str, int]:
        return self.label, self.budget

    @property
    def data_driven(self) -> bool:
        """Whether the evaluated steps follow from values, so that they are known only after a run."""
        return not isinstance(self.method, Plan) and decides_by_values(self.method)

    @property
    def open(self) -> bool:
        """Whether its threshold or its budget is still to be found."""
        return self.threshold is not None or not self.budget

    @property
    def plan(self) -> Plan:
        """Its method, which is a plan."""
        assert isinstance(self.method, Plan)
        return self.method


@dataclass(frozen=True)
class LeftOut:
    """A row that `all` stands for and that cannot run."""

    name: str
    options: Mapping[str, str]
    budget: int
    reason: str

    @classmethod
    def of(cls, row: Row, reason: object) -> LeftOut:
        """A row that cannot run after all."""
        return cls(row.name, row.options, row.budget, str(reason))

    @property
    def label(self) -> str:
        return _label(self.name, self.options)

    def __str__(self) -> str:
        return self.reason if self.reason.startswith(self.label) else f"{self.label}: {self.reason}"

    def record(self) -> dict[str, Any]:
        """Its line among the records."""
        return {
            "kind": "left out",
            "method": self.label,
            "name": self.name,
            "options": options_of(self.options),
            "budget": self.budget,
            "evaluations": None,
            "reason": self.reason,
        }


def selection(spec: Spec, model: ModelSpec, steps: int) -> tuple[list[Row], list[LeftOut]]:
    """Every method and plan at every budget, and what `all` would have held but cannot run.

    A specification that fixes its own evaluations or interval appears once.

    Raises:
        FileNotFoundError: the file of a plan is missing.
        ValueError: a method named by the user that cannot run with these steps, before anything is evaluated.
    """
    budgets = spec.budgets_at(steps)
    found: dict[tuple[str, int], Row] = {}
    left: list[LeftOut] = []
    for row in _plans(spec, model, steps, budgets):
        _add_plan(found, row)
    for requested in METHODS if spec.methods is None else spec.methods:
        if names.means_a_plan(requested):
            continue
        named = requested != ALL
        for text in [requested] if named else _everything():
            name, given = names.split(text)
            for options, budget, threshold in _variants(name, given, budgets, model.family):
                try:
                    method = names.made(name, options, model.family)
                    actual = _evaluations(method, steps)
                except ValueError as error:
                    if named:
                        raise ValueError(f"{names.joined(name, options)}: {error}") from error
                    left.append(LeftOut(name, options, budget, str(error)))
                    continue
                row = Row(name, options, method, budget or actual, named, threshold)
                if named or row.key not in found:
                    found[row.key] = row
    return list(found.values()), left


def planned(spec: str, model: str | None) -> Row:
    """The row of the one plan that a specification means.

    Args:
        spec: "plan:evaluations=10", "plan:evaluations=10,reference=converged", "plan:file=PATH", or a path that ends
            in ".plan.json".
        model: name of the reference model that the shipped plans are for.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown option, no such plan ships, or the file is none.
    """
    plan = names.plan(spec, model)
    file = names.plan_file(spec)
    options = names.plan_options(spec) if file is None else {"file": stem(file)}
    return Row(NAME, options, plan, plan.evaluations)


def check_steps(row: Row, steps: int) -> None:
    """Refuse a plan made for another number of sampler steps.

    Raises:
        ValueError: names both.
    """
    made_for = row.plan.origin.steps
    if made_for != steps:
        raise ValueError(f"{row.label}: the plan was made for {made_for} steps, not {steps}; set --steps {made_for}.")


def stem(path: str | Path) -> str:
    """The name of a plan's file without its ending."""
    return Path(path).name.removesuffix(names.PLAN_SUFFIX).removesuffix(".json")


def _at_budgets(spec: str, budgets: Sequence[int], model: str | None) -> Iterator[Row]:
    """The plans that a specification means at these evaluations; one that fixes its own, or a file, comes once."""
    if names.plan_file(spec) is not None or "evaluations" in names.plan_options(spec):
        yield planned(spec, model)
        return
    for budget in budgets:
        yield planned(names.with_evaluations(spec, budget), model)


def _plans(spec: Spec, model: ModelSpec, steps: int, budgets: Sequence[int]) -> Iterator[Row]:
    """The rows of plans, which stand before all others."""
    if spec.methods is None:
        shipped = shipped_budgets(model.name)
        for row in _at_budgets(NAME, [n for n in budgets if n in shipped], model.name):
            if row.plan.origin.steps == steps:
                yield replace(row, named=False)
    files = [f"{NAME}:file={file}" for file, made_for in spec.plans if made_for == steps]
    for text in (*filter(names.means_a_plan, spec.methods or ()), *files):
        for row in _at_budgets(text, budgets, model.name):
            check_steps(row, steps)
            yield row


def _add_plan(found: dict[tuple[str, int], Row], row: Row) -> None:
    """Add a row; another plan from a file of the same name gets a number behind it."""
    file, number = row.options.get("file", ""), 1
    while known := found.get(row.key):
        if known.plan.as_dict() == row.plan.as_dict():
            return
        number += 1
        row = replace(row, options={**row.options, "file": f"{file}-{number}"})
    found[row.key] = row


def _label(name: str, options: Mapping[str, str]) -> str:
    """How a row is called in tables: its specification, or the name of a plan's file."""
    return f"{NAME}:{options['file']}" if name == NAME and "file" in options else names.joined(name, options)


def _everything() -> list[str]:
    return [spec for entry in names.REGISTRY.values() for spec in entry.variants]


def _variants(
    name: str, given: Mapping[str, str], budgets: Sequence[int], family: str | None
) -> Iterator[tuple[Mapping[str, str], int, str | None]]:
    """Options, budget (0: as it turns out) and open threshold of every row that a specification makes."""
    known = names.REGISTRY[name].options() if name in names.REGISTRY else {"evaluations": None}
    listed = _LISTED_STEPS.fullmatch(given.get("schedule", "")) is not None
    fixed = listed or "evaluations" not in known or not {"evaluations", "interval"}.isdisjoint(given)
    threshold = threshold_of(name)
    if _driven(name, given, family) and threshold is not None and threshold not in given:
        for budget in budgets:
            yield given, budget, threshold
    elif fixed or (threshold is not None and threshold in given):
        yield given, 0, None
    else:
        for budget in budgets:
            yield {"evaluations": str(budget), **given}, budget, None


def _driven(name: str, options: Mapping[str, str], family: str | None) -> bool:
    try:
        return decides_by_values(names.made(name, options, family))
    except ValueError:  # named again, with the reason, once it has its evaluations
        return False


def _evaluations(method: Method | Sampler, steps: int) -> int:
    """Evaluations that are known beforehand, else 0."""
    if isinstance(method, Sampler):
        return method.evaluations or steps
    method.check(steps)
    return len(method.controller.evaluated(steps)) if isinstance(method.controller, StaticController) else 0


def reference_row(steps: int) -> Row:
    """The unaccelerated run."""
    return Row(REFERENCE, {}, Sampler("euler"), steps)


def converged_row(steps: int) -> Row:
    """The run with many more steps."""
    return Row(CONVERGED_ROW, {}, Sampler(CONVERGED, steps), steps)


def check(spec: Spec) -> Spec:
    """A spec whose methods run with its steps and budgets, before anything is loaded.

    Raises:
        ValueError: at the line of the method that does not.
    """
    for model, steps in product(spec.models, spec.steps):
        for number, method in enumerate(spec.methods or ()):
            try:
                selection(spec.model_copy(update={"methods": (method,), "plans": ()}), model, steps)
            except (ValueError, FileNotFoundError) as error:
                raise spec.wrong(error, "methods", number) from error
    return spec
