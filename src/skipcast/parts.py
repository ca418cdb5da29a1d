"""A method: coordinate, target, forecaster and controller together, and what it keeps between steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from skipcast.checks import Checked, guarded
from skipcast.controllers import Controller, Periodic, Probe, StaticController
from skipcast.coordinates import Coordinate, StepIndex
from skipcast.forecasters import Forecaster
from skipcast.history import RunState
from skipcast.targets import Output, Target


class IncompatibleParts(ValueError):
    """Two parts of a method that make no sense together."""


@dataclass(frozen=True)
class Method(Checked):
    """What is forecast (target), by what rule (forecaster), when (controller), in which time (coordinate).

    Frozen; its repr is its identity in every result.

    Raises:
        TypeError: a part is of the wrong kind.
        IncompatibleParts: two parts that make no sense together, by name.
    """

    forecaster: Forecaster
    controller: Controller = Periodic()
    coordinate: Coordinate = StepIndex()
    target: Target = Output()

    def __post_init__(self) -> None:
        forecaster, controller = self.forecaster, self.controller
        if forecaster.window < 1:
            raise IncompatibleParts(f"{forecaster!r} remembers no evaluation; its window must be at least 1.")
        if forecaster.coordinates and not isinstance(self.coordinate, forecaster.coordinates):
            wanted = " or ".join(f"{kind.__name__}()" for kind in forecaster.coordinates)
            raise IncompatibleParts(f"{forecaster!r} is a rule in {wanted}, not in {self.coordinate!r}.")
        if "none" not in (controller.probe, forecaster.probe) and controller.probe != forecaster.probe:
            raise IncompatibleParts(
                f"{controller!r} looks at the probe {controller.probe!r} and {forecaster!r} at {forecaster.probe!r}; a "
                "run shows one of them, so choose parts that look at the same."
            )
        if self.probe not in ("none", "input") and self.target.seam != "stack":
            looking: object = controller if controller.probe != "none" else forecaster
            seen = "the time's embedding" if self.probe == "time" else "the first block"
            raise IncompatibleParts(
                f"{looking!r} looks at {seen}, so its target must lie at the block stack, such as "
                f"GlobalDrift(); got {self.target!r}."
            )
        common = isinstance(controller, StaticController) or controller.verifies or controller.follows
        if self.target.seam == "modules" and not common:
            raise IncompatibleParts(
                f"{self.target!r} keeps a stream per module, which all need one decision; {controller!r} decides by "
                "values. Use a controller of fixed steps."
            )
        if controller.remembers > forecaster.window:
            raise IncompatibleParts(
                f"{controller!r} looks at {controller.remembers} remembered values, {forecaster!r} keeps "
                f"{forecaster.window}; use a forecaster with a longer window."
            )
        if controller.verifies and not self.target.verifies:
            raise IncompatibleParts(
                f"{controller!r} needs forecasts that the target verifies, such as VerifiedModules(); got "
                f"{self.target!r}."
            )
        if controller.planned is not None:
            self._check_count(controller.planned)

    @property
    def probe(self) -> Probe:
        """What a run must be shown at every step before its decision."""
        return self.controller.probe if self.controller.probe != "none" else self.forecaster.probe

    @guarded(steps=1)
    def check(self, steps: int) -> None:
        """Refuse a run of `steps` steps before anything is evaluated.

        Raises:
            ValueError: the controller cannot govern it, or evaluates too rarely for the forecaster's order.
        """
        self.controller.check(steps)
        if isinstance(self.controller, StaticController):
            count = len(self.controller.evaluated(steps))
            if count < steps:  # with every step evaluated nothing is forecast
                self._check_count(count)

    def _check_count(self, count: int) -> None:
        if count < self.forecaster.min_evaluations:
            raise IncompatibleParts(
                f"{self.forecaster!r} needs {self.forecaster.min_evaluations} evaluations, "
                f"{self.controller!r} makes {count}; lower its order or evaluate more often."
            )


@dataclass(frozen=True)
class Memory:
    """What a method keeps between steps: `tensors` times one `of` these, per guidance branch."""

    tensors: int
    of: str

    def bytes(self, shape: tuple[int, ...], itemsize: int = 2) -> int:
        """Of tensors of this shape, in bytes; `itemsize` is 2 in half precision."""
        return self.tensors * math.prod(shape) * itemsize


def memory(method: Method, evaluations: int) -> Memory:
    """What a method remembers in a run of so many evaluations.

    Controllers that compare a probe with the step before keep further tensors of the probe's size, mostly one.
    """
    target = method.target
    also = target.verifies and target.seam == "stack"  # what leaves the last block
    kept = method.forecaster.memory(evaluations) * (2 if also else target.histories)
    return Memory(kept + target.carries_input, target.remembered)


@dataclass(frozen=True)
class Follower(Controller):
    """Decides nothing: the branch's own run does, and this stream observes or forecasts."""

    follows = True

    def check(self, steps: int) -> None: ...

    def evaluate(self, run: RunState) -> bool:
        return False


def follower(method: Method, target: Target | None = None) -> Method:
    """The method of a further stream: the same rule in the same time, on its own history."""
    return replace(method, controller=Follower(), target=target or method.target)
