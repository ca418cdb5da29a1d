"""What each part of a method is worth: differences over matched pairs of rows that differ in that part alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import NamedTuple

from skipcast.bench.results import Row


class Factors(NamedTuple):
    """The parts of a row that a factorial comparison varies."""

    forecaster: str
    target: str
    coordinate: str
    schedule: str


@dataclass(frozen=True)
class Effect:
    """What `level` gains over `base` in one factor: mean differences of PSNR over matched pairs, in dB."""

    factor: str
    level: str
    base: str
    mean: float
    worst: float  # of the worst images
    pairs: int
    better: int  # pairs in which the level has the higher mean PSNR


@dataclass(frozen=True)
class Weight:
    """How much a factor matters: the mean absolute difference of PSNR over all its matched pairs, in dB."""

    factor: str
    mean: float
    pairs: int


def factors_of(row: Row) -> Factors | None:
    """The parts of a row on a set schedule; None for any other row."""
    if "schedule" not in row.options or not row.parts:
        return None
    forecaster, target, coordinate = (row.parts[name].removesuffix("()") for name in Factors._fields[:3])
    return Factors(forecaster, target, coordinate, str(row.options["schedule"]))


def effects(rows: Sequence[Row]) -> list[Effect]:
    """Every level of every factor against the level that stands in most rows of that factor."""
    table = _table(rows)
    found = []
    for place, factor in enumerate(Factors._fields):
        levels = [key[place] for key in table]
        names = sorted(dict.fromkeys(levels), key=lambda level: (-levels.count(level), level))
        for level in names[1:]:
            pairs = list(_pairs(table, place, level, names[0]))
            gains = [_psnr(a) - _psnr(b) for a, b in pairs]
            if gains:
                worst = fmean(_psnr(a, "worst") - _psnr(b, "worst") for a, b in pairs)
                better = sum(gain > 0 for gain in gains)
                found.append(Effect(factor, level, names[0], fmean(gains), worst, len(gains), better))
    return found


def weights(rows: Sequence[Row]) -> list[Weight]:
    """The factors that vary, the weightiest first."""
    table = _table(rows)
    found = []
    for place, factor in enumerate(Factors._fields):
        levels = sorted({key[place] for key in table})
        pairs = [pair for a, b in combinations(levels, 2) for pair in _pairs(table, place, a, b)]
        if pairs:
            found.append(Weight(factor, fmean(abs(_psnr(a) - _psnr(b)) for a, b in pairs), len(pairs)))
    return sorted(found, key=lambda weight: -weight.mean)


def _table(rows: Sequence[Row]) -> dict[Factors, Row]:
    """Rows by their parts; of two names for the same parts the first."""
    table: dict[Factors, Row] = {}
    for row in rows:
        key = factors_of(row)
        if key is not None and row.psnr is not None and math.isfinite(row.psnr):
            table.setdefault(key, row)
    return table


def _pairs(table: dict[Factors, Row], place: int, level: str, base: str) -> Iterable[tuple[Row, Row]]:
    """Rows of two levels that agree in everything else, evaluations included."""
    for key, row in table.items():
        if key[place] == level:
            other = table.get(key._replace(**{Factors._fields[place]: base}))
            if other is not None and other.evaluations == row.evaluations:
                yield row, other


def _psnr(row: Row, statistic: str = "mean") -> float:
    value = row.of("psnr", statistic)
    assert value is not None  # no row without a finite mean is in the table
    return value
