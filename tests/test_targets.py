"""Targets: inverse maps at a seam."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cases import ALL_TARGETS, named
from driftcast import GlobalDrift, LastHidden, Output, Target


@pytest.mark.parametrize("target", **named(ALL_TARGETS))
def test_round_trip(target: Target) -> None:
    x, y = torch.randn(2, 4, 3, dtype=torch.float64), torch.randn(2, 4, 3, dtype=torch.float64)
    value = target.encode(x, y)
    assert value.shape == y.shape
    assert value.dtype == y.dtype
    assert (target.decode(x, value) - y).abs().max() < 1e-15


@pytest.mark.parametrize("target", **named(ALL_TARGETS))
def test_inputs_are_left_alone(target: Target) -> None:
    x, y = torch.full((2, 3), 2.0), torch.full((2, 3), 5.0)
    target.decode(x, target.encode(x, y))
    assert torch.equal(x, torch.full((2, 3), 2.0))
    assert torch.equal(y, torch.full((2, 3), 5.0))


@pytest.mark.parametrize(
    "target, seam, value, decoded",
    [(Output(), "output", 5.0, 5.0), (GlobalDrift(), "stack", 3.0, 13.0), (LastHidden(), "stack", 5.0, 5.0)],
    ids=str,
)
def test_target_by_hand(target: Target, seam: str, value: float, decoded: float) -> None:
    """Entering 2, leaving 5; later entering 10."""
    remembered = target.encode(torch.tensor([2.0]), torch.tensor([5.0]))
    assert target.seam == seam
    assert remembered.item() == value
    assert target.decode(torch.tensor([10.0]), remembered).item() == decoded


@pytest.mark.parametrize("target", **named(ALL_TARGETS))
def test_a_target_is_a_value(target: Target) -> None:
    assert dataclasses.is_dataclass(target)
    assert target == type(target)()
    assert hash(target) == hash(type(target)())
    assert repr(target) == f"{type(target).__name__}()"
