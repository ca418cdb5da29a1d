"""The plot is well-formed and readable without colour; its labels keep apart; samplers are the line to beat."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from skipcast import report
from skipcast.report.frontier import frontier, reached, series_of
from skipcast.report.multiples import multiples
from skipcast.report.plot import Against, Statistic
from support.records import RECORDS, both


def drawn(svg: str, tag: str, kind: str = "named") -> list[ElementTree.Element]:
    groups = [e for e in ElementTree.fromstring(svg).iter() if e.get("class") == kind]
    return [e for group in groups for e in group.iter() if e.tag.endswith(tag)]


@pytest.mark.parametrize("against", ["evaluations", "seconds"])
@pytest.mark.parametrize("statistic", ["mean", "worst5"])
@pytest.mark.parametrize("narrow", [False, True])
def test_svg_is_well_formed_and_tells_methods_apart_without_colour(
    against: Against, statistic: Statistic, narrow: bool
) -> None:
    svg = report.pareto_svg(report.summarise(RECORDS), against, statistic, narrow=narrow)
    dashes = [e.get("stroke-dasharray") for e in drawn(svg, "polyline")]
    assert len(set(dashes)) == len(dashes) == 3  # a plan and two forecasters
    assert "resilphase:evaluations=10: mean 25.0 [10.0, 40.0] dB, worst 5 % 10.0 dB, worst 10.0 dB" in svg
    assert "reference" not in svg
    assert not re.search(r"\b(nan|inf)\b", svg)


def test_whiskers_span_the_interval_of_the_mean() -> None:
    rows = report.summarise(RECORDS)
    assert len(drawn(report.pareto_svg(rows), "path")) > len(drawn(report.pareto_svg(rows, statistic="worst5"), "path"))
    single = report.summarise([line for line in RECORDS if line["seed"] == 100])
    assert "[" not in report.pareto_svg(single)


def test_the_line_to_beat_is_the_best_sampler_at_every_price() -> None:
    records = [
        *both("euler:evaluations=5", "sampler", 5, 18, 16),
        *both("heun:evaluations=5", "sampler", 5, 20, 20),
        *both("euler:evaluations=8", "sampler", 8, 19, 19),  # worse than what is cheaper
        *both("heun:evaluations=10", "sampler", 10, 30, 30),
        *both("taylorseer:evaluations=10", "forecast", 10, 40, 40),
    ]
    rows = report.summarise(records)
    line = frontier(rows, lambda row: row.evaluations, lambda row: row.psnr)
    assert [(corner.price, corner.figure) for corner in line] == [(5, 20), (10, 30)]
    assert [reached(line, price) for price in (4, 5, 9.9, 10, 60)] == [None, 20, 20, 30, 30]
    assert len(drawn(report.pareto_svg(rows), "path", "line-to-beat")) == 2


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
    assert len(drawn(svg, "polyline")) == 4
    texts = [e for e in ElementTree.fromstring(svg).iter() if (e.text or "")[1:].startswith(" method")]
    assert {e.text for e in texts} == {f"{sign} method{44 - i}" for i, sign in enumerate("●▲▼✕")}
    places = sorted(float(e.attrib["y"]) for e in texts)
    assert min(b - a for a, b in pairwise(places)) > 13
    small = ElementTree.fromstring(multiples(rows))
    assert len([e for e in small.iter() if e.tag == "figure"]) == 41
    assert svg.count("<title>method3:evaluations=5: ") == 1


def test_a_threshold_that_was_found_does_not_split_a_method() -> None:
    told = {"data_driven": True, "calibrated_on": {"pictures": 8}}
    records = [
        *both("speca:base=2.95", "forecast", 5, 30, 30, **told),
        *both("speca:base=1.5", "forecast", 10, 35, 35, **told),
    ]
    (series,) = series_of(report.summarise(records))
    assert (series.label, len(series.rows)) == ("speca", 2)
