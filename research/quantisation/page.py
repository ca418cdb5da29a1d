"""The section on quantisation of docs/results/neighbours.md, from its measurement alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from research.pages import render


def section(found: Mapping[str, Any]) -> str:
    """The section as Markdown."""
    return render("neighbours-quantisation", **found, checks=list(checks(found)))


def checks(found: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """What was to be found again: a claim, the figures, and whether they bear it out."""
    at = {(row["kind"], row["calibrated"]): row for row in found["rows"]}
    static = "int8, static"
    first, all_calls, own = (at[static, name] for name in ("first step", "all 50 steps", "the plan's calls"))
    share = first["error"] / all_calls["error"]
    yield "all steps are at least 3 times closer than the first alone, 50 steps", f"{share:.1f}", share >= 3
    share = first["planned"] / own["planned"]
    yield "the plan's calls are at least 3 times closer than the first step alone, plan", f"{share:.1f}", share >= 3
    share = own["planned"] / all_calls["planned"]
    yield "the plan's calls serve the plan as all calls do, within 5 %", f"{share:.2f}", share <= 1.05
    planned = "the plan's calls"
    for key in ((static, planned), ("int8, static, SmoothQuant", planned), ("int8, dynamic", "-")):
        row = at[key]
        share = row["planned"] / row["square"]
        yield f"{key[0]} under the plan: at most 1.25 of the root sum of squares", f"{share:.2f}", share <= 1.25
        share = row["planned"] / row["own_square"]
        claim = f"{key[0]} under the plan: at most 1.25 of the root sum of squares with the rounding of ten evaluations"
        yield claim, f"{share:.2f}", share <= 1.25
