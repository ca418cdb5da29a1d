"""TC-Pade (arXiv:2603.02943): values worked out by hand, and whole runs against a literal transcription."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from research.fidelity.forecasts import tc_pade
from skipcast import History, Method, Point, TimeGrid
from skipcast.controllers import FixedSteps
from skipcast.forecasters import Forecaster, PadeCode, PadeLiteral, PadePaper
from skipcast.targets import CarriedDrift
from support.cases import PADE, run_of

MIDDLE = Point(10, np.arange(20.0))


def remembered(forecaster: Forecaster, *newest_first: Any) -> History:
    history = History(forecaster.window)
    for step, value in enumerate(reversed(newest_first)):
        history.push(step, float(step), torch.as_tensor(value, dtype=torch.float64).reshape(1, -1))
    return history


def found(forecaster: Forecaster, *newest_first: Any, point: Point = MIDDLE) -> Any:
    return forecaster.forecast(remembered(forecaster, *newest_first), point).squeeze().tolist()


# The released code -------------------------------------------------------------------------------------------------

CHANGES = [1.0, 0.99, 0.98, 0.95, 0.9, 0.8, 0.6, 0.0, 2.0]
PASSED = [1.1, 1.0592, 1.0122, 0.8979, 0.8922, 0.8670, 0.7685, 0.45, 1.2375]
FAILED = [1.0, 0.9617, 0.9267, 0.8979, 0.8922, 0.8670, 0.7685, 0.45, 1.2375]


def test_code_values() -> None:
    """R_0 = 1; with four residuals the curvature test is not made, with five it is."""
    for r1, passed, failed in zip(CHANGES, PASSED, FAILED, strict=True):
        assert found(PadeCode(), 1.0, r1, 1.0, 1.0) == pytest.approx(passed, abs=5e-5)
        assert found(PadeCode(threshold=0), 1.0, r1, 1.0, 1.0) == pytest.approx(passed, abs=5e-5)
        assert found(PadeCode(threshold=0), 1.0, r1, 1.0, 1.0, 1.0) == pytest.approx(failed, abs=5e-5)
        assert found(PadeCode(), 1.0, r1, 1.0, 1.0, 1.0) == pytest.approx(passed, abs=5e-5)


def test_code_works_element_by_element() -> None:
    together = found(PadeCode(order=2), [1.0] * 9, CHANGES, [1.0] * 9)
    assert together == pytest.approx(PASSED, abs=5e-5)
    assert found(PadeCode(), *[[5.0, -3.0]] * 5) == pytest.approx([5.5, -3.3])


@pytest.mark.parametrize(
    "steps, horizon, stages",
    [
        (50, None, {15: 0.99, 16: 0.89221, 40: 0.89221, 41: 0.92221}),
        (50, 20, {6: 0.99, 7: 0.89221, 16: 0.89221, 17: 0.92221, 49: 0.92221}),
        (20, None, {6: 0.99, 7: 0.89221, 16: 0.89221, 17: 0.92221}),
    ],
)
def test_code_stages(steps: int, horizon: int | None, stages: dict[int, float]) -> None:
    for step, value in stages.items():
        at = Point(step, np.arange(float(steps)))
        assert found(PadeCode(horizon=horizon), 1.0, 0.9, 0.9, 0.9, point=at) == pytest.approx(value, abs=5e-6)


def test_code_and_the_input_it_carries() -> None:
    value = PadeCode().forecast(remembered(PadeCode(), 1.0, 0.9, 0.9, 0.9), MIDDLE)
    out = CarriedDrift(0.2).decode(torch.tensor([[2.0]]), value, torch.tensor([[1.8]]))
    assert out.item() == pytest.approx(2.93221, abs=5e-6)


def test_code_falls_back_while_residuals_are_few() -> None:
    # One: reuse. Two: before the released code has set its factor of 0.8.
    assert found(PadeCode(), 3.0) == 3.0
    assert found(PadeCode(), 3.0, 1.0) == pytest.approx((0.4 * 3 + 0.3 * 1) / 0.7)
    # Three and nearly parallel: order 3 wants four. At right angles: order 2 wants three, which is the rule itself.
    assert found(PadeCode(), 3.0, 2.0, 1.0) == pytest.approx(0.8 * (0.4 * 3 + 0.3 * 2 + 0.2 * 1) / 0.9)
    assert found(PadeCode(2), 1.0, 0.9, 1.0) == pytest.approx(0.8922, abs=5e-5)
    assert found(PadeCode(), [1.0, 0.0], [0.9, 0.0], [0.0, 1.0])[0] == pytest.approx(0.8922, abs=5e-5)
    # Four: only order 4 wants five.
    assert found(PadeCode(4), 3.0, 2.0, 1.0, 5.0) == pytest.approx(0.8 * (1.2 + 0.6 + 0.2 + 0.5))
    assert found(PadeCode(), 1.0, 0.9, 1.0, 5.0) == pytest.approx(0.8922, abs=5e-5)
    # Small moves: 1 / (1 + 10 x 0.01) = 0.909 is not clipped.
    assert found(PadeCode(), 1.0, 0.99, 1.0) == pytest.approx((0.4 + 0.297 + 0.2) / 0.9 / 1.1)


@pytest.mark.parametrize("cosine, order", [(0.95, 3), (0.85, 2), (0.99, 4)])
def test_code_effective_order(cosine: float, order: int) -> None:
    """With two residuals of unit length at an angle, and a third one as the first: the mean cosine is that angle's."""
    a, b = [1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]
    average = 0.8 * (0.4 * 1 + 0.3 * cosine + 0.2 * 1) / 0.9
    value = found(PadeCode(4), a, b, a)[0]
    assert (value == pytest.approx(average, abs=1e-12)) == (order >= 3)
    average = 0.8 * (0.4 * 1 + 0.3 * cosine + 0.2 * 1 + 0.1 * 7)
    value = found(PadeCode(4), a, b, a, [7.0, 0.0])[0]
    assert (value == pytest.approx(average, abs=1e-12)) == (order == 4)


def test_code_falls_back_where_a_number_overflows() -> None:
    history = History(6)
    for step in range(5):
        history.push(step, float(step), torch.full((1, 2), 2e38))
    assert PadeCode().forecast(history, MIDDLE).tolist() == torch.full((1, 2), 2e38).tolist()
    for step in range(6):
        history.push(step, float(step), torch.full((1, 2), 3e38 * (-1) ** step))
    value = PadeCode().forecast(history, MIDDLE)  # even R_0 - R_1 overflows
    assert value.isfinite().all()


SCHEDULES = {
    "released": lambda steps, interval: {*range(5), *range(0, steps, interval), steps - 1},
    "short warm-up": lambda steps, interval: {0, *range(3, steps, interval)},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("threshold, roughness", [(1.4, 0.0), (0.6, 0.3)])
@pytest.mark.parametrize("steps, horizon", [(50, 20), (50, None), (20, None)])
def test_a_run_is_the_released_one(
    schedule: str, threshold: float, steps: int, horizon: int | None, roughness: float
) -> None:
    """To rounding, which the rule itself magnifies: about 1e3-fold over these 50 steps, on other paths 1e5-fold."""
    rng = np.random.default_rng(1)
    s, phase = np.linspace(0, 1, steps)[:, None, None, None], rng.standard_normal((1, 1, 6, 4))
    x = np.sin(3 * s + phase) + roughness * rng.standard_normal((steps, 1, 6, 4))
    y = x + 2 * np.cos(2 * s * phase + 1) + roughness * rng.standard_normal((steps, 1, 6, 4))
    evaluated = SCHEDULES[schedule](steps, 8)
    method = Method(PadeCode(3, threshold, horizon), FixedSteps(tuple(sorted(evaluated))), target=CarriedDrift(0.2))
    theirs = tc_pade(x, y, evaluated, horizon or steps, threshold)
    assert np.abs(run_of(method, y, x, TimeGrid.shifted(steps, 3.0)) - theirs).max() < 1e-10
    assert np.abs(theirs - y).max() > 0.01


# The paper ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scale, expected",
    [("projection", [0.9091, 0.9253, 0.9775, 1.0190, 1.0502]), ("one", [0.9091, 0.9261, 0.9803, 1.0228, 1.0532])],
)
def test_paper_values(scale: Any, expected: list[float]) -> None:
    values = [found(PadePaper(scale=scale), 1.0, r1, 1.0) for r1 in (1.0, 0.99, 0.95, 0.9, 0.8)]
    assert values == pytest.approx(expected, abs=5.1e-5)


def test_literal_values() -> None:
    """Read newest first, and as printed: with R_2 in front, at sigma = 1, the numerator points backwards."""
    values = [found(PadeLiteral(newest_first=True), 1.0, r1, 7.0) for r1 in (1.0, 0.99, 0.95, 0.9)]
    assert values == pytest.approx([0.9091, 0.8771, 0.7542, 0.6136], abs=5e-5)
    assert found(PadeLiteral(), 1.0, 1.0, 0.8) == pytest.approx(0.6 / 1.1)


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("forecaster", [PadePaper(), PadeLiteral()], ids=str)
def test_paper_stages(forecaster: PadePaper | PadeLiteral, steps: int) -> None:
    """Early above 0.7 T remaining, late below 0.2 T, both bounds themselves in the middle."""
    pade = found(forecaster, 1.0, 0.9, 0.7)
    for step in range(steps):
        value = found(forecaster, 1.0, 0.9, 0.7, point=Point(step, np.arange(float(steps))))
        remaining = 10 * (steps - step)
        expected = 0.99 if remaining > 7 * steps else pade + 0.03 if remaining < 2 * steps else pade
        assert value == pytest.approx(expected, abs=1e-12)


def test_paper_is_scale_safe_and_literal_is_not() -> None:
    r = [[1.0, 2.0], [0.9, 1.7], [0.8, 1.5]]
    big = [[1000 * v for v in row] for row in r]
    for scale in ("projection", "one"):
        paper = PadePaper(scale=scale)  # type: ignore[arg-type]
        assert found(paper, *big) == pytest.approx([1000 * v for v in found(paper, *r)])
    assert found(PadeLiteral(), *big) != pytest.approx([1000 * v for v in found(PadeLiteral(), *r)], rel=0.1)
    assert math.isinf(found(PadeLiteral(), -10.0, -10.0, -10.0))


def test_paper_reuses_where_the_residual_turns() -> None:
    """And stays finite where it vanishes or the one before did."""
    assert found(PadePaper(), 2.0, -2.0, 2.0) == 2.0
    assert found(PadeLiteral(), 2.0, -2.0, 2.0) == 0.0
    assert found(PadePaper(), 0.0, 0.0, 0.0) == 0.0
    assert found(PadePaper(), 2.0, 0.0, 0.0) == pytest.approx(2.0, abs=1e-3)
    assert found(PadePaper(), -2.0, 1e-6, 0.0) == pytest.approx(-2.0, abs=1e-3)


# All readings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forecaster", PADE, ids=str)
def test_any_number_of_residuals_works(forecaster: Forecaster) -> None:
    assert forecaster.recursive
    assert not forecaster.linear
    assert found(forecaster, 3.0) == 3.0
    for count in range(2, forecaster.window + 1):
        values: list[Tensor] = [torch.linspace(1, 2, 4) - 0.1 * age for age in range(count)]
        for step in (1, 10, 19):
            value = found(forecaster, *values, point=Point(step, np.arange(20.0)))
            assert np.isfinite(value).all()
