"""The line to beat: what the best plain sampler reaches at every price; and the series that are held against it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from skipcast.report.labels import without
from skipcast.report.summary import Row

#: What a row costs, None where that was not measured.
Price = Callable[[Row], "float | None"]
#: How good it is, in dB.
Figure = Callable[[Row], "float | None"]


@dataclass(frozen=True)
class Series:
    """One method over its budgets, the cheapest first."""

    kind: str
    label: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Corner:
    """Where a better plain sampler comes within reach."""

    price: float
    figure: float
    row: Row


def frontier(rows: Sequence[Row], price: Price, figure: Figure) -> list[Corner]:
    """The plain samplers that beat every cheaper one, the cheapest first."""
    found: list[Corner] = []
    priced = ((price(row), figure(row), row) for row in rows if row.kind == "sampler")
    known = ((p, f, row) for p, f, row in priced if p and f is not None and math.isfinite(f))
    for cost, value, row in sorted(known, key=lambda each: (each[0], -each[1])):
        if not found or value > found[-1].figure:
            found.append(Corner(cost, value, row))
    return found


def reached(line: Sequence[Corner], price: float) -> float | None:
    """What the line is at for this price; None left of its beginning."""
    return max((corner.figure for corner in line if corner.price <= price + 1e-9), default=None)


def series_of(rows: Sequence[Row]) -> list[Series]:
    """Rows with a finite mean PSNR, but the reference, by method."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.evaluations, row.method)):
        if row.kind != "reference" and row.psnr is not None and math.isfinite(row.psnr):
            groups.setdefault((row.kind, _label(row)), []).append(row)
    return [Series(kind, label, tuple(group)) for (kind, label), group in groups.items()]


def _label(row: Row) -> str:
    """The label without what differs from budget to budget, such as a threshold that was found for it."""
    label = without(row.method, "evaluations", "interval")
    if not row.calibrated:
        return label
    options = label.partition(":")[2].split(",")
    return without(label, *(option for option in options if _is_number(option.partition("=")[2])))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def best(series: Sequence[Series], line: Sequence[Corner], most: int) -> list[Series]:
    """The series that gain most over the line, on average over their budgets.

    Half of the places are kept for series that were measured at every budget, for one that was measured at a single
    favourable one says less.
    """
    gains = {id(each): _gains(each, line) for each in series}
    budgets = {budget for found in gains.values() for budget in found}
    ranked = sorted((each for each in series if gains[id(each)]),
                    key=lambda each: (-fmean(gains[id(each)].values()), each.label))  # fmt: skip
    complete = [each for each in ranked if gains[id(each)].keys() == budgets][: -(-most // 2)]
    others = [each for each in ranked if each not in complete]
    return [*complete, *others[: most - len(complete)]]


def _gains(series: Series, line: Sequence[Corner]) -> dict[int, float]:
    """By budget, dB over the line; over its beginning where no sampler is as cheap."""
    start = line[0].figure if line else 0.0
    found = {}
    for row in series.rows:
        if row.psnr is not None:
            level = reached(line, row.evaluations)
            found[row.budget] = row.psnr - (start if level is None else level)
    return found
