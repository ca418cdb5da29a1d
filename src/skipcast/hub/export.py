"""A plan for tools that know only lists of steps, with what is lost on the way: its weights do not go along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from skipcast.checks import shown
from skipcast.models.shipped import shipped_models, shipped_profile
from skipcast.pipelines.plan_levels import levels_of, native
from skipcast.plans.plan import Plan, Prediction
from skipcast.plans.profile import Profile
from skipcast.plans.steps_alone import check_same_grid, with_forecasts, with_sampler

Target = Literal["sigmas", "cache-dit", "sdcpp"]
TARGETS: tuple[Target, ...] = ("sigmas", "cache-dit", "sdcpp")


@dataclass(frozen=True)
class Left:
    """What may be expected of what goes along.

    Args:
        what: the steps with which sampler or forecaster.
        predicted: in the open loop; None where it cannot be predicted.
        why: it cannot.
    """

    what: str
    predicted: Prediction | None = None
    why: str = ""


@dataclass(frozen=True)
class Exported:
    """A plan as another tool takes it.

    Args:
        text: the content of a file, or the arguments of a command.
        plan: for the value that was asked for.
        own: what the plan itself is predicted to reach; None where nothing is.
        left: what is left of it there.
    """

    text: str
    plan: Plan
    own: Prediction | None
    left: tuple[Left, ...]

    @property
    def lines(self) -> list[str]:
        """What is lost, for people."""
        plan, target = self.plan, self.plan.origin.reference
        own = "predicted of it is nothing" if self.own is None else f"{self.own.psnr:.1f} dB"
        found = [f"the plan itself ({plan.evaluations} of {plan.origin.steps} steps, {target} reference): {own}"]
        for left in self.left:
            if left.predicted is None:
                found.append(f"{left.what}: cannot be predicted; {left.why}")
            else:
                found.append(f"{left.what}: at most about {left.predicted.psnr:.1f} dB")
        if any(left.predicted for left in self.left):
            found.append(
                "the latter are judged on the recorded outputs (open loop), without what a run's own errors do to "
                "later outputs; runs reach less."
            )
        return found


def export(plan: Plan, to: Target, value: float | None = None, profile: Profile | None = None) -> Exported:
    """A plan's steps for another tool, and what to expect of them.

    Args:
        plan: of a pipeline.
        to: "sigmas", an argument for a call of the recorded diffusers pipeline; "cache-dit", a YAML file for
            `cache_dit.load_configs`; or "sdcpp", arguments of stable-diffusion.cpp.
        value: of the argument that a plan with knots depends on, at which fidelity is predicted; by default that of
            the middle knot. Steps are the same for all.
        profile: from which fidelity is predicted; by default the shipped one, for shipped plans.

    Raises:
        ValueError: the tool cannot be given these steps; a value outside the knots; a profile of something else.
    """
    if to not in TARGETS:
        raise ValueError(f"--to {shown(to)} must be one of {', '.join(TARGETS)}.")
    if plan.knots and value is None:
        value = plan.knots[len(plan.knots) // 2].value
    one = plan.whole("export(plan=...)") if value is None else plan.whole("export(plan=...)").at(value)
    if profile is not None:
        check_same_grid(profile, one)
    text = {"sigmas": _sigmas, "cache-dit": _cache_dit, "sdcpp": _sdcpp}[to](one)
    known = profile or _shipped(plan)

    def left(what: str, predict: Callable[[Profile], Prediction]) -> Left:
        if known is None:
            return Left(what, why="give the profile that the plan was solved from with --profile")
        try:
            return Left(what, predict(known))
        except ValueError as error:
            return Left(what, why=str(error).rstrip("."))

    def sampler(name: str) -> Callable[[Profile], Prediction]:
        def predict(known: Profile) -> Prediction:
            levels = levels_of(one)
            if levels is None:
                raise ValueError(f"what the network of a {one.origin.scheduler} predicts is not known")
            return with_sampler(known, one, name, levels, value)

        return predict

    def forecaster(order: int) -> Callable[[Profile], Prediction]:
        return lambda known: with_forecasts(known, one, order, value)

    found = {
        "sigmas": [left("its steps with the recorded Euler sampler", sampler("euler"))],
        "cache-dit": [left("its steps with Taylor forecasts of order 1, taken at the output", forecaster(1))],
        "sdcpp": [
            left("its steps with dpm++2m", sampler("dpmpp2m")),
            left("its steps with euler", sampler("euler")),
        ],
    }[to]
    if to == "sigmas" and "Euler" not in one.origin.scheduler:
        found = [
            Left(f"its steps with {one.origin.scheduler}", why="only Euler's, AB2, 2M and UniPC are known as rows")
        ]
    return Exported(text, one, one.predicted, tuple(found))


def _shipped(plan: Plan) -> Profile | None:
    """The shipped profile of pairs that a plan was solved from; None where none is."""
    for model in shipped_models():
        try:
            profile = Profile.load(shipped_profile(model, plan.origin.reference))
        except ValueError:
            continue
        if not set(plan.origin.pairs).isdisjoint(profile.origin.pairs):
            return profile
    return None


def _sigmas(plan: Plan) -> str:
    found = native(plan)
    values = ", ".join(repr(round(value, 7)) for value in found.values)
    at = "" if found.mu is None else f"  # unshifted: the scheduler shifts them by mu={found.mu:.6g} again"
    return f"{found.name}=[{values}]{at}\n"


def _cache_dit(plan: Plan) -> str:
    steps, call = set(plan.steps), plan.origin.call
    mask = ", ".join(str(int(step in steps)) for step in range(plan.origin.steps))
    lines = [
        f"# The steps of {plan!r} for cache_dit.load_configs.",
        "cache_config:",
        f"  num_inference_steps: {plan.origin.steps}",
        f"  steps_computation_mask: [{mask}]",
        "  steps_computation_policy: static",
        "  Fn_compute_blocks: 1",
        "  Bn_compute_blocks: 0",
        "  max_warmup_steps: 1",
        "  enable_taylorseer: true",
        "  enable_encoder_taylorseer: true",
        "  taylorseer_order: 1",
    ]
    if plan.argument == "true_cfg_scale" or call.get("true_cfg_scale", 1.0) > 1.0:
        lines.append("  enable_separate_cfg: true")
    return "\n".join(lines) + "\n"


def _sdcpp(plan: Plan) -> str:
    levels = levels_of(plan)
    if levels is None:
        raise ValueError(f"what the network of a {plan.origin.scheduler} predicts is not known; give another plan.")
    alpha, sigma = levels.at(plan.steps)
    if levels.prediction != "velocity":
        sigma = sigma / np.maximum(alpha, 1e-9)  # noise over signal
    values = ",".join(f"{value:.6g}" for value in sigma)
    return f'--steps {plan.evaluations} --sigmas "{values}" --sampling-method dpm++2m\n'
