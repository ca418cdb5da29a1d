"""One scheduler for all plans of a server: every run takes the plan that its count of steps means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from skipcast.checks import guarded
from skipcast.engines.tiers import Tiers
from skipcast.pipelines.plan_check import Given, check_recorded
from skipcast.pipelines.plan_scheduler import PlanScheduler
from skipcast.plans.plan import Plan


class TieredScheduler(PlanScheduler):
    """A `PlanScheduler` whose `set_timesteps` chooses among several plans.

        pipe.scheduler = TieredScheduler(Tiers.load("plans"))
        pipe(prompt, num_inference_steps=10)  # the plan of 10 evaluations; N, the steps of the recorded run, is "auto"

    Deep copies share nothing that a run changes, so each request may have one.

    Args:
        tiers: the plans.
    """

    def __init__(self, tiers: Tiers) -> None:
        self.tiers = tiers
        self._call: Mapping[str, Any] = {}
        super().__init__(tiers.named("auto"))

    def tell(self, call: Mapping[str, Any]) -> None:
        """Say with which arguments the next run's request came; plans with knots look theirs up."""
        self._call = dict(call)

    def of_any_size(self) -> PlanScheduler:
        """The plan with the fewest evaluations at its first guidance scale, on any grid: for runs that warm up."""
        plan = self.tiers.named("low")
        first = plan.knots[0].value if plan.knots else None
        return PlanScheduler(plan, strict=False, check=False, guidance=first)

    @guarded(num_inference_steps=1)
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        """Begin a run of the plan that the count means; everything else as of `PlanScheduler`.

        Raises:
            ValueError: the count means no plan, or the plan's guidance scale is not told, or lies outside its knots.
        """
        count = Given(num_inference_steps, sigmas, mu, timesteps).count
        if count is None:
            raise ValueError(f"set_timesteps(...) needs num_inference_steps: {self.tiers.evaluations} are known.")
        self._switch(self.tiers.counted(count))
        super().set_timesteps(num_inference_steps, device, sigmas, mu, timesteps)

    def _switch(self, plan: Plan) -> None:
        value = self._call.get(plan.argument) if plan.argument else None
        if plan.argument and value is None:
            raise ValueError(
                f"{plan!r} needs the {plan.argument} of the request, which this engine did not tell; give "
                f"{plan.argument} with the request, or serve plan.at(...), the plan for one value."
            )
        if len(plan) != len(self._plan) or self.guidance != value:
            base = self._base  # of all plans alike, and pipelines may have set something on it
            super().__init__(plan, guidance=value)
            self._base = base

    def save_config(self, *args: Any, **kwargs: Any) -> None:
        """Refused: what is saved with a pipeline is one plan."""
        raise ValueError("a TieredScheduler is made where a server starts; save PlanScheduler(plan) with a pipeline.")


def tiered(tiers: Tiers, own: Any, owner: str) -> TieredScheduler:
    """The scheduler that takes the place of an engine's own.

    Args:
        tiers: the plans.
        own: the engine's scheduler.
        owner: what has it, for errors.

    Raises:
        ValueError: it is not the recorded one.
    """
    try:
        tiers = tiers.adopted(own)
        check_recorded(own, tiers.plans[0].origin)
    except ValueError as error:
        raise ValueError(f"{owner} cannot run these plans: {error}") from None
    return TieredScheduler(tiers)
