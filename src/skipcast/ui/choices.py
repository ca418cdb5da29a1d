"""What the playground offers for a model, and what sets the number of evaluations of each choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from skipcast.card import decides_by_values
from skipcast.controllers import StaticController
from skipcast.methods import names
from skipcast.methods.families import family_of
from skipcast.models.load import family_at
from skipcast.models.shipped import shipped_budgets
from skipcast.parts import Method
from skipcast.pipelines.accelerate import accelerate
from skipcast.pipelines.networks import denoisers
from skipcast.plans.plan import Plan
from skipcast.samplers import Sampler

#: The range of the slider, and where it begins.
FEWEST, MOST, USUAL = 5, 25, 10
#: The fewer-step run with the pipeline's own scheduler, which every pipeline has.
OWN = "own"
_PLAIN = ("ab2", "unipc", "dpmpp2m", "euler")
_SHIPPED = {
    "plan": "solved for this model, faithful to its own run",
    "plan:reference=converged": "solved for this model, faithful to where small steps lead",
}


@dataclass(frozen=True)
class Control:
    """How a visitor controls the evaluations of a choice."""

    # "budget": the slider sets it; "fixed": a number of its own; "threshold": the method decides by values.
    kind: Literal["budget", "fixed", "threshold"]
    words: str  # the same for people
    budgets: tuple[int, ...] = ()  # the only numbers that exist; () for any
    evaluations: int | None = None  # of a fixed kind, where known beforehand
    threshold: str = ""  # the option that is the threshold
    default: float | None = None  # its value as published
    steps: int | None = None  # the only number of sampler steps that it runs with; None for any

    def nearest(self, budget: int) -> int:
        """Return the nearest existing budget, the smaller one of two equally near ones."""
        return min(self.budgets, key=lambda known: (abs(known - budget), known)) if self.budgets else budget


def methods(model: str, pipe: Any, plans: Mapping[str, Plan]) -> list[tuple[str, str]]:
    """Return the shipped plans of a model, then the host's plans and forecasting methods that its pipeline can run.

    As of `samplers`, these are the labels and values of a list; the values are specifications.
    """
    found = {spec: summary for spec, summary in _SHIPPED.items() if _budgets(spec, model)}
    for name, plan in plans.items():
        if _runs(pipe, plan):
            found[name] = f"{plan.evaluations} of {plan.origin.steps}"
    family = family_of(denoisers(pipe)[0])
    for name, entry in names.REGISTRY.items():
        method = names.published(name, family)
        if isinstance(method, Method) and _runs(pipe, method):
            found[name] = entry.summary
    return _labelled(found)


def samplers(pipe: Any) -> list[tuple[str, str]]:
    """Return the plain samplers to compare with; the pipeline's own scheduler is always one."""
    kind = type(pipe.scheduler).__name__.removesuffix("Scheduler")
    plain = {name: names.REGISTRY[name].summary for name in _PLAIN if _runs(pipe, Sampler(name))}
    return _labelled({**plain, OWN: f"the pipeline's own scheduler, {kind}"})


def _labelled(found: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(f"{spec} · {summary}", spec) for spec, summary in found.items()]


def control(spec: str, steps: int, model: str, plans: Mapping[str, Plan]) -> Control:
    """Return the control of a choice in a run of this many steps.

    Args:
        spec: a name in `plans`, or anything that `skipcast generate --method` takes.
        steps: of the sampler; plans bring their own.
        model: its name.
        plans: those of the host and of the session.

    Raises:
        FileNotFoundError, ValueError: no such method or plan, or it cannot run with so many steps.
    """
    if not spec:
        raise ValueError("choose a method or a plan.")
    if budgets := _budgets(spec, model):
        made_for = names.plan(names.with_evaluations(spec, budgets[0]), model).origin.steps
        listed = ", ".join(map(str, budgets))
        words = f"Plans ship for {listed} evaluations of {made_for} steps; the nearest to the slider is used."
        return Control("budget", words, budgets=budgets, steps=made_for)
    if spec in plans or names.means_a_plan(spec):
        plan = plans[spec] if spec in plans else names.plan(spec, model)
        words = f"This plan makes {plan.evaluations} evaluations of {plan.origin.steps} steps, no others."
        return Control("fixed", words, evaluations=plan.evaluations, steps=plan.origin.steps)
    family = _family(model)
    method = names.published(spec, family)  # says which names are near, and which option is wrong
    name, options = names.split(spec)
    option, decides = names.REGISTRY[name].threshold_option, decides_by_values(method)
    if decides and option is not None and option not in options:
        words = f"It decides by values when to evaluate: {option} is its threshold, larger means more rarely."
        return Control("threshold", words, threshold=option, default=names.default_threshold(name, options, family))
    if _takes_evaluations(spec, steps):
        return Control("budget", f"Evaluated steps of {steps}; the others are forecast.")
    if decides:
        return Control("fixed", "It decides by values when to evaluate, with the threshold that you typed.")
    count = _evaluations(method, steps)
    return Control("fixed", f"Its schedule is its own: {count} evaluations of {steps} steps.", evaluations=count)


def resolve(
    spec: str, budget: int, threshold: float | None, steps: int, model: str, plans: Mapping[str, Plan]
) -> tuple[str, Method | Sampler | Plan]:
    """Return the label of a choice and its method, sampler or plan, checked for this number of steps.

    Args:
        spec: as for `control`.
        budget: of the slider; used where the choice has one.
        threshold: used where the choice has one; None for the published value.
        steps: of the sampler.
        model: its name.
        plans: those of the session.

    Raises:
        FileNotFoundError, ValueError: as `control`, and a plan made for another number of steps.
    """
    governed = control(spec, steps, model, plans)
    if governed.steps not in (None, steps):
        raise ValueError(f"{spec}: the plan was made for {governed.steps} steps, not {steps}; set the steps to them.")
    if spec in plans:
        return spec, plans[spec]
    if governed.kind == "threshold":
        name, options = names.split(spec)
        value = governed.default if threshold is None else threshold
        spec = names.joined(name, {governed.threshold: f"{value:g}", **options})
    elif governed.kind == "budget":
        spec = names.with_evaluations(spec, governed.nearest(budget))
    if names.means_a_plan(spec):
        return spec, names.plan(spec, model)
    method = names.published(spec, _family(model))
    _evaluations(method, steps)
    return spec, method


def _family(model: str) -> str | None:
    """Return the family of a model's network; None where there is no such model, which loading it will say."""
    try:
        return family_at(model)
    except ValueError:
        return None


def _budgets(spec: str, model: str) -> tuple[int, ...]:
    """Return the evaluations that a specification of shipped plans leaves open."""
    if not names.means_a_plan(spec) or names.plan_file(spec) is not None:
        return ()
    options: dict[str, Any] = names.plan_options(spec)
    return () if options.keys() - {"reference"} else shipped_budgets(model, options.get("reference", "default"))


def _takes_evaluations(spec: str, steps: int) -> bool:
    """Return whether the budget changes the method, tested with two that are larger than any warm-up."""
    try:
        few, many = (names.published(names.with_evaluations(spec, count)) for count in (steps - 1, steps))
    except ValueError:
        return False
    return few != many


def _evaluations(method: Method | Sampler, steps: int) -> int | None:
    """Return the evaluations of a run of this many steps, if known beforehand; ValueError if it cannot run."""
    if isinstance(method, Sampler):
        return method.evaluations or steps
    method.check(steps)
    return len(method.controller.evaluated(steps)) if isinstance(method.controller, StaticController) else None


def _runs(pipe: Any, method: Method | Sampler | Plan) -> bool:
    try:
        accelerate(pipe, method)
    except ValueError:
        return False
    return True
