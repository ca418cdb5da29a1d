"""Files together, every image once; rows and what they gain over plain samplers; nothing flatters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from skipcast import report
from skipcast.bench.results import Row, Versus, baseline, versus
from support.records import RECORDS, both, record, written


def one_state(found: report.Results) -> list[Row]:
    (rows,) = found.rows.values()
    return rows


def against(rows: list[Row], name: str) -> Versus:
    """How the row of this name stands."""
    (key,) = (row.key for row in rows if row.name == name)
    return versus(rows)[key]


def test_files_are_read_together(tmp_path: Path) -> None:
    first = written(tmp_path / "a.jsonl", RECORDS[:6])
    second = written(tmp_path / "b.jsonl.gz", RECORDS[6:])
    found = report.load([first, second])
    assert report.markdown(one_state(found)) == report.markdown(report.summarise(RECORDS))
    assert [(source.path, source.lines) for source in found.sources] == [(first, 6), (second, 6)]


def test_what_is_given_twice_counts_once(tmp_path: Path) -> None:
    first = written(tmp_path / "a.jsonl", RECORDS)
    second = written(tmp_path / "b.jsonl", [line | {"seconds": 99.0, "command": "again"} for line in RECORDS[2:4]])
    found = report.load([first, first, second])
    assert (len(found.frame), found.repeated) == (len(RECORDS), len(RECORDS) + 2)
    assert one_state(found) == report.summarise(RECORDS)
    assert "lines of images that were there already" in report.html(found)


def test_what_differs_is_refused_by_both_places(tmp_path: Path) -> None:
    first = written(tmp_path / "a.jsonl", RECORDS)
    second = written(tmp_path / "b.jsonl", [RECORDS[0], RECORDS[3] | {"psnr": 33.0}])
    with pytest.raises(ValueError, match=rf"{second}, line 2 and {first}, line 4 are both resilphase.*differ in psnr"):
        report.load([first, second])
    with pytest.raises(ValueError, match=rf"{second}, line 2 and {second}, line 1 "):
        report.load([written(second, [RECORDS[3], RECORDS[3] | {"psnr": 33.0}])])


def test_metrics_that_records_name_are_kept_with_their_direction(tmp_path: Path) -> None:
    told = {"psnr": "higher is better", "lpips": "lower is better"}
    lines = both("euler:evaluations=5", "sampler", 5, 20, 30, metrics=told)
    for line, value in zip(lines, (0.1, 0.5), strict=True):
        line["lpips"] = value
    (row,) = one_state(report.load([written(tmp_path / "a.jsonl", lines)]))
    made = row.measures["lpips"]
    assert (made.mean, made.worst, made.worst5, made.higher_is_better) == (pytest.approx(0.3), 0.5, 0.5, False)
    assert "| LPIPS |" in report.markdown([row])
    assert "<summary>LPIPS</summary>" in report.html(report.of(lines))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a folder; give the results.jsonl in it"):
        report.load([tmp_path])


def test_differences_are_taken_image_by_image() -> None:
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
    assert (found.evaluations.better, found.evaluations.images) == (2, 2)


def test_identical_and_broken_images() -> None:
    sampler = both("euler:evaluations=5", "sampler", 5, 30, 30)
    identical = against(report.summarise([*sampler, *both("p", "plan", 5, math.inf, 31)]), "p").evaluations
    assert identical is not None
    assert (identical.gain.mean, identical.images) == (1, 1)
    broken = against(report.summarise([*sampler, *both("p", "plan", 5, None, 31)]), "p").evaluations
    assert broken is not None
    assert math.isnan(broken.gain.mean)


def test_other_images_cannot_be_compared() -> None:
    rows = report.summarise([record("euler", "sampler", 5, 0, 30), record("p", "plan", 5, 1, 31)])
    assert against(rows, "p").evaluations is None


def test_rows_are_sorted_by_budget_then_mean_psnr() -> None:
    names = [(row.budget, row.name) for row in report.summarise(RECORDS)]
    at_ten = [(10, "resilphase"), (10, "euler"), (10, "taylorseer")]
    assert names == [(50, "reference"), (5, "plan"), (5, "euler"), *at_ten]


def test_a_row_has_mean_and_worst() -> None:
    row = next(row for row in report.summarise(RECORDS) if row.name == "resilphase")
    assert (row.psnr, row.of("psnr", "worst")) == (25, 10)
    assert (row.of("ssim", "mean"), row.of("ssim", "worst")) == pytest.approx((0.5, 0.2))
    assert (row.of("latent_error", "mean"), row.of("latent_error", "worst")) == pytest.approx((0.25, 0.4))
    assert (row.judge, row.attributes) == (0.5, {"shape": 1.0, "colour": 0.5})
    assert (row.seconds, row.speedup, row.cached_bytes, row.images) == (15, 5, 2048, 2)
    assert row.of("psnr_converged", "mean") is None


def test_converged_values_are_summarised_where_made() -> None:
    (row,) = report.summarise(both("euler:evaluations=5", "sampler", 5, 18, 16, psnr_converged=12.5))
    assert (row.of("psnr_converged", "mean"), row.of("psnr_converged", "worst")) == (12.5, 12.5)
    assert "conv. PSNR" in report.markdown([row])
    assert "conv. PSNR" not in report.markdown(report.summarise(RECORDS))


def test_a_broken_image_does_not_flatter() -> None:
    records = [*both("broken", "plan", 5, 90, math.nan), *both("stored", "plan", 5, 90, None), *RECORDS]
    *_, last, least = [row for row in report.summarise(records) if row.budget == 5]
    for row in (last, least):
        assert row.name in ("broken", "stored")
        assert row.psnr is not None
        assert math.isnan(row.psnr)
    assert "nan" in report.markdown([last])
    report.html(report.of(records))


def test_identical_everywhere_is_infinite() -> None:
    (row,) = report.summarise(both("plan:evaluations=50", "plan", 50, None, None, identical=True))
    assert (row.psnr, row.of("psnr", "worst"), row.identical) == (math.inf, math.inf, 2)


def test_prompts_may_ask_for_different_attributes() -> None:
    verdicts = [{"shape": True}, {"shape": False, "size": True}]
    (row,) = report.summarise([record("euler", "sampler", 5, i, 20, judge=v) for i, v in enumerate(verdicts)])
    assert (row.judge, row.attributes) == (0.5, {"shape": 0.5, "size": 1.0})


def test_records_of_several_models_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got flux, 50 steps; other, 50 steps; report each"):
        report.summarise([RECORDS[0] | {"model": "flux"}, RECORDS[1] | {"model": "other"}])


def test_states_are_named_by_what_differs_alone() -> None:
    def titles(*changes: dict[str, Any]) -> list[str]:
        rows = report.of([RECORDS[0] | change for change in changes]).rows
        return [state.title(rows) for state in rows]

    assert titles({}) == ["shapes-flux, 50 steps"]
    assert titles({}, {"steps": 20}) == ["shapes-flux, 50 steps", "shapes-flux, 20 steps"]
    assert titles({}, {"guidance": 5.0}) == [
        "shapes-flux, 50 steps, guidance as usual", "shapes-flux, 50 steps, guidance 5",
    ]  # fmt: skip
    assert titles({}, {"settings": {"guidance": 5.0, "steps": 50}}) == [
        "shapes-flux, 50 steps, guidance 3.5", "shapes-flux, 50 steps, guidance 5.0",
    ]  # fmt: skip
    one, other = ({"scheduler": {"label": "own", "class": "Euler", "config": {"shift": n}}} for n in (1, 3))
    assert titles(one, other) == [
        f"shapes-flux, 50 steps, scheduler settings class Euler, config shift {n}" for n in (1, 3)
    ]
    same = report.of([RECORDS[0], RECORDS[1] | {"settings": {"guidance": 3.5, "seeds": 99, "batch": 3}}])
    assert len(same.rows) == 1


def test_a_row_is_named_without_what_differs_from_budget_to_budget() -> None:
    calibrated = {"data_driven": True, "calibrated_on": {"threshold": "base", "images": 8}}
    lines = [
        *both("speca:order=1,base=2.95", "forecast", 5, 30, 30, **calibrated),
        *both("foca:evaluations=5,exact=true", "forecast", 5, 20, 20),
        *both("foca:evaluations=7,exact=true", "forecast", 5, 10, 10),
        *both("plan", "plan", 5, 5, 5, method="plan:default-5", options={"file": "default-5"}),
    ]
    rows = report.summarise(lines)
    assert [row.series for row in rows] == ["speca:order=1", "foca:exact=true", "foca:exact=true", "plan:default-5"]
    assert [row.label for row in rows[1:3]] == ["foca:exact=true", "foca:evaluations=7,exact=true"]


def test_many_seeds_are_told_in_short() -> None:
    def seeds(found: list[int]) -> str:
        return report.of(record("euler", "sampler", 5, 0, 20, seed=seed) for seed in found).seeds

    assert [seeds([1]), seeds([2, 1, 7, 3]), seeds(list(range(0, 200, 2)))] == ["1", "1-3, 7", "100 from 0 to 198"]


def row(name: str, kind: str, evaluations: float, seconds: float | None, psnr: float | None) -> Row:
    lines = both(name, kind, round(evaluations), psnr, psnr, evaluations=evaluations, seconds=seconds)
    (made,) = report.summarise(lines)
    return made


REFERENCE = row("euler", "reference", 50, 5.0, None)
FEW, SAME = row("ab2", "sampler", 8, 0.8, 24.0), row("dpmpp2m", "sampler", 10, 1.1, 26.0)
MORE, WORSE = row("ab2", "sampler", 12, 1.2, 28.0), row("euler", "sampler", 10, 1.0, 20.0)
FORECAST, PLAN = row("taylorseer", "forecast", 10, 1.3, 27.0), row("plan", "plan", 10, 1.02, 31.0)
ROWS = [REFERENCE, FEW, SAME, MORE, WORSE, FORECAST, PLAN]
UNMEASURED, BROKEN = row("a", "sampler", 9, 0.9, None), row("b", "sampler", 9, 0.9, math.nan)
UNTIMED = row("c", "sampler", 9, None, 40.0)
CHEAP, DEAR = row("a", "sampler", 6, 0.6, 30.0), row("b", "sampler", 9, 0.6, 30.0)
WITHIN, BEYOND = row("ab2", "sampler", 10, 1.02 * 1.04, 30.0), row("ab2", "sampler", 10, 1.02 * 1.06, 30.0)


@pytest.mark.parametrize(
    "found, rows, equal_evaluations, equal_seconds",
    [
        (FORECAST, ROWS, SAME, MORE),
        (PLAN, ROWS, SAME, FEW),  # the best in its time
        (row("fast", "forecast", 4, 0.1, 30.0), ROWS, None, None),
        (row("untimed", "plan", 10, None, 30.0), ROWS, SAME, None),
        # Neither a fraction of an evaluation nor the noise of timing drops a sampler.
        (row("speca", "forecast", 9.6, 1.02, 30.0), ROWS, SAME, FEW),
        (row("speca", "forecast", 9.4, 1.02, 30.0), ROWS, FEW, FEW),
        (PLAN, [*ROWS, WITHIN], WITHIN, WITHIN),
        (PLAN, [*ROWS, BEYOND], BEYOND, FEW),
        # Samplers without a figure or a time do not count.
        (PLAN, [UNMEASURED, BROKEN, *ROWS], SAME, FEW),
        (PLAN, [UNTIMED, *ROWS], UNTIMED, FEW),
        # Of equally good samplers the cheaper is taken.
        (PLAN, [DEAR, CHEAP], CHEAP, CHEAP),
        (row("driven", "forecast", 9 - 1e-12, 1.0, 30.0), [DEAR], DEAR, DEAR),
    ],
)
def test_each_price_has_its_baseline(
    found: Row, rows: list[Row], equal_evaluations: Row | None, equal_seconds: Row | None
) -> None:
    assert baseline(found, rows, "evaluations") is equal_evaluations
    assert baseline(found, rows, "seconds") is equal_seconds
