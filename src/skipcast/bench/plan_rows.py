"""Plans by specification: `plan:evaluations=10` for one that ships with the model, or the path of a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipcast.methods import names
from skipcast.models.shipped import PLAN as SUFFIX
from skipcast.models.shipped import shipped_plan
from skipcast.plans.plan import Plan

NAME = "plan"
_FILE = f"{NAME}:file="
_OPTIONS = ("evaluations", "reference", "file")


@dataclass(frozen=True)
class Planned:
    """A plan and the label of its rows."""

    label: str
    plan: Plan


def means_a_plan(spec: str) -> bool:
    """Whether a specification is `plan`, `plan:...`, or the path of a plan's file."""
    return spec.partition(":")[0].strip() == NAME or spec.endswith(SUFFIX)


def planned(spec: str, model: str | None) -> Planned:
    """The one plan that a specification means.

    Args:
        spec: "plan:evaluations=10", "plan:evaluations=10,reference=converged", "plan:file=PATH", or a path that ends
            in ".plan.json".
        model: name of the reference model that the shipped plans are for.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown option, no such plan ships, or the file is none.
    """
    if (file := _file_of(spec)) is not None:
        return Planned(f"{NAME}:{stem(file)}", Plan.load(file))
    options = _options_of(spec)
    if "evaluations" not in options:
        raise ValueError(f"{spec}: name its evaluations, such as {NAME}:evaluations=10, or give the file of a plan.")
    count, reference = options["evaluations"], options.get("reference", "default")
    if not count.isdigit():
        raise ValueError(f"{spec}: evaluations={count!r} must be a whole number.")
    if model is None:
        raise ValueError(f"{spec}: a shipped plan belongs to a reference model; name the model.")
    kept: Any = reference  # checked by shipped_plan
    return Planned(spec, shipped_plan(model, int(count), kept))


def at_budgets(spec: str, budgets: Sequence[int], model: str | None) -> Iterator[Planned]:
    """The plans that a specification means at these evaluations; one that fixes its own, or a file, comes once.

    Raises:
        FileNotFoundError, ValueError: as `planned`.
    """
    if _file_of(spec) is not None or "evaluations" in _options_of(spec):
        yield planned(spec, model)
        return
    for budget in budgets:
        yield planned(names.with_evaluations(spec, budget), model)


def check_steps(found: Planned, steps: int) -> None:
    """Refuse a plan made for another number of sampler steps.

    Raises:
        ValueError: names both.
    """
    made_for = found.plan.origin.steps
    if made_for != steps:
        raise ValueError(f"{found.label}: the plan was made for {made_for} steps, not {steps}; set --steps {made_for}.")


def stem(path: str | Path) -> str:
    """The name of a plan's file without its ending."""
    return Path(path).name.removesuffix(SUFFIX).removesuffix(".json")


def _file_of(spec: str) -> str | None:
    if spec.startswith(_FILE):
        return spec.removeprefix(_FILE)
    return spec if spec.endswith(SUFFIX) else None


def _options_of(spec: str) -> dict[str, str]:
    options = names.split(spec)[1]
    if unknown := [option for option in options if option not in _OPTIONS]:
        raise ValueError(f"{spec}: unknown option {unknown[0]!r} of a plan. Known: {', '.join(_OPTIONS)}.")
    return options
