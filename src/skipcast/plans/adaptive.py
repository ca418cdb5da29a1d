"""Beginning again: a cheap plan for every sample, and a dearer one for those that are doubted while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipcast.checkpoint import write_whole
from skipcast.checks import Checked, guarded
from skipcast.grid import Vector
from skipcast.plans.plan import MOST_BYTES, Origin, Plan, Prediction, in_range
from skipcast.reading import read_object, read_sealed, sealed_text, unsealed, why

FORMAT = "skipcast-adaptive-1"


@dataclass(frozen=True, eq=False)
class Doubt(Checked):
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
        if n < 1 or weights.shape != ((n * n + 7 * n + 6) // 2,):
            raise ValueError(f"Doubt(evaluation={n!r}, weights=...) has {weights.size} weights, which does not fit.")
        if not in_range(weights):
            raise ValueError("Doubt(weights=...) holds numbers that are not finite, or beyond 1e30.")


@dataclass(frozen=True)
class Outlook(Checked):
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
class AdaptivePlan(Checked):
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
        cheap, dear = (plan.whole("AdaptivePlan(plans=...)") for plan in self.plans)
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

    def begun(self, over: Mapping[int, NDArray[np.bool_]]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Which samples begin again, and the evaluations of each, both (M,), from those doubted behind each n."""
        cheap, dear = (plan.evaluations for plan in self.plans)
        doubted: NDArray[np.bool_] = np.any(list(over.values()), axis=0)
        counts = np.full(len(doubted), cheap)
        for n in sorted(over, reverse=True):  # the first doubt counts
            counts[over[n]] = max(n + 1, self.shared) + dear - self.shared
        return doubted, counts

    @property
    def origin(self) -> Origin:
        """What the plans were made for."""
        return self.plans[0].origin

    @property
    def argument(self) -> str | None:
        """The argument that plans with knots depend on."""
        return self.plans[0].argument

    @guarded()
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
    @guarded()
    def from_dict(cls, values: Mapping[str, Any]) -> AdaptivePlan:
        """The adaptive plan that `as_dict` wrote.

        Raises:
            ValueError: not one of this format.
        """
        try:
            given = unsealed(values, FORMAT)
            first, second = (Plan.from_dict(plan) for plan in given["plans"])
            doubts = tuple(Doubt(**doubt) for doubt in given["doubts"])
            found = given["outlook"]
            if found is not None:
                found = Outlook(**{**found, **{key: Prediction(**found[key]) for key in ("reached", "alone")}})
            return cls((first, second), given["factor"], doubts, found)
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"not an adaptive plan: {why(error)}.") from error

    @guarded()
    def save(self, path: str | Path) -> None:
        """Write the plans, their doubts and a digest as JSON text, whole or not at all."""
        write_whole(Path(path), sealed_text(self.as_dict()))

    @classmethod
    @guarded()
    def load(cls, path: str | Path) -> AdaptivePlan:
        """Read an adaptive plan.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is not an adaptive plan, or does not hold what was saved.
        """
        path = Path(path)
        cure = "make one with profile.adaptive(...) and save it"
        values = read_sealed(path, FORMAT, 2 * MOST_BYTES, "an adaptive plan", cure)
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path} is {error}") from error


def read_plan(path: Path) -> Plan | AdaptivePlan:
    """The plan or the adaptive plan of a file, by what it says that it is; errors are those of `load`."""
    missing = f"no plan {path}; make one with `skipcast plan`."
    kind = read_object(path, 2 * MOST_BYTES, "a plan", missing).get("format")
    return AdaptivePlan.load(path) if kind == FORMAT else Plan.load(path)


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

    def see(self, y: Tensor) -> bool:
        """Take the next output, (B, *shape), and doubt what it gives reason to; whether there was anything to doubt."""
        n, self._seen = self._seen, self._seen + 1
        if n > self._last:
            return False
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
        return n in self._doubts if self._doubts else n > 0

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

    def bytes(self) -> int:
        """Memory held by what is compared, in bytes."""
        return sum(known.numel() * known.element_size() for known in self._basis)


def _flat(x: Tensor) -> Tensor:
    """A copy with one row for each sample, in float32 at least."""
    return x.detach().flatten(1).to(torch.promote_types(x.dtype, torch.float32), copy=True)
