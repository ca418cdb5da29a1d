"""The limit: the best fixed scheme of m evaluations, sought by gradients through the network, beside the solver's."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from research.plans.draws import drawn_images, planned, psnr
from research.plans.figures import fidelity
from research.plans.gradients import Course, Descent, Network
from research.plans.study import Study
from skipcast.checkpoint import write_whole
from skipcast.grid import Vector
from skipcast.pipelines.recording.replay import PipelineEvaluator
from skipcast.plans.closed_loop import final_errors, linearise
from skipcast.plans.plan import Plan, worst_twentieth
from skipcast.plans.profile import Profile
from skipcast.plans.refine import TIMESTEP_CHANGE, WORST, Split

BUDGETS = (5, 6, 8, 10)
PAIRS = 96
_DRAW = 13
#: Efforts of the plans that the descent may begin at.
STARTS = {"closed": "low", "plan": "high"}


def measure(
    study: Study,
    *,
    budgets: Sequence[int] = BUDGETS,
    pairs: int = PAIRS,
    start: Literal["closed", "plan"] = "plan",
    effort: str = "high",
    descent: Descent | None = None,
    states: Path | None = None,
) -> dict[str, Any]:
    """The plan of an effort beside what gradients through the network make of a plan, both from the same pairs.

    Costs are in unaccelerated runs per recorded pair, the recording not counted; that of the limit includes its start.

    Args:
        study: model and images; its plans are not used.
        budgets: numbers of evaluations.
        pairs: recorded.
        start: where the descent begins: at the plan of little effort, "closed", or of high effort, "plan".
        effort: of the plan that is compared with.
        descent: how it is descended.
        states: folder from which an interrupted measurement goes on; None keeps nothing.
    """
    descent = descent or Descent()
    study.advance(f"recording {pairs} pairs")
    profile = study.record(pairs, _DRAW)
    evaluator = PipelineEvaluator(study.model.pipe, profile.origin, study.settings.batch)
    truth = drawn_images(study.model, study.settings)
    folder = None if states is None else states / f"{study.model.revision}-{pairs}"

    def judged(plan: Plan, generations: float) -> dict[str, Any]:
        fit = Split.of(pairs).fit
        assert profile.trajectory is not None
        errors = final_errors(plan.table, evaluator, profile.trajectory[:, -1].float(), fit)
        return {
            "steps": list(plan.steps),
            "held_out": fidelity(psnr(planned(study.model, study.settings, plan, strict=True).images, truth)),
            "fitted": fidelity(-10 * np.log10(np.maximum(profile.gain[fit] * errors, 1e-30))),
            "generations": generations,
        }

    rows = []
    for budget in budgets:

        def advance(note: str, budget: int = budget) -> None:
            study.advance(f"{budget} evaluations, {note}")

        plan = solved(profile, budget, effort, evaluator, folder, advance)
        begun = solved(profile, budget, STARTS[start], evaluator, folder, advance)
        state = None if folder is None else folder / f"{budget}.state"
        limit, cost, found = descended(profile, begun[0], evaluator, descent, state, advance)
        row = {"budget": budget, "plan": judged(*plan), "start": judged(*begun)}
        rows.append({**row, "limit": {**judged(limit, begun[1] + cost), **found}})
    return {
        "pairs": pairs,
        "fit": len(Split.of(pairs).fit),
        "start": start,
        "effort": effort,
        "iterations": descent.iterations,
        "batch": descent.batch,
        "joint": descent.joint,
        "rows": rows,
    }


def joined(data: dict[str, Any], details: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    """A measurement with the rows of an earlier one of the same model, images and settings for other budgets.

    A budget takes an hour or more, so they are measured one at a time; every row names its command, commit and day.
    """
    source = ("command", "commit", "date")
    rows = {row["budget"]: {**row, "about": {name: details[name] for name in source}} for row in data["rows"]}
    about = (before or {}).get("about", {})
    same = ("revision", "settings", "prompts")
    alike = before is not None and all(about.get(name) == details[name] for name in same)
    if before is not None and alike and all(before.get(name) == data[name] for name in data if name != "rows"):
        origin = {name: about[name] for name in source}
        rows = {row["budget"]: {"about": origin, **row} for row in before["rows"]} | rows
    return {**data, "rows": [rows[budget] for budget in sorted(rows)]}


def solved(
    profile: Profile,
    budget: int,
    effort: str,
    evaluator: PipelineEvaluator,
    folder: Path | None,
    advance: Callable[[str], None],
) -> tuple[Plan, float]:
    """The plan of an effort, and its cost in unaccelerated runs per pair."""
    kept = None if folder is None else folder / f"{effort}-{budget}.json"
    if kept is not None and kept.is_file():
        found = json.loads(kept.read_text(encoding="utf-8"))
        return Plan.from_dict(found["plan"]), float(found["generations"])
    before = evaluator.evaluations
    plan = profile.plan(evaluations=budget, refine=evaluator, effort=effort, advance=lambda note, share: advance(note))
    cost = (evaluator.evaluations - before) / profile.origin.steps / len(profile)
    if kept is not None:
        write_whole(kept, json.dumps({"plan": plan.as_dict(), "generations": cost}).encode())
    return plan, cost


def descended(
    profile: Profile,
    plan: Plan,
    evaluator: PipelineEvaluator,
    descent: Descent,
    state: Path | None = None,
    advance: Callable[[str], None] = lambda note: None,
) -> tuple[Plan, float, dict[str, Any]]:
    """What the descent makes of a plan, its cost in unaccelerated runs per pair, and how it went.

    The iterates are chosen between as tables are by the solver: by mean and 5 % worst of the same pairs.

    Raises:
        ValueError: a profile without trajectories, or a network that does not agree with the pipeline's.
    """
    if profile.trajectory is None:
        raise ValueError("descended(profile=...) needs the reference states; record it with keep_trajectory=True.")
    before, split, table = evaluator.evaluations, Split.of(len(profile)), plan.table
    final: Tensor = profile.trajectory[:, -1].float()
    change = TIMESTEP_CHANGE * float(np.ptp(profile.timesteps))
    local = linearise(table, evaluator, final, split.fit, timestep_change=change)
    course = Course(table, local.places, Network(evaluator, profile.trajectory[:, 0]), final)
    course.check(evaluator, split.fit[:8])

    def score(errors: Vector) -> float:
        rising = np.sort(-10 * np.log10(np.maximum(profile.gain[split.choose] * errors, 1e-30)))
        return float((1 - WORST) * rising.mean() + WORST * worst_twentieth(rising).mean())

    found = descent.run(course, local, split, score, state=state, advance=advance)
    moved = local.applied(table, found["change"])
    used = found["evaluations"] + evaluator.evaluations - before
    made = replace(plan, rows=moved.rows, evaluation_timesteps=moved.timesteps, predicted=None, label="gradients")
    curve = [{"iteration": i, "score": round(value, 3)} for i, value, _ in found["looks"]]
    return made, used / profile.origin.steps / len(profile), {"iteration": found["iteration"], "curve": curve}
