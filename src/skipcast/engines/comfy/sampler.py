"""A plan as a sampler of ComfyUI: its rows in ComfyUI's coordinates, the checks before a run, and the loop."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipcast.checks import guarded, shown
from skipcast.engines.comfy.network import SAME, TRAINED, Network
from skipcast.grid import TimeGrid, Vector
from skipcast.pipelines.plan_run import Course, PlanRun
from skipcast.pipelines.trust import FACTOR, Trust
from skipcast.plans.plain import extrapolated_rows
from skipcast.plans.plan import COMFYUI, Plan
from skipcast.plans.propagation import first_order

#: Entry of an origin's configuration: the model's noise levels at these shares of its way, by which it is known again.
PROBED, PROBES = "even_levels", (0.25, 0.5, 0.75)
#: Arguments that plans know a guidance scale by, and whether it is that of classifier-free guidance; None where the
#: pipeline decides which of the two it has.
ARGUMENTS: dict[str, bool | None] = {"cfg": True, "true_cfg_scale": True, "guidance": False, "guidance_scale": None}

#: Noise over signal above which the two libraries put numbers of their own for none at all.
_NO_SIGNAL = 1000.0

_LOG = logging.getLogger("skipcast")
_KEEP = "or switch `strict` off to run the plan's own noise levels all the same"

# Where the steps of a plan lie, in ComfyUI's measure of noise.


def levels_of(plan: Plan, network: Network) -> Vector:
    """The noise levels of the plan's N steps and of the end, (N + 1,), as ComfyUI's sigmas.

    Raises:
        ValueError: they rise, or the plan does not end in a clean sample.
    """
    found = _levels(plan, network)
    if (np.diff(found) > 0).any():
        raise ValueError(
            f"the noise levels of this plan ({plan.origin.scheduler or 'a grid'}) rise, as with invert_sigmas, and "
            "ComfyUI's fall; record the model here with the Record Profile node."
        )
    return found


def _levels(plan: Plan, network: Network) -> Vector:
    config, known = plan.origin.config, plan.timesteps
    if not plan.origin.scheduler and "sigma" in config:
        alpha, sigma = np.array(config["alpha"]), np.array(config["sigma"])
        if sigma[-1] != 0:
            raise ValueError(
                f"this plan ends at noise level {sigma[-1]:g}, and ComfyUI's samplers at 0; record it down to 0."
            )
        if not network.flow and (alpha == 0).any():
            raise ValueError("this plan begins in pure noise, at which no sigma of this model lies; record it anew.")
        return sigma if network.flow else sigma / alpha
    if network.flow:
        return np.append(known / _trained(config), 0.0)
    return np.append([network.sigma(float(time)) for time in known], 0.0)


def _trained(config: Mapping[str, Any]) -> float:
    return float(config.get("num_train_timesteps", TRAINED))


def told_levels(plan: Plan, network: Network, levels: Vector) -> Vector:
    """The noise levels at which the network is called, (m,): those of the steps, unless a solver moved the timestep."""
    found = levels[list(plan.steps)].copy()
    grid = plan.timesteps[list(plan.steps)]
    for n, (told, time) in enumerate(zip(plan.evaluation_timesteps, grid, strict=True)):
        if abs(told - time) > 1e-9 * max(1.0, abs(time)):
            found[n] = found[n] * told / time if network.flow else network.sigma(float(told))
    return found


# The checks before a run.


def predicted_kind(plan: Plan) -> str:
    """What the network of a plan predicts, by the configuration of its scheduler."""
    origin = plan.origin
    if not origin.scheduler:
        return str(origin.config.get("prediction", ""))
    if _flows(plan):
        return "velocity"
    return str(origin.config.get("prediction_type", "epsilon"))


def _flows(plan: Plan) -> bool:
    config = plan.origin.config
    named = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    return bool(named) or "FlowMatch" in plan.origin.scheduler


@guarded("Plan Sampler", network=None)
def check_model(plan: Plan, network: Network, kind: str, *, strict: bool = True) -> None:
    """Refuse a model that the plan was not made for, as far as its numbers tell.

    Args:
        plan: the plan.
        network: of the model.
        kind: the name of its class.
        strict: whether its own noise levels must be those of the plan.

    Raises:
        ValueError: another prediction, another class, other noise levels, or timesteps that the model would round, by
            name.
    """
    wanted, origin = predicted_kind(plan), plan.origin
    if wanted and wanted != network.prediction:
        raise ValueError(
            f"this plan is for a network that predicts {wanted!r} ({origin.pipeline or origin.scheduler or 'a grid'}), "
            f"this model ({kind}) predicts {network.prediction or 'something else'!r}; load the model that was "
            "recorded, or record this one."
        )
    if strict and origin.pipeline.startswith(COMFYUI) and origin.pipeline != COMFYUI + kind:
        raise ValueError(
            f"this plan was recorded on {origin.pipeline.removeprefix(COMFYUI)}, this model is {kind}; load the model "
            f"that was recorded, record this one, {_KEEP}."
        )
    levels = levels_of(plan, network)
    difference = _difference(plan, network, levels)
    if difference and strict:
        raise ValueError(difference)
    lost = [time for time in plan.evaluation_timesteps if not network.keeps(float(time))]
    if not lost:
        return
    words = (
        f"this plan tells the network timesteps such as {lost[0]:.6g}, and this model ({kind}) rounds them to whole "
        "ones; solve it with fixed timesteps (the Solve Plan node does, as does "
        "profile.plan(effort=Effort(free_timesteps=False))), on whole ones"
    )
    if strict:
        raise ValueError(f"{words}, {_KEEP}.")
    _LOG.warning("%s. It runs with rounded timesteps.", words)


def _difference(plan: Plan, network: Network, levels: Vector) -> str:
    """How the model's own noise levels differ from the plan's, in words; "" where they do not, or nothing is known."""
    config, kind = plan.origin.config, type(network.sampling).__name__
    if PROBED in config:
        own, made = network.even(np.array(PROBES)), np.array(config[PROBED])
        if np.allclose(own, made, rtol=SAME):
            return ""
        return (
            f"the noise levels of this model ({kind}) are not those of the recording: {own[1]:.4g} halfway, recorded "
            f"{made[1]:.4g}; set its shift as it was recorded, record it as it is now, {_KEEP}."
        )
    if not plan.origin.scheduler or not config:
        return ""
    if not network.flow:
        own, table = levels[:-1], _training_levels(config)
        if table is None:
            return ""
        made = np.exp(np.interp(plan.timesteps, np.arange(len(table)), np.log(table)))
        off = np.where(made < _NO_SIGNAL, np.abs(own / made - 1), 0.0)
        i = int(off.argmax())
        if off[i] <= 10 * SAME:  # tables in float32
            return ""
        return (
            f"the noise levels of this model ({kind}) are not those of {plan.origin.scheduler}: {own[i]:.5g} at "
            f"timestep {plan.timesteps[i]:g}, recorded {made[i]:.5g}; load the model that was recorded, {_KEEP}."
        )
    return _shifted_otherwise(plan, network, levels, kind)


def _shifted_otherwise(plan: Plan, network: Network, levels: Vector, kind: str) -> str:
    """How a flow's shift differs: steps that are even in the model's own time must lie at the plan's levels."""
    config = plan.origin.config
    if any(config.get(name) for name in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")):
        return ""  # their levels do not follow from a shift
    own = levels[:-1]
    if len(own) < 4:
        return ""  # any three levels are those of some even steps
    shares = np.linspace(0.0, 1.0, 4001)
    placed = np.interp(own, network.even(shares), shares)
    even = network.even(np.linspace(placed[0], placed[-1], len(placed)))
    i = int(np.abs(even - own).argmax())
    whole = bool((plan.timesteps == np.round(plan.timesteps)).all())
    if abs(even[i] - own[i]) <= (2.0 / TRAINED if whole else 5 * SAME):
        return ""
    u = 1 - np.arange(1, len(own)) / len(own)
    made = float(1 / np.polyfit(1 / u, 1 / own[1:], 1)[0])
    (middle,) = network.even(np.array([0.5]))
    has = middle / (1 - middle)
    return (
        f"the noise levels of this model ({kind}) differ from the plan's by up to {abs(even[i] - own[i]):.2g} (step "
        f"{i}: {even[i]:.4g}, made for {own[i]:.4g}): it is shifted by {has:.3g}, the plan by about {made:.3g}; set "
        f"the shift (ModelSamplingSD3, or ModelSamplingFlux with a shift of {np.log(max(made, 1e-9)):.3g}), make a "
        f"plan for this one, {_KEEP}."
    )


def _training_levels(config: Mapping[str, Any]) -> Vector | None:
    """Noise over signal at every timestep of training, by a scheduler's configuration; None where it does not tell."""
    count, first, last = int(_trained(config)), config.get("beta_start"), config.get("beta_end")
    schedule = config.get("beta_schedule")
    if config.get("trained_betas") is not None:
        betas = np.array(config["trained_betas"], dtype=np.float64)
    elif schedule == "linear" and first is not None and last is not None:
        betas = np.linspace(first, last, count)
    elif schedule == "scaled_linear" and first is not None and last is not None:
        betas = np.linspace(first**0.5, last**0.5, count) ** 2
    else:
        return None
    signal = np.cumprod(1 - betas)
    if config.get("rescale_betas_zero_snr"):
        root = np.sqrt(signal)
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        signal = root**2
    signal = np.maximum(signal, 2.0**-24)  # what both libraries put where no signal is left
    found: Vector = np.sqrt((1 - signal) / signal)
    return found


# Rows.


@dataclass(frozen=True)
class Route:
    """What one run does in ComfyUI's coordinates.

    Args:
        course: rows, steps and places; its samples are ComfyUI's.
        levels: noise levels at which the network is called, (m,).
        first: factor of the noise that a whole run begins with; None where it begins as ComfyUI does.
    """

    course: Course
    levels: Vector
    first: float | None


def route(plan: Plan, network: Network, begin: int = 0) -> Route:
    """The rows of a plan, or of its part from a step of the grid on, for ComfyUI's samples.

    A plan moves the samples x_p of its scheduler, whose network sees s x_p; ComfyUI's sees k x. So x = c x_p with
    c_n = s_n / k_n, and at the end, where both are the latent, c = 1:

        1 + a_n <- (1 + a_n) c_{n+1} / c_n,      b_{n,j} <- c_{n+1} b_{n,j}

    which is nothing for flows and for schedulers with k-diffusion's samples, and divides by the share of the signal
    for DDIM and its kin. A part is evaluated where it begins, and moves along the line through its last two outputs,
    as `Course.part` has it, by the first-order sampler.

    Raises:
        ValueError: a part of a plan for a network of which it is not known what it predicts.
    """
    levels = levels_of(plan.whole("Plan Sampler(plan=...)"), network)
    if begin:
        return _part(plan, network, levels, begin)
    told = told_levels(plan, network, levels)
    c = np.append([scale / network.scale(float(level)) for scale, level in zip(plan.scale, told, strict=True)], 1.0)
    c[np.abs(c - 1) < SAME / 100] = 1.0  # exactly the plan's own rows
    rows = []
    for n, row in enumerate(plan.rows):
        moved = row * c[n + 1]
        moved[0] = (1 + row[0]) * c[n + 1] / c[n] - 1 if c[n + 1] != c[n] else row[0]
        rows.append(moved)
    course = Course.whole(plan)
    made = Course(course.steps, course.end, tuple(rows), told, np.ones(len(plan)), course.places, course.forecasts)
    return Route(made, told, _first(plan, float(levels[0]), float(c[0])))


def _first(plan: Plan, level: float, c: float) -> float | None:
    """Factor of the noise at the begin of a whole run: the recorded scheduler's initial deviation in ComfyUI's measure.

    ComfyUI itself begins with sigma times the noise below its largest level, and a little more at it.
    """
    origin = plan.origin
    if not origin.scheduler:
        return None
    deviation = 1.0
    if not np.allclose(plan.scale, 1.0):  # of k-diffusion's samples; see init_noise_sigma of such a scheduler
        even = origin.config.get("timestep_spacing", "linspace") in ("linspace", "trailing")
        deviation = level if even else float(np.sqrt(level**2 + 1))
    return c * deviation


def _part(plan: Plan, network: Network, levels: Vector, begin: int) -> Route:
    where = network.levels(levels[begin:])
    if where is None:
        raise ValueError(
            f"this plan begins at step {begin}, but {type(network.sampling).__name__} does not tell what the network "
            "predicts, from which its rows would follow; begin at the first level (denoise=1)."
        )
    steps = (begin, *(step for step in plan.steps if step > begin))
    scale = np.append([network.scale(float(level)) for level in levels[begin:-1]], 1.0)
    states = first_order(where.grid, where.end, where.prediction) / scale[:, None]
    states[:, 0] *= scale[0]
    places = [step - begin for step in steps]
    rows = extrapolated_rows(states, tuple(places), min(1, len(steps) - 1))
    found = levels[list(steps)]
    nothing = tuple(np.zeros(0) for _ in steps)
    course = Course(steps, plan.origin.steps, rows, found, np.ones(len(steps)), (None,) * len(steps), nothing)
    return Route(course, found, None)


def sigmas_of(plan: Plan, network: Network, denoise: float = 1.0) -> Tensor:
    """The SIGMAS of a run: the noise levels of its evaluations, and 0.

    Args:
        plan: the plan.
        network: of the model.
        denoise: share of the steps that are run; below 1 the first floor((1 - denoise) N) are left out.

    Raises:
        ValueError: no step is left.
    """
    levels, steps = levels_of(plan, network), plan.origin.steps
    begin = steps - min(int(steps * denoise + 1e-9), steps)
    if begin >= steps:
        raise ValueError(
            f"Plan Sampler(denoise={denoise:g}) leaves none of the plan's {steps} steps to run; give more than "
            f"{1 / steps:g}."
        )
    kept = [step for step in plan.steps if step > begin]
    return torch.tensor(levels[[begin, *kept, steps]], dtype=torch.float32)


def begin_of(plan: Plan, levels: Vector, sigmas: Sequence[float]) -> int:
    """The step of the grid that given sigmas begin at.

    Raises:
        ValueError: they end above 0, begin at no step of the grid, or go on otherwise than the plan does.
    """
    cure = "connect the sigmas of the Plan Sampler, cut at the front alone (its denoise, or SplitSigmasDenoise)"
    if sigmas[-1] != 0:
        raise ValueError(
            f"these sigmas end at {sigmas[-1]:.4g}: a plan runs down to 0, and cannot be left in the middle, as the "
            f"high part of SplitSigmas does; {cure}."
        )
    begin = int(np.abs(levels[:-1] - sigmas[0]).argmin())
    if abs(levels[begin] - sigmas[0]) > SAME * max(sigmas[0], 1e-3):
        raise ValueError(
            f"these sigmas begin at {sigmas[0]:.5g}, at which no step of the plan lies; the nearest is step {begin} at "
            f"{levels[begin]:.5g}. Instead, {cure}."
        )
    wanted = levels[[step for step in plan.steps if step > begin]]
    if len(wanted) != len(sigmas) - 2 or not np.allclose(wanted, sigmas[1:-1], rtol=SAME, atol=SAME / 10):
        raise ValueError(
            f"these are {len(sigmas) - 1} sigmas that are not the plan's, which evaluates {1 + len(wanted)} levels "
            f"from {sigmas[0]:.4g} on; {cure}."
        )
    return begin


# Guidance.


def guidance_of(guider: Any, argument: str) -> float | None:
    """The guidance scale that a guider runs with; None where it has none, or more than one.

    Args:
        guider: ComfyUI's, in a run or before.
        argument: what the plan calls the scale.
    """
    conds = getattr(guider, "conds", None) or getattr(guider, "original_conds", {})
    own = float(guider.cfg) if set(conds) == {"positive", "negative"} and hasattr(guider, "cfg") else None
    scales = {float(cond["guidance"]) for cond in conds.get("positive", ()) if cond.get("guidance") is not None}
    embedded = scales.pop() if len(scales) == 1 else None
    free = ARGUMENTS.get(argument)
    if free is None and embedded is not None:  # a network that is told the scale is guided no second time at 1
        return embedded if own in (None, 1.0) else None
    return embedded if free is False else own


def for_run(plan: Plan, guider: Any, guidance: float | None) -> Plan:
    """The plan for the guidance scale of a run; one without knots is itself, with a warning at another scale.

    Args:
        plan: the plan.
        guider: of the run.
        guidance: the scale; None takes the guider's.

    Raises:
        ValueError: a plan with knots whose scale cannot be known, or lies outside.
    """
    if plan.knots:
        argument = str(plan.argument)
        value = guidance_of(guider, argument) if guidance is None and argument in ARGUMENTS else guidance
        if value is None:
            raise ValueError(
                f"this plan holds for {argument} from {plan.knots[0].value:g} to {plan.knots[-1].value:g}, and "
                f"{type(guider).__name__} does not say which value it runs with; set `guidance` of the Plan Sampler."
            )
        return plan.at(value)
    for argument in ARGUMENTS:
        recorded = plan.origin.call.get(argument)
        value = guidance_of(guider, argument) if guidance is None else guidance
        if isinstance(recorded, int | float) and value is not None and abs(value - recorded) > 1e-6:
            _LOG.warning(
                "this plan was made for %s=%g and runs at %g; at other scales it is further from the unaccelerated "
                "run: record several (the Record Profile node takes a list).",
                argument, recorded, value,
            )  # fmt: skip
            break
    return plan


# The loop.


def interrupted() -> None:
    """Raise what ComfyUI raises when its user has stopped the run."""
    from comfy.model_management import throw_exception_if_processing_interrupted

    throw_exception_if_processing_interrupted()


@torch.no_grad()
def sample_plan(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Any = None,
    disable: bool | None = None,
    *,
    plan: Plan,
    guidance: float | None = None,
    strict: bool = True,
    **options: Any,
) -> Tensor:
    """Run a plan as ComfyUI's samplers run: m evaluations, and after the n-th x <- x + a_n x + sum_j b_{n,j} y_j.

    Args:
        model: gives the denoised sample, after guidance and masks.
        x: the noisy sample.
        sigmas: those of the Plan Sampler, cut at the front at most.
        extra_args: go on to the model.
        callback: told every evaluation, for the preview and the progress.
        disable: of the progress bar on the console.
        plan: the plan.
        guidance: of a plan with knots; None takes the guider's.
        strict: as for `check_model`.
        options: of other samplers, which must be switched off.

    Raises:
        ValueError: whatever of the model, the sigmas, the guidance or the options is not the plan's; before the first
            evaluation.
    """
    given = [name for name, value in options.items() if value]
    if given:
        raise ValueError(f"{given[0]}={shown(options[given[0]])} cannot be followed by a plan, which adds no noise.")
    extra_args = {} if extra_args is None else extra_args
    base = model.inner_model.inner_model
    network = Network(base.model_sampling)
    check_model(plan, network, type(base).__name__, strict=strict)
    plan = for_run(plan, model.inner_model, guidance)
    begin = begin_of(plan, levels_of(plan, network), sigmas.double().cpu().tolist())
    way, mask = route(plan, network, begin), extra_args.get("denoise_mask")
    if way.first is not None and not bool(torch.count_nonzero(model.latent_image)):
        x = model.noise * way.first  # as the recorded sampler begins
    trust = Trust(plan) if plan.forecasts and plan.expected is not None and not begin and mask is None else None
    run = PlanRun(way.course, trust)
    for n in _counted(len(way.levels), disable):
        interrupted()
        level = float(way.levels[n])
        sigma = x.new_full((len(x),), level)
        denoised = model(x, sigma, **extra_args)
        if callback is not None:
            callback({"x": x, "i": n, "sigma": sigma[0], "sigma_hat": sigma[0], "denoised": denoised})
        x = run.advance(network.output(level, denoised, x), x)
    _warn(trust, len(x), plan)
    return x if mask is None else _blended(model, x, float(way.levels[-1]), mask, extra_args)


def _counted(count: int, disable: bool | None) -> Any:
    try:
        from tqdm.auto import trange
    except ImportError:  # which ComfyUI needs itself
        return range(count)
    return trange(count, disable=disable)


def _blended(model: Any, x: Tensor, level: float, mask: Tensor, extra_args: Mapping[str, Any]) -> Tensor:
    """The protected region as it was: the last denoised sample holds it, but the last row weighs earlier ones, too."""
    function = extra_args.get("model_options", {}).get("denoise_mask_function")
    if function is not None:
        sigma = x.new_full((len(x),), level)
        mask = function(sigma, mask, extra_options={"model": model.inner_model, "sigmas": model.sigmas})
    return x * mask + model.latent_image * (1.0 - mask)


def _warn(trust: Trust | None, batch: int, plan: Plan) -> None:
    """Say of the finished run if a sample departed too far from the plan's forecasts."""
    worst = trust and trust.worst(batch, FACTOR)
    if worst:
        _LOG.warning(
            "sample %d departs %.1f times more from the plan's forecast at evaluation %d than any recorded pair "
            "(made for %s): compare it with an unaccelerated run, or record the model as it is used now.",
            worst.sample, worst.times, worst.evaluation, plan.origin.pipeline or plan.origin.scheduler or "a denoiser",
        )  # fmt: skip


@guarded("Plan Sampler", model=None, denoise=(0, 1))
def plan_sampler(
    model: Any, plan: Plan, *, denoise: float = 1.0, guidance: float | None = None, strict: bool = True
) -> tuple[Any, Tensor]:
    """The SAMPLER and the SIGMAS of a plan.

    Args:
        model: of ComfyUI, that the plan was made for.
        plan: the plan.
        denoise: share of the steps that are run.
        guidance: of a plan with knots; None takes the guider's.
        strict: refuse a model with other noise levels than the plan's.

    Raises:
        ValueError: the model is not the plan's, a guidance scale outside the knots, or nothing is left to run.
    """
    from comfy.samplers import KSAMPLER

    network = Network(model.get_model_object("model_sampling"))
    check_model(plan, network, type(model.model).__name__, strict=strict)
    if guidance is not None and plan.knots:
        plan.at(guidance)
    sigmas = sigmas_of(plan, network, denoise)
    begin = begin_of(plan, levels_of(plan, network), sigmas.double().tolist())
    route(plan, network, begin)
    return KSAMPLER(sample_plan, {"plan": plan, "guidance": guidance, "strict": strict}), sigmas


def grid_of(network: Network, sigmas: Vector) -> TimeGrid:
    """The steps at these noise levels as methods see them.

    Raises:
        ValueError: they do not fall.
    """
    alpha, sigma = network.shares(sigmas)
    return TimeGrid(np.array([network.timestep(float(level)) for level in sigmas]), alpha, sigma)
