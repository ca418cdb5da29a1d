"""What holds for every controller: it is a value, and its runs share nothing."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import Tensor

from skipcast import Method, Output, Run, TimeGrid
from skipcast.controllers import (
    TEACACHE_FLUX,
    AccumulatedChange,
    ConfidenceGate,
    Controller,
    DualOrder,
    DynamicHorizon,
    EasyRatio,
    ErrorBound,
    Even,
    FilteredChange,
    FirstBlockChange,
    FixedSteps,
    Growing,
    Interleaved,
    MagnitudeError,
    Multiples,
    Periodic,
    Searched,
    SensitivityBound,
    ShallowChange,
    Stability,
    StaticController,
    Verified,
    Windowed,
    WindowedSteps,
)
from skipcast.coordinates import Sigma, StepIndex
from skipcast.forecasters import Lagrange
from skipcast.targets import GlobalDrift, SpanDrift, Target
from support.cases import built

ALL = [
    FixedSteps((0, 3, 7)),
    Periodic(),
    Periodic(3, evaluations=5, last=True),
    Multiples(),
    Multiples(evaluations=8),
    Even(5, last=True),
    Growing(),
    Growing(evaluations=9, reading="paper"),
    Searched("golden"),
    Searched("meancache-qwen-10", 7),
    Interleaved(),
    Interleaved(3, tail=0, evaluations=20),
    Stability(Multiples(2, 6), 0.5),
    Stability(Multiples(1, 4, last=False), 1.0, "paper"),
    DynamicHorizon(0.9),
    AccumulatedChange(1.1, "input"),
    AccumulatedChange(2.5, "modulated", polynomial=TEACACHE_FLUX),
    AccumulatedChange(0.3, "time", share=0.1, last=False),
    AccumulatedChange(0.3, "block time", first=2),
    FilteredChange(1.5, grid=(8,)),
    FirstBlockChange(0.8, max_forecasts=6),
    EasyRatio(0.9, first=3),
    ErrorBound(1.5),
    DualOrder(0.02, anchor=0),
    Verified(base=1.5, decay=0.9),
    MagnitudeError(),
    MagnitudeError((1.0, 1.2, 0.9), 0.3, 4, 0.1),
    MagnitudeError("wan-t2v-1.3b", evaluations=12),
    ShallowChange(1.5),
    ShallowChange(0.6, "difference", 0.0),
    ConfidenceGate(0.6, order=0, first=2, since=0),
    SensitivityBound((900.0, 100.0), (1.0, 2.0), (0.001, 0.002), 8.0, 4.0, max_forecasts=5, edge=1),
    WindowedSteps(Periodic(), 0.2, 0.9),
    Windowed(EasyRatio(0.9, first=3), 0.1, 0.9),
]


def step(run: Run, y: Tensor) -> bool:
    """One step of a run that is shown y, evaluates to y and finds forecasts wrong by |y|."""
    evaluate = run.wants_evaluation(torch.stack((torch.ones_like(y), y)) if run.method.probe == "around" else y)
    if evaluate:
        run.observe(y, y)
    else:
        run.forecast(y)
        run.verified = y.abs().mean()
    return evaluate


def new_run(controller: Controller) -> Run:
    target: Target = Output() if controller.probe in ("none", "input") else GlobalDrift()
    if controller.verifies:
        target = SpanDrift(skip_last=1, verify=True)
    place = Sigma() if isinstance(controller, DualOrder) else StepIndex()
    return Run(Method(Lagrange(2), controller, place, target), TimeGrid.shifted(30))


def walks() -> Tensor:
    """Two trajectories of 30 steps: one smooth, one rough."""
    noise = torch.randn(2, 30, 1, 8, generator=torch.Generator().manual_seed(3))
    return 1.0 + torch.stack((0.05 * noise[0].cumsum(0), noise[1]))


@pytest.mark.parametrize("controller", ALL, ids=str)
def test_it_is_a_value_and_its_repr_a_recipe(controller: Controller) -> None:
    again = built(repr(controller))
    assert (again, hash(again), repr(again)) == (controller, hash(controller), repr(controller))
    assert controller.begin() is None or controller.begin() is not controller.begin()
    with pytest.raises(FrozenInstanceError):
        controller.threshold = 3.0  # type: ignore[attr-defined]


def steps(controller: Controller, values: Tensor) -> list[bool]:
    run = new_run(controller)
    return [step(run, y) for y in values]


@pytest.mark.parametrize("controller", ALL, ids=str)
def test_runs_share_nothing(controller: Controller) -> None:
    """Two runs in turns decide as each does alone, so does a third one after them, and one of the same item twice."""
    smooth, rough = walks()
    alone = [steps(controller, values) for values in (smooth, rough)]
    left, right = new_run(controller), new_run(controller)
    together = [(step(left, a), step(right, b)) for a, b in zip(smooth, rough, strict=True)]
    assert [list(run) for run in zip(*together, strict=True)] == alone
    assert [steps(controller, torch.cat((values, values), dim=1)) for values in (smooth, rough)] == alone


@pytest.mark.parametrize("controller", [c for c in ALL if not isinstance(c, StaticController)], ids=str)
def test_values_decide(controller: Controller) -> None:
    """The rough run is evaluated no less often, and neither always nor never; so nothing is planned."""
    smooth, rough = (steps(controller, values) for values in walks())
    assert sum(smooth) <= sum(rough)
    assert 1 < sum(smooth) < 30
    assert smooth != rough
    assert controller.planned is None
