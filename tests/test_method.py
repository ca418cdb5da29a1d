"""Method: frozen, equal by value, identified by its repr, refusing parts of the wrong kind."""

from __future__ import annotations

import dataclasses

import pytest

from skipcast import Method, Output
from skipcast.controllers import FixedSteps, Periodic
from skipcast.coordinates import Sigma, StepIndex
from skipcast.forecasters import Lagrange
from skipcast.targets import GlobalDrift
from support.cases import ALL_COORDINATES, ALL_FORECASTERS, ALL_TARGETS, built, named

PARTS = [*ALL_COORDINATES, *ALL_TARGETS, Periodic(), FixedSteps((0, 4)), Lagrange(1), Method(Lagrange(1))]


def test_defaults() -> None:
    assert Method(Lagrange(1)) == Method(Lagrange(1), Periodic(3, 6), StepIndex(), Output())


@pytest.mark.parametrize("case", **named(ALL_FORECASTERS))
def test_the_repr_is_the_method(case: object) -> None:
    coordinate = (case.forecaster.coordinates or (Sigma,))[0]()
    made = Method(case.forecaster, Periodic(3, 6), coordinate, GlobalDrift())
    again = built(repr(made))
    assert (again, hash(again)) == (made, hash(made))


@pytest.mark.parametrize("part", **named(PARTS))
def test_parts_are_frozen_values(part: object) -> None:
    again = built(repr(part))
    assert (again, hash(again)) == (part, hash(part))
    with pytest.raises(dataclasses.FrozenInstanceError):
        part.anything = 1


@pytest.mark.parametrize("name", ["forecaster", "controller", "coordinate", "target"])
@pytest.mark.parametrize("wrong", ["lagrange", None, Lagrange], ids=str)
def test_a_part_of_the_wrong_kind_is_refused_by_name(name: str, wrong: object) -> None:
    with pytest.raises(TypeError, match=rf"Method\({name}=\.\.\.\) must be a {name} \("):
        Method(**{"forecaster": Lagrange(1), name: wrong})
