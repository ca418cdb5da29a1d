"""TimeTuner on a mixture whose denoiser is exact, and on the reference model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import skipcast as sc
from research.guidance.problems import Mixture, drawn, level_of, sliced
from research.plans.draws import drawn_images, planned, psnr
from research.plans.figures import fidelity
from research.plans.gradients import Network
from research.plans.study import Study
from skipcast.grid import Vector
from skipcast.pipelines.denoiser import unaccelerated
from skipcast.pipelines.recording.replay import PipelineEvaluator
from skipcast.plans.plain import sampler_rows
from skipcast.plans.plan import Plan
from skipcast.plans.propagation import Levels

Report = Callable[[str], None]
STEPS = (5, 10)
SPACINGS = ("uniform", "log-SNR")
_LAST, _SUBSTEPS, _FINE = 0.002, 20, 400
_DRAW = 17


def times(spacing: str, steps: int) -> Vector:
    """t of N + 1 levels from 1 to 0.002, even in t or in the half log-SNR of the variance-preserving process."""
    even = np.linspace(1.0, _LAST, steps + 1)
    if spacing == "uniform":
        return even
    fine = np.linspace(1.0, _LAST, 20001)
    log_snr = np.array([np.log(alpha / sigma) for alpha, sigma in map(level_of, fine)])
    found: Vector = np.interp(np.linspace(log_snr[0], log_snr[-1], steps + 1), log_snr, fine)
    return found


def grid_of(t: Vector) -> tuple[sc.TimeGrid, tuple[float, float]]:
    """The steps of a run over these times, and the level behind them."""
    alpha, sigma = map(np.array, zip(*map(level_of, t), strict=True))
    return sc.TimeGrid(t[:-1], alpha[:-1], sigma[:-1]), (float(alpha[-1]), float(sigma[-1]))


def refined(t: Vector, k: int) -> Vector:
    """Each interval of times in k equal parts."""
    return np.append(np.linspace(t[:-1], t[1:], k, endpoint=False).T.reshape(-1), t[-1])


def solver(name: str, t: Vector) -> Plan:
    """A plain sampler on every step; the last one is of first order, since nearly all noise leaves in it."""
    grid, end = grid_of(t)
    plan, _ = unaccelerated(grid, end, "epsilon", None, "study")
    if name == "euler":
        return plan
    rows = sampler_rows(name, Levels(grid, end, "epsilon"), plan.steps, plan.scale)
    return replace(plan, rows=(*rows[:-1], plan.rows[-1]))


def mixture(problems: int, samples: int, batches: int, report: Report) -> dict[str, Any]:
    """Distance to the data and to the exact flow of DDIM, tuned DDIM and DPM-Solver++(2M)."""
    rows: dict[tuple[str, int, str], list[tuple[float, float]]] = {}
    ratios: dict[tuple[str, int, str], list[float]] = {}
    for seed in range(problems):
        prior = Mixture.made(seed)
        network, data = prior.denoiser("epsilon"), prior.draw(4096, 10 + seed)
        noise = torch.randn(samples, data.shape[1], generator=drawn(20 + seed), dtype=torch.float64)
        fresh = prior.draw(samples, 30 + seed)
        exact = sc.sample(network, solver("dpmpp2m", times("log-SNR", _FINE)), noise)
        for spacing in SPACINGS:
            for steps in STEPS:
                t = times(spacing, steps)
                (grid, end), fine = grid_of(t), grid_of(refined(t, _SUBSTEPS))[0]
                given: dict[str, Any] = {
                    "grid": grid, "end": end, "prediction": "epsilon", "batches": batches, "batch": 128,
                    "progress": False, "seed": 100 * seed,
                }  # fmt: skip
                plans = {
                    "DDIM": solver("euler", t),
                    "DDIM, TimeTuner, parallel": sc.tune(network, data, **given),
                    "DDIM, TimeTuner, sequential": sc.tune(network, data, order="sequential", **given),
                    "DDIM, told times of a teacher": sc.tune(network, data, loss="teacher", fine=fine, **given),
                    "DPM-Solver++(2M)": solver("dpmpp2m", t),
                }
                for name, plan in plans.items():
                    x = sc.sample(network, plan, noise)
                    off = float((x - exact).square().mean(1).sqrt().median())
                    rows.setdefault((spacing, steps, name), []).append((sliced(x, fresh), off))
                    if seed == 0 and name not in ("DDIM", "DPM-Solver++(2M)"):
                        ratios[spacing, steps, name] = (plan.evaluation_timesteps / plan.timesteps).round(3).tolist()
                report(f"mixture {seed}, {steps} {spacing} steps")
    found = [
        {
            "spacing": spacing, "steps": steps, "name": name,
            "distance": round(float(np.mean([d for d, _ in each])), 3),
            "error": round(float(np.mean([e for _, e in each])), 3),
            "ratios": ratios.get((spacing, steps, name)),
        }
        for (spacing, steps, name), each in rows.items()
    ]  # fmt: skip
    return {"rows": found, "problems": problems, "samples": samples, "batches": batches}


def reference(study: Study, pairs: int, batches: int, batch: int, report: Report) -> dict[str, Any]:
    """Euler, tuned Euler, solvers of second order and the shipped plans on the reference model's held-out images."""
    profile = study.record(pairs, _DRAW)
    assert profile.trajectory is not None
    evaluator = PipelineEvaluator(study.model.pipe, profile.origin, study.settings.batch)
    network = Network(evaluator, profile.trajectory[:, 0])
    data = profile.trajectory[:, -1].float()
    report(f"recorded {pairs} pairs")

    def guided(x: Tensor, t: Tensor, pair: Sequence[int]) -> Tensor:
        return network(x, t, pair)

    truth = drawn_images(study.model, study.settings)
    rows = []

    def row(budget: int, name: str, images: Tensor, **more: Any) -> None:
        rows.append({"budget": budget, "name": name, "ratios": None, **fidelity(psnr(images, truth)), **more})
        report(f"{budget} evaluations, {name}: {rows[-1]['mean']:.1f} dB")

    for budget in STEPS:
        grid = euler_grid(study, budget)
        fine = euler_grid(study, 5 * budget)
        given: dict[str, Any] = {
            "grid": grid, "batches": batches, "batch": batch, "rate": 2e-3 * max(1.0, 500 / batches),
            "varied": {"pair": list(range(pairs))}, "progress": False,
        }  # fmt: skip
        plans = {
            "timetuner": sc.tune(guided, data, **given),
            "told times of a teacher": sc.tune(guided, data, loss="teacher", fine=fine, **given),
        }
        row(budget, "euler", drawn_images(study.model, study.settings, f"euler:evaluations={budget}"))
        for name, plan in plans.items():
            ratios = (plan.evaluation_timesteps / plan.timesteps).round(4).tolist()
            spec = f"timetuner:ratios={'/'.join(map(str, ratios))}"
            row(budget, name, drawn_images(study.model, study.settings, spec), ratios=ratios)
        for name in ("ab2", "dpmpp2m"):
            row(budget, name, drawn_images(study.model, study.settings, f"{name}:evaluations={budget}"))
        plan = study.plan(budget).at(float(study.settings.call["true_cfg_scale"]))
        own = plan.timesteps[list(plan.steps)]
        told = (plan.evaluation_timesteps / own).round(4).tolist()
        row(budget, "plan", planned(study.model, study.settings, plan).images, ratios=told)
        plain = replace(plan, evaluation_timesteps=own, forecasts=(), expected=None)
        row(budget, "plan, told the times of its steps", planned(study.model, study.settings, plain).images)
    return {"rows": rows, "pairs": pairs, "batches": batches, "batch": batch, "images": len(truth)}


def euler_grid(study: Study, steps: int) -> sc.TimeGrid:
    """The steps that the plain sampler of so many evaluations takes in the pipeline."""
    pipe = study.model.pipe
    with sc.accelerate(pipe, f"euler:evaluations={steps}") as acceleration:
        pipe("a", num_inference_steps=study.settings.steps, output_type="latent", **study.settings.call)
        levels = acceleration.scheduler.sigmas[:-1].double().numpy()
        return sc.TimeGrid(acceleration.scheduler.timesteps.double().numpy(), 1 - levels, levels)
