"""What every table of a comparison holds: columns of numbers, sections of equal budget, a caption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.filesize import decimal

from driftcast.bench.report.labels import MARKS, without
from driftcast.bench.report.summary import Row

_MISSING = "-"
_VALUES = {"†": "decides by values, threshold found on other pictures", "‡": "decides by values, threshold as given"}
_KINDS = {"forecast": "forecaster", "plan": "plan", "sampler": "plain sampler with fewer steps"}


@dataclass(frozen=True)
class Column:
    """A header and the text under it."""

    header: str
    cell: Callable[[Row], str]
    detail: bool = False  # for the page only, where there is room


def number(value: float | None, form: str) -> str:
    """The value in this format; a dash if nothing was measured."""
    return _MISSING if value is None else format(value, form)


def evaluations(row: Row) -> str:
    """The mean of the actual evaluations, followed by those asked for in brackets if they are others."""
    return f"{row.evaluations:.3g}" + (f" ({row.budget})" if round(row.evaluations, 2) != row.budget else "")


def columns(rows: Sequence[Row]) -> list[Column]:
    """The columns after the method, without those that no row fills."""
    every = [
        Column("NFE", evaluations),
        Column("PSNR dB", lambda r: number(r.psnr, ".1f")),
        Column("worst", lambda r: number(r.psnr_worst, ".1f")),
        Column("predicted", _predicted, detail=True),
        Column("SSIM", lambda r: number(r.ssim, ".3f")),
        Column("worst", lambda r: number(r.ssim_worst, ".3f"), detail=True),
        Column("latent error", lambda r: number(r.latent_error, ".3f")),
        Column("worst", lambda r: number(r.latent_error_worst, ".3f"), detail=True),
        Column("conv. PSNR", lambda r: number(r.psnr_converged, ".1f")),
        Column("worst", lambda r: number(r.psnr_converged_worst, ".1f"), detail=True),
        Column("judge", lambda r: number(r.judge, ".0%")),
        Column("time s", lambda r: number(r.seconds, ".3g"), detail=True),
        Column("speedup", lambda r: _MISSING if r.speedup is None else f"{r.speedup:.2f}x"),
        Column("cached", lambda r: _MISSING if r.cached_bytes is None else decimal(r.cached_bytes), detail=True),
        Column("pictures", lambda r: str(r.pictures), detail=True),
        *map(_attribute, dict.fromkeys(name for row in rows for name in row.attributes)),
    ]
    return [column for column in every if any(column.cell(row) != _MISSING for row in rows)]


def _predicted(row: Row) -> str:
    """What a plan promised, beside what it keeps; against the converged run where it was made for that."""
    return number(row.predicted, ".1f") + (" conv." if row.predicted and row.planned_for == "converged" else "")


def _attribute(name: str) -> Column:
    return Column(name, lambda row: number(row.attributes.get(name), ".0%"), detail=True)


def sections(rows: Sequence[Row]) -> list[list[Row]]:
    """The sorted rows in groups of equal budget, the reference apart."""
    return [list(group) for _, group in groupby(rows, key=lambda row: (row.kind == "reference", row.budget))]


def note(row: Row) -> str:
    """The sign of a method that decides by values, to be set behind its label; empty for the others."""
    return ("†" if row.calibrated else "‡") if row.data_driven else ""


def label(row: Row) -> str:
    """The label of a row without its evaluations where its section says them."""
    return without(row.method, f"evaluations={row.budget}")


def caption(rows: Sequence[Row]) -> str:
    """What the numbers are of, in words."""
    identical = any(0 < row.identical < row.pictures for row in rows)
    return (
        f"{pictures(rows)} pictures a row against the unaccelerated run (conv.: against a converged run), PSNR in dB; "
        f"NFE: evaluations (those asked for, if others). {legend(rows)}"
        + ("; pictures identical to the reference are left out of the mean PSNR." if identical else ".")
    )


def pictures(rows: Sequence[Row]) -> str:
    """How many pictures a row is of, in words."""
    counts = sorted({row.pictures for row in rows})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else "no"


def legend(rows: Sequence[Row]) -> str:
    """The signs of kinds and of methods that decide by values, in words."""
    noted = [f"{sign} {words}" for sign, words in _VALUES.items() if sign in map(note, rows)]
    return ", ".join([*(f"{MARKS[kind]} {words}" for kind, words in _KINDS.items()), *noted])
