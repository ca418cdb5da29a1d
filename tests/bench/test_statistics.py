"""Statistics against hand-computed values, the width of the interval, and the choice of baselines."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from skipcast.bench.statistics import equal_evaluations, equal_latency, interval, statistics


def test_figures_by_hand() -> None:
    values = [float(n) for n in range(1, 41)]
    found = statistics(values, range(40), higher_is_better=True)
    assert (found.mean, found.median, found.worst5) == (20.5, 20.5, 1.5)
    assert (found.images, found.prompts, found.identical) == (40, 40, 0)
    assert statistics(values, range(40), higher_is_better=False).worst5 == 39.5
    assert statistics(values[:5], range(5), higher_is_better=True).worst5 == 1.0


def test_the_interval_is_seeded_and_holds_the_mean() -> None:
    values = np.random.default_rng(1).normal(30, 2, 60).tolist()
    found = statistics(values, range(60), higher_is_better=True)
    assert found == statistics(values, range(60), higher_is_better=True)
    assert found.lower < found.mean < found.upper
    assert found.lower != statistics(values, range(60), higher_is_better=True, seed=1).lower
    narrow = statistics(values, range(60), higher_is_better=True, confidence=0.5)
    assert found.lower < narrow.lower < narrow.upper < found.upper
    # Of independent images the half-width is near 1.96 standard errors.
    error = np.std(values) / math.sqrt(60)
    assert (found.upper - found.lower) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_seeds_of_a_prompt_are_no_further_evidence() -> None:
    """Pictures that repeat their prompt's value leave the interval as wide as one image a prompt does."""
    values = np.random.default_rng(2).normal(30, 2, 20)
    alone = statistics(values, range(20), higher_is_better=True)
    repeated = statistics(np.repeat(values, 8), np.repeat(np.arange(20), 8).tolist(), higher_is_better=True)
    assert (repeated.lower, repeated.upper) == pytest.approx((alone.lower, alone.upper), rel=1e-12)
    assert (repeated.prompts, repeated.images) == (20, 160)
    as_if_independent = statistics(np.repeat(values, 8), range(160), higher_is_better=True)
    width, narrow = repeated.upper - repeated.lower, as_if_independent.upper - as_if_independent.lower
    assert width > 2 * narrow


def test_prompts_with_more_images_weigh_more() -> None:
    """Two prompts, of three images and of one: a resample's mean is 0, 1/4 or 1."""
    found = statistics([0, 0, 0, 1], ["a", "a", "a", "b"], higher_is_better=True)
    assert (found.mean, found.lower, found.upper) == (0.25, 0.0, 1.0)


def test_the_order_of_images_does_not_matter() -> None:
    values, prompts = [1.0, 2.0, 3.0, 4.0], ["a", "b", "a", "b"]
    found = statistics(values, prompts, higher_is_better=True)
    assert found == statistics([1.0, 3.0, 2.0, 4.0], ["a", "a", "b", "b"], higher_is_better=True)


def test_a_single_prompt_has_no_interval() -> None:
    found = statistics([1.0, 2.0], ["a", "a"], higher_is_better=True)
    assert found.mean == 1.5
    assert math.isnan(found.lower)
    assert math.isnan(found.upper)


def test_identical_images_leave_the_mean() -> None:
    found = statistics([20.0, 30.0, math.inf], range(3), higher_is_better=True)
    assert (found.mean, found.median, found.worst5, found.identical) == (25.0, 30.0, 20.0, 1)
    assert (found.lower, found.upper) == (20.0, math.inf)  # some resamples hold nothing but the identical one
    every = statistics([math.inf] * 3, range(3), higher_is_better=True)
    assert {every.mean, every.median, every.worst5, every.lower, every.upper} == {math.inf}


def test_an_infinite_error_stays() -> None:
    found = statistics([0.1, 0.3, math.inf], range(3), higher_is_better=False)
    assert (found.mean, found.median, found.worst5, found.identical) == (math.inf, 0.3, math.inf, 0)
    assert (found.lower, found.upper) == (pytest.approx(0.1), math.inf)


@pytest.mark.parametrize("broken", [None, math.nan])
def test_a_broken_image_breaks_all(broken: float | None) -> None:
    found = statistics([1.0, broken, 3.0], range(3), higher_is_better=True)
    assert all(map(math.isnan, (found.mean, found.median, found.worst5, found.lower, found.upper)))
    assert found.images == 3


def test_many_prompts_are_drawn_in_parts_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(size=50).tolist()
    whole = statistics(values, range(50), higher_is_better=True, resamples=400)
    monkeypatch.setattr("skipcast.bench.statistics._DRAWN_AT_ONCE", 500)
    parts = statistics(values, range(50), higher_is_better=True, resamples=400)
    assert (parts.mean, parts.median) == (whole.mean, whole.median)
    assert parts.lower == pytest.approx(whole.lower, abs=0.1)


def test_interval_of_a_statistic_agrees_with_that_of_the_mean() -> None:
    values = np.random.default_rng(4).normal(size=12)
    prompts = [f"prompt {n // 3}" for n in range(12)]
    expected = statistics(values, prompts, higher_is_better=True, resamples=300)
    low, high = interval(lambda chosen: float(values[chosen].mean()), prompts, resamples=300)
    assert (low, high) == pytest.approx((expected.lower, expected.upper), rel=1e-12)
    assert all(map(math.isnan, interval(lambda chosen: 0.0, ["a", "a"])))


@pytest.mark.parametrize(
    "values, prompts, options, message",
    [
        ([], [], {}, "at least one image"),
        ([1.0], ["a", "b"], {}, "one per image, 1, got 2"),
        ([1.0], ["a"], {"resamples": 0}, "resamples must be at least 1"),
        ([1.0], ["a"], {"confidence": 95}, "pass 0.95"),
    ],
)
def test_errors_name_the_cure(values: list[float], prompts: list[str], options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        statistics(values, prompts, higher_is_better=True, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Row:
    name: str
    kind: str
    evaluations: float
    seconds: float | None
    psnr: float | None


REFERENCE = Row("euler", "reference", 50, 5.0, None)
FEW = Row("ab2", "sampler", 8, 0.8, 24.0)
SAME = Row("dpmpp2m", "sampler", 10, 1.1, 26.0)
MORE = Row("ab2", "sampler", 12, 1.2, 28.0)
WORSE = Row("euler", "sampler", 10, 1.0, 20.0)
FORECAST = Row("taylorseer", "forecast", 10, 1.3, 27.0)
PLAN = Row("plan", "plan", 10, 1.02, 31.0)
ROWS = [REFERENCE, FEW, SAME, MORE, WORSE, FORECAST, PLAN]


def test_each_price_has_its_baseline() -> None:
    assert (equal_evaluations(FORECAST, ROWS), equal_latency(FORECAST, ROWS)) == (SAME, MORE)
    assert (equal_evaluations(PLAN, ROWS), equal_latency(PLAN, ROWS)) == (SAME, FEW)  # the best in its time


def test_no_sampler_is_as_cheap() -> None:
    fast = Row("fast", "forecast", 4, 0.1, 30.0)
    assert equal_evaluations(fast, ROWS) is None
    assert equal_latency(fast, ROWS) is None
    assert equal_latency(Row("untimed", "plan", 10, None, 30.0), ROWS) is None


def test_a_fraction_of_an_evaluation_does_not_drop_a_sampler() -> None:
    missed = Row("speca", "forecast", 9.6, None, 30.0)
    assert equal_evaluations(missed, ROWS) is SAME
    assert equal_evaluations(Row("speca", "forecast", 9.4, None, 30.0), ROWS) is FEW


def test_noise_of_timing_does_not_drop_a_sampler() -> None:
    within, beyond = (Row("ab2", "sampler", 10, PLAN.seconds * share, 30.0) for share in (1.04, 1.06))  # type: ignore[operator]
    assert equal_latency(PLAN, [*ROWS, within]) is within
    assert equal_latency(PLAN, [*ROWS, beyond]) is FEW


def test_samplers_without_a_figure_or_a_time_do_not_count() -> None:
    unmeasured = [Row("a", "sampler", 9, 0.9, None), Row("b", "sampler", 9, 0.9, math.nan)]
    untimed = Row("c", "sampler", 9, None, 40.0)
    assert equal_evaluations(PLAN, [*unmeasured, *ROWS]) is SAME
    assert equal_latency(PLAN, [untimed, *ROWS]) is FEW
    assert equal_evaluations(PLAN, [untimed, *ROWS]) is untimed


def test_of_equally_good_samplers_the_cheaper_is_taken() -> None:
    cheap, dear = Row("a", "sampler", 6, 0.6, 30.0), Row("b", "sampler", 9, 0.6, 30.0)
    assert equal_evaluations(PLAN, [dear, cheap]) is cheap
    assert equal_evaluations(Row("driven", "forecast", 9 - 1e-12, 1.0, 30.0), [dear]) is dear
