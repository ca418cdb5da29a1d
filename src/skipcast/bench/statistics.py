"""A metric over many images: mean, median, worst twentieth, worst, and a bootstrap interval of the mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipcast.plans.plan import worst_twentieth

_Vector = NDArray[np.float64]
_Indices = NDArray[np.int64]
_ONE_MATRIX = 4_000_000  # prompts over all resamples that are kept at once: 32 MB


@dataclass(frozen=True)
class Statistics:
    """One metric of one method over its images; NaN throughout where an image is broken."""

    mean: float  # identical images, whose PSNR is infinite, left out
    median: float  # of all
    worst5: float  # mean of the worst 5 %, at least one image
    worst: float
    lower: float  # of the 95 % interval of the mean over prompts; NaN for a single prompt
    upper: float
    higher_is_better: bool
    images: int
    prompts: int
    identical: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of the mean, None where there is none."""
        return (self.lower, self.upper) if math.isfinite(self.lower) and math.isfinite(self.upper) else None


def statistics(
    values: Iterable[float | None], prompts: Sequence[Hashable], *, higher_is_better: bool, resamples: int = 2000
) -> Statistics:
    """Mean, median, worst 5 %, worst, and a percentile bootstrap interval of the mean, which resamples prompts.

    The seeds of one prompt are not independent images, so every resample draws whole prompts, with all their
    images. A single prompt therefore has no interval. Where more is better an infinite value means an image that is
    identical to that of the unaccelerated run: it would lift every mean to infinity, so it is left out of means (unless
    all are infinite), not of the median. An infinite error stays.

    Args:
        values: one per image; None and NaN are broken images, and leaving those out would flatter.
        prompts: the prompt, or any name of it, of each image.
        higher_is_better: direction of the metric.
        resamples: of the bootstrap; the same arguments give the same interval.

    Raises:
        ValueError: no image, as many prompts as images missing, no resample.
    """
    found = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    places, count = _places(prompts, len(found), resamples)
    identical = np.isposinf(found) & higher_is_better
    shared: dict[str, Any] = {
        "higher_is_better": higher_is_better,
        "images": len(found),
        "prompts": count,
        "identical": int(identical.sum()),
    }
    if np.isnan(found).any():
        broken = math.nan
        return Statistics(broken, broken, broken, broken, broken, broken, **shared)
    sums = np.bincount(places, np.where(identical, 0, found), count).astype(np.float64)
    counts = np.bincount(places, ~identical, count).astype(np.float64)
    lower, upper = _quantiles(_resampled(sums, counts, resamples)) if count > 1 else (math.nan, math.nan)
    ordered = np.sort(found)[:: 1 if higher_is_better else -1]
    worst = worst_twentieth(ordered)
    counted = worst[~np.isposinf(worst)] if higher_is_better else worst
    return Statistics(
        mean=float(_mean(sums.sum(), counts.sum())),
        median=float(np.median(found)),
        worst5=float(counted.mean()) if len(counted) else math.inf,
        worst=float(ordered[0]),
        lower=lower,
        upper=upper,
        **shared,
    )


def interval(
    statistic: Callable[[_Indices], float], prompts: Sequence[Hashable], *, resamples: int = 2000
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of what only a set of images has, such as a Frechet distance.

    Args:
        statistic: called with the indices of the images of one resample.
        prompts: the prompt of each image; whole prompts are drawn, as in `statistics`.
        resamples: of the bootstrap.

    Returns:
        The lower and the upper end; NaN for a single prompt.

    Raises:
        ValueError: no image, no resample.
    """
    places, count = _places(prompts, len(prompts), resamples)
    if count < 2:
        return math.nan, math.nan
    members = [np.flatnonzero(places == place) for place in range(count)]
    return _quantiles(
        [statistic(np.concatenate([members[place] for place in drawn])) for drawn in _draws(count, resamples)]
    )


def _places(prompts: Sequence[Hashable], images: int, resamples: int) -> tuple[_Indices, int]:
    """The place of every image's prompt in the order of first appearance, and the number of prompts."""
    if not images:
        raise ValueError("values must hold at least one image.")
    if len(prompts) != images:
        raise ValueError(f"prompts must be one per image, {images}, got {len(prompts)}.")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}; 2000 is usual.")
    order = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    return np.array([order[prompt] for prompt in prompts], dtype=np.int64), len(order)


def _draws(count: int, resamples: int) -> Iterator[_Indices]:
    """The prompts of every resample, always the same."""
    rng = np.random.default_rng(0)
    for _ in range(resamples):
        yield rng.integers(count, size=count)


@lru_cache(maxsize=4)
def _times(count: int, resamples: int) -> _Vector:
    """How often every resample holds each prompt, (resamples, count)."""
    return np.stack([np.bincount(drawn, minlength=count) for drawn in _draws(count, resamples)]).astype(np.float64)


def _resampled(sums: _Vector, counts: _Vector, resamples: int) -> _Vector:
    """The mean of every resample of whole prompts.

    All metrics and methods of a table share one matrix of resamples: a mean takes 0.1 ms instead of 5 ms, and a report
    of 100,000 records needs 3,000 of them.
    """
    if len(sums) * resamples > _ONE_MATRIX or not np.isfinite(sums).all():  # a product of 0 and infinity is NaN
        drawn = [(sums[each].sum(), counts[each].sum()) for each in _draws(len(sums), resamples)]
        return _mean(*np.array(drawn).T)
    times = _times(len(sums), resamples)
    return _mean(times @ sums, times @ counts)


def _mean(total: _Vector, number: _Vector) -> _Vector:
    """Their quotient; infinite where only identical images were drawn."""
    found: _Vector = np.where(number > 0, total / np.maximum(number, 1), math.inf)
    return found


def _quantiles(found: Sequence[float] | _Vector) -> tuple[float, float]:
    # Never between two values: an infinite one would make that NaN.
    return float(np.quantile(found, 0.025, method="lower")), float(np.quantile(found, 0.975, method="higher"))
