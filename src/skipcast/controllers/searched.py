"""Sets of steps that others found by search, read as curves so that they fit other runs too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from skipcast.controllers.base import StaticController, Steps, refuse_more

_STEPS = 50  # all of them were found on runs of 50 steps

_NINE: dict[str, Steps] = {
    "golden": (0, 1, 2, 4, 6, 13, 24, 41, 49),  # nanguoyu/Golden-Path-Hypothesis: exhaustive, reuse, four prompts
    "budcache": (0, 1, 2, 4, 7, 13, 20, 39, 49),  # arXiv:2606.13496: simulated annealing on the final latent
    "meancache": (0, 1, 2, 3, 4, 9, 19, 34, 49),  # arXiv:2601.19961: peak-suppressed shortest path
    "dpcache": (0, 1, 2, 5, 11, 20, 29, 40, 49),  # arXiv:2602.22654: dynamic programming
    "seacache": (0, 1, 3, 6, 11, 18, 29, 41, 49),  # arXiv:2602.18993: the most frequent of a data-driven rule
}

_OFFICIAL: dict[str, Steps] = {
    "meancache-qwen-25": (*range(17), 24, 32, 40, 43, 45, 47, 48, 49),
    "meancache-qwen-17": (*range(9), 10, 17, 24, 31, 38, 45, 48, 49),
    "meancache-qwen-10": (0, 1, 3, 7, 14, 21, 28, 35, 42, 49),
    "meancache-qwen2512-25": (*range(16), 23, 31, 37, *range(44, 50)),
    "meancache-qwen2512-17": (*range(10), 11, 19, 27, 35, 43, 47, 49),
    "meancache-qwen2512-10": (0, 2, 4, 7, 14, 21, 28, 35, 42, 49),
    "meancache-zimage-25": (*range(7), 8, 10, 11, 12, 13, 15, 16, 17, 18, 20, 22, 29, 37, 42, 45, 47, 48, 49),
    "meancache-zimage-20": (*range(5), *range(6, 23, 2), 30, 38, 43, 46, 48, 49),
    "meancache-zimage-17": (*range(5), 6, 8, 10, 12, 14, 19, 27, 35, 43, 46, 48, 49),
    "meancache-zimage-15": (*range(4), 5, 7, 10, 12, 17, 25, 33, 41, 45, 48, 49),
    "meancache-zimage-13": (*range(4), 5, 9, 15, 22, 29, 36, 43, 47, 49),
}

#: The evaluated steps of each set, at 50 steps.
SEARCHED: dict[str, Steps] = {**_NINE, **_OFFICIAL}

# The span of the gap that begins at an evaluated step; 1, which is reuse, where none is named.
_SPANS: dict[str, dict[int, int]] = {
    "meancache-qwen-25": {40: 5, 43: 5, 45: 5},
    "meancache-qwen-17": {8: 2, 45: 4},
    "meancache-qwen-10": {1: 2, 42: 4},
    "meancache-qwen2512-25": {15: 2, 23: 2, 31: 2},
    "meancache-qwen2512-17": {9: 2, 43: 5, 47: 5},
    "meancache-qwen2512-10": {2: 3, 42: 4},
    "meancache-zimage-25": {6: 2, 8: 2, 13: 2, 18: 5, 20: 5, 42: 5, 45: 5},
    "meancache-zimage-20": {4: 2, 6: 2, 8: 2, 10: 2, 12: 2, 14: 5, 16: 4, 18: 5, 20: 5, 43: 5, 46: 2},
    "meancache-zimage-17": {4: 2, 6: 2, 8: 2, 10: 2, 12: 2, 43: 5, 46: 2},
    "meancache-zimage-15": {3: 2, 5: 2, 7: 2, 10: 2, 41: 5, 45: 4},
    "meancache-zimage-13": {3: 2, 43: 5, 47: 2},
}


def _pairs(steps: Steps, named: dict[int, int]) -> tuple[tuple[int, int], ...]:
    """(step, span) wherever the span changes."""
    spans = [named.get(step, 1) for step in steps]
    return tuple((step, m) for step, m, before in zip(steps, spans, [0, *spans], strict=False) if m != before)


#: MeanCache's spans that belong to its official sets (arXiv:2601.19961): pairs (step, span), each holding from that
#: step to the next pair's, as `MeanVelocity` takes them; right at 50 steps only.
MEANCACHE_SPANS = {name: _pairs(SEARCHED[name], named) for name, named in _SPANS.items()}


@dataclass(frozen=True)
class Searched(StaticController):
    """A set of steps found by search at 50 steps: the published one there, and its shape for other runs and counts.

    The set is read as a curve from the share of the evaluations made, i / (n - 1), to the share of the run done,
    step / 49, with lines between; the curve is sampled at as many places as there are to be evaluations, rounded to
    steps and kept distinct. The first and the last step are always evaluated. The rescaling is this library's.

    Sources: "golden", typical of the best among 1 370 754 sets, nanguoyu/Golden-Path-Hypothesis, from which the next
    four are taken too; "budcache", arXiv:2606.13496; "meancache", arXiv:2601.19961; "dpcache",
    arXiv:2602.22654; "seacache", arXiv:2602.18993. MeanCache's official sets are "meancache-qwen-10" and the like, with
    `MEANCACHE_SPANS`. All were searched with reuse, except MeanCache's and DPCache's own forecasts.

    Args:
        name: a key of `SEARCHED`.
        evaluations: n, met exactly; those of the published set when left out.
    """

    name: str
    evaluations: int | None = None

    def __post_init__(self) -> None:
        if self.name not in SEARCHED:
            raise ValueError(f"Searched(name=...) must be one of {', '.join(SEARCHED)}; got {self.name!r}.")
        if self.evaluations is not None and self.evaluations < 2:
            raise ValueError(
                f"Searched(evaluations=...) must be at least 2, got {self.evaluations}; the first and the last step "
                "are evaluated."
            )

    @property
    def planned(self) -> int:
        return self.evaluations or len(SEARCHED[self.name])

    @lru_cache(maxsize=64)  # noqa: B019  (instances are small, frozen and few)
    def evaluated(self, steps: int) -> Steps:
        published, n = SEARCHED[self.name], self.planned
        refuse_more(n, steps)
        places = [i * (len(published) - 1) / (n - 1) for i in range(n)]
        curve = np.interp(places, range(len(published)), published).tolist()
        chosen = [math.floor(step * (steps - 1) / (_STEPS - 1) + 0.5) for step in curve]
        for i in range(1, n):  # no two alike ...
            chosen[i] = max(chosen[i], chosen[i - 1] + 1)
        return tuple(min(step, steps - n + i) for i, step in enumerate(chosen))  # ... and all within the run
