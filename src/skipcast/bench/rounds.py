"""The calls of a comparison, and metrics between two samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from skipcast.bench.draw import Pair, Sample
from skipcast.bench.metrics import METRICS, per_frame
from skipcast.bench.settings import Settings

Batch = tuple[Pair, ...]  # of one call


def batches(settings: Settings, prompts: Sequence[str]) -> Iterator[Batch]:
    """All pairs of a comparison, every prompt of a seed before the next seed."""
    pairs = [
        Pair(prompt, settings.first_seed + number, index, number)
        for number in range(settings.seeds)
        for index, prompt in enumerate(prompts)
    ]
    size = settings.batch_of(len(prompts))
    for start in range(0, len(pairs), size):
        yield tuple(pairs[start : start + size])


def score(metric: str, made: Sample, other: Sample) -> Tensor:
    """A metric of METRICS per image or video, (B,) float64; one of images is the mean over the frames of a video.

    Raises:
        ValueError: it does not suit what was drawn.
    """
    function, _, takes = METRICS[metric]
    if metric == "relative_l2":
        return function(made.latents, other.latents)
    if takes == "pictures" and made.images.ndim == 5:
        return per_frame(function, made.images, other.images).mean(dim=1)
    return function(made.images, other.images)
