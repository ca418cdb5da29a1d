"""A metric over many images: mean, median, worst twentieth, bootstrap interval; and the baselines of a fair table."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from skipcast.plans.plan import worst_twentieth

_Vector = NDArray[np.float64]
_Indices = NDArray[np.int64]
#: A method that decides by values misses its budget by fractions; a sampler of so many more counts as equal.
SAME_EVALUATIONS = 0.5
#: Timings of equal work differ by so much from run to run; a sampler within it counts as as fast.
TIMING_NOISE = 0.05
_DRAWN_AT_ONCE = 4_000_000  # prompts over all resamples of one batch: 32 MB of indices


@dataclass(frozen=True)
class Statistics:
    """One metric of one method over its images; NaN throughout where an image is broken."""

    mean: float  # identical images, whose PSNR is infinite, left out
    median: float  # of all
    worst5: float  # mean of the worst 5 %, at least one image
    lower: float  # of the interval of the mean; NaN for a single prompt
    upper: float
    confidence: float
    images: int
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

    The seeds of one prompt are not independent images, so every resample draws whole prompts, with all their
    images. A single prompt therefore has no interval. Where more is better an infinite value means an image that is
    identical to that of the unaccelerated run: it would lift every mean to infinity, so it is left out of means (unless
    all are infinite), not of the median. An infinite error stays.

    Args:
        values: one per image; None and NaN are broken images, and leaving those out would flatter.
        prompts: the prompt, or any name of it, of each image.
        higher_is_better: direction of the metric.
        resamples: of the bootstrap.
        confidence: of the interval, between 0 and 1.
        seed: of the bootstrap; the same arguments give the same interval.

    Raises:
        ValueError: no image, as many prompts as images missing, resamples or confidence out of range.
    """
    found = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    places, count = _places(prompts, len(found))
    _check(resamples, confidence)
    identical = int(np.isposinf(found).sum()) if higher_is_better else 0
    shared: dict[str, Any] = {
        "confidence": confidence,
        "images": len(found),
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
    worst = worst_twentieth(worst_first)
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
    """The percentile bootstrap interval of what only a set of images has, such as a Frechet distance.

    Args:
        statistic: called with the indices of the images of one resample.
        prompts: the prompt of each image; whole prompts are drawn, as in `statistics`.
        resamples: of the bootstrap.
        confidence: of the interval, between 0 and 1.
        seed: of the bootstrap.

    Returns:
        The lower and the upper end; NaN for a single prompt.

    Raises:
        ValueError: no image, resamples or confidence out of range.
    """
    places, count = _places(prompts, len(prompts))
    _check(resamples, confidence)
    if count < 2:
        return math.nan, math.nan
    members = [np.flatnonzero(places == place) for place in range(count)]

    def of_prompts(drawn: _Indices) -> float:
        return statistic(np.concatenate([members[place] for place in drawn]))

    return _quantiles(_distribution(of_prompts, np.arange(count), resamples=resamples, seed=seed), confidence)


class Measured(Protocol):
    """What a baseline is chosen from, such as a row of results."""

    @property
    def kind(self) -> str: ...

    @property
    def evaluations(self) -> float: ...

    @property
    def seconds(self) -> float | None: ...

    @property
    def psnr(self) -> float | None: ...


R = TypeVar("R", bound=Measured)


def equal_evaluations(row: Measured, rows: Iterable[R]) -> R | None:
    """The row of kind "sampler" with the best PSNR among those of at most as many evaluations, None if there is none.

    SAME_EVALUATIONS more counts as as many, or a method of 7.9 evaluations would stand against a sampler of five.
    Samplers without a PSNR, or with NaN, do not count. Of equally good ones the cheaper is taken.
    """
    return _best(each for each in rows if each.evaluations <= row.evaluations + SAME_EVALUATIONS)


def equal_latency(row: Measured, rows: Iterable[R]) -> R | None:
    """The row of kind "sampler" with the best PSNR among those of at most as many seconds, None if there is none.

    TIMING_NOISE more counts as as many: without it a sampler of equal work would drop out by noise, which flatters.
    As `equal_evaluations`; rows that were not timed have no equals.
    """
    if row.seconds is None:
        return None
    limit = row.seconds * (1 + TIMING_NOISE)
    return _best(each for each in rows if each.seconds is not None and each.seconds <= limit)


def _best(rows: Iterable[R]) -> R | None:
    def rank(row: R) -> tuple[float, float, float]:
        return -(row.psnr or 0.0), row.evaluations, math.inf if row.seconds is None else row.seconds

    known = (row for row in rows if row.kind == "sampler" and row.psnr is not None and not math.isnan(row.psnr))
    return min(known, key=rank, default=None)


def _places(prompts: Sequence[Hashable], images: int) -> tuple[_Indices, int]:
    """The place of every image's prompt in the order of first appearance, and the number of prompts."""
    if not images:
        raise ValueError("values must hold at least one image.")
    if len(prompts) != images:
        raise ValueError(f"prompts must be one per image, {images}, got {len(prompts)}.")
    order = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    return np.array([order[prompt] for prompt in prompts], dtype=np.int64), len(order)


def _check(resamples: int, confidence: float) -> None:
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}; 2000 is usual.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}; pass 0.95 for 95 %.")


def _distribution(
    statistic: Callable[..., Any], *data: NDArray[Any], resamples: int, seed: int, vectorized: bool = False
) -> _Vector:
    """The statistic of every resample of the prompts, by `scipy.stats.bootstrap`."""
    try:
        from scipy.stats import bootstrap  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError('intervals need scipy; run: pip install "skipcast[bench]"') from error
    with np.errstate(invalid="ignore"):  # its own interval, which is not used, would lie between infinite values
        made = bootstrap(
            data, statistic, n_resamples=resamples, batch=max(1, _DRAWN_AT_ONCE // len(data[0])), paired=True,
            vectorized=vectorized, method="percentile", rng=np.random.default_rng(seed),
        )  # fmt: skip
    found: _Vector = np.asarray(made.bootstrap_distribution, dtype=np.float64)
    return found


def _resampled(sums: _Vector, counts: _Vector, resamples: int, seed: int) -> _Vector:
    """The mean of every resample of whole prompts.

    The resamples are those of `_distribution`, but shared by all metrics and methods of a table as one matrix: a mean
    takes 0.1 ms instead of 5 ms, and a report of 100,000 records needs 3,000 of them.
    """
    if len(sums) * resamples > _DRAWN_AT_ONCE or not np.isfinite(sums).all():
        return _distribution(
            lambda sums, counts, axis: _mean(sums, counts),
            sums,
            counts,
            resamples=resamples,
            seed=seed,
            vectorized=True,
        )
    times = _times(len(sums), resamples, seed)
    number = times @ counts
    found: _Vector = np.where(number > 0, times @ sums / np.maximum(number, 1), math.inf)
    return found


@lru_cache(maxsize=4)
def _times(count: int, resamples: int, seed: int) -> _Vector:
    """How often every resample holds each prompt, (resamples, count)."""
    drawn = np.random.default_rng(seed).integers(count, size=(resamples, count))
    flat = drawn + count * np.arange(resamples)[:, None]
    return np.bincount(flat.ravel(), minlength=count * resamples).reshape(resamples, count).astype(np.float64)


def _mean(sums: _Vector, counts: _Vector) -> _Vector:
    """Sums / counts of whole prompts on the last axis; infinite where only identical images were drawn."""
    total, number = sums.sum(axis=-1), counts.sum(axis=-1)
    found: _Vector = np.where(number > 0, total / np.maximum(number, 1), math.inf)
    return found


def _finite_mean(values: _Vector) -> float:
    finite = values[~np.isposinf(values)]
    return float(finite.mean()) if len(finite) else math.inf


def _quantiles(found: _Vector, confidence: float) -> tuple[float, float]:
    # Never between two values, as scipy's would be: an infinite one would make that NaN.
    tail = (1 - confidence) / 2
    low = np.quantile(found, tail, method="lower")
    return float(low), float(np.quantile(found, 1 - tail, method="higher"))
