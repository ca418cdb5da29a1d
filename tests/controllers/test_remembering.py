"""Rules on what a run remembers, step by step by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from research.fidelity.decisions import speca
from skipcast import Method, Output, Run, TimeGrid
from skipcast.controllers import (
    Controller,
    DynamicHorizon,
    ErrorBound,
    FixedSteps,
    Multiples,
    Periodic,
    Stability,
    Verified,
)
from skipcast.forecasters import Forecaster, Lagrange, PadeCode, PadePaper, Reuse
from skipcast.history import History, RunState, StepRecord
from skipcast.targets import GlobalDrift, SpanDrift


def evaluated(
    controller: Controller, values: Sequence[Any], forecaster: Forecaster | None = None, errors: Sequence[float] = ()
) -> list[int]:
    """The evaluated steps of a run whose network returns `values`; its forecasts are found to be wrong by `errors`."""
    target = SpanDrift(skip_last=1, verify=True) if controller.verifies else Output()
    run = Run(Method(forecaster or Reuse(), controller, target=target), TimeGrid.shifted(len(values)))
    for step, value in enumerate(values):
        y = torch.as_tensor(value, dtype=torch.float64).reshape(1, -1)
        if run.wants_evaluation():
            run.observe(y, y)
        else:
            run.forecast(y)
            run.verified = torch.tensor(errors[step]) if errors else None
    return [record.step for record in run.trace if record.evaluated]


START = FixedSteps((0, 1, 2))
STRAIGHT = [(0, 0), (1, 0), (2, 0), (9, 9), (9, 9)]
TURN = [(0, 0), (1, 0), (1, 1), (1, 2), (9, 9)]  # by 90 degrees, then straight on


@pytest.mark.parametrize(
    "controller, values, order, expected",
    [
        (Stability(START, 0.1), STRAIGHT, 2, [0, 1, 2]),
        (Stability(START, 1.9, "paper"), STRAIGHT, 2, [0, 1, 2]),
        # A turn is evaluated until the path is straight again. 90 degrees: a score of 0.7071, and 1 + cos of 1.
        (Stability(START, 0.70), TURN, 2, [0, 1, 2, 3]),
        (Stability(START, 0.71), TURN, 2, [0, 1, 2]),
        (Stability(START, 1.01, "paper"), TURN, 2, [0, 1, 2, 3]),
        (Stability(START, 0.99, "paper"), TURN, 2, [0, 1, 2]),
        # The code passes with fewer than five values, the paper never with fewer than three.
        (Stability(START, 0.70), TURN, 4, [0, 1, 2]),
        (Stability(FixedSteps((0,)), 0.1), STRAIGHT, 2, [0]),
        (Stability(FixedSteps((0,)), 1.0, "paper"), STRAIGHT, 2, [0, 1, 2]),
        (Stability(Multiples(1, 4, last=False), 1.0, "paper"), [(3.0, 4.0)] * 20, 2, [0, 1, 2, 4, 8, 12, 16]),
    ],
    ids=str,
)
def test_turns_are_evaluated(controller: Stability, values: Any, order: int, expected: list[int]) -> None:
    assert evaluated(controller, values, Lagrange(order)) == expected


def test_the_fixed_steps_are_evaluated_anyway() -> None:
    """The released threshold always passes, even where the path turns back, so nothing is added to its fixed steps."""
    torch.manual_seed(0)
    there_and_back = [[(-1.0) ** step, 1.0] for step in range(50)]
    for values in (torch.randn(50, 4), there_and_back):
        assert evaluated(Stability(), values, PadeCode()) == list(Multiples().evaluated(50))


def test_forecasts_count_where_the_forecaster_remembers_them() -> None:
    """After the turn 1, 2 along a line; Pade's average of them at step 4, 1.9, turns back, so step 5 is evaluated."""
    values = [*TURN, *[(1, 3)] * 15]
    assert evaluated(Stability(START, 0.70), values[:6] + [(9, 9)] * 14, Lagrange(2)) == [0, 1, 2, 3]
    assert evaluated(Stability(START, 0.70), values, PadePaper())[:5] == [0, 1, 2, 3, 5]


@pytest.mark.parametrize(
    "delta, horizon", [(0.0005, 8), (0.002, 7), (0.01, 4), (0.1, 2), (0.5, 1), (50.0, 1), (0.0, 8)]
)
def test_the_horizon_of_a_change(delta: float, horizon: int) -> None:
    """Order 2 and a tolerance of 1; 0.0005 alone would give 12."""
    assert DynamicHorizon(1.0).horizon(delta) == horizon
    assert DynamicHorizon(1.0, max_forecasts=20).horizon(0.0005) == 12
    assert DynamicHorizon(1.0).horizon(float("nan")) == DynamicHorizon(1.0).horizon(float("inf")) == 1


#: 1 then 2 is a change of 1/2: two forecasts. 2 to 2.5 over 3 steps is one of 1/15: eight, the most. 0: one.
MOVES = [1.0, 2.0, 9.0, 9.0, 2.5, *[9.0] * 8, 0.0, 9.0, 9.0]
#: 1 for 2 is an error of 1/2 at distance 1: 2 at distance 2, 4.5 at 3. Then 2 for 2.5, 0.2 at 3: 2.2 at 10.
ERRS = [1.0, 2.0, 9.0, 9.0, 2.5, *[2.5] * 11]


@pytest.mark.parametrize(
    "controller, values, expected",
    [
        (DynamicHorizon(1.01, order=0, warmup=2), MOVES, [0, 1, 4, 13, 15]),
        (DynamicHorizon(1.01, order=0, warmup=2, last=False), [*MOVES, 9.0], [0, 1, 4, 13, 15]),
        (DynamicHorizon(1.01, order=0, warmup=2, max_forecasts=1), MOVES, [0, 1, 3, 5, 7, 9, 11, 13, 15]),
        # The whole batch in L1: changes of 0 and 1 of sizes 2 and 2 are one of 1/4, so four forecasts.
        (DynamicHorizon(1.01, order=0, warmup=2, last=False), [(2.0, 1.0), (2.0, 2.0), *[(9.0, 9.0)] * 6], [0, 1, 6]),
        (ErrorBound(2.0, order=1, warmup=2), ERRS, [0, 1, 4, 14]),
        (ErrorBound(2.0, order=1, warmup=2, last=True), ERRS, [0, 1, 4, 14, 15]),
        (ErrorBound(0.3, order=0, warmup=2), ERRS[:4], [0, 1, 2, 3]),
        # No error means no evaluation, and no number, 0 / 0, means one.
        (ErrorBound(0.0), [3.0] * 9, [0, 1, 2]),
        (ErrorBound(9.0), [0.0, 0.0, 0.0, 0.0, 1.0], [0, 1, 2, 3, 4]),
    ],
    ids=str,
)
def test_changes_and_errors_set_the_horizon(controller: Controller, values: Any, expected: list[int]) -> None:
    assert evaluated(controller, values) == expected


def test_the_bound_needs_shadows() -> None:
    run = Run(Method(Reuse(), ErrorBound(0.1)), TimeGrid.shifted(5), forecast_error=False)
    for _ in range(3):
        run.advance(torch.ones(1), lambda: torch.ones(1))
    with pytest.raises(RuntimeError, match=r"ErrorBound\(.*looks at forecast errors, .*use Run"):
        run.advance(torch.ones(1), lambda: torch.ones(1))


def test_verified_as_released() -> None:
    """The warm-up of 3 evaluates 0 and 2; forecasts that always pass come 8 at a time, those that never do 3.

    Vectors of Shenyi-Z/Cache4Diffusion@91a1949, cal_type.py, for FLUX and HunyuanVideo.
    """
    assert evaluated(Verified(), [1.0] * 50, errors=[0.0] * 50) == [0, 2, 11, 20, 29, 38, 47]
    failing = [0, 2, 6, 10, 14, 18, 22, 26, 30, 34, 38, 42, 46]
    assert evaluated(Verified(), [1.0] * 50, errors=[9.0] * 50) == failing
    assert evaluated(Verified(), [1.0] * 50, errors=[float("nan")] * 50) == failing
    video = Verified(1.0, 0.1, 0.1, min_forecasts=4, max_forecasts=12, first=1)
    assert evaluated(video, [1.0] * 50, errors=[9.0] * 50) == [0, 6, 12, 18, 24, 30, 36, 42, 48]
    assert evaluated(video, [1.0] * 30, errors=[0.0] * 30) == [0, 13, 26]


@pytest.mark.parametrize("seed", range(20))
def test_any_errors_give_the_released_steps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    least = int(rng.integers(1, 5))
    most = least + int(rng.integers(0, 8))
    controller = Verified(float(rng.uniform(0.5, 8)), 0.3, 0.1, least, most, int(rng.integers(1, 5)))
    errors = rng.uniform(0, 8, 50).tolist()
    c = controller
    expected = speca(errors, c.base, c.decay, c.floor, c.min_forecasts, c.max_forecasts, c.first)
    assert tuple(evaluated(controller, [1.0] * 50, errors=errors)) == expected


def test_the_verdict_on_a_forecast_is_about_the_step_after_it() -> None:
    """1/2 fails where 0.25^(s/10) < 1/2, at s = 6: before that nothing is verified in vain; step 1 never counts."""
    controller = Verified(1.0, 0.25, 0.1, min_forecasts=1, first=1)
    assert evaluated(controller, [1.0] * 10, errors=[0.5] * 10) == [0, 6, 9]
    assert evaluated(controller, [1.0] * 6, errors=[0.0, 5.0, 0.0, 5.0, 0.0, 0.0]) == [0, 4]
    assert [controller.measures(_after(1)), controller.measures(_after(2))] == [False, True]


def _after(steps: int) -> RunState:
    """A run so many steps behind its only evaluation."""
    return RunState(10, History(1), step=steps, trace=[StepRecord(0, 0.0, True)])


def test_thresholds_fall_to_the_floor() -> None:
    assert Verified().threshold(0, 50) == 7.0
    assert Verified().threshold(25, 50) == pytest.approx(7 * 0.3**0.5)
    assert Verified(0.1, 0.01, 0.01).threshold(40, 50) == 0.01


def test_verification_that_never_comes() -> None:
    with pytest.raises(
        RuntimeError, match=r"Verified\(.*looks at verified forecasts, but this run.s target has measured none"
    ):
        evaluated(Verified(), [1.0] * 10)


def test_any_fixed_steps_and_any_target_go() -> None:
    method = Method(Lagrange(2), Stability(Periodic(3, 6), 0.6), target=GlobalDrift())
    assert Run(method, TimeGrid.shifted(20)).state is None
