"""Hard images drawn again: a cheap plan first, a dearer one where the run-time check says no, or a fitted rule does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from research.plans.draws import FACTORS, Planned, drawn_images, planned, psnr
from research.plans.figures import fidelity
from research.plans.study import TEN, Study
from skipcast.grid import Vector
from skipcast.pipelines.recording.replay import PipelineEvaluator
from skipcast.plans.adaptive import AdaptivePlan
from skipcast.plans.doubting import BEHIND, Trial, detected, shown, worst_of
from skipcast.plans.profile import Profile

FIRST = (8, TEN)
AGAIN = (13, 17, 25)
#: Pairs that the rule is fitted on and foretold by, half of them each; evaluations behind which detection is told.
PAIRS = 256
TOLD = (1, 2, 3)
FALSE_ALARMS = (0.02, 0.05, 0.1)
#: What the bars found best at ten evaluations beside plans, drawn of the same images.
RIVALS = ("lagrange:evaluations=10,order=2,schedule=even",)
#: Detection is told at this share of false alarms.
SHARE = 0.05


def measure(
    study: Study,
    *,
    first: Sequence[int] = FIRST,
    again: Sequence[int] = AGAIN,
    pairs: int = PAIRS,
    profile: Path | None = None,
    rivals: Sequence[str] = RIVALS,
) -> dict[str, Any]:
    """What it costs on average, and reaches, to draw again, or begin again at once, what a plan is not trusted on.

    Args:
        study: model, images, plans.
        first: evaluations of the plans that draw every image; the last of them also begins again at once.
        again: evaluations of the plans that draw the flagged ones again.
        pairs: recorded to fit the rule on, none of which the plans have seen.
        profile: a recording of such pairs instead.
        rivals: other methods, to compare with.
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
    others = {spec: fidelity(psnr(drawn_images(model, settings, spec), truth)) for spec in rivals}
    study.advance("rule")
    recorded = Profile.load(profile) if profile else study.record(pairs)
    early = _early(study, recorded, first[-1], [dear for dear in again if dear > first[-1]], reached)
    return {
        "rows": rows,
        "alone": {str(dear): fidelity(reached[dear]) for dear in again},
        "others": others,
        "early": early,
    }


def _early(
    study: Study, profile: Profile, cheap: int, again: Sequence[int], reached: dict[int, Vector]
) -> dict[str, Any]:
    """Beginning again as soon as a doubt is seen, by the forecasts or by a fitted rule.

    What an image becomes is known from both plans' own images, since an adaptive plan gives either one exactly.
    """
    plans = {count: study.plan(count) for count in (cheap, *again)}
    told = [*(n for n in TOLD if n < cheap - 1), cheap - 1]
    behind = [n for n in BEHIND if n in told]
    evaluator = PipelineEvaluator(study.model.pipe, profile.origin, study.settings.batch)
    trial = Trial(profile, [plans[cheap], plans[again[0]]], evaluator, told)
    study.advance("doubts of the held-out images")
    images = study.settings.pairs
    origin = replace(
        profile.origin,
        prompts=tuple(str(image.prompt) for image in images),
        seeds=tuple(image.seed for image in images),
        varied={},
    )
    everyone = range(len(images))
    evaluator = PipelineEvaluator(study.model.pipe, origin, study.settings.batch)
    features, _ = shown(trial.adaptive, evaluator, everyone, told)
    expected = plans[cheap].expected
    assert expected is not None
    # The first features are the log residuals of all forecasts so far.
    excess = features[cheap - 1][:, : cheap - 1] - np.log10(expected[1:, 1])
    worst = worst_of(reached[cheap])
    every = trial.fitted(SHARE).doubts
    scores = {doubt.evaluation: features[doubt.evaluation] @ doubt.weights + doubt.offset for doubt in every}
    rows = []
    for dear in again:
        made = AdaptivePlan([plans[cheap], plans[dear]])
        overs: list[tuple[str, float, dict[int, Any]]] = [
            ("check", factor, {n: excess[:, n - 1] > np.log10(factor) for n in range(1, cheap)}) for factor in FACTORS
        ]
        for share in FALSE_ALARMS:
            limits = {doubt.evaluation: doubt.limit for doubt in trial.fitted(share, behind).doubts}
            overs.append(("fitted", share, {n: scores[n] > limit for n, limit in limits.items()}))
        for rule, at, over in overs:
            doubted, counts = made.begun(over)
            row = {"rule": rule, "at": at, "again": dear, "begun": float(doubted.mean())}
            row |= {"found": float(doubted[worst].mean()), "evaluations": float(counts.mean())}
            rows.append(row | {"held_out": fidelity(np.where(doubted, reached[dear], reached[cheap]))})
    return {
        "first": cheap,
        "pairs": len(trial.fit),
        "behind": behind,
        "alone": fidelity(reached[cheap]),
        "false_alarms": SHARE,
        "detection": [
            {
                "behind": n,
                "check": detected(excess[:, :n].max(axis=1), worst, SHARE),
                "fitted": detected(scores[n], worst, SHARE),
            }
            for n in told
        ],
        "rows": rows,
    }


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
