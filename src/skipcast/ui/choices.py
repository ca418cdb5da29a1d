"""What the playground offers for a model, and what governs how often each of it evaluates the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from skipcast import names
from skipcast.bench.rows import Row, means_a_plan, planned, rows
from skipcast.bench.spec import Settings
from skipcast.method import Method
from skipcast.models.load import REFERENCES, reference_folder
from skipcast.models.shipped import shipped_budgets
from skipcast.pipelines.accelerate import accelerate
from skipcast.plans.plan import Plan
from skipcast.samplers import SAMPLERS, Sampler

#: Evaluations that the slider goes over.
LEAST, MOST, USUAL = 5, 25, 10
#: The fewer-step run with the pipeline's own scheduler, which every pipeline has.
OWN = "own"
_PLAIN = ("ab2", "unipc", "dpmpp2m", "euler")
_SHIPPED = {
    "plan": "solved for this model, faithful to its own run",
    "plan:reference=converged": "solved for this model, faithful to where small steps lead",
}
_REFERENCE = {"plan": "default", "plan:reference=converged": "converged"}


@dataclass(frozen=True)
class Choice:
    """An entry of a list: the specification and what it is, in one line."""

    spec: str
    summary: str

    @property
    def label(self) -> str:
        return f"{self.spec} · {self.summary}"


@dataclass(frozen=True)
class Control:
    """What governs the evaluations of a choice.

    Args:
        kind: "budget", a number that is asked for; "fixed", a number that is its own; "dial", a threshold, because the
            method decides by values.
        words: the same for people.
        budgets: the only numbers that exist; () for any.
        evaluations: of a fixed kind, where known beforehand.
        dial: the option that is the threshold.
        default: its value as published.
        steps: the only number of sampler steps that it runs with; None for any.
    """

    kind: Literal["budget", "fixed", "dial"]
    words: str
    budgets: tuple[int, ...] = ()
    evaluations: int | None = None
    dial: str | None = None
    default: float | None = None
    steps: int | None = None

    def nearest(self, budget: int) -> int:
        """The budget that is used where this one is asked for; of two equally near ones the smaller."""
        return min(self.budgets, key=lambda known: (abs(known - budget), known)) if self.budgets else budget


def models() -> list[str]:
    """The reference models whose weights are installed."""
    found = []
    for name in REFERENCES:
        try:
            reference_folder(name)
        except ValueError:
            continue
        found.append(name)
    return found


def choices(model: str, pipe: Any) -> list[Choice]:
    """The shipped plans of a model, then every forecasting method that its pipeline can run."""
    found = [Choice(spec, words) for spec, words in _SHIPPED.items() if _budgets(spec, model)]
    for name, entry in names.REGISTRY.items():
        made = names.method(name)
        if isinstance(made, Method) and _runs(pipe, made):
            found.append(Choice(name, entry.summary))
    return found


def samplers(pipe: Any) -> list[Choice]:
    """The plain samplers to compare with; the pipeline's own scheduler is always one."""
    kind = type(pipe.scheduler).__name__.removesuffix("Scheduler")
    plain = [Choice(name, names.REGISTRY[name].summary) for name in _PLAIN if _runs(pipe, Sampler(name))]
    return [*plain, Choice(OWN, f"the pipeline's own scheduler, {kind}")]


def control(spec: str, steps: int, model: str, plans: Mapping[str, Plan]) -> Control:
    """What governs a choice in a run of so many steps.

    Args:
        spec: of a choice, a name in `plans`, or anything that `skipcast generate --method` takes.
        steps: of the sampler; plans bring their own.
        model: its name.
        plans: those of the visitor.

    Raises:
        FileNotFoundError, ValueError: no such method or plan, or it cannot run with so many steps.
    """
    if spec in plans:
        return _of_a_plan(plans[spec])
    if budgets := _budgets(spec, model):
        made_for = planned(names.with_evaluations(spec, budgets[0]), model).plan.origin.steps
        listed = ", ".join(map(str, budgets))
        words = f"Plans ship for {listed} evaluations of {made_for} steps; the nearest to the slider is used."
        return Control("budget", words, budgets=budgets, steps=made_for)
    if means_a_plan(spec):
        return _of_a_plan(planned(spec, model).plan)
    if names.split(spec)[0] not in names.REGISTRY:
        names.method(spec)  # says which names are near
    # Two budgets that leave room for any warm-up: a choice that they change nothing of has its own.
    few, many = (_row(spec, budget, steps, model) for budget in (steps - 1, steps))
    if few.threshold is not None:
        default = names.REGISTRY[few.name].options()[few.threshold].default
        words = f"It decides by values when to evaluate: {few.threshold} is its dial, larger means more rarely."
        return Control("dial", words, dial=few.threshold, default=default)
    if few.label != many.label:
        return Control("budget", f"Evaluated steps of {steps}; the others are forecast.")
    if few.data_driven:
        return Control("fixed", "It decides by values when to evaluate, with the threshold that you typed.")
    words = f"Its schedule is its own: {few.budget} evaluations of {steps} steps."
    return Control("fixed", words, evaluations=few.budget)


@dataclass(frozen=True)
class Chosen:
    """What is run, and its label."""

    label: str
    method: Method | Sampler | Plan


def resolve(spec: str, budget: int, dial: float | None, steps: int, model: str, plans: Mapping[str, Plan]) -> Chosen:
    """The method, plan or sampler that a visitor chose, checked for this number of steps.

    Args:
        spec: as for `control`.
        budget: of the slider; used where the choice has one.
        dial: of the threshold; used where the choice has one, None for the published value.
        steps: of the sampler.
        model: its name.
        plans: those of the visitor.

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
    if governed.dial is not None:
        value = governed.default if dial is None else dial
        spec = _with(spec, governed.dial, f"{value:g}")
        return Chosen(spec, names.method(spec))
    row = _row(
        names.with_evaluations(spec, governed.nearest(budget)) if governed.budgets else spec, budget, steps, model
    )
    return Chosen(row.label, row.method)


def fewer_steps(name: str, evaluations: int) -> Sampler | None:
    """The plain sampler at as many evaluations; None for the pipeline's own scheduler.

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


def _budgets(spec: str, model: str) -> tuple[int, ...]:
    kept: Any = _REFERENCE.get(spec)
    return shipped_budgets(model, kept) if kept else ()


def _row(spec: str, budget: int, steps: int, model: str) -> Row:
    settings = Settings(steps=steps, evaluations=(budget,), methods=(spec,), seeds=1, converged_steps=0)
    found = rows(settings, model)
    if len(found) != 1:
        raise ValueError(f"{spec!r} names {len(found)} methods; name one.")
    return found[0]


def _runs(pipe: Any, method: Method | Sampler) -> bool:
    try:
        accelerate(pipe, method)
    except ValueError:
        return False
    return True


def _with(spec: str, option: str, value: str) -> str:
    name, given = names.split(spec)
    return f"{name}:" + ",".join(f"{key}={text}" for key, text in {**given, option: value}.items())
