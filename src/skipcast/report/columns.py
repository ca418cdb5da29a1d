"""What every table of a comparison holds: columns of numbers, sections of equal budget, a caption."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from rich.filesize import decimal

from skipcast.bench.statistics import TIMING_NOISE
from skipcast.report.labels import MARKS, without
from skipcast.report.measures import CONVERGED, Measure, form_of, label_of, with_interval
from skipcast.report.measures import number as number
from skipcast.report.summary import Row
from skipcast.report.versus import Duel, name_of, versus

MAIN, COST, JUDGE = "main", "cost", "judge"
_MISSING = "-"
FEW = 8  # prompts; resampling fewer says little of how others would do
_VALUES = {"†": "decides by values, threshold found on other pictures", "‡": "decides by values, threshold as given"}
_KINDS = {"forecast": "forecaster", "plan": "plan", "sampler": "plain sampler with fewer steps"}


@dataclass(frozen=True)
class Column:
    """A header and the text under it."""

    header: str
    cell: Callable[[Row], str]
    detail: bool = False  # for the page only, where there is room
    weight: int = 0  # where room is short, those that weigh least stay
    short: Column | None = None  # what to show where there is no room for this one
    group: str = MAIN  # the table of the page that it stands in: the first one, a metric's, COST or JUDGE


def evaluations(row: Row) -> str:
    """The mean of the actual evaluations, followed by those asked for in brackets if they are others."""
    return f"{row.evaluations:.3g}" + (f" ({row.budget})" if round(row.evaluations, 2) != row.budget else "")


def columns(rows: Sequence[Row], beside: Sequence[Row] | None = None) -> list[Column]:
    """The columns after the method, without those that no row fills.

    Args:
        rows: that the table shows.
        beside: all rows of the state, where plain samplers are looked for; those of the table if not given.
    """
    found = versus(rows if beside is None else beside)
    keys = dict.fromkeys(key for row in rows for key in row.measures)
    known = sorted((key for key in keys if key != "psnr"), key=_place)

    def against(row: Row, at: str) -> str:
        told = found.get(row.key)
        return _duel(getattr(told, at) if told else None, row.budget)

    def gained(row: Row) -> str:
        told = found.get(row.key)
        return number(told.evaluations.gain.mean if told and told.evaluations else None, "+.1f")

    every = [
        Column("NFE", evaluations),
        *_of_metric("psnr"),
        Column("predicted", _predicted, detail=True),
        Column("vs sampler", partial(against, at="evaluations"), weight=2, short=Column("gain dB", gained)),
        Column("in its time", partial(against, at="latency"), weight=5),
        *(column for key in known for column in _of_metric(key)),
        Column("judge", lambda r: number(r.judge, ".0%"), weight=4),
        Column("time s", lambda r: number(r.seconds, ".3g"), detail=True, group=COST),
        Column("speedup", lambda r: _MISSING if r.speedup is None else f"{r.speedup:.2f}x", weight=1),
        Column("cached", lambda r: _bytes(r.cached_bytes), detail=True, group=COST),
        Column("peak memory", lambda r: _bytes(r.peak_bytes), detail=True, group=COST),
        Column("TFLOP", lambda r: _MISSING if r.flops is None else f"{r.flops / 1e12:.3g}", detail=True, group=COST),
        Column("pictures", lambda r: str(r.pictures), detail=True, group=COST),
        *map(_attribute, dict.fromkeys(name for row in rows for name in row.attributes)),
    ]
    return [column for column in every if any(column.cell(row) != _MISSING for row in rows)]


def _of_metric(key: str) -> list[Column]:
    """Mean, median, worst 5 % and worst of a metric; of others than PSNR the mean alone where room is short."""
    form, first, group = form_of(key), key == "psnr", MAIN if key == "psnr" else key

    def of(row: Row, statistic: str) -> str:
        made = row.measures.get(key)
        return number(None if made is None else getattr(made, statistic), form)

    def mean(row: Row) -> str:
        return with_interval(row.measures.get(key), form)

    label, away = label_of(key), key.endswith(CONVERGED)
    if first or key.startswith("psnr"):
        shown = [Column(label, mean, weight=0 if first else 6, group=group)]
    else:
        # A plain mean for narrow tables, one with its interval for the page.
        short = Column(label, partial(of, statistic="mean"), weight=7, group="", detail=away)
        shown = [short, Column(label, mean, detail=True, group=group)]
    return [
        *shown,
        Column("median", partial(of, statistic="median"), detail=not first, weight=8, group=group),
        Column("worst 5 %", partial(of, statistic="worst5"), detail=not first, weight=1, group=group),
        Column("worst", partial(of, statistic="worst"), detail=not first, weight=1, group=group),
    ]


def _place(key: str) -> tuple[bool, int]:
    """Distances to the unaccelerated run first, then those to the converged one, the usual metrics in front."""
    usual = ("psnr", "ssim", "ms_ssim", "latent_error")
    name = key.removesuffix(CONVERGED)
    return key != name, usual.index(name) if name in usual else len(usual)


def _duel(duel: Duel | None, budget: int) -> str:
    if duel is None:
        return _MISSING
    return f"{gain(duel.gain)} {name_of(duel, budget)}"


def gain(made: Measure) -> str:
    """A difference with its sign and its interval, such as `+8.3 [7.1, 9.5]`."""
    return with_interval(made, "+.1f")


def _bytes(value: int | None) -> str:
    return _MISSING if value is None else decimal(int(value))


def _predicted(row: Row) -> str:
    """What a plan promised, beside what it keeps; against the converged run where it was made for that."""
    return number(row.predicted, ".1f") + (" conv." if row.predicted and row.planned_for == "converged" else "")


def _attribute(name: str) -> Column:
    return Column(name, lambda row: number(row.attributes.get(name), ".0%"), detail=True, group=JUDGE)


def sections(rows: Sequence[Row]) -> list[list[Row]]:
    """The sorted rows in groups of equal budget, the reference apart."""
    return [list(group) for _, group in groupby(rows, key=lambda row: (row.kind == "reference", row.budget))]


def note(row: Row) -> str:
    """The sign of a method that decides by values, to be set behind its label; empty for the others."""
    return ("†" if row.calibrated else "‡") if row.data_driven else ""


def label(row: Row) -> str:
    """The label of a row without its evaluations where its section says them."""
    return without(row.method, f"evaluations={row.budget}")


def caption(rows: Sequence[Row], shown: Sequence[Column]) -> str:
    """What the numbers of these columns are of, in words."""
    identical = any(0 < row.identical < row.pictures for row in rows)
    return (
        f"{pictures(rows)} pictures a row against the unaccelerated run (conv.: against a converged run), PSNR in dB; "
        f"NFE: evaluations (those asked for, if others). {_statistics(rows, {c.header for c in shown})} {legend(rows)}"
        + ("; pictures identical to the reference are left out of the mean PSNR." if identical else ".")
    )


def _statistics(rows: Sequence[Row], headers: Collection[str]) -> str:
    """What brackets and the columns of statistics mean."""
    words = []
    if any(made.interval for row in rows for made in row.measures.values()):
        prompts = max(len({prompt for prompt, _ in row.psnrs}) for row in rows)
        few = "; so few make it too narrow" if prompts < FEW else ""
        words.append(f"[]: 95 % interval of the mean, over {prompts} prompts{few}.")
    words.append("Worst 5 %: the mean of the worst twentieth of the pictures.")
    beaten = (
        "on the same prompts and seeds, over the best plain sampler with as many evaluations (half of one more at most)"
    )
    if "gain dB" in headers:
        words.append(f"Gain: {beaten}.")
    if "vs sampler" in headers:
        words.append(f"vs sampler: what is gained, {beaten} (@: its own, if others).")
    if "in its time" in headers:
        words.append(f"In its time: over the best one in as many seconds, {TIMING_NOISE:.0%} more at most.")
    return " ".join(words)


def pictures(rows: Sequence[Row]) -> str:
    """How many pictures a row is of, in words."""
    counts = sorted({row.pictures for row in rows})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else "no"


def legend(rows: Sequence[Row]) -> str:
    """The signs of kinds and of methods that decide by values, in words."""
    noted = [f"{sign} {words}" for sign, words in _VALUES.items() if sign in map(note, rows)]
    return ", ".join([*(f"{MARKS[kind]} {words}" for kind, words in _KINDS.items()), *noted])
