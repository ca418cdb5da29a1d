"""A method: coordinate, target, forecaster and controller together."""

from __future__ import annotations

from dataclasses import dataclass

from driftcast.controllers import Controller, Periodic
from driftcast.coordinates import Coordinate, StepIndex
from driftcast.forecasters import Forecaster
from driftcast.targets import Output, Target


class IncompatibleParts(ValueError):
    """Two parts of a method that make no sense together."""


@dataclass(frozen=True)
class Method:
    """What is forecast (target), by what rule (forecaster), when (controller), in which time (coordinate).

    Frozen; its repr is its identity in every result.

    Raises:
        TypeError: a part is of the wrong kind.
        IncompatibleParts: the forecaster never remembers an evaluation.
    """

    forecaster: Forecaster
    controller: Controller = Periodic()
    coordinate: Coordinate = StepIndex()
    target: Target = Output()

    def __post_init__(self) -> None:
        kinds = {"forecaster": Forecaster, "controller": Controller, "coordinate": Coordinate, "target": Target}
        for name, kind in kinds.items():
            part = getattr(self, name)
            if not isinstance(part, kind):
                raise TypeError(
                    f"Method({name}=...) must be a {kind.__name__} such as those of driftcast, got {part!r}."
                )
        if self.forecaster.window < 1:
            raise IncompatibleParts(f"{self.forecaster!r} remembers no evaluation; its window must be at least 1.")
