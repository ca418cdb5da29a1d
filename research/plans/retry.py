"""Hard images drawn again: a cheap plan first, a dearer one where the run-time check says no, or a fitted rule does."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from research.plans.draws import FACTORS, Planned, drawn_images, planned, psnr
from research.plans.figures import fidelity
from research.plans.study import TEN, Study
from skipcast.grid import Vector
from skipcast.pipelines.recording.replay import PipelineEvaluator
from skipcast.plans.adaptive import BEHIND, AdaptivePlan, Trial, Watch, doubted_by
from skipcast.plans.closed_loop import Table
from skipcast.plans.plan import Plan, worst_twentieth
from skipcast.plans.profile import Profile

FIRST = (8, TEN)
AGAIN = (13, 17, 25)
#: Pairs that the rule is fitted on and foretold by, half of them each; evaluations behind which detection is told.
PAIRS = 256
TOLD = (1, 2, 3)
FALSE_ALARMS = (0.02, 0.05, 0.1)
#: Detection is told at this share of false alarms.
SHARE = 0.05


def measure(
    study: Study,
    *,
    first: Sequence[int] = FIRST,
    again: Sequence[int] = AGAIN,
    pairs: int = PAIRS,
    profile: Path | None = None,
) -> dict[str, Any]:
    """What it costs on average, and reaches, to draw again, or begin again at once, what a plan is not trusted on.

    Args:
        study: model, images, plans.
        first: evaluations of the plans that draw every image; the last of them also begins again at once.
        again: evaluations of the plans that draw the flagged ones again.
        pairs: recorded to fit the rule on, none of which the plans have seen.
        profile: a recording of such pairs instead.
    """
    model, settings = study.model, study.settings
    truth = drawn_images(model, settings)
    made: dict[int, Planned] = {}
    for evaluations in sorted({*first, *again}):
        study.advance(f"plan of {evaluations}")
        made[evaluations] = planned(model, settings, study.plan(evaluations), strict=True)
    reached: dict[int, Vector] = {evaluations: psnr(found.images, truth) for evaluations, found in made.items()}
    rows: list[dict[str, Any]] = []
    for cheap in first:
        rows.append(_row(cheap, None, None, np.zeros(len(truth), dtype=bool), reached))
        for factor in FACTORS:
            flagged = np.array(made[cheap].flagged[factor])
            rows += [_row(cheap, factor, dear, flagged, reached) for dear in again if dear > cheap]
    study.advance("rule")
    recorded = Profile.load(profile) if profile else study.record(pairs)
    early = _early(study, recorded, first[-1], [dear for dear in again if dear > first[-1]], reached)
    return {"rows": rows, "alone": {str(dear): fidelity(reached[dear]) for dear in again}, "early": early}


def _early(
    study: Study, profile: Profile, cheap: int, again: Sequence[int], reached: dict[int, Vector]
) -> dict[str, Any]:
    """Beginning again as soon as a doubt is seen, by the forecasts or by a fitted rule.

    What an image becomes is known from both plans' own images, since an adaptive plan gives either one exactly.
    """
    plans = {count: study.plan(count) for count in (cheap, *again)}
    told = [*(n for n in TOLD if n < cheap - 1), cheap - 1]
    evaluator = PipelineEvaluator(study.model.pipe, profile.origin, study.settings.batch)
    trial = Trial(profile, [plans[cheap], plans[again[0]]], evaluator, told)
    study.advance("doubts of the held-out images")
    features = _features(study, trial.adaptive, profile, told)
    expected = plans[cheap].expected
    assert expected is not None
    # The first features are the residuals of all forecasts so far.
    excess = {n: (table[:, :n] - np.log10(expected[1 : n + 1, 1])).max(axis=1) for n, table in features.items()}
    scores = {
        doubt.evaluation: features[doubt.evaluation] @ doubt.weights + doubt.offset
        for doubt in trial.fitted(SHARE).doubts
    }
    worst = np.zeros(len(reached[cheap]), dtype=bool)
    worst[np.argsort(reached[cheap])[: len(worst_twentieth(reached[cheap]))]] = True
    behind = [n for n in BEHIND if n in told]
    rows = []
    for dear in again:
        seconds = replace(trial.adaptive, plans=(plans[cheap], plans[dear]))
        for factor in FACTORS:
            doubted, counts = _checked(plans[cheap], plans[dear], features[cheap - 1], factor)
            rows.append(
                {"rule": "check", "at": factor, "again": dear, **_begun(doubted, counts, worst, reached, cheap, dear)}
            )
        for share in FALSE_ALARMS:
            made = replace(seconds, doubts=trial.fitted(share, behind).doubts)
            doubted, counts = doubted_by(made, scores)
            rows.append(
                {"rule": "fitted", "at": share, "again": dear, **_begun(doubted, counts, worst, reached, cheap, dear)}
            )
    return {
        "first": cheap,
        "pairs": len(trial.fit),
        "behind": behind,
        "alone": fidelity(reached[cheap]),
        "false_alarms": SHARE,
        "detection": [
            {"behind": n, "check": _detected(excess[n], worst), "fitted": _detected(scores[n], worst)} for n in told
        ],
        "rows": rows,
    }


def _features(
    study: Study, adaptive: AdaptivePlan, profile: Profile, told: Sequence[int]
) -> dict[int, NDArray[np.float64]]:
    """What the held-out images show behind these evaluations, (n, F) each."""
    images, plan = study.settings.pairs, adaptive.plans[0]
    origin = replace(
        profile.origin,
        prompts=tuple(str(image.prompt) for image in images),
        seeds=tuple(image.seed for image in images),
        varied={},
    )
    evaluator = PipelineEvaluator(study.model.pipe, origin, study.settings.batch)
    table = Table(plan.steps, plan.rows, plan.evaluation_timesteps, plan.scale)
    parts: dict[int, list[NDArray[np.float64]]] = {n: [] for n in told}

    def program(x: Tensor) -> Generator[Tensor, Tensor, None]:
        watch, outputs = Watch(adaptive, x, len(plan)), list[Tensor]()
        for n in range(len(plan)):
            outputs.append((yield x))
            watch.see(outputs[-1])
            if n in parts:
                parts[n].append(watch.features().double().cpu().numpy())
            x = table.moved(n, x, outputs)

    for some in evaluator.groups(range(len(images))):
        evaluator.call(some, table.timesteps.tolist(), table.scale.tolist(), program)
    return {n: np.concatenate(found) for n, found in parts.items()}


def _checked(
    cheap: Plan, dear: Plan, features: NDArray[np.float64], factor: float
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which images the forecasts doubt, and the evaluations of each."""
    assert cheap.expected is not None
    over = 10 ** features[:, : len(cheap) - 1] > factor * cheap.expected[1:, 1]
    shared = AdaptivePlan([cheap, dear]).shared
    behind = np.maximum(over.argmax(axis=1) + 2, shared)
    doubted: NDArray[np.bool_] = np.any(over, axis=1)
    return doubted, np.where(doubted, behind + len(dear) - shared, len(cheap))


def _begun(
    doubted: NDArray[np.bool_],
    counts: NDArray[np.int64],
    worst: NDArray[np.bool_],
    reached: dict[int, Vector],
    cheap: int,
    dear: int,
) -> dict[str, Any]:
    return {
        "begun": float(doubted.mean()),
        "found": float(doubted[worst].mean()),
        "evaluations": float(counts.mean()),
        "held_out": fidelity(np.where(doubted, reached[dear], reached[cheap])),
    }


def _detected(score: Vector, worst: NDArray[np.bool_]) -> float:
    """Share of the worst images above the score that the given share of the others exceeds."""
    return float((score[worst] > np.quantile(score[~worst], 1 - SHARE)).mean())


def _row(
    cheap: int, factor: float | None, dear: int | None, flagged: np.ndarray[Any, Any], reached: dict[int, Vector]
) -> dict[str, Any]:
    found = reached[cheap] if dear is None else np.where(flagged, reached[dear], reached[cheap])
    share = float(flagged.mean())
    return {
        "first": cheap,
        "factor": factor,
        "again": dear,
        "flagged": share,
        "evaluations": cheap + share * (dear or 0),
        "held_out": fidelity(found),
    }
