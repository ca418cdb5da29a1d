"""Gains over plain samplers are of the same pictures, and of no others."""

from __future__ import annotations

import math

import pytest

from skipcast import report
from skipcast.report.versus import versus
from support.records import both, record


def test_differences_are_taken_picture_by_picture() -> None:
    rows = report.summarise(
        [
            *both("euler:evaluations=10", "sampler", 10, 20, 40),
            *both("plan:evaluations=10", "plan", 10, 23, 44),
        ]
    )
    (found,) = versus(rows).values()
    assert found.evaluations is not None
    gain = found.evaluations.gain
    assert (gain.mean, gain.lower, gain.upper, gain.worst) == (3.5, 3, 4, 3)  # far narrower than that of either mean
    assert (found.evaluations.better, found.evaluations.pictures) == (2, 2)


def test_the_best_sampler_that_is_as_cheap_is_chosen() -> None:
    rows = report.summarise(
        [
            *both("euler:evaluations=5", "sampler", 5, 30, 30),
            *both("euler:evaluations=10", "sampler", 10, 20, 20),
            *both("euler:evaluations=12", "sampler", 12, 50, 50),
            *both("plan:evaluations=10", "plan", 10, 33, 33),
            *both("cheap:evaluations=4", "forecast", 4, 33, 33),
        ]
    )
    found = versus(rows)
    equal = found[10, "plan:evaluations=10"].evaluations
    assert equal is not None
    assert (equal.sampler.method, equal.gain.mean) == ("euler:evaluations=5", 3)
    assert found[4, "cheap:evaluations=4"].evaluations is None
    assert "euler@5" in report.markdown(rows)


def test_identical_and_broken_pictures() -> None:
    sampler = both("euler:evaluations=5", "sampler", 5, 30, 30)
    identical = versus(report.summarise([*sampler, *both("p", "plan", 5, math.inf, 31)]))[5, "p"].evaluations
    assert identical is not None
    assert (identical.gain.mean, identical.pictures) == (1, 1)
    broken = versus(report.summarise([*sampler, *both("p", "plan", 5, None, 31)]))[5, "p"].evaluations
    assert broken is not None
    assert math.isnan(broken.gain.mean)


def test_other_pictures_cannot_be_compared() -> None:
    rows = report.summarise([record("euler", "sampler", 5, 0, 30), record("p", "plan", 5, 1, 31)])
    assert versus(rows)[5, "p"].evaluations is None


def test_rows_that_were_not_timed_have_no_equals_in_time() -> None:
    lines = [*both("euler", "sampler", 5, 30, 30), *both("p", "plan", 5, 31, 31)]
    (found,) = versus(report.summarise([line | {"seconds": None} for line in lines])).values()
    assert (found.latency, found.evaluations is None) == (None, False)
    assert "in its time" not in report.markdown(report.summarise([line | {"seconds": None} for line in lines]))


def test_the_interval_is_over_prompts() -> None:
    lines = [record("euler", "sampler", 5, 0, 20.0 + i, seed=i) for i in range(5)]
    (row,) = report.summarise(lines)
    assert row.measures["psnr"].interval is None  # of a single prompt
    assert "[" not in report.markdown([row]).split("\n\n")[0]
    assert row.measures["psnr"].mean == pytest.approx(22)
