"""Plans by specification: `plan:evaluations=10` for one that ships with the model, or the path of a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from skipcast.methods import names
from skipcast.plans.plan import Plan

NAME = names.PLAN


@dataclass(frozen=True)
class Planned:
    """A plan and the label of its rows."""

    label: str
    plan: Plan


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
    file = names.plan_file(spec)
    if file is None and model is None and "model" not in names.plan_options(spec):
        raise ValueError(f"{spec}: a shipped plan belongs to a reference model; name the model.")
    return Planned(spec if file is None else f"{NAME}:{stem(file)}", names.plan(spec, model))


def at_budgets(spec: str, budgets: Sequence[int], model: str | None) -> Iterator[Planned]:
    """The plans that a specification means at these evaluations; one that fixes its own, or a file, comes once.

    Raises:
        FileNotFoundError, ValueError: as `planned`.
    """
    if names.plan_file(spec) is not None or "evaluations" in names.plan_options(spec):
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
    return Path(path).name.removesuffix(names.PLAN_SUFFIX).removesuffix(".json")
