"""One batch of an adaptive plan: who is evaluated next, who begins again, and what it cost every sample."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from skipcast.pipelines.plan_run import Course, PlanRun
from skipcast.plans.adaptive import AdaptivePlan, Watch


def course_of(adaptive: AdaptivePlan) -> Course:
    """The evaluations of both plans one after the other, without those that the dearer one takes over."""
    cheap, dear = (Course.whole(plan) for plan in adaptive.plans)
    rest = adaptive.shared
    return replace(
        cheap,
        steps=cheap.steps + dear.steps[rest:],
        rows=cheap.rows + dear.rows[rest:],
        timesteps=np.append(cheap.timesteps, dear.timesteps[rest:]),
        scale=np.append(cheap.scale, dear.scale[rest:]),
        places=cheap.places + dear.places[rest:],
        forecasts=cheap.forecasts + dear.forecasts[rest:],
    )


class AdaptiveRun:
    """Takes the outputs of the samples that are wanted, and returns the whole batch as the next evaluation needs it.

    In the first m_1 places every sample runs the cheaper plan until it is doubted; in the rest the doubted ones run the
    dearer plan from x_0 and the outputs that both make. A sample that is not wanted stays as it is.

    Args:
        adaptive: the plan.
        samples: B.
    """

    def __init__(self, adaptive: AdaptivePlan, samples: int) -> None:
        self.place, self.length, self._taken = 0, len(course_of(adaptive)), adaptive.shared
        self._adaptive, self._run = adaptive, PlanRun(Course.whole(adaptive.plans[0]), None)
        self.wanted = torch.arange(samples)
        self.again = self.wanted[:0]
        self.evaluations = torch.zeros(samples, dtype=torch.int64)
        self._shared: list[Tensor] = []  # x_0, and the outputs that both plans make
        self._watch: Watch | None = None

    def advance(self, y: Tensor, x: Tensor) -> Tensor:
        """The next samples, (B, *shape), from the outputs of those wanted and all present samples."""
        rows, first = self.wanted.to(x.device), len(self._adaptive.plans[0])
        if self._watch is None:
            self._watch = Watch(self._adaptive, x)
            self._shared.append(x.detach().clone())
        if len(rows):
            self.evaluations[self.wanted] += 1
            moved = self._run.advance(y, x[rows])
            if self.place < self._taken:
                self._shared.append(y.detach().clone())
            x = x.index_copy(0, rows, moved)
        if self.place < first and len(rows):
            # Doubts wait for the last output that both plans make; they are read only where there may be new ones.
            early = self.place - self._taken + 1
            looked = self._watch.see(y)
            if early >= 0 and (looked or not early) and bool(self._watch.doubted.any()):
                self._stop(self._watch)
        self.place += 1
        return self._begin_again(x) if self.place == first else x

    def _stop(self, watch: Watch) -> None:
        """Ask no more evaluations of the cheaper plan for those that are doubted."""
        doubted = watch.doubted
        stay = doubted.logical_not().nonzero().flatten()
        self.again = torch.cat([self.again, self.wanted[doubted.cpu()]]).sort().values
        self.wanted = self.wanted[stay.cpu()]
        self._run.keep(stay)
        watch.keep(stay)

    def _begin_again(self, x: Tensor) -> Tensor:
        rows = self.again.to(x.device)
        start, *outputs = self._shared
        self._run, self._shared = PlanRun(Course.whole(self._adaptive.plans[1]), None), []
        again = start[rows]
        for y in outputs:
            again = self._run.advance(y[rows], again)
        self.wanted = self.again
        return x.index_copy(0, rows, again) if len(rows) else x

    def bytes(self) -> int:
        """Memory held by outputs, by what is compared, and by what a doubted sample begins again with, in bytes."""
        compared = self._watch.bytes() if self._watch else 0
        return self._run.bytes() + compared + sum(t.numel() * t.element_size() for t in self._shared)
