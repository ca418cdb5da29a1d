"""Targets: inverse maps at a seam."""

from __future__ import annotations

import pytest
import torch

from skipcast import Output
from skipcast.targets import (
    GlobalDrift,
    LastHidden,
    ModuleOutputs,
    OutputDrift,
    Span,
    SpanDrift,
    StagedSpans,
    Target,
    VerifiedModules,
    span_for_speedup,
)
from support.cases import ALL_TARGETS, named


@pytest.mark.parametrize("target", **named(ALL_TARGETS))
def test_round_trip(target: Target) -> None:
    x, y = torch.randn(2, 4, 3, dtype=torch.float64), torch.randn(2, 4, 3, dtype=torch.float64)
    before = torch.stack((x, y))
    value = target.encode(x, y)
    assert value.shape == y.shape
    assert value.dtype == y.dtype
    assert (target.decode(x, value) - y).abs().max() < 1e-15
    assert torch.equal(torch.stack((x, y)), before)


@pytest.mark.parametrize(
    "target, seam, value, decoded",
    [
        (Output(), "output", 5.0, 5.0),
        (GlobalDrift(), "stack", 3.0, 13.0),
        (LastHidden(), "stack", 5.0, 5.0),
        (ModuleOutputs(), "modules", 5.0, 5.0),
    ],
    ids=str,
)
def test_target_by_hand(target: Target, seam: str, value: float, decoded: float) -> None:
    """Entering 2, leaving 5; later entering 10."""
    remembered = target.encode(torch.tensor([2.0]), torch.tensor([5.0]))
    assert target.seam == seam
    assert remembered.item() == value
    assert target.decode(torch.tensor([10.0]), remembered).item() == decoded


@pytest.mark.parametrize(
    "target, spans",
    [
        (GlobalDrift(), [(0, 57)]),
        (LastHidden(), [(0, 57)]),
        (SpanDrift(), [(0, 57)]),
        (SpanDrift(skip_first=1), [(1, 57)]),
        (SpanDrift(skip_first=8, skip_last=2), [(8, 55)]),
        (SpanDrift(skip_first="double"), [(19, 57)]),
        (StagedSpans(), [(0, 43), (14, 57)]),
        (StagedSpans(share=0.001), [(0, 1), (56, 57)]),
        (StagedSpans(share=1.0), [(0, 57), (0, 57)]),
    ],
    ids=repr,
)
def test_spans_of_a_stack_of_19_and_38_blocks(target: Target, spans: list[Span]) -> None:
    assert list(target.spans(57, 19)) == spans


@pytest.mark.parametrize("boundary, steps, last", [(0.6, 20, 12), (0.6, 50, 30), (0.29, 100, 29), (0.0, 10, 0)])
def test_the_rear_span_is_skipped_up_to_the_boundary(boundary: float, steps: int, last: int) -> None:
    target = StagedSpans(boundary=boundary)
    assert [target.skipped(step, steps) for step in range(steps)] == [1] * (last + 1) + [0] * (steps - last - 1)
    assert SpanDrift().skipped(0, 5) == 0


@pytest.mark.parametrize(
    "steps, blocks, speedup, expected",
    [(20, 28, 1.6, (2, 21.0)), (20, 28, 2.0, (2, 28.0)), (20, 28, 3.0, (3, 28.0)), (20, 28, 1.25, (2, 11.2))],
)
def test_a_span_for_a_speedup(steps: int, blocks: int, speedup: float, expected: tuple[int, float]) -> None:
    """The first is Delta-DiT's own setting: 21 of 28 blocks at every other of 20 steps."""
    interval, count = span_for_speedup(steps, blocks, speedup)
    assert (interval, count) == (expected[0], pytest.approx(expected[1]))


def test_only_a_target_that_says_so_verifies() -> None:
    assert SpanDrift(skip_last=1, verify=True).verifies
    assert VerifiedModules().verifies
    assert not ModuleOutputs().verifies
    assert not SpanDrift(skip_last=1).verifies
    assert not GlobalDrift().verifies


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a stack with double-stream blocks"):
        SpanDrift(skip_first="double").spans(5)
    with pytest.raises(ValueError, match="set skip_last=1"):
        SpanDrift(verify=True)
    with pytest.raises(ValueError, match="speedup > 1"):
        span_for_speedup(20, 28, 1.0)
    with pytest.raises(ValueError, match="target=output"):  # an output of another shape has no drift
        OutputDrift().encode(torch.zeros(1, 4, 6), torch.zeros(1, 4, 2))
