"""Records to rows: one method at one budget over its pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean, median
from typing import Any

from skipcast.report.measures import Measure, directions, measures
from skipcast.report.records import Record, pictures, values
from skipcast.report.states import State, by_state


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
    measures: Mapping[str, Measure]  # by metric, "_converged" behind those against the converged run
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
    peak_bytes: int | None = None  # memory
    flops: float | None = None
    psnrs: Mapping[tuple[str, int], float | None] = field(default_factory=dict, repr=False, compare=False)

    @property
    def psnr(self) -> float | None:
        """Mean, in dB."""
        return self._of("psnr", "mean")

    @property
    def psnr_worst(self) -> float | None:
        return self._of("psnr", "worst")

    @property
    def psnr_worst5(self) -> float | None:
        return self._of("psnr", "worst5")

    @property
    def ssim(self) -> float | None:
        return self._of("ssim", "mean")

    @property
    def ssim_worst(self) -> float | None:
        return self._of("ssim", "worst")

    @property
    def latent_error(self) -> float | None:
        """Mean relative L2."""
        return self._of("latent_error", "mean")

    @property
    def latent_error_worst(self) -> float | None:
        return self._of("latent_error", "worst")

    @property
    def psnr_converged(self) -> float | None:
        return self._of("psnr_converged", "mean")

    @property
    def psnr_converged_worst(self) -> float | None:
        return self._of("psnr_converged", "worst")

    @property
    def key(self) -> tuple[int, str]:
        """What tells it from the other rows of a state."""
        return self.budget, self.method

    def plain(self) -> dict[str, Any]:
        """As plain values, for machines: the means and worst pictures, and all statistics of every metric."""
        found = {name: value for name, value in vars(self).items() if name not in ("measures", "psnrs")}
        for name in ("psnr", "ssim", "latent_error", "psnr_converged"):
            found |= {name: self._of(name, "mean"), f"{name}_worst": self._of(name, "worst")}
        return found | {"statistics": {name: asdict(made) for name, made in self.measures.items()}}

    def _of(self, metric: str, statistic: str) -> float | None:
        made = self.measures.get(metric)
        return None if made is None else getattr(made, statistic)


def summarise(records: Iterable[Record]) -> list[Row]:
    """One row per budget and method: the reference first, then by budget, then by mean PSNR from the best down.

    Raises:
        ValueError: records of several models, or of several states of one, whose means would say nothing.
    """
    shown = pictures(records)
    groups: dict[tuple[int, str], list[Record]] = {}
    for record in shown:
        groups.setdefault((record["budget"], record["method"]), []).append(record)
    models = {str(record.get("model")) for record in shown}
    if len(models) > 1:
        raise ValueError(f"records must be of one model, got {', '.join(sorted(models))}; report each on its own.")
    if len(states := by_state(shown)) > 1:
        told = "; ".join(state.told(states) for state in states)
        raise ValueError(f"records must be of one state of the pipeline, got {told}; report each on its own.")
    metrics = directions(shown)
    return sorted((_row(group, metrics) for group in groups.values()), key=_rank)


def summaries(records: Iterable[Record]) -> dict[State, list[Row]]:
    """The rows of each state that has pictures."""
    return {state: summarise(found) for state, found in by_state(records).items() if pictures(found)}


def _rank(row: Row) -> tuple[bool, int, float, str]:
    mean = -math.inf if row.psnr is None or math.isnan(row.psnr) else row.psnr
    return row.kind != "reference", row.budget, -mean, row.method


def _row(group: list[Record], metrics: Mapping[str, bool]) -> Row:
    first = group[0]
    psnrs = values(group, "psnr")
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
        identical=psnrs.count(math.inf),
        measures=measures(group, metrics),
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
        peak_bytes=_measured(max, map(_peak, group)),
        flops=_measured(median, values(group, "flops")),
        psnrs={
            (record.get("prompt", ""), record.get("seed", 0)): psnr for record, psnr in zip(group, psnrs, strict=True)
        },
    )


def _peak(record: Record) -> Any:
    """Peak memory, as a line has it or as it is kept of it."""
    return record.get("peak_bytes") or (record.get("timing") or {}).get("peak_bytes")


def _measured(statistic: Callable[[list[Any]], Any], found: Iterable[Any]) -> Any:
    """The statistic of what is not missing; None if all is."""
    present = [value for value in found if value is not None]
    return statistic(present) if present else None
