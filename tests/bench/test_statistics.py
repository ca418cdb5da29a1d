"""Statistics against hand-computed values, and the width of the interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from skipcast.bench.statistics import interval, statistics


def test_figures_by_hand() -> None:
    values = [float(n) for n in range(1, 41)]
    found = statistics(values, range(40), higher_is_better=True)
    assert (found.mean, found.median, found.worst5, found.worst) == (20.5, 20.5, 1.5, 1.0)
    assert (found.images, found.prompts, found.identical) == (40, 40, 0)
    errors = statistics(values, range(40), higher_is_better=False)
    assert (errors.worst5, errors.worst) == (39.5, 40.0)
    assert statistics(values[:5], range(5), higher_is_better=True).worst5 == 1.0


def test_the_interval_is_seeded_and_holds_the_mean() -> None:
    values = np.random.default_rng(1).normal(30, 2, 60).tolist()
    found = statistics(values, range(60), higher_is_better=True)
    assert found == statistics(values, range(60), higher_is_better=True)
    assert found.lower < found.mean < found.upper
    # Of independent images the half-width is near 1.96 standard errors.
    error = np.std(values) / math.sqrt(60)
    assert (found.upper - found.lower) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_seeds_of_a_prompt_are_no_further_evidence() -> None:
    """Images that repeat their prompt's value leave the interval as wide as one image a prompt does."""
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
    assert (found.interval, math.isnan(found.lower), math.isnan(found.upper)) == (None, True, True)


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
    assert all(map(math.isnan, (found.mean, found.median, found.worst5, found.worst, found.lower, found.upper)))
    assert found.images == 3


def test_many_prompts_are_drawn_one_by_one_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(size=50).tolist()
    whole = statistics(values, range(50), higher_is_better=True, resamples=400)
    monkeypatch.setattr("skipcast.bench.statistics._ONE_MATRIX", 500)
    parts = statistics(values, range(50), higher_is_better=True, resamples=400)
    assert (parts.lower, parts.upper) == pytest.approx((whole.lower, whole.upper), rel=1e-12)
    assert (parts.mean, parts.median) == (whole.mean, whole.median)


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
    ],
)
def test_errors_name_the_cure(values: list[float], prompts: list[str], options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        statistics(values, prompts, higher_is_better=True, **options)  # type: ignore[arg-type]
