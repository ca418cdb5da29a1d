"""Method: frozen, equal by value, identified by its repr, refusing parts of the wrong kind."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
from torch import Tensor

import skipcast as sc
from skipcast import History, IncompatibleParts, Method, Output, Point, Run
from skipcast.controllers import Controller, FixedSteps, Periodic, Probe
from skipcast.coordinates import Coordinate, Sigma, StepIndex
from skipcast.forecasters import Forecaster, Lagrange
from skipcast.targets import GlobalDrift
from support.cases import ALL_COORDINATES, ALL_FORECASTERS, ALL_TARGETS, named

#: What a repr is made of: the front door and its parts.
EVERYTHING = {
    **vars(sc), **vars(sc.controllers), **vars(sc.coordinates), **vars(sc.forecasters), **vars(sc.targets)
}  # fmt: skip
PARTS = [*ALL_COORDINATES, *ALL_TARGETS, Periodic(3, evaluations=10, last=True), FixedSteps((0, 4))]


def test_defaults() -> None:
    assert Method(Lagrange(1)) == Method(Lagrange(1), Periodic(3, 6), StepIndex(), Output())


@pytest.mark.parametrize("case", **named(ALL_FORECASTERS))
def test_the_repr_is_the_method(case: object) -> None:
    coordinate = (case.forecaster.coordinates or (Sigma,))[0]()
    made = Method(case.forecaster, Periodic(3, 6), coordinate, GlobalDrift())
    assert eval(repr(made), EVERYTHING.copy()) == made
    assert hash(eval(repr(made), EVERYTHING.copy())) == hash(made)


@pytest.mark.parametrize("part", **named(PARTS))
def test_parts_are_frozen_values(part: object) -> None:
    assert eval(repr(part), EVERYTHING.copy()) == part
    with pytest.raises(dataclasses.FrozenInstanceError):
        part.anything = 1


def test_a_method_is_frozen() -> None:
    made = Method(Lagrange(1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.forecaster = Lagrange(3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.forecaster.order = 3


@pytest.mark.parametrize("name", ["forecaster", "controller", "coordinate", "target"])
@pytest.mark.parametrize("wrong", ["lagrange", None, Lagrange], ids=str)
def test_a_part_of_the_wrong_kind_is_refused_by_name(name: str, wrong: object) -> None:
    with pytest.raises(TypeError, match=rf"Method\({name}=\.\.\.\) must be a {name.title()} "):
        Method(**{"forecaster": Lagrange(1), name: wrong})


def test_swapped_parts_are_refused() -> None:
    with pytest.raises(TypeError, match=r"Method\(controller=\.\.\.\) must be a Controller .*Sigma\(\)"):
        Method(Lagrange(1), Sigma())


@dataclass(frozen=True)
class Forgetful(Forecaster):
    @property
    def window(self) -> int:
        return 0

    def forecast(self, history: History, point: Point) -> Tensor:
        raise AssertionError("never called")


def test_a_forecaster_without_memory_is_incompatible() -> None:
    with pytest.raises(IncompatibleParts, match=r"Forgetful\(\) remembers no evaluation; its window must be"):
        Method(Forgetful())
    assert issubclass(IncompatibleParts, ValueError)


def test_an_order_that_the_evaluations_never_reach_is_refused() -> None:
    message = r"Lagrange\(order=3\) needs 4 evaluations, .* makes 3; lower its order"
    with pytest.raises(IncompatibleParts, match=message):
        Method(Lagrange(3), FixedSteps((0, 1, 5)))
    with pytest.raises(IncompatibleParts, match=message):
        Method(Lagrange(3), Periodic(evaluations=3))
    with pytest.raises(IncompatibleParts, match=message):
        Method(Lagrange(3), Periodic(3, 6)).check(8)
    Method(Lagrange(3), Periodic(3, 6)).check(9)
    Method(Lagrange(3), Periodic(3, 1)).check(3)  # every step evaluated: nothing is forecast


@dataclass(frozen=True)
class OnlyInSteps(Lagrange):
    @property
    def coordinates(self) -> tuple[type[Coordinate], ...]:
        return (StepIndex,)


def test_a_rule_for_one_coordinate_is_refused_in_another() -> None:
    Method(OnlyInSteps(1))
    with pytest.raises(IncompatibleParts, match=r"OnlyInSteps\(order=1\) is a rule in StepIndex\(\), not in Sigma\(\)"):
        Method(OnlyInSteps(1), coordinate=Sigma())


@dataclass(frozen=True)
class Looking(Controller):
    @property
    def probe(self) -> Probe:
        return "block"

    def check(self, steps: int) -> None: ...

    def evaluate(self, run: Run) -> bool:
        return True


def test_a_look_at_the_first_block_needs_the_stack() -> None:
    Method(Lagrange(1), Looking(), target=GlobalDrift())
    with pytest.raises(IncompatibleParts, match=r"Looking\(\) looks at the first block.*Output\(\)"):
        Method(Lagrange(1), Looking())
