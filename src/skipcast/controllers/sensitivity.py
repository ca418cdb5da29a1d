"""Forecasts while the network, by sensitivities measured beforehand, cannot have moved far: SenCache's rule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from skipcast.controllers.adaptive import _below, _shown
from skipcast.controllers.base import Controller, forced, refuse_below, refuse_negative
from skipcast.history import RunState


@dataclass
class _Reference:
    """The sample at the newest evaluation, its timestep, and the sensitivities there."""

    sample: Tensor | None = None
    timestep: float = 0.0
    by_sample: float = math.nan
    by_time: float = math.nan


@dataclass(frozen=True)
class SensitivityBound(Controller):
    """Forecasts while a first-order bound on the network's change since the newest evaluation stays below a threshold.

        score = J_x |x - x_e| + J_t |t - t_e|,   e the newest evaluation, J those of the table's timestep nearest to t_e
        forecast where score < threshold, or < early in the first fifth of the run; at most max_forecasts in a row

    |.| is the Euclidean norm of the whole sample, the largest one of a batch. All guidance branches follow the first
    one. The residual of the block stack is reused: `Method(Reuse(), SensitivityBound(...), target=GlobalDrift())`.

    Reference: SenCache, arXiv:2602.24208. No name stands for it, since the measured tables are not in its repository;
    `skipcast.pipelines.sensitivities` measures one:
    J_x = |f(x', t) - f(x, t)| / |x' - x| and J_t = |f(x, t') - f(x, t)| / |t' - t| for x' and t' of the solver's next
    step. The released thresholds are multiplied by the norm of a sample, 1447.978 for Wan at 480p.

    Checked against: vita-epfl/SenCache@4bf419b Wan2.1/sencache.py, CogVideoX/sencache.py, LTX-Video/sencache.py.

    Args:
        timesteps: of the table, in the timesteps that the scheduler passes.
        by_sample: J_x at them.
        by_time: J_t at them.
        threshold: at least 0. Released, before multiplication: 2 for Wan as its README runs it, 0.07 for CogVideoX, 0.7
            for LTX-Video.
        early: the threshold in the first fifth of the run. Released: 0.045, 0.005 and 0.01.
        max_forecasts: forecasts in a row at most. Released: 3, 10 and 4.
        edge: steps evaluated at either end of the run: none for Wan, 1 for CogVideoX and for LTX-Video at 50 steps.
    """

    probe = "input"
    shared = True

    timesteps: tuple[float, ...]
    by_sample: tuple[float, ...]
    by_time: tuple[float, ...]
    threshold: float
    early: float
    max_forecasts: int = 3
    edge: int = 0

    def __post_init__(self) -> None:
        for name in ("timesteps", "by_sample", "by_time"):
            values = tuple(map(float, getattr(self, name)))
            object.__setattr__(self, name, values)
            if not values or len(values) != len(self.timesteps) or not all(map(math.isfinite, values)):
                raise ValueError(
                    f"SensitivityBound({name}=...) must hold one finite number for each of the {len(self.timesteps)} "
                    f"timesteps, at least one, got {values}."
                )
        refuse_negative(self, "threshold", "0 evaluates every step")
        refuse_negative(self, "early", "0 evaluates every step of the first fifth")
        refuse_below(self, "max_forecasts", 1, "leave the method out to forecast nothing")
        refuse_below(self, "edge", 0, "0 is none")

    def check(self, steps: int) -> None:
        """Any run will do."""

    def begin(self) -> _Reference:
        return _Reference()

    def evaluate(self, run: RunState) -> bool:
        state, now = run.state, _shown(self, run)
        if forced(run, self.edge, False) or run.step >= run.steps - self.edge:
            return True
        if state.sample is None or run.since_evaluation > self.max_forecasts:
            return True
        dtype = torch.promote_types(now.dtype, torch.float32)
        move = float((now.to(dtype) - state.sample.to(dtype)).flatten(1).norm(dim=1).max())
        score = state.by_sample * move + state.by_time * abs(_timestep(run) - state.timestep)
        return not _below(score, self.early if run.step < round(0.2 * run.steps) else self.threshold)

    def observed(self, run: RunState, x: Tensor, y: Tensor) -> None:
        if run.probe is None:  # a branch that follows needs none
            return
        state, t = run.state, _timestep(run)
        nearest = min(range(len(self.timesteps)), key=lambda i: abs(self.timesteps[i] - t))
        state.sample, state.timestep = _shown(self, run), t
        state.by_sample, state.by_time = self.by_sample[nearest], self.by_time[nearest]


def _timestep(run: RunState) -> float:
    assert run.grid is not None  # every Run has one
    return float(run.grid.timestep[run.step])
