"""The tables of a comparison, for the terminal and as Markdown: columns, sections of equal budget, a caption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import rich
from rich import box
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from skipcast.bench.results import CONVERGED, TIMING_NOISE, Duel, Row, versus
from skipcast.bench.statistics import Statistics

MAIN, COST, JUDGE = "main", "cost", "judge"
MARKS = {"reference": "★", "forecast": "●", "plan": "◆", "sampler": "□"}
FEW = 8  # prompts; resampling fewer says little of how others would do
_MISSING = "-"
_METHOD, _BETWEEN = 18, 2  # characters of a method that stay on one line, and between two columns
_LABELS = {"psnr": "PSNR dB", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "latent_error": "latent error", "lpips": "LPIPS",
           "worst_frame": "worst frame dB"}  # fmt: skip
_VALUES = {"†": "decides by values, threshold found on other images", "‡": "decides by values, threshold as given"}
_KINDS = {"forecast": "forecaster", "plan": "plan", "sampler": "plain sampler with fewer steps"}


@dataclass(frozen=True)
class Column:
    """A column: its header, and the function that gives the text of a row."""

    header: str
    cell: Callable[[Row], str]
    detail: bool = False  # for the page only, where there is room
    weight: int = 0  # where room is short, those that weigh least stay
    short: Column | None = None  # what to show where there is no room for this one
    group: str = MAIN  # the table of the page that it stands in: the first one, a metric's, COST or JUDGE
    duel: Callable[[Row], Duel | None] | None = None  # what a column of gains shows


def columns(rows: Sequence[Row], among: Sequence[Row] | None = None) -> list[Column]:
    """Return the columns after the method, without those that are empty in every row.

    Args:
        rows: that the table shows.
        among: all rows of the state, where plain samplers are looked for; those of the table if not given.
    """
    found = versus(rows, among)
    keys = dict.fromkeys(key for row in rows for key in row.measures)

    def duel(row: Row, price: str) -> Duel | None:
        return getattr(found.get(row.key), price, None)

    def gained(row: Row, price: str) -> str:
        made = duel(row, price)
        return _MISSING if made is None else f"{gain(made)} {rival(made, row)}"

    def mean(row: Row) -> str:
        made = duel(row, "evaluations")
        return number(made and made.gain.mean, "+.1f")

    def share(row: Row, name: str) -> str:
        return number(row.attributes.get(name), ".0%")

    def gains(header: str, price: str, weight: int, short: Column | None = None) -> Column:
        return Column(header, partial(gained, price=price), weight=weight, short=short, duel=partial(duel, price=price))

    def cost(header: str, cell: Callable[[Row], str]) -> Column:
        return Column(header, cell, detail=True, group=COST)

    every = [
        Column("NFE", evaluations),
        *_of_metric("psnr"),
        Column("predicted", _predicted, detail=True),
        gains("vs sampler", "evaluations", 2, Column("gain dB", mean)),
        gains("in its time", "seconds", 5),
        *(column for key in sorted(keys, key=_place) if key != "psnr" for column in _of_metric(key)),
        Column("judge", lambda row: number(row.judge, ".0%"), weight=4),
        cost("time s", lambda row: number(row.seconds, ".3g")),
        Column("speedup", lambda row: number(row.speedup, ".2f", "x"), weight=1),
        cost("cached", lambda row: _bytes(row.cached_bytes)),
        cost("peak memory", lambda row: _bytes(row.peak_bytes)),
        cost("TFLOP", lambda row: number(row.flops and row.flops / 1e12, ".3g")),
        cost("images", lambda row: str(row.images)),
        *(
            Column(name, partial(share, name=name), detail=True, group=JUDGE)
            for name in dict.fromkeys(name for row in rows for name in row.attributes)
        ),
    ]
    return [column for column in every if any(column.cell(row) != _MISSING for row in rows)]


def _of_metric(key: str) -> list[Column]:
    """Return the columns mean, median, worst 5 % and worst of a metric; only the mean of other metrics than PSNR if
    room is short."""
    form, label = ".1f" if key.startswith(("psnr", "worst_frame")) else ".3f", label_of(key)
    first, group = key == "psnr", MAIN if key == "psnr" else key

    def cell(row: Row, statistic: str) -> str:
        return number(row.of(key, statistic), form)

    def mean(row: Row) -> str:
        return with_interval(row.measures.get(key), form)

    if key.startswith("psnr"):
        shown = [Column(label, mean, weight=0 if first else 6, group=group)]
    else:
        # A plain mean for narrow tables, one with its interval for the page.
        short = Column(label, partial(cell, statistic="mean"), detail=key.endswith(CONVERGED), weight=7, group="")
        shown = [short, Column(label, mean, detail=True, group=group)]
    further = (("median", "median", 8), ("worst 5 %", "worst5", 1), ("worst", "worst", 1))
    return shown + [
        Column(header, partial(cell, statistic=statistic), detail=not first, weight=weight, group=group)
        for header, statistic, weight in further
    ]


def _place(key: str) -> tuple[bool, int]:
    """Return a sort key of metrics: first those against the unaccelerated run, the usual ones in front."""
    usual = ("psnr", "ssim", "ms_ssim", "latent_error")
    name = key.removesuffix(CONVERGED)
    return key != name, usual.index(name) if name in usual else len(usual)


def label_of(key: str) -> str:
    """Return the name of a metric as tables print it."""
    name = key.removesuffix(CONVERGED)
    found = _LABELS.get(name, name.replace("_", " "))
    return found if name == key else f"conv. {found.removesuffix(' dB')}"


def number(value: float | None, form: str, unit: str = "") -> str:
    """Format a value, or return a dash if nothing was measured."""
    return _MISSING if value is None else format(value, form) + unit


def with_interval(made: Statistics | None, form: str) -> str:
    """Format a mean and its interval, such as `41.2 [40.1, 42.3]`, or only the mean if there is no interval."""
    if made is None:
        return _MISSING
    if made.interval is None:
        return format(made.mean, form)
    low, high = (format(end, form) for end in made.interval)
    return f"{made.mean:{form}} [{low}, {high}]"


def evaluations(row: Row) -> str:
    """Format the mean number of evaluations, followed by the budget in brackets if the two differ."""
    return f"{row.evaluations:.3g}" + (f" ({row.budget})" if round(row.evaluations, 2) != row.budget else "")


def gain(duel: Duel) -> str:
    """Format the gain over a sampler with its interval, such as `+8.3 [7.1, 9.5]`."""
    return with_interval(duel.gain, "+.1f")


def rival(duel: Duel, row: Row) -> str:
    """Format the sampler of a duel, with its evaluations if they differ from those of the row."""
    return duel.sampler.series + (f"@{duel.sampler.budget}" if duel.sampler.budget != row.budget else "")


def _bytes(value: int | None) -> str:
    return _MISSING if value is None else decimal(value)


def _predicted(row: Row) -> str:
    """Format the prediction of a plan, with a mark if the plan was made for the converged run."""
    return number(row.predicted, ".1f") + (" conv." if row.predicted and row.planned_for == "converged" else "")


def sections(rows: Sequence[Row]) -> list[list[Row]]:
    """Divide sorted rows into groups of equal budget; the unaccelerated run is a group of its own."""
    return [list(group) for _, group in groupby(rows, key=lambda row: (row.kind == "reference", row.budget))]


def note(row: Row) -> str:
    """Return the sign after the label of a method that decides by values, or an empty string."""
    return ("†" if row.calibrated_on else "‡") if row.data_driven else ""


def caption(rows: Sequence[Row], shown: Sequence[Column]) -> str:
    """Explain the numbers of these columns in words."""
    headers = {column.header for column in shown}
    found = [
        f"{images(rows)} images per row against the unaccelerated run (conv.: against a converged run), PSNR in dB; "
        "NFE: evaluations (the budget, if another)."
    ]
    if any(made.interval for row in rows for made in row.measures.values()):
        prompts = max(len({prompt for prompt, _ in row.psnrs}) for row in rows)
        few = "; so few make it too narrow" if prompts < FEW else ""
        found.append(f"[]: 95 % interval of the mean, over {prompts} prompts{few}.")
    found.append("Worst 5 %: the mean of the worst twentieth of the images.")
    beaten = "on the same pairs, over the best plain sampler with as many evaluations (half of one more at most)"
    if "gain dB" in headers:
        found.append(f"Gain: {beaten}.")
    if "vs sampler" in headers:
        found.append(f"vs sampler: what is gained, {beaten} (@: its own, if others).")
    if "in its time" in headers:
        found.append(f"In its time: over the best one in as many seconds, {TIMING_NOISE:.0%} more at most.")
    identical = any(0 < row.identical < row.images for row in rows)
    end = "; images identical to the unaccelerated run are left out of the mean PSNR." if identical else "."
    return f"{' '.join(found)} {legend(rows)}{end}"


def images(rows: Sequence[Row]) -> str:
    """Say in words how many images a row has."""
    counts = sorted({row.images for row in rows})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else "no"


def legend(rows: Sequence[Row]) -> str:
    """Explain in words the signs of kinds and of methods that decide by values."""
    noted = [f"{sign} {meaning}" for sign, meaning in _VALUES.items() if sign in map(note, rows)]
    return ", ".join([*(f"{MARKS[kind]} {meaning}" for kind, meaning in _KINDS.items()), *noted])


def table(rows: Sequence[Row], width: int | None = None) -> Table:
    """Return the rows as a table for a terminal, a section per budget; plain samplers are bold and have the mark □.

    Args:
        rows: of one state.
        width: of the terminal in characters; columns that do not fit are left out, the least needed first.
    """
    shown = _fitting([column for column in columns(rows) if not column.detail], rows, width or rich.get_console().width)
    made = Table(box=box.SIMPLE_HEAD, collapse_padding=True, caption=caption(rows, shown), caption_justify="left")
    made.add_column("method", overflow="fold", min_width=_METHOD)
    for column in shown:
        made.add_column(_folded(column.header), justify="right")
    for section in sections(rows):
        for row in section:
            # Text, because a label with brackets is not console markup.
            method = Text(f"{MARKS.get(row.kind, '?')} {row.label}{note(row) and ' ' + note(row)}")
            cells = [Text(column.cell(row), no_wrap=True) for column in shown]
            made.add_row(method, *cells, style="bold" if row.kind == "sampler" else None)
        made.add_section()
    return made


def _folded(header: str) -> str:
    """Break a header into several short lines."""
    return header.replace("5 %", "5\N{NO-BREAK SPACE}%").replace(" ", "\n")


def _fitting(shown: list[Column], rows: Sequence[Row], width: int) -> list[Column]:
    """Return as many columns as fit after the method, dropping the least important ones."""

    def needed(column: Column) -> int:
        return max(map(len, [*_folded(column.header).split("\n"), *map(column.cell, rows)])) + _BETWEEN

    kept, left = dict[int, Column](), width - _METHOD - 2 * _BETWEEN
    for place, column in sorted(enumerate(shown), key=lambda pair: pair[1].weight):
        fitting = next((form for form in (column, column.short) if form and needed(form) <= left), None)
        if fitting is not None:
            kept[place] = fitting
            left -= needed(fitting)
    return [kept[place] for place in sorted(kept)]


def markdown(rows: Sequence[Row], among: Sequence[Row] | None = None) -> str:
    """Return the rows as a GitHub table and its caption; labels are complete and can be copied into a command.

    Args:
        rows: that the table shows.
        among: all rows of the state, where plain samplers are looked for; those of the table if not given.
    """
    shown = [column for column in columns(rows, among) if not column.detail]
    return f"{lines(rows, shown)}\n\n{caption(rows, shown)}\n"


def lines(rows: Sequence[Row], shown: Sequence[Column]) -> str:
    """Return the rows as a GitHub table of these columns, without a caption."""
    cells = [
        ["kind", "method", *(column.header for column in shown)],
        ["---", "---", *("---:" for _ in shown)],
        *(
            [f"{MARKS.get(row.kind, '?')} {row.kind}", f"`{row.method}`" + (note(row) and f" {note(row)}"),
             *(column.cell(row) for column in shown)]
            for row in rows
        ),
    ]  # fmt: skip
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in cells)
