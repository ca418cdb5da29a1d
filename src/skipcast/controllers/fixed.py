"""Controllers that know their steps before the run: periodic, even, growing, searched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from skipcast.controllers.base import (
    StaticController,
    Steps,
    closest,
    refuse_below,
    refuse_both,
    refuse_more,
    refuse_negative,
    refuse_shorter,
)

# Steps as given, every so many, multiples of an interval, or evenly placed.


@dataclass(frozen=True)
class FixedSteps(StaticController):
    """Exactly the steps given, of a run of any length that contains them."""

    steps: tuple[int, ...]

    def __post_init__(self) -> None:
        steps = tuple(self.steps)
        object.__setattr__(self, "steps", steps)
        if not steps or steps[0] != 0 or any(b <= a for a, b in zip(steps, steps[1:], strict=False)):
            raise ValueError(
                f"FixedSteps(steps=...) must ascend from 0, got {steps}; step 0 has nothing to forecast from."
            )

    @property
    def planned(self) -> int | None:
        return len(self.steps)

    def evaluated(self, steps: int) -> Steps:
        if self.steps[-1] >= steps:
            raise ValueError(
                f"FixedSteps evaluates step {self.steps[-1]}, but the run has only steps 0 to {steps - 1}; "
                f"run at least {self.steps[-1] + 1} steps or leave the later ones out."
            )
        return self.steps


PUBLISHED_INTERVAL = 6


@dataclass(frozen=True)
class Periodic(StaticController):
    """The first `warmup` steps, then every `interval`-th: {0 .. w-1} and {w-1+N, w-1+2N, ...}.

    This is the counter rule that TaylorSeer, ResilPhase and others release (arXiv:2503.06923, arXiv:2606.26769).

    Args:
        warmup: evaluations at the start, at least 1.
        interval: steps between evaluations afterwards; 1 evaluates every step. 6 when neither this nor `evaluations`
            is given, as published for FLUX.
        evaluations: instead of an interval, the count to come closest to; of equally close counts the smaller one, of
            equal counts the shorter interval.
        last: also evaluate the last step.
    """

    warmup: int = 3
    interval: int | None = None
    evaluations: int | None = None
    last: bool = False

    def __post_init__(self) -> None:
        refuse_below(self, "warmup", 1, "step 0 is always evaluated")
        if self.interval is None and self.evaluations is None:
            object.__setattr__(self, "interval", PUBLISHED_INTERVAL)
        refuse_both(self, "interval", self.interval, self.evaluations)
        refuse_below(self, "interval", 1, "1 evaluates every step")
        _refuse_few(self, "warmup", self.warmup, self.evaluations, self.last)

    @property
    def planned(self) -> int | None:
        return self.evaluations

    def _every(self, interval: int, steps: int) -> Steps:
        chosen = {*range(self.warmup), *range(self.warmup - 1, steps, interval)}
        return tuple(sorted(chosen | {steps - 1} if self.last else chosen))

    @lru_cache(maxsize=64)  # noqa: B019  (instances are small, frozen and few)
    def evaluated(self, steps: int) -> Steps:
        refuse_shorter(steps, self.warmup)
        if self.evaluations is None:
            return self._every(self.interval or PUBLISHED_INTERVAL, steps)
        refuse_more(self.evaluations, steps)
        return closest((self._every(interval, steps) for interval in range(1, steps + 1)), self.evaluations)


_RELEASED_INTERVAL = 8


@dataclass(frozen=True)
class Multiples(StaticController):
    """The first `first` steps, every multiple of `interval`, and the last step: {0 .. f-1}, {0, N, 2N, ...}, {T-1}.

    These are the steps that TC-Pade always evaluates (arXiv:2603.02943); its curvature test may add more, `Stability`.
    The released code is `Multiples(5, 8)`, of which the README's faster settings must be intervals of 10, 13 to 16
    and 17 to 24; the paper, which evaluates the first step of each interval of 4, is `Multiples(1, 4, last=False)`.

    Args:
        first: evaluations at the start, at least 1.
        interval: what evaluated steps are multiples of; 1 evaluates every step. 8 when neither this nor `evaluations`
            is given, as released.
        last: also evaluate the last step.
        evaluations: instead of an interval, the count to come closest to; of equally close counts the smaller one, of
            equal counts the released interval before others and then the shortest.
    """

    first: int = 5
    interval: int | None = None
    last: bool = True
    evaluations: int | None = None

    def __post_init__(self) -> None:
        refuse_below(self, "first", 1, "step 0 is always evaluated")
        if self.interval is None and self.evaluations is None:
            object.__setattr__(self, "interval", _RELEASED_INTERVAL)
        refuse_both(self, "interval", self.interval, self.evaluations)
        refuse_below(self, "interval", 1, "1 evaluates every step")
        _refuse_few(self, "first", self.first, self.evaluations, self.last)

    @property
    def planned(self) -> int | None:
        return self.evaluations

    def _of(self, interval: int, steps: int) -> Steps:
        chosen = {*range(self.first), *range(0, steps, interval)}
        return tuple(sorted(chosen | {steps - 1} if self.last else chosen))

    @lru_cache(maxsize=64)  # noqa: B019  (instances are small, frozen and few)
    def evaluated(self, steps: int) -> Steps:
        refuse_shorter(steps, self.first, "first")
        if self.evaluations is None:
            return self._of(self.interval or _RELEASED_INTERVAL, steps)
        refuse_more(self.evaluations, steps)
        intervals = (_RELEASED_INTERVAL, *range(1, steps + 1))
        return closest((self._of(interval, steps) for interval in intervals), self.evaluations)


def _refuse_few(controller: StaticController, option: str, first: int, evaluations: int | None, last: bool) -> None:
    """A count must cover what is evaluated in any case."""
    if evaluations is not None and evaluations < first + last:
        raise ValueError(
            f"{type(controller).__name__}(evaluations=...) must be at least {first + last} (warm-up of {first}"
            f"{' and the last step' if last else ''}), got {evaluations}; lower {option} or ask for more."
        )


@dataclass(frozen=True)
class Even(StaticController):
    """Evenly placed steps: floor(i T / n), or with the last one round(i (T - 1) / (n - 1)), i = 0 .. n-1.

    No method is published with it; it is the placement of a plain sampler of n steps, and so the control for others.

    Args:
        evaluations: n, met exactly.
        last: place the steps from the first to the last one, both evaluated.
    """

    evaluations: int
    last: bool = False

    def __post_init__(self) -> None:
        refuse_below(self, "evaluations", 1 + self.last, "the first step and, with last=True, the last are evaluated")

    @property
    def planned(self) -> int | None:
        return self.evaluations

    def evaluated(self, steps: int) -> Steps:
        refuse_more(self.evaluations, steps)
        n = self.evaluations
        if not self.last:
            return tuple(i * steps // n for i in range(n))
        return tuple((2 * i * (steps - 1) + n - 1) // (2 * (n - 1)) for i in range(n))  # halves go up


# Evaluations that lie further apart as the run goes on.

#: Spectrum's growth for about 3.5 and 5 times the speed at 50 steps: 14 and 10 evaluations.
PUBLISHED_GROWTHS = (0.75, 3.0)


@dataclass(frozen=True)
class Growing(StaticController):
    """The first `warmup` steps, then gaps of floor(window + growth r), r = 0, 1, 2, ...

    Reference: Spectrum, arXiv:2603.01623. The code rounds the window to three digits each time it grows, as is done
    here (its SD3 and SDXL files do not). The paper prints steps floor(growth r (r + 1) / 2) instead, without warm-up;
    these miss the authors' own counts of 14 and 10 evaluations, which the code meets. Neither keeps the last step.

    Args:
        warmup: evaluations at the start, at least 1.
        window: first gap after them.
        growth: alpha, added to the gap after each evaluation. 0.75 when neither this nor `evaluations` is given, the
            published quality setting; 3.0 is the fast one.
        evaluations: instead of a growth, the count to come closest to, over growths in hundredths; of equally close
            counts the smaller one, of equal counts a published growth before others and then the one whose longest gap,
            the last one included, is shortest.
        reading: "code", or "paper" for the printed formula, which knows neither `warmup` nor `window`.
    """

    warmup: int = 5
    window: int = 2
    growth: float | None = None
    evaluations: int | None = None
    reading: Literal["code", "paper"] = "code"

    def __post_init__(self) -> None:
        refuse_below(self, "warmup", 1, "step 0 is always evaluated")
        refuse_below(self, "window", 1, "1 evaluates the step after the warm-up")
        if self.growth is None and self.evaluations is None:
            object.__setattr__(self, "growth", PUBLISHED_GROWTHS[0])
        refuse_both(self, "growth", self.growth, self.evaluations)
        if self.growth is not None:
            refuse_negative(self, "growth", "0 keeps the window as it is")
            if self.reading == "paper" and self.growth == 0:
                raise ValueError(
                    "Growing(growth=...) must be positive in the paper's reading, got 0; its steps are multiples of it."
                )
        least = self.warmup if self.reading == "code" else 1
        refuse_below(self, "evaluations", least, "lower warmup or ask for more")

    @property
    def planned(self) -> int | None:
        return self.evaluations

    def _code(self, growth: float, steps: int) -> Steps:
        chosen, window = list(range(self.warmup)), float(self.window)
        while chosen[-1] + int(window) < steps:
            chosen.append(chosen[-1] + int(window))
            window = round(window + growth, 3)
        return tuple(chosen)

    def _paper(self, growth: float, steps: int) -> Steps:
        chosen, r = {0}, 1
        while (step := int(growth * r * (r + 1) / 2)) < steps:
            chosen.add(step)
            r += 1
        return tuple(sorted(chosen))

    @lru_cache(maxsize=64)  # noqa: B019  (instances are small, frozen and few)
    def evaluated(self, steps: int) -> Steps:
        place = self._code if self.reading == "code" else self._paper
        if self.reading == "code":
            refuse_shorter(steps, self.warmup)
        if self.growth is not None:
            return place(self.growth, steps)
        assert self.evaluations is not None
        refuse_more(self.evaluations, steps)
        # A growth of `steps` leaves two gaps at most, so larger ones change nothing; the paper's needs one above 0.
        hundredths = range(0 if self.reading == "code" else 1, 100 * steps + 1)
        others = sorted((place(k / 100, steps) for k in hundredths), key=lambda found: _longest_gap(found, steps))
        return closest([*(place(growth, steps) for growth in PUBLISHED_GROWTHS), *others], self.evaluations)


def _longest_gap(chosen: Steps, steps: int) -> int:
    """Steps from one evaluation to the next or to the end, at most."""
    return max(b - a for a, b in zip(chosen, (*chosen[1:], steps), strict=True))


# Sets of steps that others found by search, read as curves so that they fit other runs too.

_STEPS = 50  # all of them were found on runs of 50 steps

_NINE: dict[str, Steps] = {
    "golden": (0, 1, 2, 4, 6, 13, 24, 41, 49),  # nanguoyu/Golden-Path-Hypothesis: exhaustive, reuse, four prompts
    "budcache": (0, 1, 2, 4, 7, 13, 20, 39, 49),  # arXiv:2606.13496: simulated annealing on the final latent
    "meancache": (0, 1, 2, 3, 4, 9, 19, 34, 49),  # arXiv:2601.19961: peak-suppressed shortest path
    "dpcache-golden": (0, 1, 2, 5, 11, 20, 29, 40, 49),  # arXiv:2602.22654's search on Golden-Path's own costs
    "seacache-steps": (0, 1, 3, 6, 11, 18, 29, 41, 49),  # arXiv:2602.18993: the most frequent of an online rule
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

# arXiv:2602.22654, argsss/DPCache@59f08a4: the released search run on the released costs, the first 3 steps (Wan I2V: 4
# and the last one) evaluated in any case. 13 and 12 evaluations are the released defaults.
_DPCACHE: dict[str, Steps] = {
    "dpcache-flux-8": (0, 1, 2, 5, 11, 19, 28, 38),
    "dpcache-flux-9": (0, 1, 2, 5, 9, 14, 21, 28, 38),
    "dpcache-flux-10": (0, 1, 2, 4, 8, 13, 19, 25, 33, 42),
    "dpcache-flux-11": (0, 1, 2, 4, 8, 13, 19, 24, 30, 37, 44),
    "dpcache-flux-12": (0, 1, 2, 4, 7, 10, 14, 19, 23, 28, 35, 43),
    "dpcache-flux-13": (0, 1, 2, 4, 7, 10, 14, 19, 23, 28, 34, 40, 45),
    "dpcache-flux-14": (0, 1, 2, 4, 7, 10, 14, 19, 23, 27, 31, 36, 41, 46),
    "dpcache-flux-15": (0, 1, 2, 4, 6, 9, 12, 15, 19, 22, 25, 29, 34, 40, 45),
    "dpcache-flux-16": (0, 1, 2, 4, 6, 9, 12, 15, 19, 22, 25, 29, 34, 39, 43, 47),
    "dpcache-flux-17": (0, 1, 2, 3, 5, 7, 9, 11, 14, 18, 21, 23, 27, 32, 37, 42, 46),
    "dpcache-wan-10": (0, 1, 2, 3, 6, 11, 18, 27, 38, 49),
    "dpcache-wan-12": (0, 1, 2, 3, 5, 8, 13, 19, 26, 34, 42, 49),
    "dpcache-wan-15": (0, 1, 2, 3, 5, 8, 11, 15, 19, 24, 29, 34, 39, 44, 49),
}

#: The evaluated steps of each set, at 50 steps.
SEARCHED: dict[str, Steps] = {**_NINE, **_OFFICIAL, **_DPCACHE}

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


def published_set(name: str, evaluations: int | None) -> str:
    """The set of the same source that has this many evaluations, where one is published; else the set itself.

    published_set("dpcache-flux-13", 10)  # "dpcache-flux-10"
    """
    sibling = f"{name.rpartition('-')[0]}-{evaluations}"
    return sibling if sibling in SEARCHED else name


#: The steps of the runs on which all of the sets were found.
SEARCHED_AT = _STEPS

#: MeanCache's spans that belong to its official sets (arXiv:2601.19961): pairs (step, span), each holding from that
#: step to the next pair's, as `MeanVelocity` takes them, with `of=SEARCHED_AT` for runs of other lengths.
MEANCACHE_SPANS = {name: _pairs(SEARCHED[name], named) for name, named in _SPANS.items()}


@dataclass(frozen=True)
class Searched(StaticController):
    """A set of steps found by search at 50 steps: the published one there, and its shape for other runs and counts.

    The set is read as a curve from the share of the evaluations made, i / (n - 1), to the share of the run done,
    step / 49, with lines between; the curve is sampled at as many places as there are to be evaluations, rounded to
    steps and kept distinct. The first step is always evaluated, and the last one where the set holds it: DPCache's for
    FLUX do not. The rescaling is this library's.

    Sources: "golden", typical of the best among 1 370 754 sets, nanguoyu/Golden-Path-Hypothesis, from which the next
    four are taken too; "budcache", arXiv:2606.13496; "meancache", arXiv:2601.19961; "dpcache-golden",
    arXiv:2602.22654; "seacache-steps", arXiv:2602.18993. The authors' own are "meancache-qwen-10" and the like, with
    `MEANCACHE_SPANS`, and "dpcache-flux-13" and the like. All were searched with reuse, except MeanCache's and
    DPCache's own forecasts.

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
                f"Searched(evaluations=...) must be at least 2, got {self.evaluations}; both ends of the set are "
                "evaluated."
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
