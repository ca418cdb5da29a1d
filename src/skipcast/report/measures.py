"""One metric of one row: its statistics over pictures, the single worst, and in which direction it improves."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from skipcast.bench.statistics import statistics
from skipcast.report.checks import DIRECTIONS
from skipcast.report.records import Record, values

#: Metrics of records that do not name their own.
USUAL = {"psnr": True, "ssim": True, "latent_error": False}
CONVERGED = "_converged"
_LABELS = {"psnr": "PSNR dB", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "latent_error": "latent error", "lpips": "LPIPS"}
_FORMS = {"psnr": ".1f"}


@dataclass(frozen=True)
class Measure:
    """A metric over the pictures of a row; NaN throughout where a picture is broken."""

    mean: float  # identical pictures, whose PSNR is infinite, left out
    median: float
    worst5: float  # mean of the worst 5 %
    worst: float
    lower: float  # of the 95 % interval of the mean over prompts; NaN for a single prompt
    upper: float
    higher_is_better: bool
    identical: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of the mean, None where there is none."""
        return (self.lower, self.upper) if math.isfinite(self.lower) and math.isfinite(self.upper) else None


def directions(records: Sequence[Record]) -> dict[str, bool]:
    """The metrics that any of the records has, and whether higher is better."""
    told = dict(USUAL)
    for named in {id(r["metrics"]): r["metrics"] for r in records if r.get("metrics")}.values():
        told |= {name: DIRECTIONS[word] for name, word in named.items() if name != "judge"}
    return told


def measures(group: Sequence[Record], metrics: Mapping[str, bool]) -> dict[str, Measure]:
    """Each metric, and its distance to the converged run, as far as the records of one row have them."""
    prompts = [record.get("prompt") for record in group]
    found = {}
    for name, higher in metrics.items():
        for key in (name, name + CONVERGED):
            if (made := measure(values(group, key), prompts, higher)) is not None:
                found[key] = made
    return found


def measure(found: Sequence[float | None], prompts: Sequence[Hashable], higher_is_better: bool) -> Measure | None:
    """A metric over pictures; None if no picture has it, NaN if some lack it, for leaving those out would flatter."""
    present = [value for value in found if value is not None]
    if not present:
        return None
    made = statistics(found, prompts, higher_is_better=higher_is_better)
    broken = math.isnan(made.mean)
    worst = math.nan if broken else min(present) if higher_is_better else max(present)
    return Measure(made.mean, made.median, made.worst5, worst, made.lower, made.upper, higher_is_better, made.identical)


def label_of(key: str) -> str:
    """The name of a metric in a table."""
    name = key.removesuffix(CONVERGED)
    words = _LABELS.get(name, name.replace("_", " "))
    return words if name == key else f"conv. {words.removesuffix(' dB')}"


def form_of(key: str) -> str:
    """The format of a metric's numbers."""
    return _FORMS.get(key.removesuffix(CONVERGED), ".3f")


def number(value: float | None, form: str) -> str:
    """The value in this format; a dash if nothing was measured."""
    return "-" if value is None else format(value, form)


def with_interval(made: Measure | None, form: str) -> str:
    """The mean and its interval, such as `41.2 [40.1, 42.3]`; the mean alone where there is no interval."""
    if made is None:
        return "-"
    if made.interval is None:
        return format(made.mean, form)
    low, high = (format(end, form) for end in made.interval)
    return f"{made.mean:{form}} [{low}, {high}]"
