"""The bars that few images cannot tell: plans and their rivals on many, with intervals of every lead.

The 5 % worst of 80 images are four. Whether a plan or a rival is ahead there is luck unless there are more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from research.plans.draws import drawn_images, psnr
from research.plans.figures import fidelity
from research.plans.study import TEN, Study
from research.plans.verdicts import FEWER, FEWEST, FEWEST_GAIN, GAIN, WORST_GAIN
from skipcast.bench.draw import draw
from skipcast.bench.statistics import interval
from skipcast.grid import Vector
from skipcast.methods import names
from skipcast.models.shipped import PLAN
from skipcast.pipelines.calls import plan_of_call
from skipcast.plans.plan import Plan, Prediction, worst_twentieth

BUDGETS = (FEWEST, FEWER, TEN)
#: Plans that stand alone, to see whether what they predict holds.
ALONE = (4, 8, 13, 17, 25)
#: What the bars found best at these budgets.
RIVALS = ("lagrange:order=1,schedule=even", "lagrange:order=2,schedule=even", "ab2", "dpmpp2m", "unipc")
#: The lead of the plan of so many evaluations over the best of those with so many, in the mean or the 5 % worst, the
#: best by one or the other, and how many dB it is to be.
LEADS = (
    (TEN, TEN, "mean", "mean", GAIN),
    (TEN, TEN, "worst5", "mean", WORST_GAIN),
    (TEN, TEN, "worst5", "worst5", WORST_GAIN),
    (FEWER, TEN, "mean", "mean", 0.0),
    (FEWEST, FEWEST, "mean", "mean", FEWEST_GAIN),
)


def measure(
    study: Study,
    *,
    budgets: Sequence[int] = BUDGETS,
    alone: Sequence[int] = ALONE,
    rivals: Sequence[str] = RIVALS,
    leads: Sequence[tuple[int, int, str, str, float]] = LEADS,
    resamples: int = 2000,
) -> dict[str, Any]:
    """Plans, also those of passes, and their rivals at a few budgets, on as many images as there is time for.

    Args:
        study: model, images, plans.
        budgets: evaluations.
        alone: further ones, of plans alone.
        rivals: other methods at each of `budgets`; each must run with so few.
        leads: (evaluations of the plan, those of its rivals, the figure, the one by which the rival is the best, dB).
        resamples: of the bootstrap over prompts.

    Raises:
        FileNotFoundError: no plan for one of the budgets.
    """
    study.advance("reference")
    truth = drawn_images(study.model, study.settings)
    drawn, rows = dict[tuple[int, str, bool], Vector](), list[dict[str, Any]]()
    for budget, name, predicted, images in _drawn(study, budgets, alone, rivals):
        planned, found = name.startswith("plan:"), psnr(images, truth)
        drawn[budget, name, planned] = found
        told = None if predicted is None else asdict(predicted)
        rows.append(
            {"budget": budget, "method": name, "planned": planned, "predicted": told, "held_out": fidelity(found)}
        )
    prompts = [str(pair.prompt) for pair in study.settings.pairs]
    return {
        "images": len(truth),
        "rows": rows,
        "leads": [
            _lead(drawn, prompts, own, at, key, by, resamples, passes) | {"least": least}
            for own, at, key, by, least in leads
            for passes in (False, True)
            if any(planned and budget == own and _passes(name) == passes for budget, name, planned in drawn)
        ],
    }


def _drawn(
    study: Study, budgets: Sequence[int], alone: Sequence[int], rivals: Sequence[str]
) -> Iterator[tuple[int, str, Prediction | None, torch.Tensor]]:
    settings, pipe = study.settings, study.model.pipe
    for budget in sorted({*budgets, *alone}):
        for suffix in ("", "-passes"):
            path = study.plan_file(budget).with_name(f"default-{budget}{suffix}{PLAN}")
            if suffix and not path.is_file():
                continue
            study.advance(path.name)
            plan = plan_of_call(pipe, Plan.load(path), settings.call)
            images = [
                draw(pipe, some, plan, steps=settings.steps, call=settings.call).images for some in settings.batches
            ]
            yield budget, f"plan:default-{budget}{suffix}", plan.predicted, torch.cat(images)
        for rival in rivals if budget in budgets else ():
            spec = names.with_evaluations(rival, budget)
            study.advance(spec)
            yield budget, spec, None, drawn_images(study.model, settings, spec)


def _passes(name: str) -> bool:
    return name.endswith("-passes")


def _worst5(values: Vector) -> float:
    return float(worst_twentieth(np.sort(values)).mean())


def _lead(
    drawn: dict[tuple[int, str, bool], Vector],
    prompts: Sequence[str],
    own: int,
    at: int,
    key: str,
    by: str,
    resamples: int,
    passes: bool,
) -> dict[str, Any]:
    """How far a plan is ahead of its best rival, with the 95 % interval over prompts."""
    figure = {"mean": lambda values: float(values.mean()), "worst5": _worst5}
    plan, ours = next(
        (name, found)
        for (budget, name, planned), found in drawn.items()
        if planned and budget == own and _passes(name) == passes
    )
    others = {name: found for (budget, name, planned), found in drawn.items() if budget == at and not planned}
    rival = max(others, key=lambda name: figure[by](others[name]))
    theirs = others[rival]
    low, high = interval(
        lambda drawn: figure[key](ours[drawn]) - figure[key](theirs[drawn]), prompts, resamples=resamples
    )
    return {
        "evaluations": own,
        "at": at,
        "key": key,
        "by": by,
        "plan": plan,
        "passes": passes,
        "rival": rival,
        "ours": round(figure[key](ours), 3),
        "theirs": round(figure[key](theirs), 3),
        "interval": [round(low, 3), round(high, 3)],
    }
