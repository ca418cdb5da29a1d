"""Run: one trajectory, evaluated or forecast step by step."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from skipcast import Method, Output, Run, TimeGrid
from skipcast.controllers import Controller, FixedSteps, Probe
from skipcast.coordinates import HalfLogSNR, Sigma
from skipcast.forecasters import AdamsBashforth, Lagrange, Reuse, TaylorSeer
from skipcast.targets import CarriedDrift, GlobalDrift, LastHidden, Target
from support.cases import drive

TEN = TimeGrid.shifted(10)
X = torch.zeros(1)


def walked(method: Method, *values: float) -> Run:
    """A run that has seen these values, one a step."""
    run = Run(method, TEN)
    for value in values:
        run.advance(X, lambda value=value: torch.tensor([value]))
    return run


def test_by_hand() -> None:
    """1, 2 evaluated, 3 forecast; 7 evaluated at step 3, so the line has slope 5 / 2."""
    values = torch.tensor([1.0, 2.0, 99.0, 7.0, 99.0])[:, None]
    found = drive(Method(Lagrange(1), FixedSteps((0, 1, 3))), TimeGrid.shifted(5), values)
    assert found.flatten().tolist() == [1.0, 2.0, 3.0, 7.0, 9.5]


def test_an_evaluated_step_returns_the_value_itself() -> None:
    y = torch.randn(2, 3)
    assert Run(Method(Reuse()), TEN).advance(torch.randn(2, 3), lambda: y) is y


def test_a_drift_is_added_to_the_current_input() -> None:
    """The stack adds 4; forecast at an input of 10 that is 14, where the output alone would be reused as 5."""
    run = Run(Method(Reuse(), FixedSteps((0,)), target=GlobalDrift()), TEN)
    run.observe(torch.tensor([1.0]), torch.tensor([5.0]))
    assert run.forecast(torch.tensor([10.0])).tolist() == [14.0]


def test_forecasts_never_enter_the_history() -> None:
    run = walked(Method(Lagrange(1), FixedSteps((0, 1))), *(step**2.0 for step in range(10)))
    assert len(run.history) == 2
    assert run.history.nodes().tolist() == [0.0, 1.0]
    assert run.trace[-1].evaluated is False
    assert run.step == 10


def test_the_trace_tells_what_happened() -> None:
    run = walked(Method(TaylorSeer(1, start=1), FixedSteps((0, 1, 4)), Sigma()), *(2.0 + step for step in range(6)))
    assert [record.step for record in run.trace] == [0, 1, 2, 3, 4, 5]
    assert [record.evaluated for record in run.trace] == [True, True, False, False, True, False]
    assert [record.tau for record in run.trace] == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5])
    assert [record.forecast_error is None for record in run.trace] == [True, False, True, True, False, True]


def test_the_shadow_is_the_relative_error_of_the_forecast_not_needed() -> None:
    """Reuse of (3, 4) where (6, 8) and then (6, 0) come: errors 5 of 10 and 8 of 6."""
    run = Run(Method(Reuse(), FixedSteps((0, 1, 2))), TEN)
    for y in ([3.0, 4.0], [6.0, 8.0], [6.0, 0.0]):
        run.observe(torch.zeros(2), torch.tensor(y))
    shadows = [record.forecast_error for record in run.trace]
    assert shadows[0] is None
    assert [shadow.item() for shadow in shadows[1:] if shadow is not None] == pytest.approx([0.5, 8 / 6])


@dataclass(frozen=True)
class Never(Controller):
    def check(self, steps: int) -> None: ...

    def evaluate(self, run: Run) -> bool:
        return False


def test_the_first_step_is_evaluated_whatever_the_controller_says() -> None:
    run = walked(Method(Reuse(), Never()), 0.0, 1.0, 2.0, 3.0)
    assert [record.evaluated for record in run.trace] == [True, False, False, False]


@dataclass(frozen=True)
class WhenFarOff(Controller):
    """Evaluates where the probe has moved by more than 1 since the newest evaluation."""

    both: bool = False

    @property
    def probe(self) -> Probe:
        return "input"

    @property
    def shared(self) -> bool:
        return self.both

    def check(self, steps: int) -> None: ...

    def begin(self) -> list[float]:
        return []

    def evaluate(self, run: Run) -> bool:
        assert run.probe is not None
        return abs(run.probe.item() - run.state[-1]) > 1

    def observed(self, run: Run, x: Tensor, y: Tensor) -> None:
        run.state.append(x.item())


def test_a_controller_may_look_at_the_input() -> None:
    run = Run(Method(Reuse(), WhenFarOff()), TEN)
    for x in (0.0, 0.6, 1.2, 1.8, 2.4):
        run.advance(torch.tensor([x]), lambda: X)
    assert [record.evaluated for record in run.trace] == [True, False, True, False, True]
    assert run.state == pytest.approx([0.0, 1.2, 2.4])
    assert Run(Method(Reuse(), WhenFarOff()), TEN).state == []


def test_a_decision_is_made_once_a_step() -> None:
    run = Run(Method(Reuse(), WhenFarOff()), TEN)
    run.observe(X, X)
    assert not run.wants_evaluation(torch.tensor([0.5]))
    assert not run.wants_evaluation(torch.tensor([5.0]))


def test_a_branch_follows_its_leader() -> None:
    method = Method(Reuse(), WhenFarOff(both=True))
    leader = Run(method, TEN)
    follower = Run(method, TEN, leader=leader)
    for x in (0.0, 0.6, 1.2):
        leader.advance(torch.tensor([x]), lambda: X)
        follower.advance(torch.tensor([100 * x]), lambda: X)
    assert [record.evaluated for record in follower.trace] == [True, False, True]


def test_a_corrector_changes_what_is_used_and_remembered() -> None:
    """Drifts of 4, 4 and 8: the third is halved towards the forecast of 4, so that an input of 10 leaves as 16.

    The next forecast goes on from 4 and 6.
    """
    run = Run(Method(AdamsBashforth(1, corrector=2), FixedSteps((0, 1, 2)), target=GlobalDrift()), TEN)
    for _ in range(2):
        run.observe(torch.tensor([1.0]), torch.tensor([5.0]))
    assert run.observe(torch.tensor([10.0]), torch.tensor([18.0])).tolist() == [16.0]
    assert run.forecast(torch.tensor([10.0])).tolist() == [18.0]
    shadow = run.trace[2].forecast_error
    assert shadow is not None
    assert shadow.item() == 0.5  # of the forecast against what was evaluated, before any correction


def test_a_carried_input_moves_the_forecast() -> None:
    """Drift 4; the input moves by 5, of which a fifth is carried: 10 + 4 + 1, then 12 + 4 + 0.4."""
    run = Run(Method(Reuse(), FixedSteps((0,)), target=CarriedDrift(0.2)), TEN)
    run.observe(torch.tensor([5.0]), torch.tensor([9.0]))
    assert run.forecast(torch.tensor([10.0])).item() == pytest.approx(15.0)
    assert run.forecast(torch.tensor([12.0])).item() == pytest.approx(16.4)
    assert run.bytes() == 8


@pytest.mark.parametrize("shape", [(1, 5), (2, 4)])
@pytest.mark.parametrize("shadow", [False, True])
def test_a_change_of_shape_is_refused_by_name(shape: tuple[int, int], shadow: bool) -> None:
    run = Run(Method(Reuse()), TEN, forecast_error=shadow)
    run.observe(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"step 1 has shape .*must not change within a run"):
        run.observe(torch.zeros(shape), torch.zeros(shape))
    with pytest.raises(ValueError, match=r"HalfLogSNR\(\) is -inf at step 0"):  # as does a coordinate without values
        Run(Method(Reuse(), coordinate=HalfLogSNR()), TEN)


@pytest.mark.parametrize("ended", [False, True], ids=["before", "after"])
def test_misuse_of_the_parts_of_advance(ended: bool) -> None:
    """There is nothing to forecast from before the first evaluation, and nothing to do after the last step."""
    run = Run(Method(Reuse()), TimeGrid.shifted(3))
    for _ in range(3 * ended):
        run.advance(X, lambda: X)
    with pytest.raises(RuntimeError, match="start a new Run" if ended else "evaluate"):
        run.forecast(X)
    if ended:
        with pytest.raises(RuntimeError, match=r"this run has 3 steps and all are done; start a new Run"):
            run.advance(X, lambda: X)


@pytest.mark.parametrize("target", [GlobalDrift(), Output(), LastHidden()], ids=str)
def test_what_a_caller_does_to_y_later_stays_outside(target: Target) -> None:
    """A compiled network with static buffers overwrites its output, and pipelines may work in place."""
    run = Run(Method(Reuse(), FixedSteps((0,)), target=target), TEN)
    run.advance(X, lambda: torch.full((1,), 4.0)).zero_()
    assert run.forecast(X).tolist() == [4.0]
