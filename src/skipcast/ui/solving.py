"""Record a profile and solve plans, with progress."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from skipcast.bench.spec import prompts_to_record
from skipcast.pipelines.recording.record import record
from skipcast.plans.plan import Plan
from skipcast.plans.refine import EFFORTS
from skipcast.ui.jobs import Job, watched
from skipcast.ui.studio import Loaded, Studio
from skipcast.ui.visitors import Visitor

#: Effort of the solver that asks the network nothing.
OPEN = "open loop"
WORK = (OPEN, *EFFORTS)
_BATCH = 8
_MOST_PAIRS = 256
_PAUSE = 0.15  # seconds between two words on progress
_DAMPED = 6  # candidates that a joint sweep tries


@dataclass(frozen=True)
class Order:
    """A profile to be recorded and the plans to be solved from it.

    Args:
        model: its name.
        budgets: evaluations, one plan each.
        pairs: of a prompt and a seed.
        seed: of the first pair; the next ones count up.
        steps: of the unaccelerated run.
        effort: one of `WORK`.
        guidance: its scale; None for the model's own.
        prompts: one per pair, over again where they are fewer; () for those that suit the model.

    Raises:
        ValueError: a number out of range.
    """

    model: str
    budgets: tuple[int, ...]
    pairs: int = 8
    seed: int = 0
    steps: int = 50
    effort: str = "low"
    guidance: float | None = None
    prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.budgets:
            raise ValueError("say how many evaluations the plan may make, such as 10, or 6, 8, 10 for three plans.")
        if not 2 <= self.steps <= 1000:
            raise ValueError(f"steps={self.steps} must lie between 2 and 1000.")
        if not 1 <= self.pairs <= _MOST_PAIRS:
            raise ValueError(f"pairs={self.pairs} must lie between 1 and {_MOST_PAIRS}.")
        if not 0 <= self.seed < 2**62:
            raise ValueError(f"seed={self.seed} must be a whole number from 0 on.")
        if self.effort not in WORK:
            raise ValueError(f"effort={self.effort!r} must be one of {', '.join(WORK)}.")
        for budget in self.budgets:
            if not 1 <= budget < self.steps:
                raise ValueError(f"a plan of {budget} evaluations must have fewer than the {self.steps} steps.")


@dataclass(frozen=True)
class Progress:
    """How far the order is: a share of the stage that `words` name."""

    share: float
    words: str


@dataclass(frozen=True)
class Solved:
    """A plan is done; `label` is its name among the visitor's."""

    label: str
    plan: Plan
    seconds: float
    made: int = field(default=0)  # network calls that it cost, the recording left out


def budgets_of(text: str) -> tuple[int, ...]:
    """'6, 8 10' -> (6, 8, 10), each once, rising.

    Raises:
        ValueError: something else than whole numbers.
    """
    words = re.split(r"[\s,;]+", text.strip())
    if not all(word.isdigit() for word in words if word):
        raise ValueError(f"evaluations {text!r} must be whole numbers, such as 10, or 6, 8, 10 for three plans.")
    return tuple(sorted({int(word) for word in words if word}))


def solve(studio: Studio, order: Order, visitor: Visitor) -> Job:
    """A job that tells `Progress`, and `Solved` for every budget; the pipeline is restored also where it is stopped."""

    def work(job: Job) -> None:
        with studio.using(order.model, job, lambda words: job.tell(Progress(0.0, words))) as loaded:
            _solve(loaded, order, visitor, job)

    return Job(work)


def _solve(loaded: Loaded, order: Order, visitor: Visitor, job: Job) -> None:
    count = order.pairs
    given = order.prompts
    prompts = [given[i % len(given)] for i in range(count)] if given else list(prompts_to_record(loaded.model, count))
    words = f"recording {count} full {'run' if count == 1 else 'runs'} of {order.steps} steps"
    job.tell(Progress(0.0, words))
    per_step = loaded.warm(order.guidance, prompts[0], job)
    total = per_step * order.steps * math.ceil(count / _BATCH)
    with watched(loaded.pipe, _Ticks(job, lambda made: Progress(min(1.0, made / total), words))):
        profile = record(
            loaded.pipe,
            prompts,
            seeds=order.seed,
            num_inference_steps=order.steps,
            keep_trajectory=order.effort != OPEN,
            batch=_BATCH,
            progress=False,
            revision=loaded.model.revision,
            **loaded.call(order.guidance),
        )
    for budget in order.budgets:
        job.check()
        ticks = _Ticks(job, _Stage(budget, order.effort))
        job.tell(ticks.stage(0))
        started = time.perf_counter()
        work: dict[str, Any] = {} if order.effort == OPEN else {"refine": loaded.pipe, "effort": order.effort}
        with watched(loaded.pipe, ticks):
            plan = profile.plan(nfe=budget, batch=_BATCH, advance=ticks.note, **work)
        seconds = time.perf_counter() - started
        label = visitor.add(plan, f"{_stem(order.model)}-{budget}-of-{order.steps}")
        job.tell(Solved(label, plan, seconds, ticks.made))


class _Ticks:
    """Counts network calls, ends the work where it is stopped, and tells the stage now and then."""

    def __init__(self, job: Job, stage: Callable[[int], Progress]) -> None:
        self.job, self.stage, self.made, self._told = job, stage, 0, 0.0

    def __call__(self) -> None:
        self.job.check()
        self.made += 1
        if time.monotonic() - self._told > _PAUSE:
            self._told = time.monotonic()
            self.job.tell(self.stage(self.made))

    def note(self, words: str) -> None:
        """The solver finished a candidate."""
        self.job.check()
        if isinstance(self.stage, _Stage):
            self.stage.noted(words)
            self.job.tell(self.stage(self.made))


class _Stage:
    """The words on a plan being solved: candidates so far, and the best of them."""

    def __init__(self, budget: int, effort: str) -> None:
        work = EFFORTS.get(effort)
        self._words = f"solving for {budget} evaluations"
        self._notes, self._best = 0, -math.inf
        self._all = work.candidates + _DAMPED * work.sweeps if work else 1

    def noted(self, words: str) -> None:
        self._notes += 1
        if reached := re.search(r"(-?[\d.]+) dB$", words):
            self._best = max(self._best, float(reached[1]))

    def __call__(self, made: int) -> Progress:
        best = f", best so far {self._best:.1f} dB" if self._notes else ""
        calls = f", {made} network calls" if made else ""
        return Progress(min(1.0, self._notes / self._all), self._words + calls + best)


def _stem(model: str) -> str:
    """A model's name as part of a file's."""
    return re.sub(r"[^\w.-]+", "-", model.rstrip("/").rpartition("/")[2]).strip("-.") or "model"
