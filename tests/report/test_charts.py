"""Charts are well-formed, finite, readable without colour, and always the same; samplers are the line to beat."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from skipcast import report
from skipcast.plans.plan import Plan, Prediction
from skipcast.report.charts import Against, Statistic, curve_svg, frontier, multiples_svg, reached, series_of
from support import toy
from support.records import RECORDS, both


def drawn(svg: str, kind: str = "named") -> list[ElementTree.Element]:
    """The groups of a kind, after a check that the chart loads nothing and holds finite numbers."""
    assert not re.search(r"\b(nan|inf)\b", svg)
    assert "url(" not in svg
    assert not re.search(r'href="(?!#)', svg)
    return [each for each in ElementTree.fromstring(svg).iter() if each.get("class") == kind]


def texts(svg: str) -> list[str]:
    return ["".join(each.itertext()) for each in ElementTree.fromstring(svg).iter() if each.tag.endswith("text")]


def hints(svg: str) -> list[str]:
    return ["".join(each.itertext()) for each in ElementTree.fromstring(svg).iter() if each.tag.endswith("title")]


def dashes(group: ElementTree.Element) -> list[str]:
    styles = (each.get("style", "") for each in group.iter() if each.tag.endswith("path"))
    return [found[0] if (found := re.findall("dasharray: ([^;]+)", style)) else "none" for style in styles][:1]


@pytest.mark.parametrize("against", ["evaluations", "seconds"])
@pytest.mark.parametrize("statistic", ["mean", "worst5"])
def test_methods_differ_without_colour(against: Against, statistic: Statistic) -> None:
    svg = report.pareto_svg(report.summarise(RECORDS), against, statistic)
    groups = drawn(svg)
    assert len({line for group in groups for line in dashes(group)}) == len(groups) == 3  # a plan and two forecasters
    hint = (
        "resilphase:evaluations=10: mean 25.0 [10.0, 40.0] dB, worst 5 % 10.0 dB, worst 10.0 dB, 10 evaluations, 15 s"
    )
    assert hint in hints(svg)
    assert {"plan", "best plain sampler"} <= set(texts(svg))
    assert svg == report.pareto_svg(report.summarise(RECORDS), against, statistic)


def test_the_line_to_beat_is_the_best_sampler_at_every_price() -> None:
    records = [
        *both("euler:evaluations=5", "sampler", 5, 18, 16),
        *both("heun:evaluations=5", "sampler", 5, 20, 20),
        *both("euler:evaluations=8", "sampler", 8, 19, 19),  # worse than what is cheaper
        *both("heun:evaluations=10", "sampler", 10, 30, 30),
        *both("taylorseer:evaluations=10", "forecast", 10, 40, 40),
    ]
    rows = report.summarise(records)
    line = frontier((row.evaluations, row.psnr) for row in rows if row.kind == "sampler")
    assert line == [(5, 20), (10, 30)]
    assert [reached(line, price) for price in (4, 5, 9.9, 10, 60)] == [None, 20, 20, 30, 30]
    assert len(drawn(report.pareto_svg(rows), "line")) == 1


def test_of_many_methods_the_best_are_named_and_the_rest_have_charts_of_their_own() -> None:
    records = [
        line
        for i in range(45)
        for n in (5, 10)
        for line in both(f"method{i}:evaluations={n}", "forecast", n, i + n, i + n)
    ]
    records += [line for n in (5, 10) for line in both(f"euler:evaluations={n}", "sampler", n, 20 + n, 20 + n)]
    rows = report.summarise(records)
    svg = report.pareto_svg(rows)
    assert [text for text in texts(svg) if text.startswith("method")] == [f"method{44 - i}" for i in range(4)]
    assert len([text for text in texts(multiples_svg(rows)) if text.startswith("method")]) == 41
    assert len([text for text in hints(svg) if text.startswith("method3:evaluations=5: ")]) == 1


def test_nothing_to_draw_is_said() -> None:
    (row,) = report.summarise(both("plan:evaluations=50", "plan", 50, None, None, identical=True))
    assert "no finite PSNR" in report.pareto_svg([row])
    assert multiples_svg([row]) == report.traces_svg([]) == ""


def test_a_threshold_that_was_calibrated_does_not_split_a_method() -> None:
    calibrated = {"data_driven": True, "calibrated_on": {"threshold": "base", "images": 8}}
    records = [
        *both("speca:base=2.95", "forecast", 5, 30, 30, **calibrated),
        *both("speca:base=1.5", "forecast", 10, 35, 35, **calibrated),
    ]
    (series,) = series_of(report.summarise(records))
    assert (series.label, len(series.rows)) == ("speca", 2)


def trace(method: str, budget: int, errors: list[float | None], growth: list[float] | None) -> dict[str, Any]:
    return {
        "kind": "trace", "method": method, "name": method.split(":")[0], "options": {}, "budget": budget,
        "evaluations": 2, "steps": 6, "evaluated_steps": [0, 3], "errors": errors, "amplification": growth,
        "model": "shapes-flux",
    }  # fmt: skip


TRACES = [
    trace("lagrange:order=1,evaluations=10", 10, [None, 0.1, 0.2, 0.5, 0.0, 0.3], [1, 1, 3, 1, 3, 5]),
    trace("tea<cache>:threshold=0.3", 10, [None, 0.01, math.nan, None, math.inf, 1e-12], None),
    trace("lagrange:order=1,evaluations=5", 5, [None] * 6, None),
]


def test_traces_of_the_middle_budget_the_best_first() -> None:
    svg = report.traces_svg(TRACES)
    best, other = ("".join(group.itertext()) for group in drawn(svg, "trace"))
    assert "tea<cache>" in best  # the smaller mean error first
    assert "largest sum of |weights| 5.00" in other
    assert "weights or steps follow from the values" in texts(svg)
    assert not set(re.findall(r": #[0-9a-f]{6}", svg))  # nothing by colour


@pytest.mark.parametrize("errors", [[None] * 6, [0.0] * 6])
def test_a_method_that_forecasts_nothing_or_exactly_is_still_drawn(errors: list[float | None]) -> None:
    assert drawn(report.traces_svg([trace("reuse", 2, errors, [1.0] * 6)]), "trace")


def test_the_page_has_traces_only_where_they_are() -> None:
    assert "Step by step" not in report.html(report.of(RECORDS))
    same = {key: RECORDS[0][key] for key in ("settings", "steps")}
    page = report.html(report.of([*RECORDS, *(line | same for line in TRACES)]))
    assert "Step by step" in page
    assert "tea&lt;cache&gt;" in page


OPEN = toy.profile(4).curve((6, 3, 4))


def closed(plan: Plan) -> Plan:
    return replace(plan, label="refined", predicted=Prediction(40.0 + len(plan), 38.0, 36.0, 2, True, True))


def test_curves_differ_without_colour() -> None:
    svg = curve_svg([OPEN, [closed(plan) for plan in OPEN]])
    assert len({line for group in drawn(svg, "curve") for line in dashes(group)}) == 2
    assert {"open loop", "closed loop, held-out pairs", "PSNR to the unaccelerated run, dB"} <= set(texts(svg))
    assert "3 evaluations: mean 43.0 dB, 5 % worst 38.0, worst 36.0 (closed loop, held-out pairs)" in hints(svg)


def test_plans_without_a_prediction_are_left_out() -> None:
    unknown = [replace(plan, predicted=None) for plan in OPEN]
    infinite = replace(OPEN[0], predicted=Prediction(math.inf, math.inf, math.inf, 1, False, False))
    assert curve_svg([OPEN, [*unknown, infinite]]) == curve_svg([OPEN])
    with pytest.raises(ValueError, match="no plan"):
        curve_svg([unknown])
