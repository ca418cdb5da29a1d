"""Plans beside samplers and forecasters on one survey's network, at equal evaluations and on held-out noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import skipcast as sc
from research.galaxies.reader import SURVEYS, ScoreNet
from skipcast.grid import Vector
from skipcast.plans.plain import SAMPLERS, sampler_rows
from skipcast.plans.plan import Origin, Plan, Prediction
from skipcast.plans.propagation import Levels

STEPS, CONVERGED = 50, 200
#: From where to where the time runs, which is -log of the share of the signal's variance.
BEGIN, END = 10.0, 0.005
#: Seeds of the noise: recorded, and held out.
RECORDED_SEED, HELD_OUT_SEED = 5000, 1000
#: Methods of the library whose parts see nothing but the output, on even steps.
FORECASTERS = (
    "reuse",
    "lagrange:order=1",
    "lagrange:order=2",
    "lagrange:order=3",
    "taylorseer:order=1,target=output",
    "taylorseer:order=2,target=output",
    "hicache:order=2,target=output",
    "spectrum:target=output",
    "tc-pade:target=output",
    "svd-cache:target=output",
)
BATCH = 32

Report = Callable[[str], None]
Denoiser = Callable[[Tensor, Any], Tensor]


def half_log_snr(t: float) -> float:
    """log(alpha / sigma) at time t, with alpha^2 = e^-t and sigma^2 = 1 - e^-t."""
    return float(-0.5 * np.log(np.expm1(t)))


def levels(steps: int) -> Levels:
    """So many steps even in half log-SNR.

    The half log-SNR also stands for the timestep: a small change of it is small at every step, which one of t is not.
    """
    first, last = half_log_snr(BEGIN), half_log_snr(END)
    nodes: Vector = first + (last - first) / steps * np.arange(steps + 1.0)
    alpha = 1 / np.sqrt(1 + np.exp(-2 * nodes))
    sigma = 1 / np.sqrt(1 + np.exp(2 * nodes))
    grid = sc.TimeGrid(timestep=nodes[:-1], alpha=alpha[:-1], sigma=sigma[:-1])
    return Levels(grid, (float(alpha[-1]), float(sigma[-1])), "epsilon")


def noise_predictor(network: ScoreNet) -> Denoiser:
    """The noise in x at a half log-SNR l: -sigma s(x, t), sigma^2 = 1 / (1 + e^2l), t = log(1 + e^-2l)."""

    def denoiser(x: Tensor, timestep: Any) -> Tensor:
        node = float(timestep)
        return network(x, float(np.log1p(np.exp(-2 * node)))) * -float(1 / np.sqrt(1 + np.exp(2 * node)))

    return denoiser


def noise(survey: str, count: int, seed: int) -> Tensor:
    """Initial samples, (count, 1, side, side); at t = 10 they are noise but for a variance of 5e-5."""
    side = SURVEYS[survey][1]
    return torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(seed))


def unaccelerated(denoiser: Denoiser, start: Tensor, steps: int = STEPS) -> sc.Profile:
    """The DDIM run of so many steps, recorded."""
    at = levels(steps)
    given: dict[str, Any] = {"end": at.end, "prediction": "epsilon", "batch": BATCH, "progress": False}
    return sc.record(denoiser, start, grid=at.grid, **given)


def sampler_plan(name: str, evaluations: int) -> Plan:
    """A plain sampler on its own steps, even in half log-SNR, as a plan of every one of them.

    Solvers of second order keep their order in the last step too, for it ends in some noise.
    """
    at, steps, ones = levels(evaluations), tuple(range(evaluations)), np.ones(evaluations)
    times, origin = at.grid.timestep, Origin("", "", {}, evaluations)
    return Plan(steps, sampler_rows(name, at, steps, ones), times, times, ones, origin, label=name)


def sampled(denoiser: Denoiser, plan: Plan, start: Tensor) -> Tensor:
    """Final samples of a plan."""
    return torch.cat([sc.sample(denoiser, plan, some) for some in start.split(BATCH)])


def forecast(denoiser: Denoiser, method: str, start: Tensor, evaluations: int) -> Tensor | None:
    """Final samples of the DDIM run with a method around the denoiser; None where it cannot do with so few."""
    parts = method + ("," if ":" in method else ":")
    try:
        wrapped = sc.wrap(denoiser, f"{parts}schedule=even,evaluations={evaluations}", levels(STEPS).grid)
    except ValueError:
        return None
    final = unaccelerated(wrapped, start).trajectory
    assert final is not None
    if len(wrapped.evaluated_steps["output"]) != evaluations:
        return None
    return final[:, -1]


def psnr(found: Tensor, goal: Tensor) -> dict[str, float]:
    """In dB over the range of each goal: mean, mean of the worst twentieth, worst."""
    flat = goal.double().flatten(1)
    error = (found.double().flatten(1) - flat).square().mean(1)
    each = -10 * (error / (flat.amax(1) - flat.amin(1)).square()).log10()
    of = Prediction.of(each.numpy(), held_out=True, closed=True)
    return {"mean": round(of.psnr, 2), "worst5": round(of.worst5, 2), "worst": round(of.worst, 2)}


def study(
    survey: str,
    network: ScoreNet,
    *,
    budgets: Sequence[int],
    pairs: int,
    held_out: int,
    efforts: Sequence[str],
    report: Report = lambda note: None,
) -> dict[str, Any]:
    """Everything that is measured of one survey, as plain JSON."""
    denoiser = noise_predictor(network)
    start = noise(survey, held_out, HELD_OUT_SEED)
    report("unaccelerated runs")
    final = unaccelerated(denoiser, start).trajectory
    assert final is not None
    default = final[:, -1]
    converged, half = (sampled(denoiser, sampler_plan("unipc", n), start) for n in (CONVERGED, CONVERGED // 2))
    rows: list[dict[str, Any]] = []

    def add(kind: str, name: str, budget: int, found: Tensor, **more: Any) -> None:
        row = {"kind": kind, "name": name, "budget": budget, **more}
        rows.append({**row, "default": psnr(found, default), "converged": psnr(found, converged)})
        report(f"{budget} {name}: {rows[-1]['default']}")

    report("recording")
    profile = unaccelerated(denoiser, noise(survey, pairs, RECORDED_SEED))
    for budget in budgets:
        for name in SAMPLERS:
            add("sampler", name, budget, sampled(denoiser, sampler_plan(name, budget), start))
        for method in FORECASTERS:
            found = forecast(denoiser, method, start, budget)
            if found is not None:
                add("forecaster", method, budget, found)
        for effort in efforts:
            plan = profile.plan(evaluations=budget, refine=denoiser, effort=effort, batch=BATCH)
            assert plan.predicted is not None
            promise = {"mean": round(plan.predicted.psnr, 2), "worst5": round(plan.predicted.worst5, 2)}
            more = {"steps": list(plan.steps), "label": plan.label, "predicted": promise}
            add("plan", f"plan, effort {effort}", budget, sampled(denoiser, plan, start), **more)
    return {
        "rows": rows,
        "parameters": sum(array.numel() for array in network.weights),
        "side": SURVEYS[survey][1],
        "reference": {"converged": psnr(default, converged), "agreement": psnr(half, converged)},
    }
