"""Every forecast and plan against the best plain sampler at its price, picture by picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from skipcast.bench.statistics import baselines
from skipcast.report.labels import without
from skipcast.report.measures import Measure, measure
from skipcast.report.summary import Row


@dataclass(frozen=True)
class Duel:
    """What a row gains over a plain sampler: differences of PSNR in dB on the same prompts and seeds."""

    sampler: Row
    gain: Measure
    better: int  # pictures on which the row is nearer to the reference
    pictures: int  # that both have, without those that either met to the bit


@dataclass(frozen=True)
class Versus:
    """A row beside what plain samplers reach with as many evaluations, and in as many seconds."""

    row: Row
    evaluations: Duel | None
    latency: Duel | None


def versus(rows: Sequence[Row]) -> dict[tuple[int, str], Versus]:
    """Every forecast and plan of one state, by the key of its row; samplers are chosen by mean PSNR."""
    found = {}
    for each in baselines(rows, lambda row: row.psnr):
        equal, timed = (_duel(each.row, sampler) for sampler in (each.equal_evaluations, each.equal_latency))
        found[each.row.key] = Versus(each.row, equal, timed)
    return found


def name_of(duel: Duel, budget: int) -> str:
    """The sampler in few letters, with its evaluations where they are not those of the section."""
    label = without(duel.sampler.method, "evaluations")
    return label if duel.sampler.budget == budget else f"{label}@{duel.sampler.budget}"


def _duel(row: Row, sampler: Row | None) -> Duel | None:
    """None where there is no sampler, or no picture that both have."""
    if sampler is None:
        return None
    gains, prompts = [], []
    for picture, psnr in row.psnrs.items():
        other = sampler.psnrs.get(picture)
        if psnr is None or other is None:
            if picture in sampler.psnrs:  # a broken picture, which must not be left out
                gains.append(math.nan)
                prompts.append(picture[0])
        elif math.isfinite(psnr) and math.isfinite(other):
            gains.append(psnr - other)
            prompts.append(picture[0])
    gain = measure(gains, prompts, True) if gains else None
    return None if gain is None else Duel(sampler, gain, sum(each > 0 for each in gains), len(gains))
