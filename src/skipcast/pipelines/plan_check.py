"""The checks of a plan before a run: its scheduler, and the grid."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from skipcast.checks import shown
from skipcast.pipelines.networks import scheduler_class
from skipcast.plans.plan import COMFYUI, Origin, Plan
from skipcast.plans.propagation import prediction_of

#: Times that differ by less, relative to the largest, are one: float32 rounding.
_SAME = 1e-5

# The scheduler that a profile was recorded with: built again, and compared with the one that a pipeline has.


def public(config: Any) -> dict[str, Any]:
    """The entries of a configuration that are not diffusers' own notes."""
    return {key: value for key, value in dict(config).items() if not key.startswith("_")}


def recorded_scheduler(origin: Origin) -> Any:
    """The scheduler that was recorded; for the grid of a denoiser without one, a plain one that holds its levels.

    Raises:
        ValueError: the installed diffusers does not have it, or not with these settings.
    """
    if not origin.scheduler:
        return diffusers.FlowMatchEulerDiscreteScheduler()
    kind = scheduler_class(origin.scheduler)
    if kind is None:
        raise ValueError(
            f"this plan was made for scheduler {origin.scheduler!r}, which diffusers {diffusers.__version__} "
            "does not have; install the version it was recorded with."
        )
    with _settings_of(kind):
        return kind.from_config(public(origin.config))


@contextmanager
def _settings_of(kind: type) -> Iterator[None]:
    """Say of what a scheduler of diffusers trips over that it comes from the plan."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:  # of any kind: it does not check what it is given
        raise ValueError(
            f"{kind.__name__} cannot be set as this plan has it ({type(error).__name__}: {shown(str(error))}); solve "
            "the plan again, or fetch it again."
        ) from error


def check_recorded(scheduler: Any, origin: Origin) -> None:
    """Refuse a scheduler that is not the recorded one.

    Raises:
        ValueError: another class, or another value in its configuration, by name.
    """
    kind = type(scheduler).__name__
    if not origin.scheduler:
        raise ValueError(
            "this plan was made for a denoiser without a pipeline; run it with sc.sample(), or record the pipeline."
        )
    if kind != origin.scheduler:
        raise ValueError(
            f"this plan was made for scheduler {origin.scheduler}, the pipeline has {kind}; set "
            f"pipe.scheduler = {origin.scheduler}.from_config(...) or make a plan for {kind}."
        )
    now = json.loads(json.dumps(public(scheduler.config), default=str))
    for key, recorded in public(origin.config).items():
        if key in now and now[key] != recorded:
            raise ValueError(
                f"this plan was made for {key}={recorded!r}, the pipeline's scheduler has {key}={now[key]!r}; "
                "set it back or record the pipeline as it is now."
            )
    if origin.config and vars(scheduler).get("_shift") != vars(recorded_scheduler(origin)).get("_shift"):
        raise ValueError(_set_later(scheduler))


def adopted(plan: Plan, scheduler: Any) -> Plan:
    """A flow's plan from ComfyUI, which has no scheduler, as one of a pipeline's own; other plans as they are.

    Runs are then refused where that scheduler makes another grid than the recorded one.

    Raises:
        ValueError: the recorded network or that of the scheduler predicts no velocity.
    """
    origin = plan.origin
    if origin.scheduler or not origin.pipeline.startswith(COMFYUI):
        return plan
    scheduler = getattr(scheduler, "_base", scheduler)  # of one that runs a plan already
    kinds = {"ComfyUI": origin.config.get("prediction"), type(scheduler).__name__: prediction_of(scheduler)}
    for name, kind in kinds.items():
        if kind != "velocity":
            raise ValueError(
                f"this plan was recorded in ComfyUI, whose samples are those of diffusers for flows alone, and {name} "
                f"has a network that predicts {shown(kind or 'something else')}: record the pipeline with sc.record()."
            )
    config = json.loads(json.dumps(public(scheduler.config), default=str))
    return replace(plan, origin=replace(origin, scheduler=type(scheduler).__name__, config=config))


def check_rebuilt(scheduler: Any, again: Any) -> None:
    """Refuse a scheduler whose configuration does not give it back, for a plan keeps nothing else of it.

    Args:
        scheduler: prepared for a run.
        again: one of its class and configuration, prepared in the same way.

    Raises:
        ValueError: they have other timesteps; says what was set on it, where that is known.
    """
    own, made = (one.timesteps.double().cpu() for one in (scheduler, again))
    if own.shape != made.shape or not torch.allclose(own, made, rtol=0.0, atol=_SAME * float(own.abs().max())):
        raise ValueError(_set_later(scheduler))


def _set_later(scheduler: Any) -> str:
    kind, shift = type(scheduler).__name__, vars(scheduler).get("_shift")
    what = "something" if shift in (None, scheduler.config.get("shift")) else f"shift={shift}"
    value = "..." if what == "something" else what
    return (
        f"this {kind} has other timesteps than one of its configuration: {what} was set on it afterwards, which a plan "
        f"does not keep; use pipe.scheduler = {kind}.from_config(pipe.scheduler.config, {value}) instead."
    )


# The grid of a run: the one that the plan was made for, or what differs.


@dataclass(frozen=True)
class Given:
    """The arguments of `set_timesteps`; `sigmas` or `timesteps` stand instead of the count."""

    num_inference_steps: int | None
    sigmas: Any = None
    mu: float | None = None
    timesteps: Any = None

    @property
    def count(self) -> int | None:
        custom = self.sigmas if self.sigmas is not None else self.timesteps
        return self.num_inference_steps if custom is None else len(custom)

    def of_steps(self, steps: int) -> Given:
        """The same arguments for another number of steps; own levels follow where they are the pipelines' usual ones.

        Pipelines such as Flux's pass sigmas = linspace(1, 1 / n, n) for n steps.
        """
        if self.sigmas is None and self.timesteps is None:
            return Given(steps, mu=self.mu)
        n = self.count
        if self.timesteps is None and n and np.allclose(self.sigmas, np.linspace(1.0, 1 / n, n), atol=1e-6):
            return Given(steps, np.linspace(1.0, 1 / steps, steps), self.mu)
        return self


def prepare(base: Any, plan: Plan, given: Given) -> str:
    """Set the recorded scheduler on the grid of a run; how it differs from the plan's in words, or "".

    Raises:
        ValueError: no number of steps is given.
    """
    n, m = plan.origin.steps, plan.evaluations
    if given.count is None:
        raise ValueError(f"set_timesteps(...) needs num_inference_steps={n} or {m}.")
    count = _count(base, n, given.count)
    if count is None and given.count == m:
        given = given.of_steps(n)
        count = _count(base, n, given.count)
    if count is None:
        return (
            f"num_inference_steps={given.count} differs from the {n} steps that this plan was made for; give {n}, or "
            f"the {m} evaluations of the plan."
        )
    if not plan.origin.scheduler or not plan.origin.config:
        keep_own_grid(base, plan)  # a bare grid, of which nothing else is known
        return ""
    _set(base, count, given)
    return _difference(base.timesteps, plan)


def _count(base: Any, steps: int, count: int | None) -> int | None:
    """The argument with which the recorded scheduler makes the plan's N steps; None if this count does not.

    PNDM makes one timestep more than its argument, and both numbers are taken; MiniMax-H3 makes one less.
    """
    if count is None:
        return None
    made = copy.deepcopy(base)
    for candidate in (count, steps - 1) if count == steps else (count,):
        try:
            with _settings_of(type(made)):
                made.set_timesteps(candidate)
        except ValueError:  # it needs more than a count, and makes as many steps
            break
        if len(made.timesteps) == steps:
            return candidate
    return count if count == steps else None


def _set(base: Any, count: int, given: Given) -> None:
    """Begin a run of the recorded scheduler, with those of the arguments that it understands."""
    known = inspect.signature(base.set_timesteps).parameters
    options = {"sigmas": given.sigmas, "mu": given.mu, "timesteps": given.timesteps}
    passed = {key: value for key, value in options.items() if value is not None and key in known}
    for name in {"sigmas", "timesteps"} & {key for key, value in options.items() if value is not None} - set(passed):
        raise ValueError(
            f"set_timesteps({name}=...): the recorded {type(base).__name__} does not support custom {name} schedules; "
            f"give num_inference_steps={len(base.timesteps)} or use a plan of a scheduler that takes them."
        )
    if not base.config.get("use_dynamic_shifting", False):
        passed.pop("mu", None)  # some pipelines give it by the scheduler's class, and some schedulers refuse it
    if not {"sigmas", "timesteps"} & set(passed):
        passed["num_inference_steps"] = count if given.sigmas is None and given.timesteps is None else None
    with _settings_of(type(base)):
        base.set_timesteps(**passed)


def keep_own_grid(base: Any, plan: Plan) -> None:
    """The recorded scheduler on the plan's grid, whatever the arguments of the run."""
    if "FlowMatch" not in type(base).__name__:
        base.set_timesteps(plan.origin.steps)
        return
    # Its levels follow from its times; set_timesteps would shift them anew.
    base.timesteps = torch.tensor(plan.timesteps.copy(), dtype=torch.float32)
    base.num_inference_steps = plan.origin.steps
    if "sigma" in plan.origin.config:
        base.sigmas = torch.tensor(plan.origin.config["sigma"], dtype=torch.float32)
        return
    end = torch.full((1,), 1.0 if base.config.invert_sigmas else 0.0)
    base.sigmas = torch.cat([base.timesteps / base.config.num_train_timesteps, end])


def _difference(timesteps: Tensor, plan: Plan) -> str:
    """How a grid differs from the plan's, in words; empty if it does not."""
    found = timesteps.double().cpu().numpy()
    cure = (
        "Run the pipeline as it was recorded, record it as it is now, or keep the plan's grid with "
        "PlanScheduler(plan, strict=False)."
    )
    if len(found) != len(plan.timesteps):
        return f"this run has {len(found)} timesteps, the plan was made for {len(plan.timesteps)}. {cure}"
    distance = np.abs(found - plan.timesteps)
    i = int(distance.argmax())
    if distance[i] <= _SAME * max(1.0, float(np.abs(plan.timesteps).max())):
        return ""
    return (
        f"the timesteps of this run differ from the plan's by up to {distance[i]:.4g} (step {i}: {found[i]:.6g}, made "
        f"for {plan.timesteps[i]:.6g}): another resolution shifts the grid (mu), other sigmas replace it. {cure}"
    )
