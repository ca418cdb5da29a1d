"""Several plans of one model, of which every request takes one: by its count of evaluations, or by a quality."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from skipcast.checks import Checked, guarded, shown
from skipcast.methods.names import PLAN_SUFFIX
from skipcast.plans.plan import Plan

Quality = Literal["low", "medium", "high", "auto"]
#: The environment variable that names the file or the folder of plans for the engines' plug-ins.
VARIABLE = "SKIPCAST_PLANS"
#: A plan's name in a folder of its own.
_ALONE = "plan.json"


@dataclass(frozen=True, eq=False)
class Tiers(Checked):
    """Plans of one model and grid, one for each count of evaluations.

    Without names, "low" is the plan with the fewest evaluations, "high" that with the most, "medium" the middle one.
    "auto" is the plan with the fewest evaluations of which `psnr` decibels are predicted on average, or the one with
    the most where none reaches them.

    Args:
        plans: in any order; they are kept by rising evaluations.
        names: the plans of "low", "medium" and "high", where they are not these.
        psnr: what "auto" wants, in dB.

    Raises:
        ValueError: no plan, two with the same evaluations, or plans for another scheduler or number of steps.
    """

    plans: tuple[Plan, ...]
    names: Mapping[str, Plan] | None = None
    psnr: float = 40.0

    def __post_init__(self) -> None:
        if not self.plans:
            raise ValueError("Tiers(plans=...) needs at least one plan.")
        object.__setattr__(self, "plans", tuple(sorted(self.plans, key=len)))
        for plan in self.plans:
            if _made_for(plan) != _made_for(self.plans[0]):
                raise ValueError(
                    f"{plan!r} and {self.plans[0]!r} are for different pipelines, schedulers or numbers of steps; give "
                    "the plans of one model together, and others to a server of their own."
                )
        for plan in self.plans:
            plan.whole("Tiers(plans=...)")
        for one, other in zip(self.plans, self.plans[1:], strict=False):
            if len(one) == len(other):
                raise ValueError(f"{one!r} and {other!r} have the same evaluations; leave one of them out.")
        for name, plan in (self.names or {}).items():
            if name not in get_args(Quality) or all(plan is not other for other in self.plans):
                raise ValueError(f"Tiers(names=...): {shown(name)} must be a quality, and its plan one of `plans`.")

    def __deepcopy__(self, memo: dict[int, Any]) -> Tiers:
        return self  # nothing in it changes

    @classmethod
    @guarded()
    def load(cls, path: str | Path, psnr: float = 40.0) -> Tiers:
        """The plan of a file, or all of a folder: *.plan.json, and */plan.json as a folder of published plans has them.

        Those that are called low, medium and high, as in low.plan.json, name the qualities.

        Raises:
            FileNotFoundError: no such file, or no plan in the folder.
            ValueError: a file is no plan, or the plans do not belong together.
        """
        path = Path(path)
        files = [path]
        if path.is_dir():
            files = sorted([*path.glob(f"*{PLAN_SUFFIX}"), *path.glob(f"*/{_ALONE}")])
        if not files:
            raise FileNotFoundError(f"no plan in {path}; make some with `skipcast plan PROFILE --out ...`.")
        named = [file.parent if file.name == _ALONE else file for file in files]
        plans = {each.name.removesuffix(PLAN_SUFFIX): Plan.load(file) for each, file in zip(named, files, strict=True)}
        if len(plans) < len(files):
            raise ValueError(f"{path} has two plans of one name; rename one of them.")
        return cls(tuple(plans.values()), {name: plans[name] for name in get_args(Quality) if name in plans}, psnr)

    @classmethod
    @guarded()
    def shipped(cls, model: str, psnr: float = 40.0) -> Tiers:
        """The plans that ship with a reference model, faithful to its unaccelerated run.

        Raises:
            ValueError: none ship.
        """
        from skipcast.models.shipped import shipped_budgets, shipped_plan  # with the data of the models

        budgets = shipped_budgets(model) or (1,)  # of which the next line says that there is none
        return cls(tuple(shipped_plan(model, evaluations) for evaluations in budgets), psnr=psnr)

    @classmethod
    def of_environment(cls) -> Tiers | None:
        """The plans that SKIPCAST_PLANS names; None where it is not set."""
        path = os.environ.get(VARIABLE)
        return cls.load(path) if path else None

    def adopted(self, scheduler: Any) -> Tiers:
        """The same for a pipeline with this scheduler: plans from ComfyUI, which have none, take it.

        Raises:
            ValueError: they are plans of no flow, or the scheduler is of none.
        """
        from skipcast.pipelines.plan_check import adopted

        made = {id(plan): adopted(plan, scheduler) for plan in self.plans}
        names = {name: made[id(plan)] for name, plan in (self.names or {}).items()}
        return replace(self, plans=tuple(made.values()), names=names)

    @property
    def evaluations(self) -> tuple[int, ...]:
        """m of each plan."""
        return tuple(map(len, self.plans))

    @property
    def steps(self) -> int:
        """N, the steps of the unaccelerated run."""
        return self.plans[0].origin.steps

    @guarded()
    def named(self, quality: Quality) -> Plan:
        """The plan of a quality."""
        if self.names and quality in self.names:
            return self.names[quality]
        if quality == "auto":
            good = [plan for plan in self.plans if plan.predicted and plan.predicted.psnr >= self.psnr]
            return (*good, self.plans[-1])[0]
        return self.plans[{"low": 0, "medium": len(self.plans) // 2, "high": -1}[quality]]

    @guarded()
    def counted(self, count: int) -> Plan:
        """The plan that a request for so many steps means: the one with as many evaluations, or for N steps "auto".

        Raises:
            ValueError: neither.
        """
        known = {len(plan): plan for plan in self.plans}
        if count in known:
            return known[count]
        if count == self.steps:
            return self.named("auto")
        raise ValueError(
            f"num_inference_steps={count} means none of the plans here: give {', '.join(map(str, known))}, the "
            f"evaluations of one, or {self.steps}, the steps that they were made for, for that of "
            f"{len(self.named('auto'))}."
        )


def _made_for(plan: Plan) -> Any:
    origin = plan.origin
    return origin.pipeline, origin.scheduler, dict(origin.config), origin.steps, origin.shape
