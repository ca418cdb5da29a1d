"""A metric over many pictures: mean, median, worst twentieth, bootstrap interval; and the baselines of a fair table."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

_Vector = NDArray[np.float64]
_Indices = NDArray[np.int64]
#: A method that decides by values misses its budget by fractions; a sampler of so many more counts as equal.
SAME_EVALUATIONS = 0.5
#: Timings of equal work differ by so much from run to run; a sampler within it counts as as fast.
TIMING_NOISE = 0.05
_DRAWN_AT_ONCE = 4_000_000  # prompts over all resamples of one part: 32 MB of indices


@dataclass(frozen=True)
class Statistics:
    """One metric of one method over its pictures; NaN throughout where a picture is broken."""

    mean: float  # identical pictures, whose PSNR is infinite, left out
    median: float  # of all
    worst5: float  # mean of the worst 5 %, at least one picture
    lower: float  # of the interval of the mean; NaN for a single prompt
    upper: float
    confidence: float
    pictures: int
    prompts: int
    identical: int


def statistics(
    values: Iterable[float | None],
    prompts: Sequence[Hashable],
    *,
    higher_is_better: bool,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Statistics:
    """Mean, median, worst 5 % and a percentile bootstrap interval of the mean, which resamples prompts.

    The seeds of one prompt are not independent pictures, so every resample draws whole prompts, with all their
    pictures. A single prompt therefore has no interval. Where more is better an infinite value means a picture
    identical to the reference: it would lift every mean to infinity, so it is left out of means (unless all are
    infinite), not of the median. An infinite error stays.

    Args:
        values: one per picture; None and NaN are broken pictures, and leaving those out would flatter.
        prompts: the prompt, or any name of it, of each picture.
        higher_is_better: direction of the metric.
        resamples: of the bootstrap.
        confidence: of the interval, between 0 and 1.
        seed: of the bootstrap; the same arguments give the same interval.

    Raises:
        ValueError: no picture, as many prompts as pictures missing, resamples or confidence out of range.
    """
    found = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    places, count = _places(prompts, len(found))
    _check(resamples, confidence)
    identical = int(np.isposinf(found).sum()) if higher_is_better else 0
    shared: dict[str, Any] = {
        "confidence": confidence,
        "pictures": len(found),
        "prompts": count,
        "identical": identical,
    }
    if np.isnan(found).any():
        broken = math.nan
        return Statistics(broken, broken, broken, broken, broken, **shared)
    counted = ~np.isposinf(found) if higher_is_better else np.ones(len(found), dtype=bool)
    sums = np.bincount(places, np.where(counted, found, 0), count).astype(np.float64)
    counts = np.bincount(places, counted, count).astype(np.float64)
    means = _resampled(sums, counts, resamples, seed)
    lower, upper = _quantiles(means, confidence) if count > 1 else (math.nan, math.nan)
    worst_first = np.sort(found)[:: 1 if higher_is_better else -1]
    worst = worst_first[: max(1, round(len(found) / 20))]
    return Statistics(
        mean=float(_mean(sums, counts)),
        median=float(np.median(found)),
        worst5=_finite_mean(worst) if higher_is_better else float(worst.mean()),
        lower=lower,
        upper=upper,
        **shared,
    )


def interval(
    statistic: Callable[[_Indices], float],
    prompts: Sequence[Hashable],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of what only a set of pictures has, such as a Frechet distance.

    Args:
        statistic: called with the indices of the pictures of one resample.
        prompts: the prompt of each picture; whole prompts are drawn, as in `statistics`.
        resamples: of the bootstrap.
        confidence: of the interval, between 0 and 1.
        seed: of the bootstrap.

    Returns:
        The lower and the upper end; NaN for a single prompt.

    Raises:
        ValueError: no picture, resamples or confidence out of range.
    """
    places, count = _places(prompts, len(prompts))
    _check(resamples, confidence)
    if count < 2:
        return math.nan, math.nan
    members = [np.flatnonzero(places == place) for place in range(count)]
    found = [
        statistic(np.concatenate([members[place] for place in drawn]))
        for part in _drawn(count, resamples, seed)
        for drawn in part
    ]
    return _quantiles(np.array(found, dtype=np.float64), confidence)


class Measured(Protocol):
    """What a baseline is chosen by; the rows of `report.summarise` are such."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str:
        """ "forecast", "plan", "sampler" or anything else."""

    @property
    def evaluations(self) -> float: ...

    @property
    def seconds(self) -> float | None: ...


R = TypeVar("R", bound=Measured)


@dataclass(frozen=True)
class Baselines(Generic[R]):
    """A forecast or a plan beside what plain samplers reach at its price; None where no sampler is as cheap."""

    row: R
    equal_evaluations: R | None
    equal_latency: R | None


def baselines(
    rows: Sequence[R], by: Callable[[R], float | None], *, higher_is_better: bool = True
) -> list[Baselines[R]]:
    """For every forecast and plan the best plain sampler at its evaluations, and the best in its time.

    Args:
        rows: of one model and one set of pictures.
        by: the figure that says which sampler is best, such as `lambda row: row.psnr`.
        higher_is_better: its direction.
    """
    return [
        Baselines(
            row,
            equal_evaluations(row, rows, by, higher_is_better=higher_is_better),
            equal_latency(row, rows, by, higher_is_better=higher_is_better),
        )
        for row in rows
        if row.kind in ("forecast", "plan")
    ]


def equal_evaluations(
    row: R, rows: Iterable[R], by: Callable[[R], float | None], *, higher_is_better: bool = True
) -> R | None:
    """The best row of kind "sampler" with at most as many evaluations as `row`, None if there is none.

    SAME_EVALUATIONS more counts as as many, or a method of 7.9 evaluations would stand against a sampler of five.
    Samplers without a figure, or with NaN, do not count. Of equally good ones the cheaper is taken.
    """
    return _best(
        (each for each in rows if each.evaluations <= row.evaluations + SAME_EVALUATIONS), by, higher_is_better
    )


def equal_latency(
    row: R, rows: Iterable[R], by: Callable[[R], float | None], *, higher_is_better: bool = True
) -> R | None:
    """The best row of kind "sampler" that takes at most as many seconds as `row`, None if there is none.

    TIMING_NOISE more counts as as many: without it a sampler of equal work would drop out by noise, which flatters.
    As `equal_evaluations`; rows that were not timed have no equals.
    """
    if row.seconds is None:
        return None
    limit = row.seconds * (1 + TIMING_NOISE)
    cheap = (each for each in rows if each.seconds is not None and each.seconds <= limit)
    return _best(cheap, by, higher_is_better)


def _best(rows: Iterable[R], by: Callable[[R], float | None], higher_is_better: bool) -> R | None:
    def rank(pair: tuple[R, float]) -> tuple[float, float, float]:
        row, figure = pair
        seconds = math.inf if row.seconds is None else row.seconds
        return -figure if higher_is_better else figure, row.evaluations, seconds

    figures = ((row, by(row)) for row in rows if row.kind == "sampler")
    known = [(row, figure) for row, figure in figures if figure is not None and not math.isnan(figure)]
    return min(known, key=rank)[0] if known else None


def _places(prompts: Sequence[Hashable], pictures: int) -> tuple[_Indices, int]:
    """The place of every picture's prompt in the order of first appearance, and the number of prompts."""
    if not pictures:
        raise ValueError("values must hold at least one picture.")
    if len(prompts) != pictures:
        raise ValueError(f"prompts must be one per picture, {pictures}, got {len(prompts)}.")
    order = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    return np.array([order[prompt] for prompt in prompts], dtype=np.int64), len(order)


def _check(resamples: int, confidence: float) -> None:
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}; 2000 is usual.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}; pass 0.95 for 95 %.")


def _drawn(count: int, resamples: int, seed: int) -> Iterator[_Indices]:
    """Resamples of so many prompts, (n, count), in parts that fit into memory."""
    rng = np.random.default_rng(seed)
    size = max(1, _DRAWN_AT_ONCE // count)
    for start in range(0, resamples, size):
        yield rng.integers(count, size=(min(size, resamples - start), count))


def _resampled(sums: _Vector, counts: _Vector, resamples: int, seed: int) -> _Vector:
    """The mean of every resample of whole prompts."""
    count = len(sums)
    if count * resamples > _DRAWN_AT_ONCE or not np.isfinite(sums).all():
        return np.concatenate([_mean(sums[drawn], counts[drawn]) for drawn in _drawn(count, resamples, seed)])
    times = _times(count, resamples, seed)
    number = times @ counts
    found: _Vector = np.where(number > 0, times @ sums / np.maximum(number, 1), math.inf)
    return found


@lru_cache(maxsize=4)
def _times(count: int, resamples: int, seed: int) -> _Vector:
    """How often every resample holds each prompt; tables of many methods ask for the same over and over."""
    (drawn,) = _drawn(count, resamples, seed)
    flat = drawn + count * np.arange(resamples)[:, None]
    return np.bincount(flat.ravel(), minlength=count * resamples).reshape(resamples, count).astype(np.float64)


def _mean(sums: _Vector, counts: _Vector) -> _Vector:
    """Sums by counts, of whole prompts on the last axis; infinite where only identical pictures were drawn."""
    total, number = sums.sum(axis=-1), counts.sum(axis=-1)
    found: _Vector = np.where(number > 0, total / np.maximum(number, 1), math.inf)
    return found


def _finite_mean(values: _Vector) -> float:
    finite = values[~np.isposinf(values)]
    return float(finite.mean()) if len(finite) else math.inf


def _quantiles(found: _Vector, confidence: float) -> tuple[float, float]:
    # Never between two of them: an infinite one would make that NaN.
    tail = (1 - confidence) / 2
    low = np.quantile(found, tail, method="lower")
    return float(low), float(np.quantile(found, 1 - tail, method="higher"))
