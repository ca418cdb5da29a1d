"""Evaluations that lie further apart as the run goes on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

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
        if self.reading not in ("code", "paper"):
            raise ValueError(f"Growing(reading=...) must be 'code' or 'paper', got {self.reading!r}.")
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
