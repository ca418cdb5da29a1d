"""The curve of a profile: a table and one SVG file, both from the plans alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from io import StringIO
from xml.etree import ElementTree

import pytest
from rich.console import Console

from skipcast.bench.curve import curve_rows, curve_svg, curve_table, how
from skipcast.plans.plan import Plan, Prediction
from support import toy

OPEN = toy.profile(4).curve((6, 3, 4))


def closed(plan: Plan) -> Plan:
    return replace(plan, label="refined", predicted=Prediction(40.0 + len(plan), 38.0, 36.0, 2, True, True))


CURVES = [OPEN, [closed(plan) for plan in OPEN]]


def test_svg_tells_curves_apart_without_colour_and_loads_nothing() -> None:
    svg = curve_svg(CURVES)
    root = ElementTree.fromstring(svg)
    lines = [e for e in root.iter() if e.tag.endswith("polyline")]
    assert [line.get("stroke-dasharray") for line in lines] == ["6 4", "none"]
    for line in lines:
        xs = [float(point.split(",")[0]) for point in line.attrib["points"].split()]
        assert len(xs) == 3
        assert xs == sorted(xs)
    texts = ["".join(e.itertext()) for e in root.iter() if e.tag.endswith(("text", "title"))]
    assert {"◇ open loop", "◆ closed loop, held-out pairs", "PSNR to the unaccelerated run, dB"} <= set(texts)
    assert "3 evaluations: mean 43.0 dB, 5 % worst 38.0, worst 36.0 (closed loop, held-out pairs)" in texts
    assert "href" not in svg
    assert "nan" not in svg


def test_table_has_a_section_per_curve() -> None:
    stream = StringIO()
    Console(width=80, file=stream).print(curve_table(CURVES))
    text = stream.getvalue()
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.count("loop") == 2
    rows = [line.split() for line in text.splitlines() if "6.67x" in line]
    assert rows[1] == ["closed", "loop,", "held-out", "pairs", "3", "6.67x", "43.0", "38.0", "36.0"]
    assert "2 or 4 pairs" in text


def test_rows_are_plain() -> None:
    rows = json.loads(json.dumps(curve_rows(CURVES), allow_nan=False))
    assert [row["evaluations"] for row in rows] == [3, 4, 6, 3, 4, 6]
    assert rows[3]["predicted"]["psnr"] == 43.0
    assert rows[0]["steps"][0] == 0


def test_words() -> None:
    held_out = Prediction(40, 40, 40, 1, held_out=True, closed=True)
    assert how(held_out) == "closed loop, held-out pairs"
    assert how(replace(held_out, held_out=False)) == "closed loop, fitted pairs"
    assert how(replace(held_out, held_out=False, closed=False)) == "open loop"


def test_plans_without_a_prediction_are_left_out() -> None:
    unknown = [replace(plan, predicted=None) for plan in OPEN]
    infinite = replace(OPEN[0], predicted=Prediction(math.inf, math.inf, math.inf, 1, False, False))
    assert curve_svg([OPEN, [*unknown, infinite]]) == curve_svg([OPEN])
    with pytest.raises(ValueError, match="no plan"):
        curve_svg([unknown])
