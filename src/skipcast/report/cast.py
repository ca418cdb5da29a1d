"""Which methods the plots of a state draw large, with which marks, and which stand behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skipcast.report.chart import SHAPES
from skipcast.report.frontier import Figure, Price, Series, best, frontier, series_of
from skipcast.report.summary import Row

_PLANS, _FORECASTS = 3, 4  # series that are drawn large and named
_COLOURS = ("#2b7bcb", "#d4551c", "#178a5f", "#b5519c", "#a97800", "#7d62d0", "#2a8c9e")
_DASHES = ("12 3 2 3", "none", "7 3", "2 3", "10 3 2 3 2 3", "4 2", "1 4")
PRICES: dict[str, Price] = {"evaluations": lambda row: row.evaluations, "seconds": lambda row: row.seconds}
FIGURES: dict[str, Figure] = {"mean": lambda row: row.psnr, "worst5": lambda row: row.psnr_worst5}


@dataclass(frozen=True)
class Drawn:
    """A series that is drawn large: its colour, its mark and its dashes."""

    series: Series
    colour: str
    mark: str
    dashes: str


@dataclass(frozen=True)
class Field:
    """All series of a state: those drawn large, the plain samplers, and the rest."""

    named: tuple[Drawn, ...]
    samplers: tuple[Series, ...]
    others: tuple[Series, ...]

    @property
    def series(self) -> list[Series]:
        return [*self.samplers, *self.others, *(drawn.series for drawn in self.named)]


def field(rows: Sequence[Row]) -> Field:
    """Which series are drawn how; the same in every plot of a state."""
    every = series_of(rows)
    line = frontier(rows, PRICES["evaluations"], FIGURES["mean"])
    plans = best([each for each in every if each.kind == "plan"], line, _PLANS)
    rest = best([each for each in every if each.kind not in ("plan", "sampler")], line, _FORECASTS)
    marks = [*(("diamond", "open", "open")[: len(plans)]), *SHAPES[: len(rest)]]
    chosen = [*plans, *rest]
    dashes = [_DASHES[0]] * len(plans) + list(_DASHES[1 : 1 + len(rest)])
    named = tuple(map(Drawn, chosen, _COLOURS, marks, dashes))
    samplers = tuple(each for each in every if each.kind == "sampler")
    return Field(named, samplers, tuple(e for e in every if e not in chosen and e.kind != "sampler"))
