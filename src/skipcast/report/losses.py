"""Which methods lose to a plain sampler that makes as many evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from skipcast.bench.statistics import SAME_EVALUATIONS
from skipcast.report.records import Record, pictures, values
from skipcast.report.summary import Row

BASELINE = "ab2"


@dataclass(frozen=True)
class Verdict:
    """A method beside the sampler of its budget; PSNR in dB, `below` counts the pictures on which it is worse."""

    row: Row
    sampler: Row
    below: int
    shared: int  # pictures that both have

    @property
    def comparable(self) -> bool:
        """Whether it made at least as many evaluations; with fewer, losing says little."""
        return self.row.evaluations >= self.sampler.evaluations - SAME_EVALUATIONS

    @property
    def outspends(self) -> bool:
        """Whether it made more evaluations; then not losing says little."""
        return self.row.evaluations > self.sampler.evaluations + SAME_EVALUATIONS

    @property
    def loses_mean(self) -> bool:
        return _lower(self.row.psnr, self.sampler.psnr)

    @property
    def loses_worst(self) -> bool:
        return _lower(self.row.psnr_worst, self.sampler.psnr_worst)


def verdicts(rows: Sequence[Row], records: Iterable[Record], baseline: str = BASELINE) -> list[Verdict]:
    """Every forecaster and plan of one budget and step count beside the baseline; empty where that was not measured."""
    sampler = next((row for row in rows if row.kind == "sampler" and row.method.split(":")[0] == baseline), None)
    if sampler is None:
        return []
    by_label: dict[tuple[str, int], dict[tuple[str, int], float]] = {}
    records = pictures(records)
    for record, psnr in zip(records, values(records, "psnr"), strict=True):
        if psnr is not None:
            place = by_label.setdefault((record["method"], record["budget"]), {})
            place[record["prompt"], record["seed"]] = psnr
    against = by_label.get((sampler.method, sampler.budget), {})
    found = []
    for row in rows:
        if row.kind in ("forecast", "plan") and row.psnr is not None:
            own = by_label.get((row.method, row.budget), {})
            shared = own.keys() & against.keys()
            below = sum(own[picture] < against[picture] for picture in shared)
            found.append(Verdict(row, sampler, below, len(shared)))
    return found


def _lower(value: float | None, other: float | None) -> bool:
    """A broken picture (NaN) is lower than any other."""
    if value is None or other is None or math.isnan(other):
        return False
    return math.isnan(value) or value < other
