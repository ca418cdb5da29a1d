"""Record a profile of the model and solve plans from it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from skipcast.bench.prompts import prompts_to_record
from skipcast.pipelines.recording.record import record
from skipcast.plans.plan import Plan
from skipcast.plans.profile import Profile
from skipcast.plans.refine import EFFORTS
from skipcast.ui.limits import BUDGETS
from skipcast.ui.state import SOLVE, Loaded, Models, Report, Session, watched

#: The effort that solves from the recording alone, without further network calls.
OPEN = "open loop"
WORK = (OPEN, *EFFORTS)
_BATCH = 8


@dataclass(frozen=True)
class PlanRequest:
    """A profile to record and the plans to solve from it."""

    model: str  # its name
    budgets: tuple[int, ...]  # evaluations, one plan each
    pairs: int = 8  # of a prompt and a seed
    seed: int = 0  # of the first pair; the next ones count up
    steps: int = 50  # of the unaccelerated run
    effort: str = "low"  # one of `WORK`
    guidance: float | None = None  # the guidance scale; None for the model's own
    prompts: tuple[str, ...] = ()  # one per pair, repeated where they are fewer; () for those that suit the model


@dataclass(frozen=True)
class Solved:
    """A plan, and what solving it took."""

    label: str  # its name in the session
    plan: Plan
    seconds: float  # of solving
    calls: int = 0  # network calls of solving; the recording is not counted


def budgets_of(text: str, steps: int) -> tuple[int, ...]:
    """Read the evaluations of plans from text: '6, 8 10' gives (6, 8, 10), each once, rising.

    Raises:
        ValueError: none, too many, something else than whole numbers, or not fewer than the steps.
    """
    words = [word for word in re.split(r"[\s,;]+", text) if word]
    if not words or not all(re.fullmatch("[0-9]{1,9}", word) for word in words):
        raise ValueError(f"evaluations {text!r:.60} must be whole numbers, such as 10, or 6, 8, 10 for three plans.")
    found = sorted({int(word) for word in words})
    if wrong := [count for count in found if not 1 <= count < steps]:
        raise ValueError(f"a plan of {wrong[0]} evaluations must have at least one, and fewer than the {steps} steps.")
    if len(found) > BUDGETS:
        raise ValueError(f"at most {BUDGETS} plans are made at once, not {len(found)}.")
    return tuple(found)


def solve(models: Models, request: PlanRequest, session: Session, report: Report) -> Iterator[Solved]:
    """Record the model and yield the plan of every budget, which is also kept in the session.

    Others may use the pipeline while the caller has control.

    Raises:
        ValueError: no such model, no plan can be solved, or the page holds too many.
        Stopped: the session was stopped; the pipeline is as before.
    """
    session.check_room(len(request.budgets))
    check = session.begin(SOLVE)
    with models.using(request.model, report) as loaded:
        profile = _profile(loaded, request, check, report)
    # The model's name in a form that is valid in file names.
    stem = re.sub(r"[^\w.-]+", "-", request.model.rstrip("/").rpartition("/")[2]).strip("-.") or "model"
    for budget in request.budgets:
        with models.using(request.model, report) as loaded:
            plan, seconds, calls = _solved(loaded, profile, budget, request.effort, check, report)
        yield Solved(session.add(plan, f"{stem}-{budget}-of-{request.steps}"), plan, seconds, calls)


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
    loaded: Loaded, profile: Profile, budget: int, effort: str, check: Callable[[], None], report: Report
) -> tuple[Plan, float, int]:
    """Return a plan, the seconds and the network calls that it took."""
    work: dict[str, Any] = {} if effort == OPEN else {"refine": loaded.pipe, "effort": effort}
    made, reached = 0, ""

    def advance(words: str = "", _share: float = 0.0) -> None:
        nonlocal reached
        check()
        reached = words or reached
        calls = f", {made} network calls" if made else ""
        report(None, f"solving for {budget} evaluations{calls}{reached and ', newest candidate ' + reached}")

    def tick() -> None:
        nonlocal made
        made += 1
        advance()

    advance()
    started = time.perf_counter()
    with watched(loaded.pipe, tick):
        plan = profile.plan(evaluations=budget, batch=_BATCH, advance=advance, **work)
    return plan, time.perf_counter() - started, made
