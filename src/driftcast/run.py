"""A run: one trajectory of one guidance branch, and the only mutable object of a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from driftcast.grid import TimeGrid
from driftcast.history import History
from driftcast.method import Method


@dataclass(frozen=True)
class StepRecord:
    """What happened at one step; `shadow` is the relative error of the forecast that an evaluation made unnecessary."""

    step: int
    tau: float
    evaluated: bool
    shadow: Tensor | None = None


class Run:
    """Evaluates or forecasts step by step; a forecast carries no gradient.

        run = Run(method, grid)
        for step in range(len(grid)):
            y = run.advance(x, lambda: network(x, grid.timestep[step]))

    Args:
        method: the parts.
        grid: the sampler's steps.
        shadow: also forecast at evaluated steps and keep the relative error; one weighted sum per evaluation.

    Raises:
        ValueError: the controller or the coordinate does not fit the grid; nothing has been evaluated then.
    """

    def __init__(self, method: Method, grid: TimeGrid, *, shadow: bool = True) -> None:
        method.controller.check(len(grid))
        self.method, self.grid = method, grid
        self.nodes = method.coordinate(grid)
        self.history = History(method.forecaster.window)
        self.trace: list[StepRecord] = []
        self.step = 0
        self._shadow = shadow

    def wants_evaluation(self) -> bool:
        """Whether the network is to be evaluated at this step."""
        self._tau()
        return not len(self.history) or self.method.controller.evaluate(self)

    def observe(self, x: Tensor, y: Tensor) -> Tensor:
        """Take the evaluated y of this step into the history and move on; returns y itself."""
        tau, value = self._tau(), self.method.target.encode(x, y).detach()
        guess = self.method.forecaster.forecast(self.history, tau) if self._shadow and len(self.history) else None
        self.history.push(self.step, tau, value)  # refuses a changed shape, so before the comparison
        shadow = None if guess is None else (guess - value).float().norm() / value.float().norm()
        self._finish(True, shadow)
        return y

    def forecast(self, x: Tensor) -> Tensor:
        """The forecast y of this step; moves on without touching the history."""
        tau = self._tau()
        if not len(self.history):
            raise RuntimeError("nothing has been evaluated in this run yet; evaluate its first step and observe() it.")
        value = self.method.forecaster.forecast(self.history, tau)
        self._finish(False)
        return self.method.target.decode(x, value)

    def advance(self, x: Tensor, evaluate: Callable[[], Tensor]) -> Tensor:
        """The y of this step: evaluated or forecast."""
        return self.observe(x, evaluate()) if self.wants_evaluation() else self.forecast(x)

    def _tau(self) -> float:
        """The coordinate of this step."""
        if self.step >= len(self.grid):
            raise RuntimeError(f"this run has {len(self.grid)} steps and all are done; start a new Run.")
        return float(self.nodes[self.step])

    def _finish(self, evaluated: bool, shadow: Tensor | None = None) -> None:
        self.trace.append(StepRecord(self.step, float(self.nodes[self.step]), evaluated, shadow))
        self.step += 1
