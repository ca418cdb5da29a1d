"""A run: one trajectory of one guidance branch, and the only mutable object of a method."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from skipcast.checks import guarded
from skipcast.grid import TimeGrid
from skipcast.history import History, Point, RunState, StepRecord, tensor_bytes
from skipcast.parts import Method

NO_GRADIENT = (
    "gradients do not flow through remembered outputs, so that of this run would be another scheme's: sample under "
    "torch.no_grad(), or evaluate every step."
)
OVERFLOW = "half precision may have overflowed, so use bfloat16 or float32, and throw this result away"


class Run(RunState):
    """Evaluates or forecasts step by step; a forecast carries no gradient.

        run = Run(method, grid)
        for step in range(len(grid)):
            y = run.advance(x, lambda: network(x, grid.timestep[step]))

    Args:
        method: the parts.
        grid: the sampler's steps.
        forecast_error: also forecast at evaluated steps and keep the relative error; one weighted sum per evaluation.
        leader: the run of another guidance branch, whose decisions this one follows.

    Raises:
        ValueError: the controller or the coordinate does not fit the grid; nothing has been evaluated then.
    """

    @guarded()
    def __init__(
        self, method: Method, grid: TimeGrid, *, forecast_error: bool = True, leader: Run | None = None
    ) -> None:
        method.check(len(grid))
        super().__init__(len(grid), History(method.forecaster.window), method.controller.begin())
        self.method = method
        self.grid: TimeGrid = grid
        self.taus = method.coordinate(grid)
        self._measures, self._leader = forecast_error, leader
        self._decisions: dict[int, bool] = {}
        self._before: Tensor | None = None  # x of the step before, for targets that carry it

    @guarded()
    def wants_evaluation(self, probe: Tensor | None = None) -> bool:
        """Whether the network is to be evaluated at this step; `probe` is what the method looks at."""
        self._point()
        if self.step not in self._decisions:
            self.probe = probe
            self._decisions[self.step] = self._decide()
        return self._decisions[self.step]

    def _decide(self) -> bool:
        if not len(self.history):
            return True
        if self._leader is not None and self.step in self._leader._decisions:
            return self._leader._decisions[self.step]
        return self.method.controller.evaluate(self)

    @guarded()
    def observe(self, x: Tensor, y: Tensor) -> Tensor:
        """Take the evaluated y of this step into the history and move on; returns y itself, or what corrects it."""
        point, value = self._point(), self.method.target.encode(x, y)
        self.history.cut |= value.requires_grad
        value = value.detach()
        forecaster = self.method.forecaster
        guess = forecaster.forecast(self.history, point) if self._measures and len(self.history) else None
        kept = forecaster.correct(self.history, point, value) if len(self.history) else value
        noted = None if self.probe is None else forecaster.noted(self.probe)
        self.history.push(self.step, point.tau, kept, noted=noted)  # refuses a changed shape, so before the comparison
        forecast_error = None if guess is None else (guess - value).float().norm() / value.float().norm()
        self.method.controller.observed(self, x, y)
        out = y if kept is value else self.method.target.decode(x, kept, self._before)
        self._finish(x, True, forecast_error)
        return out

    @guarded()
    def forecast(self, x: Tensor) -> Tensor:
        """The forecast y of this step; moves on. Only a recursive forecaster's enters the history."""
        point = self._point()
        if not len(self.history):
            raise RuntimeError("nothing has been evaluated in this run yet; evaluate its first step and observe() it.")
        if self.history.cut and torch.is_grad_enabled():
            raise RuntimeError(NO_GRADIENT)
        target = self.method.target
        y = target.decode(x, self.method.forecaster.forecast(self.history, point), self._before)
        if self.method.forecaster.recursive:
            self.history.push(self.step, point.tau, target.encode(x, y), evaluated=False)
        self._finish(x, False)
        return y

    @guarded()
    def take(self, x: Tensor, y: Tensor) -> Tensor:
        """Remember a y that was pieced together inside the network, as if it were evaluated, and count a forecast."""
        self.history.push(self.step, self._point().tau, self.method.target.encode(x, y), evaluated=False)
        self._finish(x, False)
        return y

    @guarded()
    def advance(self, x: Tensor, evaluate: Callable[[], Tensor]) -> Tensor:
        """The y of this step: evaluated or forecast."""
        return self.observe(x, evaluate()) if self.wants_evaluation(self._shown(x)) else self.forecast(x)

    def bytes(self) -> int:
        """Memory held between steps, in bytes."""
        return self.history.bytes() + tensor_bytes([self.state, self._before])

    def release(self) -> None:
        """Forget every tensor, as at the end of a run; a step that follows is evaluated. The trace stays."""
        self.history = History(self.method.forecaster.window)
        self.state = self.method.controller.begin()
        self.probe = self.verified = self._before = None

    def _shown(self, x: Tensor) -> Tensor | None:
        return x if self.method.probe == "input" else None

    def _point(self) -> Point:
        """Where this step stands."""
        if self.step >= len(self.grid):
            raise RuntimeError(f"this run has {len(self.grid)} steps and all are done; start a new Run.")
        return Point(self.step, self.taus, self.probe)

    def _finish(self, x: Tensor, evaluated: bool, forecast_error: Tensor | None = None) -> None:
        self.trace.append(StepRecord(self.step, float(self.taus[self.step]), evaluated, forecast_error))
        self.probe = None  # controllers keep copies in their state
        if self.method.target.carries_input:
            self._before = x.detach().clone()
        self.step += 1
