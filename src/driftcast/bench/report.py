"""Reports as a pure function of the records of a comparison: summary, tables, picture grid, plot and page.

A record is a dict of one picture of one method, a line of `results.jsonl`. Nothing here measures, nothing else draws.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from itertools import groupby, pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

Record: TypeAlias = dict[str, Any]

_REQUIRED = ("method", "name", "kind", "budget", "evaluations")
#: An infinite PSNR is no JSON number: it is stored as null, and this flag beside it says why.
_IDENTICAL = {"psnr": "identical", "psnr_converged": "identical_converged"}
_MISSING = "-"
_BUDGET_OPTIONS = ("evaluations", "nfe", "steps", "interval")
_KINDS = {"forecast": "forecaster", "plan": "plan", "sampler": "plain sampler with fewer steps"}
_MARKS = {"reference": "★", "forecast": "●", "plan": "◆", "sampler": "□"}


# Records ---------------------------------------------------------------------------------------------------------


def read(path: str | os.PathLike[str]) -> list[Record]:
    """The records of a `results.jsonl`; ValueError names the first line that is not a record."""
    records: list[Record] = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON ({error}); remove the line or run again.") from error
        missing = [key for key in _REQUIRED if key not in record] if isinstance(record, dict) else ["a JSON object"]
        if missing:
            raise ValueError(f"{path}, line {number} is not a record: it lacks {', '.join(missing)}; remove the line.")
        records.append(record)
    return records


def write(folder: str | os.PathLike[str], records: Sequence[Record], grid_image: Image.Image | None) -> dict[str, Path]:
    """Write results.jsonl, report.html and, given its image, grid.png, each atomically; the paths by file name."""
    png = None if grid_image is None else _png(grid_image)
    contents = {
        "results.jsonl": "".join(json.dumps(_plain(r), allow_nan=False) + "\n" for r in records).encode(),
        "report.html": html(records, png).encode(),
    }
    if png is not None:
        contents["grid.png"] = png
    Path(folder).mkdir(parents=True, exist_ok=True)
    return {name: _replace(Path(folder) / name, content) for name, content in contents.items()}


def _plain(record: Record) -> Record:
    """The record in strict JSON: null for infinity and NaN, with a flag for identical pictures."""
    flags = {flag: True for key, flag in _IDENTICAL.items() if record.get(key) == math.inf}
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return finite | flags


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _replace(path: Path, content: bytes) -> Path:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


# Summary ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One method at one budget over its pictures; None where nothing was measured, NaN where a picture is broken."""

    method: str
    name: str
    kind: str
    repr: str
    paper: str | None
    budget: int  # evaluations asked for; the steps of the reference
    evaluations: float  # mean of the actual ones
    pictures: int
    identical: int  # to the reference: their PSNR is infinite, so they are left out of the mean
    psnr: float | None  # dB
    psnr_worst: float | None
    ssim: float | None
    ssim_worst: float | None
    latent_error: float | None  # relative L2
    latent_error_worst: float | None
    psnr_converged: float | None  # dB
    psnr_converged_worst: float | None
    judge: float | None  # share of pictures with every attribute right
    attributes: Mapping[str, float]  # share of pictures with this attribute right
    seconds: float | None  # median per picture
    speedup: float | None  # median over interleaved rounds
    cached_bytes: int | None  # largest


def summarise(records: Iterable[Record]) -> list[Row]:
    """One row per budget and method: the reference first, then by budget, then by mean PSNR from the best down.

    ValueError for records of several models, whose means would say nothing.
    """
    groups: dict[tuple[int, str], list[Record]] = {}
    models: set[str] = set()
    for record in records:
        groups.setdefault((record["budget"], record["method"]), []).append(record)
        models.add(str(record.get("model")))
    if len(models) > 1:
        raise ValueError(f"records must be of one model, got {', '.join(sorted(models))}; report each on its own.")
    return sorted((_row(group) for group in groups.values()), key=_rank)


def _rank(row: Row) -> tuple[bool, int, float, str]:
    mean = -math.inf if row.psnr is None or math.isnan(row.psnr) else row.psnr
    return row.kind != "reference", row.budget, -mean, row.method


def _row(group: list[Record]) -> Row:
    first = group[0]
    decibels = {key: [math.inf if r.get(flag) else r.get(key) for r in group] for key, flag in _IDENTICAL.items()}
    psnr, psnr_worst = _mean_and_worst(decibels["psnr"], min)
    converged, converged_worst = _mean_and_worst(decibels["psnr_converged"], min)
    ssim, ssim_worst = _mean_and_worst([r.get("ssim") for r in group], min)
    error, error_worst = _mean_and_worst([r.get("latent_error") for r in group], max)
    judged = [r["judge"] for r in group if r.get("judge")]
    seconds, speedups, cached = (
        [r[key] for r in group if r.get(key) is not None] for key in ("seconds", "speedup", "cached_bytes")
    )
    return Row(
        method=first["method"],
        name=first["name"],
        kind=first["kind"],
        repr=first.get("repr") or first["method"],
        paper=first.get("paper"),
        budget=first["budget"],
        evaluations=fmean(r["evaluations"] for r in group),
        pictures=len(group),
        identical=decibels["psnr"].count(math.inf),
        psnr=psnr,
        psnr_worst=psnr_worst,
        ssim=ssim,
        ssim_worst=ssim_worst,
        latent_error=error,
        latent_error_worst=error_worst,
        psnr_converged=converged,
        psnr_converged_worst=converged_worst,
        judge=fmean(all(j.values()) for j in judged) if judged else None,
        attributes={name: fmean(j[name] for j in judged) for name in judged[0]} if judged else {},
        seconds=median(seconds) if seconds else None,
        speedup=median(speedups) if speedups else None,
        cached_bytes=max(cached) if cached else None,
    )


def _mean_and_worst(
    values: Sequence[float | None], worst: Callable[[list[float]], float]
) -> tuple[float | None, float | None]:
    """Mean and worst; None if all are missing, NaN if some are, for leaving out a broken picture would flatter."""
    present = [value for value in values if value is not None]
    if not present:
        return None, None
    if len(present) < len(values) or any(map(math.isnan, present)):
        return math.nan, math.nan
    # An identical picture would lift the mean PSNR to infinity whatever the others are; an infinite error must stay.
    averaged = present if worst is max else [v for v in present if v < math.inf] or present
    return fmean(averaged), worst(present)


# Tables ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    header: str
    cell: Callable[[Row], str]
    detail: bool = False  # for the page only, where there is room


def _number(value: float | None, form: str) -> str:
    if value is None:
        return _MISSING
    return format(value, form)


def _decibels(row: Row, value: float | None) -> str:
    return _number(None if row.kind == "reference" else value, ".1f")  # the reference is at no distance from itself


def _share(name: str) -> Callable[[Row], str]:
    return lambda row: _number(row.attributes.get(name), ".0%")


def _size(count: int | None) -> str:
    if count is None:
        return _MISSING
    unit = min(3, int(math.log(max(count, 1), 1000)))
    return f"{count / 1000**unit:.3g} {('B', 'kB', 'MB', 'GB')[unit]}"


def _evaluations(row: Row) -> str:
    return f"{row.evaluations:.3g}" + (f" ({row.budget})" if round(row.evaluations, 2) != row.budget else "")


def _columns(rows: Sequence[Row]) -> list[_Column]:
    """The columns after the method, without those that no row fills."""
    columns = [
        _Column("NFE", _evaluations),
        _Column("PSNR dB", lambda r: _decibels(r, r.psnr)),
        _Column("worst", lambda r: _decibels(r, r.psnr_worst)),
        _Column("SSIM", lambda r: _number(r.ssim, ".3f")),
        _Column("worst", lambda r: _number(r.ssim_worst, ".3f"), detail=True),
        _Column("latent error", lambda r: _number(r.latent_error, ".3f")),
        _Column("worst", lambda r: _number(r.latent_error_worst, ".3f"), detail=True),
        _Column("conv. PSNR", lambda r: _number(r.psnr_converged, ".1f")),
        _Column("worst", lambda r: _number(r.psnr_converged_worst, ".1f"), detail=True),
        _Column("judge", lambda r: _number(r.judge, ".0%")),
        _Column("time s", lambda r: _number(r.seconds, ".3g"), detail=True),
        _Column("speedup", lambda r: _number(r.speedup, ".2f") + ("x" if r.speedup is not None else "")),
        _Column("cached", lambda r: _size(r.cached_bytes), detail=True),
        _Column("pictures", lambda r: str(r.pictures), detail=True),
    ]
    names = dict.fromkeys(name for row in rows for name in row.attributes)
    columns += [_Column(name, _share(name), detail=True) for name in names]
    return [column for column in columns if any(column.cell(row) != _MISSING for row in rows)]


def _label(row: Row, values: Container[str] | None = None) -> str:
    """The label without the options that set the budget, or without those of them that have one of these values."""
    name, _, options = row.method.partition(":")
    kept = []
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key not in _BUDGET_OPTIONS or not (values is None or value in values):
            kept.append(option)
    return f"{name}:{','.join(kept)}" if kept else name


def _mark(row: Row) -> str:
    return _MARKS.get(row.kind, "?")


def _short(row: Row) -> str:
    """Mark and label without the budget, which the section says, so that a terminal has room for the numbers."""
    return f"{_mark(row)} {_label(row, (str(row.budget),))}"


def _sections(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows in groups of equal budget, the reference apart."""
    return [list(group) for _, group in groupby(rows, key=lambda row: (row.kind == "reference", row.budget))]


def table(rows: Sequence[Row]) -> Table:
    """The rows for a terminal, a section per budget; plain samplers carry the mark □ and are bold."""
    columns = [column for column in _columns(rows) if not column.detail]
    drawn = Table(box=box.SIMPLE_HEAD, collapse_padding=True, caption=_caption(rows), caption_justify="left")
    drawn.add_column("method", overflow="fold", min_width=20)
    for column in columns:
        drawn.add_column(column.header.replace(" ", "\n"), justify="right")
    for section in _sections(rows):
        for row in section:
            # Text, because a label with brackets is no console markup.
            cells = [Text(_short(row)), *(Text(column.cell(row), no_wrap=True) for column in columns)]
            drawn.add_row(*cells, style="bold" if row.kind == "sampler" else None)
        drawn.add_section()
    return drawn


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a GitHub table followed by its caption."""
    columns = [column for column in _columns(rows) if not column.detail]
    lines = [
        ["kind", "method", *(column.header for column in columns)],
        ["---", "---", *("---:" for _ in columns)],
        *([f"{_mark(row)} {row.kind}", f"`{row.method}`", *(column.cell(row) for column in columns)] for row in rows),
    ]
    body = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    return f"{body}\n\n{_caption(rows)}\n"


def _caption(rows: Sequence[Row]) -> str:
    counts = sorted({row.pictures for row in rows})
    pictures = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else "no"
    identical = any(0 < row.identical < row.pictures for row in rows)
    return (
        f"{pictures} pictures a row against the unaccelerated run (conv.: against a converged run), PSNR in dB; NFE: "
        "evaluations (those asked for, if others). "
        + ", ".join(f"{_MARKS[kind]} {words}" for kind, words in _KINDS.items())
        + ("; pictures identical to the reference are left out of the mean PSNR." if identical else ".")
    )


# Picture grid ----------------------------------------------------------------------------------------------------

_SIDE, _GAP, _LABEL = 128, 6, 190  # pixels: longer side of a picture, space between pictures, label column
_INK, _FAINT = (20, 20, 20), (110, 110, 110)


def grid(
    pictures: Sequence[Tensor],
    labels: Sequence[str],
    prompts: Sequence[str],
    *,
    reference: Tensor,
    reference_label: str = "reference",
    amplify: float = 4.0,
) -> Image.Image:
    """The reference above the methods, a column per prompt, under each method |difference to the reference| * amplify.

    `reference` and each of `pictures` (one per label): float (P, 3, H, W) in [0, 1] for P prompts; else ValueError.
    """
    if len(pictures) != len(labels):
        raise ValueError(f"labels must name each of the {len(pictures)} methods of pictures, got {len(labels)}.")
    for label, batch in zip((reference_label, *labels), (reference, *pictures), strict=True):
        if batch.shape != reference.shape or batch.ndim != 4 or len(batch) != len(prompts) or batch.shape[1] != 3:
            raise ValueError(
                f"the pictures of {label} must be ({len(prompts)}, 3, H, W), one per prompt and all of one size, "
                f"got {tuple(batch.shape)}."
            )
    rows = [(reference_label, _INK, _pixels(reference))]
    for label, batch in zip(labels, pictures, strict=True):
        difference = (batch.float() - reference.float()).abs() * amplify
        rows += [(label, _INK, _pixels(batch)), (f"{amplify:g} x |difference|", _FAINT, _pixels(difference))]
    return _draw_grid(rows, prompts)


def _pixels(batch: Tensor) -> NDArray[np.uint8]:
    """(P, 3, H, W) in [0, 1] to (P, H, W, 3); what is outside, or no number, is clipped to what can be shown."""
    array = np.nan_to_num(batch.detach().float().cpu().numpy(), nan=1.0)
    shown: NDArray[np.uint8] = (array.clip(0, 1) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    return shown


def _draw_grid(
    rows: Sequence[tuple[str, tuple[int, int, int], NDArray[np.uint8]]], prompts: Sequence[str]
) -> Image.Image:
    height, width = rows[0][2].shape[1:3]
    scale = _SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resample = Image.Resampling.NEAREST if scale == int(scale) else Image.Resampling.LANCZOS
    font, small = ImageFont.load_default(size=13), ImageFont.load_default(size=11)
    line, pitch = 14, max(size[0], 96) + _GAP  # narrow pictures still leave room for their prompt
    titles = [_wrap(prompt, small, pitch - _GAP, 5) for prompt in prompts]
    top = _GAP + line * max((len(title) for title in titles), default=0) + _GAP
    canvas = Image.new("RGB", (_LABEL + pitch * len(prompts), top + len(rows) * (size[1] + _GAP)), "white")
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        for i, text in enumerate(reversed(title)):  # the last line rests on the picture
            draw.text((_LABEL + column * pitch, top - _GAP - (i + 1) * line), text, _INK, small)
    for i, (label, ink, batch) in enumerate(rows):
        y = top + i * (size[1] + _GAP)
        face = font if ink == _INK else small
        lines = _wrap(label, face, _LABEL - 2 * _GAP, max(1, size[1] // 16))
        start = y + (size[1] - 16 * len(lines)) // 2
        for j, text in enumerate(lines):
            draw.text((_GAP, start + 16 * j), text, ink, face)
        for column, picture in enumerate(batch):
            canvas.paste(Image.fromarray(picture).resize(size, resample), (_LABEL + column * pitch, y))
    return canvas


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, most: int) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces and in labels after ":" and ","; at most `most` of them."""
    lines = [""]
    for word in _words(text):
        if lines[-1] and font.getlength((lines[-1] + word).rstrip()) > width:
            lines.append("")
        lines[-1] += word
    lines = [line.rstrip() for line in lines]
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1] + "..."]
    for i, line in enumerate(lines):
        while len(line) > 4 and font.getlength(line) > width:
            line = line.removesuffix("...")[:-1] + "..."
        lines[i] = line
    return lines


def _words(text: str) -> list[str]:
    for mark in (":", ",", " "):
        text = text.replace(mark, mark + "\n")
    return text.split("\n")


# Plot ------------------------------------------------------------------------------------------------------------

_COLOURS = (
    "#2b7bcb",
    "#d4551c",
    "#178a5f",
    "#b5519c",
    "#a97800",
    "#7d62d0",
    "#2a8c9e",
    "#c23b55",
    "#71801c",
    "#96603d",
    "#5f7196",
    "#cc5f93",
)
_LINES = {"forecast": "forecaster, solid", "plan": "plan, dash-dotted", "sampler": "plain sampler, dashed"}
_DASHES = {"forecast": "none", "sampler": "6 4", "plan": "12 3 2 3"}
_LEFT, _RIGHT, _TOP, _BOTTOM, _WIDTH = 58, 250, 44, 52, 900  # margins and width of the plot in pixels


def pareto_svg(rows: Sequence[Row]) -> str:
    """Inline SVG of mean PSNR (mark) with a whisker down to the worst picture, in dB, against evaluations.

    Rows without a finite mean PSNR, such as the reference, are not drawn.
    """
    drawn = [row for row in rows if row.kind != "reference" and row.psnr is not None and math.isfinite(row.psnr)]
    if not drawn:
        return f'<svg {_SVG} viewBox="0 0 900 40"><text x="8" y="24">no finite PSNR to draw</text></svg>'
    series: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(drawn, key=lambda row: row.evaluations):
        series.setdefault((row.kind, _label(row)), []).append(row)
    plot = _Plot.fit(drawn, len(series))
    # Methods of one budget share their x: they are set apart a little, or their whiskers would hide each other.
    marks, ends, hues = [], [], iter(range(len(series)))
    for i, ((kind, label), points) in enumerate(series.items()):
        # Samplers are the baseline and take the colour of the text.
        colour = "currentColor" if kind == "sampler" else _COLOURS[next(hues) % len(_COLOURS)]
        aside = plot.spread * (i / (len(series) - 1) - 0.5) if len(series) > 1 else 0.0
        places = [(plot.x(row.evaluations) + aside, plot.y(row.psnr or 0.0)) for row in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        marks.append(
            f'<g stroke="{colour}" fill="{colour}"><polyline points="{path}" fill="none" stroke-width="1.6" '
            f'stroke-dasharray="{_DASHES.get(kind, "none")}"/>'
            + "".join(_point(plot, row, x, y) for row, (x, y) in zip(points, places, strict=True))
            + "</g>"
        )
        short = label if len(label) <= 34 else label[:31] + "..."
        ends.append((f"{_MARKS.get(kind, '?')} {short}", colour, *places[-1]))
    return "\n".join(
        [
            f'<svg {_SVG} viewBox="0 0 {_WIDTH} {plot.height}">',
            "<title>Mean PSNR against evaluations</title>",
            _frame(plot, sorted({row.budget for row in drawn})),
            *marks,
            _end_labels(plot, ends),
            "</svg>",
        ]
    )


_SVG = 'xmlns="http://www.w3.org/2000/svg" role="img" fill="currentColor" font-family="sans-serif" font-size="12"'


@dataclass(frozen=True)
class _Plot:
    """The map from (evaluations, dB) to pixels."""

    height: int
    log_span: tuple[float, float]
    levels: tuple[float, ...]  # dB of the horizontal lines
    spread: float  # pixels over which the methods of one budget are set apart

    @classmethod
    def fit(cls, rows: Sequence[Row], series: int) -> _Plot:
        values = [v for row in rows for v in (row.psnr, row.psnr_worst) if v is not None and math.isfinite(v)]
        low, high = min(values), max(values)
        step = next((s for s in (0.5, 1, 2, 5, 10, 20) if (high - low) / s <= 7), 50)
        levels = tuple(step * i for i in range(math.floor(low / step), math.ceil(high / step + 1e-9) + 1))
        logs = [math.log(n) for row in rows for n in (row.budget, row.evaluations)]
        budgets = sorted({math.log(row.budget) for row in rows})
        span = (min(logs), max(logs)) if min(logs) < max(logs) else (logs[0] - 1, logs[0] + 1)
        wide = _WIDTH - _LEFT - _RIGHT
        gaps = [(b - a) / (span[1] - span[0]) * wide for a, b in pairwise(budgets)]
        spread = min(0.45 * min(gaps, default=200.0), 8.0 * series, 90.0)
        return cls(max(420, 16 * series + _TOP + _BOTTOM), span, levels, spread)

    def x(self, evaluations: float) -> float:
        low, high = self.log_span
        inset = self.spread / 2 + 14
        share = (math.log(evaluations) - low) / (high - low)
        return _LEFT + inset + share * (_WIDTH - _LEFT - _RIGHT - 2 * inset)

    def y(self, decibels: float) -> float:
        low, high = self.levels[0], self.levels[-1]
        return _TOP + (high - decibels) / (high - low) * (self.height - _TOP - _BOTTOM)


def _point(plot: _Plot, row: Row, x: float, y: float) -> str:
    shape = {
        "forecast": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.2"/>',
        "plan": f'<path d="M{x:.1f} {y - 6:.1f}l6 6-6 6-6-6z"/>',
    }.get(row.kind, f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" stroke-width="1.8" {_HOLLOW}/>')
    worst = ""
    if row.psnr_worst is not None and math.isfinite(row.psnr_worst):
        low = plot.y(row.psnr_worst)
        worst = f'<path d="M{x:.1f} {y:.1f}V{low:.1f}m-3 0h6" stroke-width="0.9" opacity="0.75"/>'
    words = f"{row.method}: mean {_number(row.psnr, '.1f')} dB, worst {_number(row.psnr_worst, '.1f')} dB"
    return f"<g><title>{escape(words)}, {_evaluations(row)} evaluations</title>{worst}{shape}</g>"


_HOLLOW = 'style="fill:var(--paper,#fff)"'


def _frame(plot: _Plot, budgets: Sequence[int]) -> str:
    """Axes, ticks, units and the legend of the kinds."""
    right, floor, wide = _WIDTH - _RIGHT, plot.height - _BOTTOM, plot.spread + 16
    parts = []
    for budget in budgets:
        x = plot.x(budget)
        parts.append(
            f'<rect x="{x - wide / 2:.1f}" y="{_TOP}" width="{wide:.1f}" height="{floor - _TOP}" opacity="0.05"/>'
            f'<text x="{x:.1f}" y="{floor + 18}" text-anchor="middle">{budget}</text>'
        )
    for level in plot.levels:
        y = plot.y(level)
        parts.append(
            f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="currentColor" stroke-width="0.6" opacity="0.3"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{level:g}</text>'
        )
    across, down = (_LEFT + right) / 2, (_TOP + floor) / 2
    centred = 'text-anchor="middle"'
    parts += [
        f'<path d="M{_LEFT} {_TOP}V{floor}H{right}" fill="none" stroke="currentColor"/>',
        f'<text x="{across}" y="{floor + 40}" {centred}>evaluations of the denoiser (log scale)</text>',
        f'<text transform="translate(16 {down})rotate(-90)" {centred}>PSNR to the unaccelerated run, dB</text>',
    ]
    text = "   ".join(f"{_MARKS[kind]} {words}" for kind, words in _LINES.items())
    parts.append(f'<text x="{_LEFT}" y="22" xml:space="preserve">mean   {text}   ┴ worst picture</text>')
    return "\n".join(parts)


def _end_labels(plot: _Plot, ends: Sequence[tuple[str, str, float, float]]) -> str:
    """A label per line beside the plot, joined to its last point; labels are moved until none overlaps."""
    pitch, x = 15.0, _WIDTH - _RIGHT + 22
    ordered = sorted(ends, key=lambda end: end[3])
    places = [y for *_, y in ordered]
    for _ in range(100):  # neighbours that overlap part by halves, so that labels stay near their lines
        for i in range(len(places) - 1):
            overlap = max(0.0, places[i] + pitch - places[i + 1])
            places[i : i + 2] = places[i] - overlap / 2, places[i + 1] + overlap / 2
    limit = _TOP - pitch
    for i in range(len(places)):
        limit = places[i] = max(places[i], limit + pitch)
    limit = plot.height - _BOTTOM + pitch
    for i in reversed(range(len(places))):
        limit = places[i] = min(places[i], limit - pitch)
    return "\n".join(
        f'<path d="M{end_x + 7:.1f} {end_y:.1f}L{x - 4} {y:.1f}" stroke="{colour}" stroke-width="0.7" '
        f'stroke-dasharray="1 3" fill="none"/><text x="{x}" y="{y + 4:.1f}" fill="{colour}">{escape(label)}</text>'
        for (label, colour, end_x, end_y), y in zip(ordered, places, strict=True)
    )


# Page ------------------------------------------------------------------------------------------------------------

_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c1c1e;--faint:#5d5d63;--line:#d5d5da;--tint:#f1f1f4}
@media (prefers-color-scheme:dark){:root{--paper:#17171a;--ink:#ececef;--faint:#a3a3ab;--line:#3b3b42;--tint:#232328}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:80rem;padding:1.2rem;background:var(--paper);color:var(--ink);
 font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;line-height:1.25;margin:.2rem 0 .8rem}h2{font-size:1.1rem;margin:2rem 0 .6rem}
p,ol{max-width:46rem}code,pre{font:.86em/1.4 ui-monospace,monospace}
.wide{overflow-x:auto;border:1px solid var(--line);border-radius:6px}
.wide svg{display:block;min-width:46rem;width:100%;height:auto}
.wide img{display:block;max-width:none}
table{border-collapse:separate;border-spacing:0;width:100%;font-size:.84rem;font-variant-numeric:tabular-nums}
th,td{padding:.28rem .45rem;text-align:right;white-space:nowrap;vertical-align:top;background:var(--paper)}
thead th{white-space:normal;vertical-align:bottom}
th:first-child{text-align:left;font-weight:400;position:sticky;left:0}
thead th,thead th:first-child,th.budget:first-child{font-weight:600}
th.budget:first-child{border-top:2px solid var(--line);padding-top:.6rem}
tr.sampler>*{background:var(--tint)}tr.sampler>*,tr.sampler>*:first-child{font-weight:600}
th small{display:block;color:var(--faint);font-weight:400}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.3rem 1rem;font-size:.86rem}
dt{color:var(--faint)}dd{margin:0;overflow-wrap:anywhere}ol{font-size:.86rem;padding-left:1.6rem}
@media (max-width:34rem){body{padding:.8rem}th:first-child{min-width:9.5rem;white-space:normal;overflow-wrap:anywhere}
 dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.5rem}}
@media print{:root{--paper:#fff;--ink:#000;--faint:#444;--line:#999;--tint:#eee}
 body{max-width:none;padding:0;font-size:10pt}.wide{overflow:visible;border:0}.wide svg{min-width:0}
 .wide img{max-width:100%;max-height:95vh}table{font-size:7pt}th,td{padding:.15rem .25rem;white-space:normal}
 th:first-child{white-space:nowrap}h2,th.budget{break-after:avoid}tr,.wide img{break-inside:avoid}
 tr.sampler>*{print-color-adjust:exact}}
"""

_GUIDE = """\
Read the table section by section: the methods of one section were asked for equally many evaluations of the denoiser,
so they differ only in what they make of them. The rows marked □ are plain samplers that just take fewer steps; a method
that stands below one of them is not worth its trouble at that budget. PSNR, SSIM and latent error say how far a picture
is from the one that the unaccelerated run makes from the same noise, not how pleasing it is; where a converged run with
many more steps was made, the distance to it stands beside. The worst picture is given beside the mean, because a method
that is good on average may still spoil some pictures."""


def html(records: Sequence[Record], grid_png: bytes | None) -> str:
    """One page that loads nothing: how to read it, plot, table, grid (PNG bytes) and where the numbers come from."""
    rows = summarise(records)
    title = f"driftcast: {_distinct(records, 'model') or 'no records'} at equal evaluations"
    picture = ""
    if grid_png is not None:
        data = base64.b64encode(grid_png).decode()
        picture = (
            '<h2>Pictures</h2>\n<div class="wide"><img alt="Pictures of each method and their differences to the '
            f'reference" src="data:image/png;base64,{data}"></div>'
        )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p>{_GUIDE}</p>
<h2>Fidelity against evaluations</h2>
<div class="wide">{pareto_svg(rows)}</div>
<h2>Methods</h2>
<div class="wide">{_html_table(rows)}</div>
<p><small>{escape(_caption(rows))}</small></p>
{picture}
<h2>Where the numbers come from</h2>
{_provenance(records, rows)}
</body>
</html>
"""


def _html_table(rows: Sequence[Row]) -> str:
    columns = _columns(rows)
    headers = ("method", *(column.header for column in columns))
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in headers)
    bodies = []
    for section in _sections(rows):
        first = section[0]
        heading = "reference" if first.kind == "reference" else f"{first.budget} evaluations"
        lines = [f'<tr><th class="budget" colspan="{1 + len(columns)}" scope="rowgroup">{heading}</th></tr>']
        for row in section:
            paper = f"<small>{escape(row.paper)}</small>" if row.paper else ""
            cells = "".join(f"<td>{escape(column.cell(row))}</td>" for column in columns)
            method = escape(row.method).replace(":", ":<wbr>").replace(",", ",<wbr>")
            label = f"{_mark(row)}&nbsp;<code>{method}</code>{paper}"
            lines.append(f'<tr class="{escape(row.kind)}"><th scope="row">{label}</th>{cells}</tr>')
        bodies.append("<tbody>\n" + "\n".join(lines) + "\n</tbody>")
    return f"<table>\n<thead><tr>{head}</tr></thead>\n" + "\n".join(bodies) + "\n</table>"


def _provenance(records: Sequence[Record], rows: Sequence[Row]) -> str:
    facts = {key: _distinct(records, key) for key in ("model", "settings", "versions", "commit", "hardware", "command")}
    facts["seeds"] = ", ".join(dict.fromkeys(str(r["seed"]) for r in records if r.get("seed") is not None))
    listed = "".join(f"<dt>{key}</dt><dd>{escape(text)}</dd>\n" for key, text in facts.items() if text)
    reprs = "".join(
        f"<dt><code>{escape(row.method)}</code></dt><dd><code>{escape(row.repr)}</code></dd>\n"
        for row in rows
        if row.repr != row.method
    )
    details = f"<details><summary>Methods in full</summary>\n<dl>\n{reprs}</dl>\n</details>" if reprs else ""
    prompts = dict.fromkeys((r.get("prompt_index") or 0, str(r["prompt"])) for r in records if r.get("prompt"))
    items = "".join(f'<li value="{int(index)}">{escape(prompt)}</li>\n' for index, prompt in sorted(prompts))
    return f"<dl>\n{listed}</dl>\n<h2>Prompts</h2>\n<ol>\n{items}</ol>\n{details}"


def _distinct(records: Iterable[Record], key: str) -> str:
    """The different values of a key in words, usually one."""
    return "; ".join(dict.fromkeys(_words_of(r[key]) for r in records if r.get(key) is not None))


def _words_of(value: object) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
