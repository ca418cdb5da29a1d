"""The curve of a profile: a table and plain lines, both from the plans alone."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO

from rich.console import Console

from skipcast.bench.curve import curve_rows, curve_table, how
from skipcast.plans.plan import Plan, Prediction
from support import toy

OPEN = toy.profile(4).curve((6, 3, 4))


def closed(plan: Plan) -> Plan:
    return replace(plan, label="refined", predicted=Prediction(40.0 + len(plan), 38.0, 36.0, 2, True, True))


CURVES = [OPEN, [closed(plan) for plan in OPEN]]


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
