"""Beginning again on one survey: ten evaluations on average, doubted samples by a dearer plan, beside plans of ten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

import skipcast as sc
from research.galaxies.reader import ScoreNet
from research.galaxies.study import BATCH, HELD_OUT_SEED, RECORDED_SEED, Denoiser, noise, noise_predictor, psnr, sampled
from research.galaxies.study import unaccelerated as recorded
from skipcast.pipelines.denoiser import DenoiserEvaluator
from skipcast.plans.doubting import Trial
from skipcast.plans.plan import Plan
from skipcast.plans.refine import WORST

BUDGET = 10
#: Evaluations of the cheaper and of the dearer plan, behind which evaluations a rule looks, and shares of false alarms.
CHEAP, DEAR = (8, 9), (13, 17)
LOOKS = ((2, 3), (4, 5))
SHARES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
#: Recorded noises that no plan was solved from: one half fits the rules, the other one chooses between them.
FITTED = 256
_FITTED_SEED = 9000


def study(
    survey: str,
    network: ScoreNet,
    *,
    pairs: int,
    held_out: int,
    budget: int = BUDGET,
    cheap: Sequence[int] = CHEAP,
    dear: Sequence[int] = DEAR,
    fitted: int = FITTED,
    report: Callable[[str], None] = lambda note: None,
) -> dict[str, Any]:
    """The plan of the budget, and the adaptive one that costs no more on average, on held-out noise, as plain JSON.

    Args:
        survey: its name.
        network: its score network.
        pairs: recorded noises that plans are solved from.
        held_out: noises to measure on.
        budget: evaluations, on average.
        cheap: evaluations of the cheaper plan that are tried.
        dear: of the dearer one.
        fitted: further recorded noises, for the rules.
        report: called with notes.
    """
    denoiser = noise_predictor(network)
    start = noise(survey, held_out, HELD_OUT_SEED)
    goal = _final(denoiser, start)
    profile = recorded(denoiser, noise(survey, pairs, RECORDED_SEED))
    plans: dict[int, Plan] = {}
    for count in sorted({budget, *cheap, *dear}):
        plans[count] = profile.plan(evaluations=count, refine=denoiser, batch=BATCH)
        report(f"plan of {count}: {plans[count]!r}")
    fresh = recorded(denoiser, noise(survey, fitted, _FITTED_SEED))
    evaluator = DenoiserEvaluator(denoiser, fresh, BATCH)
    best: tuple[float, sc.AdaptivePlan, dict[str, Any]] | None = None
    for low, high in product(cheap, dear):
        trial = Trial(fresh, [plans[low], plans[high]], evaluator, sorted({n for looks in LOOKS for n in looks}))
        made = [looks for looks in LOOKS if set(looks) <= set(trial.behind)]  # not behind evaluations that it lacks
        for looks, share in product(made, SHARES):
            found = trial.fitted(share, looks)
            outlook = found.outlook
            assert outlook is not None
            score = (1 - WORST) * outlook.reached.psnr + WORST * outlook.reached.worst5
            if outlook.evaluations <= budget and (best is None or score > best[0]):
                best = score, found, {"cheap": low, "dear": high, "behind": list(looks), "false_alarms": share}
        report(f"{low} and {high}: {best and best[2]}")
    alone = sampled(denoiser, plans[budget], start)
    line: dict[str, Any] = {"budget": budget, "fitted": fitted, "plan": psnr(alone, goal)}
    if best is not None:
        _, adaptive, how = best
        drawn = [sc.sample(denoiser, adaptive, some) for some in start.split(BATCH)]
        outlook = adaptive.outlook
        assert outlook is not None
        line["adaptive"] = {
            **how,
            **psnr(torch.cat([each.samples for each in drawn]), goal),
            "evaluations": round(float(np.mean(np.concatenate([each.evaluations for each in drawn]))), 2),
            "found": round(outlook.found, 2),
            "predicted": {"mean": round(outlook.reached.psnr, 2), "worst5": round(outlook.reached.worst5, 2)},
        }
        report(str(line))
    return line


def _final(denoiser: Denoiser, start: Tensor) -> Tensor:
    found = recorded(denoiser, start).trajectory
    assert found is not None
    return found[:, -1]
