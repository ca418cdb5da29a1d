"""Records to rows: one method at one budget over its pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from driftcast.bench.report.records import Record, pictures, values


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
    attributes: Mapping[str, float]  # share of the pictures judged by this attribute that have it right
    seconds: float | None  # median per picture
    speedup: float | None  # median over interleaved rounds
    cached_bytes: int | None  # largest
    data_driven: bool = False  # evaluates where the values ask for it
    calibrated: bool = False  # its threshold was found on other pictures
    parts: Mapping[str, str] = field(default_factory=dict)  # of a method, by name; empty for a sampler
    predicted: float | None = None  # mean PSNR that a plan promised
    planned_for: str | None = None  # the reference that it promised it against


def summarise(records: Iterable[Record]) -> list[Row]:
    """One row per budget and method: the reference first, then by budget, then by mean PSNR from the best down.

    ValueError for records of several models, whose means would say nothing.
    """
    groups: dict[tuple[int, str], list[Record]] = {}
    models: set[str] = set()
    for record in pictures(records):
        groups.setdefault((record["budget"], record["method"]), []).append(record)
        models.add(str(record.get("model")))
    if len(models) > 1:
        raise ValueError(f"records must be of one model, got {', '.join(sorted(models))}; report each on its own.")
    return sorted(map(_row, groups.values()), key=_rank)


def _rank(row: Row) -> tuple[bool, int, float, str]:
    mean = -math.inf if row.psnr is None or math.isnan(row.psnr) else row.psnr
    return row.kind != "reference", row.budget, -mean, row.method


def _row(group: list[Record]) -> Row:
    first = group[0]
    psnr, psnr_worst = _mean_and_worst(values(group, "psnr"), min)
    ssim, ssim_worst = _mean_and_worst(values(group, "ssim"), min)
    error, error_worst = _mean_and_worst(values(group, "latent_error"), max)
    converged, converged_worst = _mean_and_worst(values(group, "psnr_converged"), min)
    judged = [verdict for verdict in values(group, "judge") if verdict]
    attributes = dict.fromkeys(name for verdict in judged for name in verdict)
    return Row(
        method=first["method"],
        name=first["name"],
        kind=first["kind"],
        repr=first.get("repr") or first["method"],
        paper=first.get("paper"),
        budget=first["budget"],
        evaluations=fmean(values(group, "evaluations")),
        pictures=len(group),
        identical=values(group, "psnr").count(math.inf),
        psnr=psnr,
        psnr_worst=psnr_worst,
        ssim=ssim,
        ssim_worst=ssim_worst,
        latent_error=error,
        latent_error_worst=error_worst,
        psnr_converged=converged,
        psnr_converged_worst=converged_worst,
        judge=_measured(fmean, [all(verdict.values()) for verdict in judged]),
        attributes={name: fmean(verdict[name] for verdict in judged if name in verdict) for name in attributes},
        seconds=_measured(median, values(group, "seconds")),
        speedup=_measured(median, values(group, "speedup")),
        cached_bytes=_measured(max, values(group, "cached_bytes")),
        data_driven=bool(first.get("data_driven")),
        calibrated=bool(first.get("calibrated_on")),
        parts=first.get("parts") or {},
        predicted=(first.get("predicted") or {}).get("psnr"),
        planned_for=first.get("planned_for"),
    )


def _measured(statistic: Callable[[list[Any]], Any], found: Sequence[Any]) -> Any:
    """The statistic of what is not missing; None if all is."""
    present = [value for value in found if value is not None]
    return statistic(present) if present else None


def _mean_and_worst(
    found: Sequence[float | None], worst: Callable[[list[float]], float]
) -> tuple[float | None, float | None]:
    """Mean and worst; None if all are missing, NaN if some are, for leaving out a broken picture would flatter."""
    present = [value for value in found if value is not None]
    if not present:
        return None, None
    if len(present) < len(found) or any(map(math.isnan, present)):
        return math.nan, math.nan
    # An identical picture would lift the mean PSNR to infinity whatever the others are; an infinite error must stay.
    averaged = present if worst is max else [v for v in present if v < math.inf] or present
    return fmean(averaged), worst(present)
