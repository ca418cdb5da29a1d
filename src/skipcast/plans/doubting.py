"""Fitting doubts: what a run shows early of its final error, on pairs that its plan has not seen."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from skipcast.grid import Vector
from skipcast.plans.adaptive import AdaptivePlan, Doubt, Outlook, Watch
from skipcast.plans.closed_loop import Evaluator, final_errors, squared_errors
from skipcast.plans.plan import Plan, Prediction, worst_twentieth
from skipcast.plans.refine import Split

if TYPE_CHECKING:
    from skipcast.plans.profile import Profile

Features = dict[int, NDArray[np.float64]]
#: Behind which evaluations a fitted rule looks: the first segments decide, and the very first shows too little yet.
BEHIND = (2, 3)
_FEWEST = 32  # pairs, of which a quarter is left to fit a rule on
_SHARES = (0.02, 0.05, 0.1, 0.2, 0.4)
_RIDGES = 10.0 ** np.arange(-3, 4)


def shown(
    adaptive: AdaptivePlan,
    evaluator: Evaluator,
    pairs: Sequence[int],
    behind: Sequence[int],
    final: Tensor | None = None,
) -> tuple[Features, Vector]:
    """The features of pairs behind evaluations of the cheaper plan, (len(pairs), F) each, and their squared errors.

    Args:
        adaptive: the plan.
        evaluator: the network.
        pairs: to run.
        behind: evaluations, rising.
        final: reference samples x_N of all pairs; without them the errors are NaN.
    """
    plan, place = adaptive.plans[0], {pair: i for i, pair in enumerate(pairs)}
    table = plan.table
    features = {n: np.zeros((len(pairs), (n * n + 7 * n + 6) // 2)) for n in behind}
    errors = np.full(len(pairs), np.nan)
    for some in evaluator.groups(pairs):
        rows = [place[pair] for pair in some]

        def program(x: Tensor, some: list[int] = some, rows: list[int] = rows) -> Generator[Tensor, Tensor, None]:
            watch, outputs = Watch(adaptive, x, len(plan)), list[Tensor]()
            for n in range(len(plan)):
                outputs.append((yield x))
                watch.see(outputs[-1])
                if n in features:
                    features[n][rows] = watch.features().double().cpu().numpy()
                x = table.moved(n, x, outputs)
            if final is not None:
                errors[rows] = squared_errors(x, final[some].to(x.device))

        evaluator.call(some, table.timesteps.tolist(), table.scale.tolist(), program, **table.asked)
    return features, errors


class Trial:
    """Both plans on pairs that they have not seen: what shows behind each evaluation, and what each plan reaches.

    Args:
        profile: recorded pairs, with the trajectory. Where the plans were solved from it, the pairs that chose them
            fit the rule and those that judged them judge it; otherwise each half of all pairs does.
        plans: the cheaper and the dearer one.
        evaluator: the network with these pairs.
        behind: evaluations to look behind; those that the cheaper plan does not make are left out.

    Raises:
        ValueError: fewer than 32 pairs, no trajectory, no such evaluation, runs that are not finite.
    """

    def __init__(
        self, profile: Profile, plans: Sequence[Plan], evaluator: Evaluator, behind: Sequence[int] = BEHIND
    ) -> None:
        self.adaptive = AdaptivePlan(plans)
        cheap, dear = self.adaptive.plans
        self.behind = sorted({n for n in behind if n < len(cheap)})
        if not self.behind or self.behind[0] < 1:
            raise ValueError(f"adaptive(behind={tuple(behind)}) must hold evaluations from 1 to {len(cheap) - 1}.")
        if cheap.knots:
            raise ValueError("adaptive(plans=...) with knots cannot be fitted; take plan.at(value) of both.")
        if len(profile) < _FEWEST or profile.trajectory is None:
            raise ValueError(
                f"adaptive() needs {_FEWEST} recorded pairs and their trajectories, got {len(profile)}"
                f"{'' if profile.trajectory is not None else ' without'}; record more with keep_trajectory=True."
            )
        fit, judge = range(0, len(profile), 2), range(1, len(profile), 2)
        if not set(profile.origin.pairs).isdisjoint(pair for plan in plans for pair in plan.origin.pairs):
            split = Split.of(len(profile))
            fit, judge = split.choose, split.judge  # type: ignore[assignment]
        pairs, final = [*fit, *judge], profile.trajectory[:, -1].float()
        self.fit, self.judge = np.arange(len(fit)), np.arange(len(fit), len(pairs))  # among those that are run
        self.features, cheap_errors = shown(self.adaptive, evaluator, pairs, self.behind, final)
        errors = np.stack([cheap_errors, final_errors(dear.table, evaluator, final, pairs)])
        if not all(np.isfinite(found).all() for found in (errors, *self.features.values())):
            raise ValueError(
                "adaptive(plans=...): a run of them is not finite on these pairs; solve others, or float32."
            )
        self.psnr = -10 * np.log10(np.maximum(profile.gain[pairs] * errors, 1e-20))

    def fitted(self, false_alarms: float, behind: Sequence[int] | None = None) -> AdaptivePlan:
        """The adaptive plan whose doubts raise this share of false alarms on the pairs that they are fitted on.

        It doubts behind all evaluations of the trial, or some of them. Scores are fitted by ridge regression on the
        cheaper plan's -PSNR, the ridge and the limits chosen by what the pairs score when each is left out. The limits
        of all evaluations leave equal shares of the pairs above them.
        """
        if not 0 < false_alarms < 1:
            raise ValueError(f"adaptive(false_alarms={false_alarms}) must lie between 0 and 1.")
        cheap, dear = self.psnr[:, self.judge]
        rules = {n: _ridge(self.features[n][self.fit], -self.psnr[0, self.fit]) for n in behind or self.behind}
        alone = np.stack([rule[2] for rule in rules.values()])[:, ~worst_of(self.psnr[0, self.fit])]
        low, high = 0.0, 1.0
        for _ in range(40):
            share = (low + high) / 2
            above = (alone > np.quantile(alone, 1 - share, axis=1)[:, None]).any(axis=0).mean()
            low, high = (share, high) if above <= false_alarms else (low, share)
        limits = np.quantile(alone, 1 - low, axis=1).tolist()
        worst, doubts, over = worst_of(cheap), [], {}
        for (n, (weights, offset, _)), limit in zip(rules.items(), limits, strict=True):
            score = self.features[n][self.judge] @ weights + offset
            over[n] = score > limit
            doubts.append(Doubt(n, weights, offset, limit, detected(score, worst, false_alarms)))
        doubted, counts = self.adaptive.begun(over)
        outlook = Outlook(
            reached=Prediction.of(np.where(doubted, dear, cheap), held_out=True, closed=True),
            alone=Prediction.of(cheap, held_out=True, closed=True),
            evaluations=float(counts.mean()),
            found=float(doubted[worst].mean()),
            false_alarms=float(doubted[~worst].mean()),
        )
        return replace(self.adaptive, doubts=tuple(doubts), outlook=outlook)


def worst_of(psnr: Vector) -> NDArray[np.bool_]:
    """Which values are the worst twentieth, (M,) bool."""
    found = np.zeros(len(psnr), dtype=bool)
    found[np.argsort(psnr, kind="stable")[: len(worst_twentieth(psnr))]] = True
    return found


def detected(score: Vector, worst: NDArray[np.bool_], false_alarms: float) -> float:
    """Share of the worst above the score that this share of the others exceeds."""
    return float((score[worst] > np.quantile(score[~worst], 1 - false_alarms)).mean())


def _ridge(features: NDArray[np.float64], target: Vector) -> tuple[Vector, float, Vector]:
    """Weights and offset of a ridge regression on standardised features, and the scores when each pair is left out."""
    mean, spread = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-12)
    columns = np.column_stack([np.ones(len(target)), (features - mean) / spread])
    found = []
    for ridge in _RIDGES:
        penalty = np.diag([0.0, *[ridge] * features.shape[1]])
        solved = np.linalg.solve(columns.T @ columns + penalty, columns.T)
        hat = np.einsum("pf,fp->p", columns, solved)
        weights = solved @ target
        alone = target - (target - columns @ weights) / (1 - hat)
        found.append((float(((alone - target) ** 2).mean()), weights, alone))
    _, weights, alone = min(found, key=lambda item: item[0])
    scaled = weights[1:] / spread
    return scaled, float(weights[0] - scaled @ mean), alone


def cheapest(
    solve: Callable[[int], Plan],
    reach: Callable[[float], Plan],
    trial: Callable[[Sequence[Plan]], Trial],
    psnr: float,
    worst: float,
) -> Plan | AdaptivePlan:
    """The fewest evaluations on average that are predicted to hold a mean PSNR and a mean of the 5 % worst, in dB.

    A single plan, where one holds both; otherwise the cheapest plans that hold the mean, or nearly, each with the
    cheapest single plan that holds the worst, or the dearest there is, and as few doubts as do.

    Args:
        solve: the plan of so many evaluations.
        reach: the plan of the fewest evaluations that holds a mean PSNR.
        trial: both plans on unseen pairs.
        psnr: the mean.
        worst: the mean of the 5 % worst.

    Raises:
        ValueError: nothing is predicted to hold both; says what comes nearest.
    """
    first = reach(psnr)
    assert first.predicted is not None
    if first.predicted.worst5 >= worst:
        return first
    low, high = first.evaluations, max(first.evaluations + 1, first.origin.steps // 2)
    dear = solve(high)
    holds = dear.predicted is not None and dear.predicted.worst5 >= worst
    while holds and high - low > 1:
        middle = (low + high) // 2
        found = solve(middle)
        if found.predicted is not None and found.predicted.worst5 >= worst:
            dear, high = found, middle
        else:
            low = middle
    tried: list[AdaptivePlan] = []
    for count in range(first.evaluations, max(3, first.evaluations - 2) - 1, -1):
        pair = trial([first if count == first.evaluations else solve(count), dear])
        tried += [pair.fitted(share) for share in _SHARES]
    within = [
        (made.outlook.evaluations, made)
        for made in tried
        if made.outlook and made.outlook.reached.psnr >= psnr and made.outlook.reached.worst5 >= worst
    ]
    best = min(within, key=lambda item: item[0], default=None)
    if best and (not holds or best[0] < dear.evaluations):
        return best[1]
    if holds:
        return dear
    nearest = max((made.outlook.reached.worst5 for made in tried if made.outlook), default=first.predicted.worst5)
    raise ValueError(
        f"plan(psnr={psnr:g}, worst={worst:g}) is out of reach: the 5 % worst are predicted at {nearest:.1f} dB at "
        "best. Ask for less, or give more pairs and effort."
    )
