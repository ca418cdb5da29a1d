"""The choices that the playground offers for a model, and the control of their number of evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from skipcast.bench.rows import planned
from skipcast.card import decides_by_values
from skipcast.controllers import StaticController
from skipcast.methods import names
from skipcast.models.shipped import shipped_budgets
from skipcast.parts import Method
from skipcast.pipelines.accelerate import accelerate
from skipcast.plans.plan import Plan
from skipcast.samplers import SAMPLERS, Sampler

#: The range of the slider, and where it begins.
FEWEST, MOST, USUAL = 5, 25, 10
#: The fewer-step run with the pipeline's own scheduler, which every pipeline has.
OWN = "own"
_PLAIN = ("ab2", "unipc", "dpmpp2m", "euler")


@dataclass(frozen=True)
class Choice:
    """A method, plan or sampler by name and options."""

    name: str  # in the registry, or "plan"
    options: Mapping[str, str] = field(default_factory=dict)  # as a specification gives them
    summary: str = ""  # what it is, in one line

    @classmethod
    def read(cls, spec: str) -> Choice:
        """Return the choice that a specification such as "lagrange:order=1" names, unchecked."""
        return cls(*names.split(spec))

    def with_options(self, **options: object) -> Choice:
        """Return the choice with these options added; its own take precedence."""
        return Choice(self.name, {**{key: str(value) for key, value in options.items()}, **self.options}, self.summary)

    @property
    def spec(self) -> str:
        options = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}:{options}" if options else self.name

    @property
    def label(self) -> str:
        return f"{self.spec} · {self.summary}"


_SHIPPED = (
    Choice("plan", {}, "solved for this model, faithful to its own run"),
    Choice("plan", {"reference": "converged"}, "solved for this model, faithful to where small steps lead"),
)


@dataclass(frozen=True)
class Control:
    """How a visitor controls the evaluations of a choice."""

    # "budget": the slider sets it; "fixed": a number of its own; "threshold": the method decides by values.
    kind: Literal["budget", "fixed", "threshold"]
    words: str  # the same for people
    budgets: tuple[int, ...] = ()  # the only numbers that exist; () for any
    evaluations: int | None = None  # of a fixed kind, where known beforehand
    threshold: str | None = None  # the option that is the threshold
    default: float | None = None  # its value as published
    steps: int | None = None  # the only number of sampler steps that it runs with; None for any

    def nearest(self, budget: int) -> int:
        """Return the nearest existing budget, the smaller one of two equally near ones."""
        return min(self.budgets, key=lambda known: (abs(known - budget), known)) if self.budgets else budget


def choices(model: str, pipe: Any) -> list[Choice]:
    """Return the shipped plans of a model, then every forecasting method that its pipeline can run."""
    found = [choice for choice in _SHIPPED if _budgets(choice, model)]
    for name, entry in names.REGISTRY.items():
        method = names.method(name)
        if isinstance(method, Method) and _runs(pipe, method):
            found.append(Choice(name, {}, entry.summary))
    return found


def samplers(pipe: Any) -> list[Choice]:
    """Return the plain samplers to compare with; the pipeline's own scheduler is always one."""
    kind = type(pipe.scheduler).__name__.removesuffix("Scheduler")
    plain = [Choice(name, {}, names.REGISTRY[name].summary) for name in _PLAIN if _runs(pipe, Sampler(name))]
    return [*plain, Choice(OWN, {}, f"the pipeline's own scheduler, {kind}")]


def control(spec: str, steps: int, model: str, plans: Mapping[str, Plan]) -> Control:
    """Return the control of a choice in a run of this many steps.

    Args:
        spec: of a choice, a name in `plans`, or anything that `skipcast generate --method` takes.
        steps: of the sampler; plans bring their own.
        model: its name.
        plans: those of the session.

    Raises:
        FileNotFoundError, ValueError: no such method or plan, or it cannot run with so many steps.
    """
    if spec in plans:
        return _of_a_plan(plans[spec])
    if names.means_a_plan(spec) and spec.endswith(".json"):
        return _of_a_plan(planned(spec, model).plan)
    choice = Choice.read(spec)
    if budgets := _budgets(choice, model):
        made_for = planned(choice.with_options(evaluations=budgets[0]).spec, model).plan.origin.steps
        listed = ", ".join(map(str, budgets))
        words = f"Plans ship for {listed} evaluations of {made_for} steps; the nearest to the slider is used."
        return Control("budget", words, budgets=budgets, steps=made_for)
    if names.means_a_plan(spec):
        return _of_a_plan(planned(spec, model).plan)
    entry = names.REGISTRY.get(choice.name)
    option = entry.threshold_option if entry is not None else None
    if entry is not None and option is not None and option not in choice.options and _decides(choice):
        words = f"It decides by values when to evaluate: {option} is its threshold, larger means more rarely."
        return Control(
            "threshold", words, threshold=option, default=names.default_threshold(choice.name, choice.options)
        )
    if _takes_evaluations(choice, steps):
        return Control("budget", f"Evaluated steps of {steps}; the others are forecast.")
    method = names.method(spec)  # says which names are near, and which option is wrong
    if decides_by_values(method):
        return Control("fixed", "It decides by values when to evaluate, with the threshold that you typed.")
    count = _evaluations(method, steps)
    return Control("fixed", f"Its schedule is its own: {count} evaluations of {steps} steps.", evaluations=count)


@dataclass(frozen=True)
class Chosen:
    """What is run, and its label."""

    label: str
    method: Method | Sampler | Plan


def resolve(
    spec: str, budget: int, threshold: float | None, steps: int, model: str, plans: Mapping[str, Plan]
) -> Chosen:
    """Return the chosen method, plan or sampler, checked for this number of steps.

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
    if not spec:
        raise ValueError("choose a method or a plan.")
    governed = control(spec, steps, model, plans)
    if governed.steps not in (None, steps):
        raise ValueError(f"{spec}: the plan was made for {governed.steps} steps, not {steps}; set the steps to them.")
    if spec in plans:
        return Chosen(spec, plans[spec])
    if governed.threshold is not None:
        value = governed.default if threshold is None else threshold
        spec = Choice.read(spec).with_options(**{governed.threshold: f"{value:g}"}).spec
    elif governed.kind == "budget":
        spec = Choice.read(spec).with_options(evaluations=governed.nearest(budget)).spec
    if names.means_a_plan(spec):
        found = planned(spec, model)
        return Chosen(found.label, found.plan)
    method = names.method(spec)
    _evaluations(method, steps)
    return Chosen(spec, method)


def fewer_steps(name: str, evaluations: int) -> Sampler | None:
    """Return the plain sampler at as many evaluations, or None for the pipeline's own scheduler.

    Raises:
        ValueError: no such sampler, or too few evaluations for it.
    """
    if name == OWN:
        return None
    if name not in SAMPLERS:
        raise ValueError(f"no plain sampler {name!r}; choose {', '.join(_PLAIN)} or {OWN}.")
    return Sampler(name, evaluations)


def _of_a_plan(plan: Plan) -> Control:
    words = f"This plan makes {plan.evaluations} evaluations of {plan.origin.steps} steps, no others."
    return Control("fixed", words, evaluations=plan.evaluations, steps=plan.origin.steps)


def _budgets(choice: Choice, model: str) -> tuple[int, ...]:
    """Return the evaluations for which plans of this kind are shipped."""
    if choice.name != "plan" or choice.options.keys() - {"reference"}:
        return ()
    reference: Any = choice.options.get("reference", "default")
    return shipped_budgets(model, reference)


def _decides(choice: Choice) -> bool:
    return decides_by_values(names.method(choice.spec))


def _takes_evaluations(choice: Choice, steps: int) -> bool:
    """Return whether the budget changes the method, tested with two that are larger than any warm-up."""
    try:
        few, many = (names.method(choice.with_options(evaluations=n).spec) for n in (steps - 1, steps))
    except ValueError:
        return False
    return "evaluations" not in choice.options and few != many


def _evaluations(method: Method | Sampler | Plan, steps: int) -> int | None:
    """Return the evaluations of a run of this many steps, if known beforehand; ValueError if it cannot run."""
    if isinstance(method, Sampler):
        return method.evaluations or steps
    if isinstance(method, Plan):
        return method.evaluations
    method.check(steps)
    controller = method.controller
    return len(controller.evaluated(steps)) if isinstance(controller, StaticController) else None


def _runs(pipe: Any, method: Method | Sampler) -> bool:
    try:
        accelerate(pipe, method)
    except ValueError:
        return False
    return True
