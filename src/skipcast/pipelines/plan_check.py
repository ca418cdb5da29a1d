"""The two checks of a plan: of the scheduler it was recorded with, and of a run against its own forecasts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor

from skipcast.pipelines.networks import scheduler_class
from skipcast.plans.plan import Origin, Plan

# The scheduler that a profile was recorded with: built again, and compared with the one that a pipeline has.


def public(config: Any) -> dict[str, Any]:
    """The entries of a configuration that are not diffusers' own notes."""
    return {key: value for key, value in dict(config).items() if not key.startswith("_")}


def recorded_scheduler(origin: Origin) -> Any:
    """The scheduler that was recorded.

    Raises:
        ValueError: the installed diffusers does not have it.
    """
    kind = scheduler_class(origin.scheduler)
    if kind is None:
        raise ValueError(
            f"this plan was made for scheduler {origin.scheduler!r}, which diffusers {diffusers.__version__} "
            "does not have; install the version it was recorded with."
        )
    return kind.from_config(public(origin.config))


def check_recorded(scheduler: Any, origin: Origin) -> None:
    """Refuse a scheduler that is not the recorded one.

    Raises:
        ValueError: another class, or another value in its configuration, by name.
    """
    kind = type(scheduler).__name__
    if kind != origin.scheduler:
        raise ValueError(
            f"this plan was made for scheduler {origin.scheduler}, the pipeline has {kind}; set "
            f"pipe.scheduler = {origin.scheduler}.from_config(...) or make a plan for {kind}."
        )
    now = json.loads(json.dumps(public(scheduler.config), default=str))
    for key, recorded in public(origin.config).items():
        if key in now and now[key] != recorded:
            raise ValueError(
                f"this plan was made for {key}={recorded!r}, the pipeline's scheduler has {key}={now[key]!r}; "
                "set it back or record the pipeline as it is now."
            )


# Whether a run of a plan stays where the plan was made: its outputs against the plan's own forecasts of them.


@dataclass(frozen=True)
class Departure:
    """The largest excess of a run over what was recorded: residual / largest recorded one."""

    sample: int
    evaluation: int
    times: float


class Trust:
    """Relative residuals of one run, r_n = ||y_n - sum_j f_{n,j} y_j|| / ||y_n|| per sample.

    They stay on the device until they are read.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._found: dict[int, Tensor] = {}
        self._rounding = 0.0

    def note(self, n: int, guess: Tensor, y: Tensor) -> None:
        """Take the residual of evaluation n, whose forecast is `guess`."""
        flat = y.to(guess.dtype).reshape(len(y), -1)
        self._found[n] = (flat - guess.reshape(len(y), -1)).norm(dim=1) / flat.norm(dim=1)
        self._rounding = torch.finfo(y.dtype).eps

    def residuals(self, batch: int) -> Tensor:
        """(m, batch) on the CPU, NaN where nothing was forecast, as at the first evaluation."""
        table = torch.full((len(self.plan), batch), float("nan"))
        for n, values in self._found.items():
            table[n] = values.float().cpu()
        return table

    def limits(self, factor: float) -> Tensor:
        """The residuals above which a sample is out of range, (m,): `factor` times the largest recorded ones.

        Rounding of the outputs is allowed for, which a plan recorded in float32 and run in bfloat16 has not seen.
        """
        if self.plan.expected is None:
            raise ValueError(f"{self.plan!r} holds no expected residuals to compare with.")
        growth = torch.tensor([1 + float(abs(row).sum()) for row in self.plan.forecasts])
        return factor * torch.tensor(self.plan.expected[:, 1].copy()).float() + self._rounding * growth

    def worst(self, batch: int, factor: float) -> Departure | None:
        """The sample and evaluation furthest out of range; None if all are within."""
        table = self.residuals(batch)
        out = table > self.limits(factor)[:, None]  # False where NaN
        if not out.any():
            return None
        times = torch.where(out, table / self.limits(1.0)[:, None], torch.zeros(()))
        evaluation, sample = divmod(int(times.argmax()), batch)
        return Departure(sample, evaluation, float(times.max()))
