"""The plot is well-formed and readable without colour; its labels keep apart."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

from driftcast.bench import report
from records import RECORDS, both


def test_svg_is_well_formed_and_tells_kinds_apart_without_colour() -> None:
    svg = report.pareto_svg(report.summarise(RECORDS))
    root = ElementTree.fromstring(svg)
    names = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert names.count("polyline") == 4
    assert names.count("circle") == 2  # one per forecaster
    assert {e.get("stroke-dasharray") for e in root.iter() if e.tag.endswith("polyline")} == {"none", "6 4", "12 3 2 3"}
    assert "resilphase:evaluations=10: mean 25.0 dB, worst 10.0 dB" in svg
    assert "reference" not in svg


def test_svg_labels_do_not_overlap() -> None:
    records = [r for i in range(30) for r in both(f"method{i}:evaluations=5", "forecast", 5, 20, 19.9)]
    root = ElementTree.fromstring(report.pareto_svg(report.summarise(records)))
    height = float(root.attrib["viewBox"].split()[3])
    places = sorted(float(e.attrib["y"]) for e in root.iter() if (e.text or "").startswith("● method"))
    assert len(places) == 30
    assert places[0] > 0
    assert places[-1] < height
    assert min(b - a for a, b in pairwise(places)) > 13
