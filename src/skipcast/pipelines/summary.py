"""What an accelerated pipeline did: the handle of its newest trajectory, and the summary of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skipcast.parts import Method
from skipcast.plans.adaptive import AdaptivePlan
from skipcast.plans.plan import Plan
from skipcast.run import OVERFLOW, Run
from skipcast.samplers import Sampler

#: Below so many steps a warm-up is most of a run.
_FEW = 12
#: Errors that multiply by this along a run are warned of.
_GROWN = 3.0


@dataclass(frozen=True)
class Summary:
    """What the newest run did; `forecast_error_*` compare forecasts with evaluations.

    A step counts as evaluated where any branch was, and as forecast where none was. `trusted` says of every sample of a
    plan's run whether it stayed where the plan was made; None without that check. Of an `AdaptivePlan` `trusted` says
    which samples did not begin again, and `per_sample` how many evaluations each of them needed. `warnings` say what is
    likely not wanted. Of a plan of passes `passes` counts those of one guidance branch each, two for an evaluation.
    """

    method: str
    steps: int
    evaluated_steps: tuple[int, ...]
    forecasts: int
    branches: tuple[str, ...]
    forecast_error_mean: float | None
    forecast_error_worst: float | None
    seconds: float
    cached_bytes: int
    trusted: tuple[bool, ...] | None = None
    per_sample: tuple[int, ...] | None = None
    warnings: tuple[str, ...] = ()
    passes: int | None = None

    @property
    def evaluations(self) -> int:
        return len(self.evaluated_steps) if self.passes is None else self.passes // 2

    def __str__(self) -> str:
        forecast = f", forecast {self.forecasts}" if self.forecasts else ""
        passes = f", in {self.passes} passes" if self.passes is not None else ""
        lines = [
            f"{self.method}: evaluated {self.evaluations} of {self.steps}{passes}{forecast}"
            f" (branches: {', '.join(self.branches)})",
            f"evaluated steps: {', '.join(map(str, self.evaluated_steps))}",
            f"{self.seconds:.2f} s in sampling, {self.cached_bytes / 1e6:.3f} MB remembered",
        ]
        if self.forecast_error_mean is not None and self.forecast_error_worst is not None:
            lines.append(
                "error of forecasts at evaluated steps: "
                f"mean {self.forecast_error_mean:.2%}, worst {self.forecast_error_worst:.2%}"
            )
        if self.trusted is not None:
            lines.append(f"trusted: {sum(self.trusted)} of {len(self.trusted)} samples stayed in the recorded range")
        if self.per_sample is not None:
            lines.append(
                f"evaluations per sample: {min(self.per_sample)} to {max(self.per_sample)}, "
                f"{np.mean(self.per_sample):.1f} on average"
            )
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


@dataclass
class Acceleration:
    """Handle of an accelerated pipeline and of its newest trajectory.

    `runs` holds one run per branch, the one that decides. Targets that remember several values have further ones in
    `streams`, as "branch/value". `calls` holds the steps of every branch's denoiser calls, `first` the place of step 0
    in the scheduler's timesteps. `seconds` runs from set_timesteps to the newest denoiser call, without waiting for a
    GPU to finish. `errors` is filled by diagnose=True: for every branch, the relative L2 error of the
    denoiser's output at each forecast step.
    """

    method: Method | Sampler | Plan | AdaptivePlan
    label: str
    scheduler: Any = None
    runs: dict[str, Run] = field(default_factory=dict)
    streams: dict[str, Run] = field(default_factory=dict)
    errors: dict[str, dict[int, float]] = field(default_factory=dict)
    calls: dict[str, list[int]] = field(default_factory=dict)
    first: int = 0
    seconds: float = 0.0
    cached_bytes: int = 0
    broken_at_end: bool = False  # whether final samples are not finite, and no comparison has shown it
    by_order: int = 0  # the most calls of one step that only their order tells apart
    leave: Callable[[], Callable[[], None] | None] | None = field(default=None, repr=False, compare=False)

    def begin(self) -> None:
        """A trajectory begins: nothing of the one before is reported."""
        self.runs, self.streams, self.errors, self.calls = {}, {}, {}, {}
        self.first, self.seconds, self.cached_bytes, self.by_order = 0, 0.0, 0, 0
        self.broken_at_end = False

    def disable(self) -> None:
        """Restore the pipeline exactly.

        Raises:
            RuntimeError: it is restored already.
        """
        leave = self.leave and self.leave()
        if leave is None:
            raise RuntimeError(f"{self.label} is not enabled any more; call enable() again.")
        leave()

    def __deepcopy__(self, memo: dict[int, Any]) -> Acceleration:
        """A copy of an accelerated pipeline is not accelerated, and has run nothing."""
        return Acceleration(self.method, self.label)

    def all_runs(self) -> list[Run]:
        """Every history of the newest trajectory."""
        return [*self.runs.values(), *self.streams.values()]

    def summary(self) -> Summary:
        """What the newest run did.

        Raises:
            RuntimeError: the pipeline has not been run yet.
        """
        if not self.calls:
            raise RuntimeError("nothing to summarise: run the accelerated pipeline first.")
        runs = list(self.runs.values())
        traces = [record for run in self.all_runs() for record in run.trace]
        errors = [float(record.forecast_error) for record in traces if record.forecast_error is not None]
        called = sorted({step for steps in self.calls.values() for step in steps})
        plan = self.method if isinstance(self.method, Plan | AdaptivePlan) else None
        if runs:
            evaluated = sorted({record.step for run in runs for record in run.trace if record.evaluated})
        else:
            evaluated = [self.scheduler.steps[self.first + step] for step in called] if plan else called
        passes = len(called) if isinstance(plan, Plan) and plan.branches else None
        evaluated = evaluated if passes is None else sorted(set(evaluated))
        steps = len(runs[0].grid) if runs else plan.origin.steps if plan else len(called)
        return Summary(
            method=self.label,
            steps=steps,
            evaluated_steps=tuple(evaluated),
            forecasts=len(called) - len(evaluated) if runs else 0,
            branches=tuple(self.calls),
            forecast_error_mean=float(np.mean(errors)) if errors else None,
            forecast_error_worst=float(np.max(errors)) if errors else None,  # NaN if one is
            seconds=self.seconds,
            cached_bytes=self.cached_bytes,
            trusted=tuple(self.scheduler.trusted()) if plan and self.scheduler.checked else None,
            per_sample=self._per_sample(),
            warnings=tuple(self._warnings(steps)),
            passes=passes,
        )

    def evaluations(self) -> float:
        """Evaluations of the newest run, where at a step some branches were evaluated and others forecast: their share.

        Branches may decide each for itself, and may begin and end at any step.
        """
        if (each := self._per_sample()) is not None:
            return float(np.mean(each))
        if not self.runs:
            count = len({step for steps in self.calls.values() for step in steps})
            return count / 2 if isinstance(self.method, Plan) and self.method.branches else count
        records = [record for run in self.runs.values() for record in run.trace]
        at = Counter(record.step for record in records)
        total = sum(record.evaluated / at[record.step] for record in records)
        whole = round(total)
        return whole if math.isclose(total, whole) else total

    def _per_sample(self) -> tuple[int, ...] | None:
        found = self.scheduler.evaluations if isinstance(self.method, AdaptivePlan) else None
        return None if found is None else tuple(found.tolist())

    @property
    def broken(self) -> int | None:
        """The first evaluated step of the newest run whose output, or the one before, is not finite."""
        records = [record for run in self.all_runs() for record in run.trace if record.forecast_error is not None]
        return min((r.step for r in records if not math.isfinite(float(r.forecast_error or 0.0))), default=None)

    def _warnings(self, steps: int) -> Iterator[str]:
        if self.broken_at_end or getattr(self.scheduler, "broken_at_end", False):
            yield f"the final samples of this run are not finite: {OVERFLOW}"
        if (step := self.broken) is not None:
            yield f"the network's outputs are not finite at step {step} or at the evaluation before it: {OVERFLOW}"
        if not self.runs:
            return
        if self.by_order:
            yield (
                f"{self.by_order} calls per step have the same conditions and are told apart by their order alone: "
                "give each a cache_context of its own unless they always come in this order"
            )
        if self.without_effect:
            yield "the method had no effect: every step was evaluated"
        if steps < _FEW:
            yield f"{steps} steps leave little to forecast: consider a plan, or fewer steps"
        errors = [float(r.forecast_error) for r in next(iter(self.runs.values())).trace if r.forecast_error is not None]
        early, late = errors[: len(errors) // 2], errors[(len(errors) + 1) // 2 :]
        if len(early) < 2:
            return
        before, after = sum(early) / len(early), sum(late) / len(late)
        if after > max(_GROWN * before, 0.01):
            yield (
                f"the forecast error grew from {before:.2%} to {after:.2%} along the run: evaluate more often towards "
                "its end"
            )

    @property
    def without_effect(self) -> bool:
        """Whether the newest run evaluated every step so far, though its method was to forecast some."""
        return bool(self.runs) and not any(not r.evaluated for run in self.all_runs() for r in run.trace)
