"""The plot step by step: evaluated steps marked, axes finite, nothing told by colour alone."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree

from skipcast import report
from support.records import RECORDS


def trace(method: str, budget: int, errors: list[float | None], growth: list[float] | None) -> dict[str, Any]:
    return {
        "kind": "trace",
        "method": method,
        "name": method.split(":")[0],
        "budget": budget,
        "evaluations": 2,
        "steps": 6,
        "evaluated_steps": [0, 3],
        "errors": errors,
        "amplification": growth,
        "model": "shapes-flux",
    }


TRACES = [
    trace("lagrange:order=1,evaluations=10", 10, [None, 0.1, 0.2, 0.5, 0.0, 0.3], [1, 1, 3, 1, 3, 5]),
    trace("tea<cache>:threshold=0.3", 10, [None, 0.01, math.nan, None, math.inf, 1e-12], None),
    trace("lagrange:order=1,evaluations=5", 5, [None] * 6, None),
]


def test_evaluated_steps_are_marked_and_lines_break_there() -> None:
    root = ElementTree.fromstring(report.traces_svg(TRACES))
    groups = [e for e in root.iter() if e.get("class") == "trace"]
    assert len(groups) == 2  # at 10 evaluations
    by_colour = [e for e in root.iter() if (e.get("fill") or e.get("stroke") or "currentColor").startswith("#")]
    assert not by_colour
    best, other = groups
    assert "tea<cache>" in "".join(best.itertext())  # the smaller mean error first
    assert "follow from the values" in "".join(best.itertext())
    for group in groups:
        marked = [e.find("{*}title") for e in group.iter() if e.get("class") == "evaluated"]
        assert [m.text for m in marked if m is not None] == ["step 0: evaluated", "step 3: evaluated"] * 2
    lines = [e for e in other.iter() if e.tag.endswith("polyline")]
    assert [len(e.attrib["points"].split()) for e in lines] == [2, 2, 2, 2]
    assert [e.get("stroke-dasharray") for e in lines] == [None, None, "4 3", "4 3"]


def test_axes_are_finite() -> None:
    svg = report.traces_svg(TRACES)
    assert not re.search(r"\b(nan|inf)", svg.replace("infinit", ""))
    height = float(ElementTree.fromstring(svg).attrib["viewBox"].split()[3])
    for points in re.findall(r'points="([^"]+)"', svg):
        for point in points.split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 900
            assert 0 <= y <= height


def test_a_method_that_forecasts_nothing_or_exactly_is_still_drawn() -> None:
    for errors in ([None] * 6, [0.0] * 6):
        ElementTree.fromstring(report.traces_svg([trace("reuse", 2, errors, [1.0] * 6)]))


def test_the_page_has_the_plot_only_with_traces() -> None:
    assert "Step by step" not in report.html(RECORDS, None)
    assert report.traces_svg(RECORDS) == ""
    same = {key: RECORDS[0][key] for key in ("settings", "steps")}
    page = report.html([*RECORDS, *(line | same for line in TRACES)], None)
    assert "Step by step" in page
    assert "tea&lt;cache&gt;" in page
    assert "10 of " not in page
