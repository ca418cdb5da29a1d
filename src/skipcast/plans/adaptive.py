"""Beginning again: a cheap plan for every sample, and a dearer one for those that are doubted while it runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipcast.checkpoint import write_whole
from skipcast.grid import Vector
from skipcast.plans.closed_loop import Evaluator, Table, final_errors, squared_errors
from skipcast.plans.plan import Origin, Plan, Prediction, worst_twentieth
from skipcast.plans.refine import Split

if TYPE_CHECKING:
    from skipcast.plans.profile import Profile

FORMAT = "skipcast-adaptive-1"
#: Behind which evaluations a fitted rule looks: the first segments decide, and the very first shows too little yet.
BEHIND = (2, 3)
#: Pairs that a rule can be fitted on and judged by: half as many are fitted on as a recording of 32 pairs has left.
FEWEST = 32
_SHARES = (0.02, 0.05, 0.1, 0.2, 0.4)
_RIDGES = 10.0 ** np.arange(-3, 4)


@dataclass(frozen=True, eq=False)
class Doubt:
    """A fitted rule behind evaluation n: a sample is doubted where offset + weights . features exceeds a limit.

    The score is the error to expect of the cheaper plan, -PSNR in dB; `Watch` says what the features are.

    Args:
        evaluation: n, from 1.
        weights: one for each of the (n^2 + 7 n + 6) / 2 features.
        offset: of the score.
        limit: of the score.
        found: share of the worst twentieth of other pairs that this score alone finds at the false alarms requested.
    """

    evaluation: int
    weights: Vector
    offset: float
    limit: float
    found: float | None = None

    def __post_init__(self) -> None:
        weights = np.array(self.weights, dtype=np.float64)
        weights.setflags(write=False)
        object.__setattr__(self, "weights", weights)
        n = self.evaluation
        if not isinstance(n, int) or n < 1 or weights.shape != ((n * n + 7 * n + 6) // 2,):
            raise ValueError(f"Doubt(evaluation={n!r}, weights=...) has {weights.size} weights, which does not fit.")
        if not np.isfinite([*weights, self.offset, self.limit]).all():
            raise ValueError("Doubt(...) holds numbers that are not finite.")


@dataclass(frozen=True)
class Outlook:
    """What to expect of beginning again, from pairs that neither the plans nor the rule have seen.

    Args:
        reached: mean, 5 % worst and worst PSNR, in dB.
        alone: the same of the cheaper plan.
        evaluations: on average over the pairs.
        found: share of the cheaper plan's worst twentieth that is doubted.
        false_alarms: share of the other pairs that is.
    """

    reached: Prediction
    alone: Prediction
    evaluations: float
    found: float
    false_alarms: float


@dataclass(frozen=True, eq=False)
class AdaptivePlan:
    """Two plans of one grid: every sample begins with the cheaper, and one that is doubted begins again with the other.

        plan = sc.AdaptivePlan([sc.shipped_plan("shapes-flux", 10), sc.shipped_plan("shapes-flux", 17)])
        plan = profile.adaptive([plan10, plan17], refine=pipe)  # with doubts that are fitted

    A sample is doubted behind evaluation n = 1, 2, ... of the cheaper plan, as soon as the relative residual of the
    plan's own forecast of y_n is more than `factor` times the largest recorded one; where `doubts` were fitted, by
    these instead. It stops at once. The dearer plan then takes over the evaluations at equal states, y_0 at least, so
    that a sample doubted behind evaluation n costs n + 1 + m_2 - shared evaluations, and another one m_1.

    Args:
        plans: the cheaper and the dearer one. Two, because a second doubt would rest on a handful of recorded pairs.
        factor: of the largest recorded residual.
        doubts: fitted rules, by evaluation; () for the forecasts alone.
        outlook: what to expect; None where nothing is known.

    Raises:
        ValueError: not two plans of one grid and rising cost, or the cheaper one cannot be doubted.
    """

    plans: Sequence[Plan]
    factor: float = 3.0
    doubts: tuple[Doubt, ...] = ()
    outlook: Outlook | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "plans", tuple(self.plans))
        object.__setattr__(self, "doubts", tuple(self.doubts))
        if len(self.plans) != 2 or not all(isinstance(plan, Plan) for plan in self.plans):
            raise ValueError("AdaptivePlan(plans=...) must be two plans, the cheaper one first.")
        cheap, dear = self.plans
        if cheap.evaluations > dear.evaluations:
            raise ValueError(
                f"AdaptivePlan(plans=...): {cheap!r} costs more than {dear!r}; give the cheaper one first."
            )
        origins = [(plan.origin.scheduler, plan.origin.config, plan.argument) for plan in self.plans]
        same = origins[0] == origins[1] and len(cheap.timesteps) == len(dear.timesteps)
        if not same or not np.allclose(cheap.timesteps, dear.timesteps, rtol=1e-5) or not self.shared:
            raise ValueError(
                "AdaptivePlan(plans=...) must have one scheduler, grid, first timestep and argument of their knots; "
                "solve both from one profile."
            )
        if not cheap.forecasts or cheap.expected is None:
            raise ValueError(f"AdaptivePlan(plans=...): {cheap!r} holds no forecasts to doubt a sample by; solve it.")
        if not self.factor > 0:
            raise ValueError(f"AdaptivePlan(factor={self.factor}) must be positive.")
        places = [doubt.evaluation for doubt in self.doubts]
        if places != sorted(set(places)) or any(place >= cheap.evaluations for place in places):
            raise ValueError(f"AdaptivePlan(doubts=...) must rise below {cheap.evaluations}, got {places}.")
        if self.doubts and cheap.knots:
            raise ValueError("AdaptivePlan(doubts=...) are of one value; take plan.at(value) of the plans with knots.")

    @property
    def shared(self) -> int:
        """How many evaluations of both plans are made at equal states: y_0, and more where the first rows are equal."""
        cheap, dear = (list(zip(plan.evaluation_timesteps, plan.scale, plan.rows, strict=True)) for plan in self.plans)
        count = 0
        for (t, scale, row), (other, factor, twin) in zip(cheap, dear, strict=False):
            if (t, scale) != (other, factor):
                break
            count += 1
            if not np.array_equal(row, twin) or self.plans[0].knots:
                break
        return count

    @property
    def origin(self) -> Origin:
        """What the plans were made for."""
        return self.plans[0].origin

    @property
    def argument(self) -> str | None:
        """The argument that plans with knots depend on."""
        return self.plans[0].argument

    def at(self, value: float, *, extrapolate: bool = False) -> AdaptivePlan:
        """The adaptive plan for one value of its argument, as `Plan.at`."""
        cheap, dear = (plan.at(value, extrapolate=extrapolate) for plan in self.plans)
        return replace(self, plans=(cheap, dear))

    def __repr__(self) -> str:
        counts = " then ".join(str(plan.evaluations) for plan in self.plans)
        found = self.outlook
        more = "" if found is None else f", {found.reached.psnr:.1f} dB at {found.evaluations:.1f} on average"
        return f"AdaptivePlan({counts} of {self.origin.steps}, {'fitted' if self.doubts else 'forecasts'}{more})"

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values, exact to the last bit."""
        return {
            "format": FORMAT,
            "plans": [plan.as_dict() for plan in self.plans],
            "factor": self.factor,
            "doubts": [{**asdict(doubt), "weights": doubt.weights.tolist()} for doubt in self.doubts],
            "outlook": None if self.outlook is None else asdict(self.outlook),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AdaptivePlan:
        """The adaptive plan that `as_dict` wrote.

        Raises:
            ValueError: not one of this format.
        """
        if values.get("format") != FORMAT:
            raise ValueError(f"not an adaptive plan: format is {values.get('format')!r}, {FORMAT!r} is needed.")
        try:
            first, second = (Plan.from_dict(plan) for plan in values["plans"])
            doubts = tuple(Doubt(**doubt) for doubt in values["doubts"])
            found = values["outlook"]
            if found is not None:
                found = Outlook(**{**found, **{key: Prediction(**found[key]) for key in ("reached", "alone")}})
            return cls((first, second), values["factor"], doubts, found)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not an adaptive plan: {error}.") from error

    def save(self, path: str | Path) -> None:
        """Write the plans and their doubts as JSON text, whole or not at all."""
        write_whole(Path(path), (json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> AdaptivePlan:
        """Read an adaptive plan.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is not an adaptive plan.
        """
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError("a JSON object is needed.")
            return cls.from_dict(values)
        except (ValueError, RecursionError) as error:  # of the text, of JSON, or of what it holds
            raise ValueError(f"{path} is not an adaptive plan: {error}") from error


class Watch:
    """What a batch of samples shows of itself while the cheaper plan runs, and which of them are doubted.

    The features behind evaluation n are, of every sample: log10 of the relative residuals of the forecasts of
    y_1 .. y_n, log10 of the root mean squares of x_0, y_0 .. y_n, and the cosines between any two of these. Nothing
    else of the Gram matrix is left, and the disagreement of two plans' first rows, a function of it, added nothing.

    Args:
        adaptive: the plan.
        x: the initial samples, (B, *shape).
        last: the last evaluation that is looked at; by default the last one with a doubt.
    """

    def __init__(self, adaptive: AdaptivePlan, x: Tensor, last: int | None = None) -> None:
        self._plan, self._factor = adaptive.plans[0], adaptive.factor
        self._doubts = {doubt.evaluation: doubt for doubt in adaptive.doubts}
        self._last = max(self._doubts, default=len(self._plan) - 1) if last is None else last
        self._basis, self._residuals, self._seen = [_flat(x)], list[Tensor](), 0
        self.doubted = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def see(self, y: Tensor) -> None:
        """Take the next output, (B, *shape), and doubt what it gives reason to."""
        n, self._seen = self._seen, self._seen + 1
        if n > self._last:
            return
        new = _flat(y)
        if n:
            guess = torch.zeros_like(new)
            for weight, known in zip(self._plan.forecasts[n].tolist(), self._basis[1:], strict=True):
                guess = guess.add_(known, alpha=weight)
            self._residuals.append((new - guess).norm(dim=1) / new.norm(dim=1))
        self._basis.append(new)
        # What is not comparable, as where a run overflows, is doubted too.
        if n in self._doubts:
            doubt = self._doubts[n]
            features = self.features()
            score = features @ torch.tensor(doubt.weights.copy()).to(features) + doubt.offset
            self.doubted |= ~(score <= doubt.limit)
        elif n and not self._doubts:
            self.doubted |= ~(self._residuals[-1] <= self._limit(n, torch.finfo(y.dtype).eps))
        if n == self._last:
            self._basis.clear()

    def features(self) -> Tensor:
        """Of every sample behind the newest evaluation, (B, F)."""
        basis = torch.stack(self._basis, 1)
        sizes = basis.norm(dim=2) / basis.shape[2] ** 0.5
        cosines = (basis @ basis.mT) / (basis.shape[2] * sizes[:, :, None] * sizes[:, None])
        rows, columns = np.triu_indices(len(self._basis), 1)
        residuals = torch.stack(self._residuals, 1)
        return torch.cat([residuals.log10(), sizes.log10(), cosines[:, rows, columns]], 1)

    def _limit(self, n: int, rounding: float) -> float:
        """As `PlanScheduler.trusted` has it: outputs that are rounded more coarsely than recorded ones depart more."""
        assert self._plan.expected is not None
        growth = 1 + float(abs(self._plan.forecasts[n]).sum())
        return self._factor * float(self._plan.expected[n, 1]) + rounding * growth

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the samples."""
        self._basis = [known[rows] for known in self._basis]
        self._residuals = [found[rows] for found in self._residuals]
        self.doubted = self.doubted[rows]


def _flat(x: Tensor) -> Tensor:
    """A copy with one row for each sample, in float32 at least."""
    return x.detach().flatten(1).to(torch.promote_types(x.dtype, torch.float32), copy=True)


# Fitting.


class Trial:
    """Both plans on pairs that they have not seen: what shows behind each evaluation, and what each plan reaches.

    Args:
        profile: recorded pairs, with the trajectory. Where the plans were solved from it, the pairs that chose them
            fit the rule and those that judged them judge it; otherwise each half of all pairs does.
        plans: the cheaper and the dearer one.
        evaluator: the network with these pairs.
        behind: evaluations to look behind; those that the cheaper plan does not make are left out.

    Raises:
        ValueError: fewer than 32 pairs, no trajectory, no such evaluation.
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
        if len(profile) < FEWEST or profile.trajectory is None:
            raise ValueError(
                f"adaptive() needs {FEWEST} recorded pairs and their trajectories, got {len(profile)}"
                f"{'' if profile.trajectory is not None else ' without'}; record more with keep_trajectory=True."
            )
        split, seen = Split.of(len(profile)), {pair for plan in plans for pair in plan.origin.pairs}
        unseen = seen.isdisjoint(profile.origin.pairs)
        self.fit, self.judge = (
            (list(range(0, len(profile), 2)), list(range(1, len(profile), 2)))
            if unseen
            else (split.choose, split.judge)
        )
        final, pairs = profile.trajectory[:, -1].float(), [*self.fit, *self.judge]
        self.features = {n: np.zeros((len(profile), (n * n + 7 * n + 6) // 2)) for n in self.behind}
        errors = np.zeros((2, len(profile)))
        for some in evaluator.groups(pairs):
            evaluator.call(
                some, cheap.evaluation_timesteps.tolist(), cheap.scale.tolist(), self._program(some, final, errors[0])
            )
        errors[1, pairs] = final_errors(_table(dear), evaluator, final, pairs)
        with np.errstate(divide="ignore"):
            self.psnr = -10 * np.log10(np.maximum(profile.gain * errors, 1e-20))

    def _program(
        self, some: list[int], final: Tensor, errors: Vector
    ) -> Callable[[Tensor], Generator[Tensor, Tensor, None]]:
        table = _table(self.adaptive.plans[0])

        def program(x: Tensor) -> Generator[Tensor, Tensor, None]:
            watch, outputs = Watch(self.adaptive, x, self.behind[-1] + 1), list[Tensor]()
            for n in range(len(table.steps)):
                outputs.append((yield x))
                watch.see(outputs[-1])
                if n in self.features:
                    self.features[n][some] = watch.features().double().cpu().numpy()
                x = table.moved(n, x, outputs)
            errors[some] = squared_errors(x, final[some].to(x.device))

        return program

    def fitted(self, false_alarms: float, behind: Sequence[int] | None = None) -> AdaptivePlan:
        """The adaptive plan whose doubts raise this share of false alarms on the pairs that they are fitted on.

        It doubts behind all evaluations of the trial, or some of them. Scores are fitted by ridge regression on the
        cheaper plan's -PSNR, the ridge and the limits chosen by what the pairs score when each is left out. The limits
        of all evaluations leave equal shares of the pairs above them.
        """
        if not 0 < false_alarms < 1:
            raise ValueError(f"adaptive(false_alarms={false_alarms}) must lie between 0 and 1.")
        good = ~_worst(self.psnr[0, self.fit])
        rules = {n: _ridge(self.features[n][self.fit], -self.psnr[0, self.fit]) for n in behind or self.behind}
        alone = np.stack([rule[2] for rule in rules.values()])[:, good]
        low, high = 0.0, 1.0
        for _ in range(40):
            share = (low + high) / 2
            above = (alone > np.quantile(alone, 1 - share, axis=1)[:, None]).any(axis=0).mean()
            low, high = (share, high) if above <= false_alarms else (low, share)
        limits = np.quantile(alone, 1 - low, axis=1)
        doubts, scores = [], {}
        for (n, (weights, offset, _)), limit in zip(rules.items(), limits.tolist(), strict=True):
            scores[n] = self.features[n][self.judge] @ weights + offset
            worst = _worst(self.psnr[0, self.judge])
            least = np.quantile(scores[n][~worst], 1 - false_alarms)
            doubts.append(Doubt(n, weights, offset, limit, found=float((scores[n][worst] > least).mean())))
        made = replace(self.adaptive, doubts=tuple(doubts))
        return replace(made, outlook=self._outlook(made, scores))

    def _outlook(self, made: AdaptivePlan, scores: Mapping[int, Vector]) -> Outlook:
        cheap, dear = self.psnr[:, self.judge]
        doubted, counts = doubted_by(made, scores)
        worst = _worst(cheap)
        return Outlook(
            reached=Prediction.of(np.where(doubted, dear, cheap), held_out=True, closed=True),
            alone=Prediction.of(cheap, held_out=True, closed=True),
            evaluations=float(counts.mean()),
            found=float(doubted[worst].mean()),
            false_alarms=float(doubted[~worst].mean()),
        )


def doubted_by(adaptive: AdaptivePlan, scores: Mapping[int, Vector]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which samples fitted doubts would have begin again, and the evaluations of each, both (M,).

    Args:
        adaptive: the plan.
        scores: of the samples behind every evaluation with a doubt, (M,) each.
    """
    cheap, dear = adaptive.plans
    over = {doubt.evaluation: scores[doubt.evaluation] > doubt.limit for doubt in adaptive.doubts}
    doubted = np.any(list(over.values()), axis=0)
    counts = np.full(len(doubted), cheap.evaluations)
    for n in reversed(over):  # the first doubt counts
        counts[over[n]] = max(n + 1, adaptive.shared) + dear.evaluations - adaptive.shared
    return doubted, counts


def _table(plan: Plan) -> Table:
    return Table(plan.steps, plan.rows, plan.evaluation_timesteps, plan.scale)


def _worst(psnr: Vector) -> NDArray[np.bool_]:
    """Which values are the worst twentieth, (M,) bool."""
    found = np.zeros(len(psnr), dtype=bool)
    found[np.argsort(psnr, kind="stable")[: len(worst_twentieth(psnr))]] = True
    return found


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
