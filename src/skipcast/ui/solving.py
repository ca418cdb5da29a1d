"""Record a profile of the model and solve plans from it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from skipcast.bench.prompts import prompts_to_record
from skipcast.pipelines.recording.record import record
from skipcast.plans.plan import Plan
from skipcast.plans.profile import Profile
from skipcast.plans.refine import EFFORTS
from skipcast.ui.model import Loaded, Models, Report, watched
from skipcast.ui.state import SOLVE, Session

#: The effort that solves from the recording alone, without further network calls.
OPEN = "open loop"
WORK = (OPEN, *EFFORTS)
_BATCH = 8
_MOST_PAIRS = 256
_DAMPED = 6  # candidates that a joint sweep tries


@dataclass(frozen=True)
class PlanRequest:
    """A profile to record and the plans to solve from it.

    Raises:
        ValueError: a number out of range.
    """

    model: str  # its name
    budgets: tuple[int, ...]  # evaluations, one plan each
    pairs: int = 8  # of a prompt and a seed
    seed: int = 0  # of the first pair; the next ones count up
    steps: int = 50  # of the unaccelerated run
    effort: str = "low"  # one of `WORK`
    guidance: float | None = None  # the guidance scale; None for the model's own
    prompts: tuple[str, ...] = ()  # one per pair, repeated where they are fewer; () for those that suit the model

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
class Solved:
    """An event: a plan is solved."""

    label: str  # its name in the session
    plan: Plan  # the plan
    seconds: float  # of solving
    calls: int = 0  # network calls of solving; the recording is not counted


def budgets_of(text: str) -> tuple[int, ...]:
    """Read evaluations from text: '6, 8 10' gives (6, 8, 10), each once, rising.

    Raises:
        ValueError: something else than whole numbers.
    """
    words = re.split(r"[\s,;]+", text.strip())
    if not all(word.isdigit() for word in words if word):
        raise ValueError(f"evaluations {text!r} must be whole numbers, such as 10, or 6, 8, 10 for three plans.")
    return tuple(sorted({int(word) for word in words if word}))


def solve(models: Models, request: PlanRequest, session: Session, report: Report) -> Iterator[Solved]:
    """Record the model and yield the plan of every budget, which is also kept in the session.

    Others may use the pipeline while the caller has control.

    Raises:
        ValueError: no such model, or no plan can be solved.
        Stopped: the session was stopped; the pipeline is as before.
    """
    check = partial(session.check, SOLVE)
    with models.using(request.model, report) as loaded:
        profile = _profile(loaded, request, check, report)
    for budget in request.budgets:
        with models.using(request.model, report) as loaded:
            solved = _solved(loaded, profile, budget, request, session, report)
        yield solved


def _profile(loaded: Loaded, request: PlanRequest, check: Callable[[], None], report: Report) -> Profile:
    count, given = request.pairs, request.prompts
    prompts = [given[i % len(given)] for i in range(count)] if given else list(prompts_to_record(loaded.model, count))
    words = f"recording {count} full {'run' if count == 1 else 'runs'} of {request.steps} steps"
    report(0.0, words)
    total = loaded.warm(request.guidance, prompts[0], check) * request.steps * math.ceil(count / _BATCH)
    made = 0

    def tick() -> None:
        nonlocal made
        check()
        made += 1
        report(min(1.0, made / total), words)

    with watched(loaded.pipe, tick):
        return record(
            loaded.pipe,
            prompts,
            seeds=request.seed,
            num_inference_steps=request.steps,
            keep_trajectory=request.effort != OPEN,
            batch=_BATCH,
            progress=False,
            revision=loaded.model.revision,
            **loaded.call(request.guidance),
        )


def _solved(
    loaded: Loaded, profile: Profile, budget: int, request: PlanRequest, session: Session, report: Report
) -> Solved:
    work: dict[str, Any] = {} if request.effort == OPEN else {"refine": loaded.pipe, "effort": request.effort}
    effort = EFFORTS.get(request.effort)
    candidates = effort.candidates + _DAMPED * effort.sweeps if effort else 1
    made, tried, best = 0, 0, -math.inf

    def show() -> None:
        calls = f", {made} network calls" if made else ""
        reached = f", best so far {best:.1f} dB" if math.isfinite(best) else ""
        report(min(1.0, tried / candidates), f"solving for {budget} evaluations{calls}{reached}")

    def tick() -> None:
        nonlocal made
        session.check(SOLVE)
        made += 1
        show()

    def advance(words: str) -> None:
        nonlocal tried, best
        session.check(SOLVE)
        tried += 1
        if reached := re.search(r"(-?[\d.]+) dB$", words):
            best = max(best, float(reached[1]))
        show()

    session.check(SOLVE)
    show()
    started = time.perf_counter()
    with watched(loaded.pipe, tick):
        plan = profile.plan(evaluations=budget, batch=_BATCH, advance=advance, **work)
    seconds = time.perf_counter() - started
    label = session.add(plan, f"{_stem(request.model)}-{budget}-of-{request.steps}")
    return Solved(label, plan, seconds, made)


def _stem(model: str) -> str:
    """Return a model's name in a form that is valid in file names."""
    return re.sub(r"[^\w.-]+", "-", model.rstrip("/").rpartition("/")[2]).strip("-.") or "model"
