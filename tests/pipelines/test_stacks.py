"""Spans of the block stack: which blocks run, and what goes on where they do not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

import skipcast as sc
from skipcast.controllers import FixedSteps, Periodic
from skipcast.forecasters import Forecaster, Lagrange, RecursiveForecaster, Reuse
from skipcast.targets import GlobalDrift, LastHidden, ModuleOutputs, OutputDrift, SpanDrift, StagedSpans, Target
from support.seams import Deep, counted

FIRST_TWO = FixedSteps((0, 1))
VERIFIED = SpanDrift(skip_last=1, verify=True)


@pytest.fixture
def deep() -> Deep:
    return Deep()


@pytest.mark.parametrize(
    "target, runs",
    [
        (GlobalDrift(), [2, 2, 2, 2, 2]),
        (SpanDrift(), [2, 2, 2, 2, 2]),
        (SpanDrift(skip_first=1), [6, 2, 2, 2, 2]),
        (SpanDrift(skip_first=2, skip_last=1), [6, 6, 2, 2, 6]),
        (SpanDrift(skip_first="double"), [6, 6, 2, 2, 2]),
        (SpanDrift(skip_last=2, verify=True), [2, 2, 2, 6, 6]),
        # Rear span 2 .. 4 at steps 2 and 3, front span 0 .. 2 at steps 4 and 5.
        (StagedSpans(share=0.6, boundary=0.5), [4, 4, 2, 4, 4]),
        (StagedSpans(share=0.6, boundary=0.0), [2, 2, 2, 6, 6]),
        (StagedSpans(share=1.0, boundary=0.5), [2, 2, 2, 2, 2]),
    ],
    ids=repr,
)
def test_forecast_steps_run_the_blocks_outside_the_span(deep: Deep, target: Target, runs: list[int]) -> None:
    method = sc.Method(Reuse(), FIRST_TWO, target=target)
    with sc.accelerate(deep, method) as acceleration, counted(*deep.attentions) as counts:
        deep.begin()
        for step in range(6):
            deep.call(step)
    assert list(counts.values()) == runs
    for run in acceleration.all_runs():
        assert [record.step for record in run.trace] == list(range(6))
        assert [record.evaluated for record in run.trace] == [True] * 2 + [False] * 4
    assert str(acceleration.summary()).startswith(repr(acceleration.method))
    assert "evaluated 2 of 6, forecast 4 (branches: call 1)" in str(acceleration.summary())


def _residual(deep: Deep, step: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """What blocks start .. stop - 1 add to image and text."""
    at = deep.embedded(step)
    deep.walk(at, 0, start)
    image, text = at.image, at.text
    deep.walk(at, start, stop)
    return at.image - image, at.text - text


@pytest.mark.parametrize(
    "target, start, stop",
    [
        (SpanDrift(skip_first=1), 1, 5),
        (SpanDrift(skip_first=1, skip_last=1), 1, 4),
        (SpanDrift(skip_last=3), 0, 2),
        (SpanDrift(skip_first="double"), 2, 5),
        (VERIFIED, 0, 4),
        (StagedSpans(share=0.4, boundary=1.0), 3, 5),
        (StagedSpans(share=0.4, boundary=0.0), 0, 2),
    ],
    ids=repr,
)
def test_a_span_by_hand(deep: Deep, target: Target, start: int, stop: int) -> None:
    """Residuals r0 and r1 of two evaluations; a line through them gives 2 r1 - r0 at the next step."""
    with sc.accelerate(deep, sc.Method(Lagrange(1), FIRST_TWO, target=target)):
        deep.begin()
        found = [deep.call(step) for step in range(3)][-1]
    (image0, text0), (image1, text1) = (_residual(deep, step, start, stop) for step in (0, 1))
    at = deep.embedded(2)
    deep.walk(at, 0, start)
    at.image, at.text = at.image + 2 * image1 - image0, at.text + 2 * text1 - text0
    deep.walk(at, stop, 5)
    assert torch.allclose(found, deep.end(at), atol=1e-5)
    assert not torch.allclose(found, deep.call(2), atol=1e-3)


def test_a_forecast_is_verified_by_hand(deep: Deep) -> None:
    """Reuse of the residual gives tokens to the last block; its output against the one remembered from step 0."""
    with sc.accelerate(deep, sc.Method(Reuse(), FixedSteps((0,)), target=VERIFIED)) as acceleration:
        deep.begin()
        deep.call(0)
        run = acceleration.runs["call 1"]
        assert run.verified is None
        found = deep.call(1)
        verified = run.verified
    before = deep.embedded(0)
    deep.walk(before, 0, 5)
    image, text = _residual(deep, 0, 0, 4)
    at = deep.embedded(1)
    at.image, at.text = at.image + image, at.text + text
    deep.walk(at, 4, 5)
    expected = ((at.image - before.image).abs() / (at.image.abs() + 1e-10)).mean()
    assert verified is not None
    assert verified.item() == pytest.approx(expected.item(), rel=1e-4)
    assert torch.allclose(found, deep.end(at), atol=1e-5)  # what flows on is what the last block made
    sizes = [9 * 32 * 4, 4 * 32 * 4]  # image and text residual; image tokens that leave the stack
    assert acceleration.summary().cached_bytes == sum(sizes)


def test_both_residuals_of_two_stages_are_remembered(deep: Deep) -> None:
    target = StagedSpans(share=0.6, boundary=0.5)
    with sc.accelerate(deep, sc.Method(Reuse(), Periodic(1, 2), target=target)) as acceleration:
        deep.begin()
        for step in range(6):
            deep.call(step)
    assert list(acceleration.streams) == ["call 1/span 1"]
    assert acceleration.summary().cached_bytes == 9 * 32 * 4 + 4 * 32 * 4  # front with text, rear without
    shadows = [record.forecast_error is not None for run in acceleration.all_runs() for record in run.trace]
    assert shadows == [False, False, True, False, True, False] * 2


@dataclass(frozen=True)
class Stubborn(Reuse):
    """Reuse that corrects every evaluation to what it forecast, so that the first one is used for ever."""

    def correct(self, history: sc.History, point: sc.Point, value: Tensor) -> Tensor:
        return self.forecast(history, point)


@pytest.mark.parametrize(
    "target",
    [sc.Output(), OutputDrift(), GlobalDrift(), LastHidden(), SpanDrift(skip_first=1), VERIFIED, ModuleOutputs()],
    ids=repr,
)
def test_a_corrected_evaluation_is_what_goes_on(deep: Deep, target: Target) -> None:
    outputs = []
    for method in (
        sc.Method(Stubborn(), Periodic(1, 1), target=target),
        sc.Method(Reuse(), FixedSteps((0,)), target=target),
    ):
        with sc.accelerate(deep, method):
            deep.begin()
            outputs.append(torch.stack([deep.call(step) for step in range(3)]))
    assert torch.allclose(*outputs, atol=1e-6)


@dataclass(frozen=True)
class Recursive(RecursiveForecaster):
    window = 1

    def weights(self, nodes: np.ndarray, evaluated: np.ndarray, point: sc.Point) -> np.ndarray:
        return np.ones(1)


@pytest.mark.parametrize(
    "forecaster, target, words",
    [
        (Reuse(), SpanDrift(skip_first=5), "no block to skip: FluxTransformer2DModel has 5"),
        (Reuse(), SpanDrift(skip_first=3, skip_last=2), "no block to skip"),
        (Reuse(), SpanDrift(skip_last=6), "no block to skip"),
        (Recursive(), StagedSpans(), "Recursive.* remembers its own forecasts.*StagedSpans.*Reuse"),
    ],
    ids=str,
)
def test_targets_that_do_not_suit_the_stack_are_refused(
    deep: Deep, forecaster: Forecaster, target: Target, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        sc.accelerate(deep, sc.Method(forecaster, FIRST_TWO, target=target))


def test_a_stack_without_double_blocks_has_no_double_span(deep: Deep) -> None:
    deep.transformer.transformer_blocks = torch.nn.ModuleList()
    with pytest.raises(ValueError, match=r"skip_first='double'.* needs a stack with double-stream blocks"):
        sc.accelerate(deep, sc.Method(Reuse(), target=SpanDrift(skip_first="double")))


def test_a_block_that_is_called_on_its_own_runs_as_it_is(deep: Deep) -> None:
    with sc.accelerate(deep, sc.Method(Reuse(), target=SpanDrift(skip_first=1))):
        deep.times = torch.ones(1)
        inside, outside = deep.embedded(0), deep.embedded(0)
        deep.walk(inside, 0, 2)
    deep.walk(outside, 0, 2)
    assert torch.equal(inside.image, outside.image)
