"""What is left of a plan whose weights cannot go along: its steps, with a plain sampler or with forecasts of another.

Judged on recorded pairs in the open loop: every segment begins at the recorded state, and the errors of all are added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from skipcast.grid import Vector
from skipcast.plans.knots import varied_number
from skipcast.plans.open_loop import Matrix, Steps
from skipcast.plans.plain import SAMPLERS, extrapolated_rows, sampler_rows
from skipcast.plans.plan import Plan, Prediction
from skipcast.plans.profile import Profile
from skipcast.plans.propagation import Levels


def with_sampler(profile: Profile, plan: Plan, name: str, levels: Levels, value: float | None = None) -> Prediction:
    """The fidelity to expect of a plain sampler on a plan's steps.

    Args:
        profile: of the model that the plan was made for.
        plan: whose steps are taken.
        name: "euler", "ab2", "dpmpp2m" or "unipc".
        levels: of the recorded run.
        value: of the argument that the pairs differ in, such as the guidance scale; None for that of the plan's own
            numbers, or all pairs.

    Raises:
        ValueError: the profile is of another grid than the plan, an unknown sampler, or a value out of range.
    """
    if name not in SAMPLERS:
        raise ValueError(f"with_sampler(name={name!r:.60}) must be one of {', '.join(SAMPLERS)}.")
    check_same_grid(profile, plan)
    return _predicted(profile, plan, sampler_rows(name, levels, plan.steps, profile.scale), value)


def with_forecasts(profile: Profile, plan: Plan, order: int, value: float | None = None) -> Prediction:
    """The fidelity to expect of the recorded sampler with outputs extrapolated between a plan's steps.

    Args:
        profile: as for `with_sampler`, of the default reference.
        plan: whose steps are evaluated.
        order: of the polynomial in the step; 0 reuses the newest output.
        value: as for `with_sampler`.

    Raises:
        ValueError: as `with_sampler`; or a converged reference, which the recorded sampler does not reach.
    """
    check_same_grid(profile, plan)
    if profile.origin.reference != "default":
        raise ValueError("forecasts between the steps of the recorded run do not lead to a converged reference.")
    return _predicted(profile, plan, extrapolated_rows(profile.states, plan.steps, order), value)


def open_error(states: Matrix, steps: Steps, rows: Sequence[Vector]) -> Vector:
    """The error of the final sample of given rows in the basis, (K,): the sum over segments of F row - t.

    F and t are those of `OpenLoop`.
    """
    total, ends = np.zeros(states.shape[1]), (*steps[1:], len(states) - 1)
    for n, (begin, end) in enumerate(zip(steps, ends, strict=True)):
        total += (1 + rows[n][0]) * states[begin] - states[end]
        total[1 + np.array(steps[: n + 1])] += rows[n][1:]
    return total


def check_same_grid(profile: Profile, plan: Plan) -> None:
    """Refuse a profile of other steps, another scheduler or another reference than a plan's.

    Raises:
        ValueError: says what both are of.
    """
    given, made = profile.origin, plan.origin
    same = len(profile.timesteps) == len(plan.timesteps) and np.allclose(profile.timesteps, plan.timesteps, rtol=1e-5)
    if not same or (given.scheduler, given.reference) != (made.scheduler, made.reference):
        raise ValueError(
            f"the profile is of {given.steps} steps of {given.scheduler or 'a denoiser'} ({given.reference}), the plan "
            f"of {made.steps} of {made.scheduler or 'a denoiser'} ({made.reference}) or of other levels; give the "
            "profile that the plan was solved from."
        )


def _predicted(profile: Profile, plan: Plan, rows: Sequence[Vector], value: float | None) -> Prediction:
    error = open_error(profile.states, plan.steps, rows)

    def of(pairs: Sequence[int]) -> Prediction:
        squared = np.einsum("a,pab,b->p", error, profile.grams[list(pairs)], error)
        psnr = -10 * np.log10(np.maximum(profile.gain[list(pairs)] * squared, 1e-20))
        return Prediction.of(psnr, held_out=False, closed=False)

    varied = varied_number(profile.origin)
    if varied is None:
        return of(range(len(profile)))
    return _at(varied[1], of, value if value is not None or not plan.knots else plan.knots[len(plan.knots) // 2].value)


def _at(groups: dict[float, list[int]], of: Callable[[Sequence[int]], Prediction], value: float | None) -> Prediction:
    """The prediction for one value: that of its pairs, or on the line between the two nearest; of all for None."""
    if value is None:
        return of([pair for pairs in groups.values() for pair in pairs])
    below, above = [k for k in groups if k <= value], [k for k in groups if k >= value]
    if not below or not above:
        raise ValueError(f"the profile holds pairs from {min(groups):g} to {max(groups):g} alone, not at {value:g}.")
    low, high = max(below), min(above)
    if low == high:
        return of(groups[low])
    return of(groups[low]).between(of(groups[high]), (value - low) / (high - low))
