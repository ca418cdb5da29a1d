"""Rows: their order, means and worst pictures, and what may not flatter them."""

from __future__ import annotations

import math

import pytest

from skipcast import report
from support.records import RECORDS, both, record


def test_rows_are_sorted_by_budget_then_mean_psnr() -> None:
    names = [(row.budget, row.name) for row in report.summarise(RECORDS)]
    at_ten = [(10, "resilphase"), (10, "euler"), (10, "taylorseer")]
    assert names == [(50, "reference"), (5, "plan"), (5, "euler"), *at_ten]


def test_a_row_has_mean_and_worst() -> None:
    row = next(row for row in report.summarise(RECORDS) if row.name == "resilphase")
    assert (row.psnr, row.psnr_worst) == (25, 10)
    assert (row.ssim, row.ssim_worst) == pytest.approx((0.5, 0.2))
    assert (row.latent_error, row.latent_error_worst) == pytest.approx((0.25, 0.4))
    assert (row.judge, row.attributes) == (0.5, {"shape": 1.0, "colour": 0.5})
    assert (row.seconds, row.speedup, row.cached_bytes, row.pictures) == (15, 5, 2048, 2)
    assert (row.psnr_converged, row.psnr_converged_worst) == (None, None)


def test_converged_values_are_summarised_where_made() -> None:
    (row,) = report.summarise(both("euler:evaluations=5", "sampler", 5, 18, 16, psnr_converged=12.5))
    assert (row.psnr_converged, row.psnr_converged_worst) == (12.5, 12.5)
    assert "conv. PSNR" in report.markdown([row])
    assert "conv. PSNR" not in report.markdown(report.summarise(RECORDS))


def test_a_broken_picture_does_not_flatter() -> None:
    records = [*both("broken", "plan", 5, 90, math.nan), *both("stored", "plan", 5, 90, None), *RECORDS]
    *_, last, least = [row for row in report.summarise(records) if row.budget == 5]
    for row in (last, least):
        assert row.name in ("broken", "stored")
        assert row.psnr is not None
        assert math.isnan(row.psnr)
    assert "nan" in report.markdown([last])
    report.html(records, None)


def test_identical_everywhere_is_infinite() -> None:
    (row,) = report.summarise(both("plan:evaluations=50", "plan", 50, None, None, identical=True))
    assert (row.psnr, row.psnr_worst, row.identical) == (math.inf, math.inf, 2)
    assert "no finite PSNR" in report.pareto_svg([row])


def test_prompts_may_ask_for_different_attributes() -> None:
    verdicts = [{"shape": True}, {"shape": False, "size": True}]
    (row,) = report.summarise([record("euler", "sampler", 5, i, 20, judge=v) for i, v in enumerate(verdicts)])
    assert (row.judge, row.attributes) == (0.5, {"shape": 0.5, "size": 1.0})


def test_records_of_several_models_are_refused() -> None:
    with pytest.raises(ValueError, match=r"flux, other; report each"):
        report.summarise([RECORDS[0] | {"model": "flux"}, RECORDS[1] | {"model": "other"}])
