"""Method: frozen, equal by value, identified by its repr, refusing parts of the wrong kind."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
from torch import Tensor

import driftcast
from cases import ALL_COORDINATES, ALL_FORECASTERS, ALL_TARGETS, named
from driftcast import (
    FixedSteps,
    Forecaster,
    GlobalDrift,
    History,
    IncompatibleParts,
    Lagrange,
    Method,
    Output,
    Periodic,
    Sigma,
    StepIndex,
)

PARTS = [*ALL_COORDINATES, *ALL_TARGETS, Periodic(3, evaluations=10, last=True), FixedSteps((0, 4))]


def test_defaults() -> None:
    assert Method(Lagrange(1)) == Method(Lagrange(1), Periodic(3, 6), StepIndex(), Output())


@pytest.mark.parametrize("case", **named(ALL_FORECASTERS))
def test_the_repr_is_the_method(case: object) -> None:
    made = Method(case.forecaster, FixedSteps((0, 4)), Sigma(), GlobalDrift())
    assert eval(repr(made), vars(driftcast).copy()) == made
    assert hash(eval(repr(made), vars(driftcast).copy())) == hash(made)


@pytest.mark.parametrize("part", **named(PARTS))
def test_parts_are_frozen_values(part: object) -> None:
    assert eval(repr(part), vars(driftcast).copy()) == part
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

    def forecast(self, history: History, tau: float) -> Tensor:
        raise AssertionError("never asked")


def test_a_forecaster_without_memory_is_incompatible() -> None:
    with pytest.raises(IncompatibleParts, match=r"Forgetful\(\) remembers no evaluation; its window must be"):
        Method(Forgetful())
    assert issubclass(IncompatibleParts, ValueError)
