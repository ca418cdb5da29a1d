"""MeanCache against a transcription that keeps latents, and its closed form on a line (arXiv:2601.19961)."""

from __future__ import annotations

import numpy as np
import pytest

from research.fidelity.forecasts import meancache
from research.fidelity.rows import QWEN_10
from skipcast import IncompatibleParts, Method, Point, TimeGrid, tableau
from skipcast.controllers import FixedSteps, Periodic
from skipcast.coordinates import Sigma
from skipcast.forecasters import Forecaster, MeanVelocity, Reuse
from support.cases import GRID, SCHEDULE, random, run_of

QWEN_10_SPANS = {1: 2, 42: 4}  # edge 1 -> 3 and 42 -> 49, m = 1 elsewhere


@pytest.mark.parametrize(
    "full, spans",
    [
        (QWEN_10, QWEN_10_SPANS),
        (QWEN_10, {}),
        (SCHEDULE.evaluated(50), dict.fromkeys(range(50), 5)),
        (SCHEDULE.evaluated(50), {2: 4, 20: 2, 26: 6}),
        (tuple(range(0, 45, 4)), dict.fromkeys(range(50), 2)),
    ],
    ids=["qwen", "reuse", "five", "edges", "forecast last"],
)
def test_a_run_is_the_released_one(full: tuple[int, ...], spans: dict[int, int]) -> None:
    pairs = tuple((step, spans.get(step, 1)) for step in full)
    found = run_of(Method(MeanVelocity(pairs), FixedSteps(full), Sigma()), random(9))
    expected = meancache(random(9), GRID.sigma, full, spans)
    assert np.abs(found - expected).max() < 1e-10 * max(1, np.abs(expected).max())


@pytest.mark.parametrize(
    "rule, same, controller",
    [
        (MeanVelocity(3), MeanVelocity(((0, 3),)), SCHEDULE),
        (MeanVelocity(3), MeanVelocity(((0, 3), (20, 3))), SCHEDULE),
        (MeanVelocity(1), Reuse(), SCHEDULE),
        (MeanVelocity(1), Reuse(), Periodic(1, 50)),  # one evaluation is repeated for ever
    ],
    ids=str,
)
def test_a_span_is_one_number_or_one_per_evaluation_and_one_is_reuse(
    rule: MeanVelocity, same: Forecaster, controller: Periodic
) -> None:
    found, expected = (tableau(Method(each, controller, Sigma()), GRID) for each in (rule, same))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("m", [1, 2, 3, 6, 200])
def test_the_slope_of_a_line(m: int) -> None:
    """(m - 1) / 2m of it on even levels: a half, less Euler's error."""
    taus = np.linspace(1.0, 0.1, 301)
    nodes = taus[200 - m : 200]
    weights = MeanVelocity(m).weights(nodes, np.ones(m, dtype=bool), Point(200, taus))
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    move = weights @ (3 * nodes - 2) - (3 * nodes[-1] - 2)
    assert move / (taus[201] - taus[200]) == pytest.approx(3 * (m - 1) / (2 * m), abs=1e-9)


@pytest.mark.parametrize(
    "taus, nodes, expected",
    [
        # Levels 0.8, 0.6 of the span, now 0.5, next 0.2: J = ((2/3 - 1) v_r + 1/3 v) / -0.3, times -0.3.
        ([1.0, 0.8, 0.6, 0.5, 0.2], slice(1, 3), [-1 / 3, 1 + 1 / 3]),
        # After the last step sigma is 0: J = (v - v_r) / 2 / -0.4, times -0.6.
        ([1.0, 0.8, 0.6], slice(0, 2), [-0.75, 1.75]),
    ],
)
def test_weights_by_hand(taus: list[float], nodes: slice, expected: list[float]) -> None:
    levels = np.array(taus)
    found = MeanVelocity(2).weights(levels[nodes], np.array([True, False]), Point(nodes.stop, levels))
    assert found.tolist() == pytest.approx(expected, abs=1e-14)


def test_it_needs_the_noise_level() -> None:
    with pytest.raises(
        IncompatibleParts, match=r"MeanVelocity\(span=2, of=None\) is a rule in Sigma\(\), not in StepIndex\(\)"
    ):
        Method(MeanVelocity())


def test_pairs_may_be_made_for_a_run_of_other_length() -> None:
    """Of 50 steps, step 8 is step 16 of 99 and step 4 of 25."""
    for steps, first in ((50, 8), (99, 16), (25, 4)):
        taus = TimeGrid.shifted(steps).sigma
        rule = MeanVelocity(((0, 1), (8, 2)), 50)
        for step in (first - 1, first):
            found = rule.weights(taus[step - 2 : step], np.ones(2, dtype=bool), Point(step, taus))
            assert (found[0] == 0) == (step < first)
    with pytest.raises(ValueError, match=r"MeanVelocity\(of=...\) must be at least 2, got 1"):
        MeanVelocity(2, of=1)


def test_what_it_needs() -> None:
    assert [MeanVelocity(m).window for m in (1, 5, ((0, 1), (7, 4), (9, 2)))] == [1, 5, 4]
    assert [MeanVelocity(m).min_evaluations for m in (1, 5)] == [1, 2]
    assert MeanVelocity([[0, 1], [7, 4]]) == MeanVelocity(((0, 1), (7, 4)))  # type: ignore[arg-type]
    hash(MeanVelocity([[0, 1], [7, 4]]))  # type: ignore[arg-type]
