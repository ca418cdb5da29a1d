"""Metrics with weights of their own in a sweep: which, and from where."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipcast.bench.metrics.learned import LEARNED, Learned
from skipcast.bench.sweep.yamls import Place, unknown


@dataclass(frozen=True)
class LearnedSpec:
    """A metric of LEARNED for single pictures, with the path of its weights; None for the caches of the machine."""

    name: str
    weights: str | None = None

    @property
    def metric(self) -> Learned:
        return LEARNED[self.name]

    @property
    def higher_is_better(self) -> bool:
        return self.metric.higher_is_better

    @property
    def identity(self) -> list[Any]:
        """What its figures follow from, as far as it can be told without reading gigabytes: names and sizes."""
        if self.weights is None:
            return [self.name]
        path = Path(self.weights)
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        return [self.name, [[each.name, each.stat().st_size] for each in files]]


def names_of(known: tuple[str, ...]) -> tuple[str, ...]:
    """All metrics that a sweep may ask for."""
    return (*known, *(name for name, metric in LEARNED.items() if metric.against != "set"))


def read_learned(place: Place, video: str | None) -> LearnedSpec | None:
    """A metric with weights, such as `lpips` or `{lpips: weights/lpips}`; None where the place holds no such one.

    Args:
        place: an item of `metrics`.
        video: a model of the sweep that draws videos, if there is any.

    Raises:
        SpecError: it is of sets, its package or its weights are missing, or a model draws videos.
    """
    if isinstance(place.value, dict):
        ((name, at),) = place.fields().items() if len(place.value) == 1 else (("", place),)
        if name not in LEARNED:
            raise place.wrong(unknown("metric with weights", name or str(place.value), list(LEARNED)))
        given = at.text()
        path = Path(given) if Path(given).exists() else place.path.parent / given
        if not path.exists():
            raise at.wrong(f"the weights of {name} are missing: {given} does not exist; put them there.")
        found = LearnedSpec(name, str(path))
    elif place.value in LEARNED:
        found = LearnedSpec(place.value)
    else:
        return None
    metric = found.metric
    if metric.against == "set":
        raise place.wrong(
            f"{found.name} is one figure of a set of pictures, and a sweep has figures of single ones; call "
            f"skipcast.bench.metrics.learned.LEARNED[{found.name!r}] on the pictures that the sweep keeps."
        )
    if video is not None:
        raise place.wrong(f"{found.name} is of pictures, and {video} draws videos; leave it out.")
    if importlib.util.find_spec(metric.package) is None:
        raise place.wrong(f"{found.name} needs the package {metric.package!r}, which is missing; {metric.install}.")
    return found
