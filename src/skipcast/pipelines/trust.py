"""Whether a run of a plan stays where the plan was made: its outputs against the plan's own forecasts of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from skipcast.plans.plan import Plan

#: Residuals beyond this multiple of the largest recorded one are warned of.
FACTOR = 3.0


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
        residual = (flat - guess.reshape(len(y), -1)).norm(dim=1) / flat.norm(dim=1)
        self._found[n] = residual.nan_to_num(nan=torch.inf, posinf=torch.inf)  # what cannot be compared is not trusted
        self._rounding = torch.finfo(y.dtype).eps

    @property
    def compared(self) -> bool:
        """Whether any output was compared with its forecast."""
        return bool(self._found)

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
