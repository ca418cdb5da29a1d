"""The engine ComfyUI: under a stand-in of its interfaces always, and in the real one where `COMFYUI_PATH` names it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import shutil
import socket
import sys
import tomllib
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from torch import Tensor

import skipcast as sc
from skipcast.engines.comfy import files
from skipcast.engines.comfy.forecast import KEY, forecasting, method_of, names
from skipcast.engines.comfy.network import Network
from skipcast.engines.comfy.nodes import (
    Forecast,
    LoadPlan,
    PlanInfo,
    PlanSampler,
    RecordProfile,
    SolvePlan,
    described,
)
from skipcast.engines.comfy.probing import check_sampler, table_of
from skipcast.engines.comfy.recording import GuiderEvaluator, Pairs, record, solve
from skipcast.engines.comfy.sampler import check_model, levels_of, plan_sampler, route, sigmas_of
from skipcast.plans.plan import Knot, Origin, Prediction
from skipcast.plans.propagation import first_order
from support import comfy_stand_in as stand_in
from support import comfyui, toy
from support.comfy_stand_in import Clip, Flow, Interrupted, Model, Patcher, Sampling, cond, simple

STEPS, SHIFT = 20, 3.0
SHAPE = (4, 6, 6)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[types.SimpleNamespace]:
    with stand_in.installed(monkeypatch, tmp_path) as state:
        yield state


def patcher(sampling: Sampling | None = None) -> Patcher:
    return Patcher(Model(Flow(SHIFT) if sampling is None else sampling))


def guided(model: Patcher, cfg: float = 2.0, **more: Any) -> stand_in.CFGGuider:
    guider = stand_in.CFGGuider(model)
    guider.set_conds(cond(0.8, **more), cond(-0.3))
    guider.set_cfg(cfg)
    return guider


def drawn(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(seed))


def flow_plan(evaluations: int = 6) -> sc.Plan:
    """Of the grid that a scheduler of shift 3 makes, whose steps are even before the shift."""
    grid = sc.TimeGrid.shifted(STEPS, shift=SHIFT)
    made = sc.compile_plan(f"lagrange:order=2,evaluations={evaluations}", grid)
    return replace(made, origin=replace(made.origin, config={"shift": SHIFT, "num_train_timesteps": 1000}))


def output(model: Patcher, x: Tensor, timestep: float, cfg: float = 2.0) -> Tensor:
    """What a scheduler would receive of the guided formula, whose input is x."""
    told = torch.full((len(x),), timestep)
    texts = [torch.full((len(x), 3, 2), word) for word in (0.8, -0.3)]
    positive, negative = (model.model.formula(x, told, text) for text in texts)
    return negative + cfg * (positive - negative)


def by_hand(plan: sc.Plan, model: Patcher, x: Tensor) -> Tensor:
    """The plan's rows in its own coordinates, in float64."""
    x, outputs = x.double(), list[Tensor]()
    for n, row in enumerate(plan.rows):
        outputs.append(output(model, x * float(plan.scale[n]), float(plan.evaluation_timesteps[n])))
        x = x + row[0] * x + sum(float(w) * y for w, y in zip(row[1:], outputs, strict=True))
    return x


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def run(plan: sc.Plan, model: Patcher, noise: Tensor, *, guider: Any = None, **options: Any) -> Tensor:
    own = {key: options.pop(key) for key in ("denoise", "guidance", "strict") if key in options}
    sampler, sigmas = plan_sampler(model, plan, **own)
    latent = options.pop("latent", torch.zeros_like(noise))
    found: Tensor = (guider or guided(model)).sample(noise, latent, sampler, sigmas, seed=0, **options)
    return found


# The network --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [Flow(2.0), Sampling(), Sampling("v_prediction")], ids=["flow", "eps", "v"])
def test_a_network_is_known_by_its_numbers(sampling: Sampling) -> None:
    network, x, y = Network(sampling), drawn(seed=1).double(), drawn(seed=2).double()
    assert network.prediction == sampling.prediction
    assert network.flow == sampling.flow
    assert network.rounds != network.flow
    for sigma in (0.05, 0.6, 0.99):
        denoised = sampling.calculate_denoised(torch.tensor(sigma, dtype=torch.float64), y, x)
        assert relative(network.output(sigma, denoised, x), y) < 1e-12
        assert relative(network.denoised(sigma, y, x), denoised) < 1e-12
        scaled = sampling.calculate_input(torch.tensor(sigma, dtype=torch.float64), x)
        assert relative(x * network.scale(sigma), scaled) < 1e-12


def test_a_model_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no model_sampling"):
        Network(object())


# Plans as samplers --------------------------------------------------------------------------------------------------


def test_a_flows_plan_is_its_rows(comfy: Any) -> None:
    plan, model, noise = flow_plan(), patcher(), drawn()
    assert relative(run(plan, model, noise), by_hand(plan, model, noise)) < 1e-5
    assert model.model.calls == 2 * len(plan)  # both texts


BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULERS = {
    "euler-leading": lambda p: EulerDiscreteScheduler(
        **BETAS, timestep_spacing="leading", steps_offset=1, prediction_type=p
    ),
    "euler-trailing": lambda p: EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing", prediction_type=p),
    "ddim": lambda p: DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, prediction_type=p),
    "ddim-to-one": lambda p: DDIMScheduler(
        **BETAS, clip_sample=False, timestep_spacing="leading", steps_offset=1, prediction_type=p
    ),
    "dpm++": lambda p: DPMSolverMultistepScheduler(**BETAS, timestep_spacing="leading", prediction_type=p),
}


def diffusion_plan(name: str, prediction: str = "epsilon", evaluations: int = 6) -> tuple[sc.Plan, Any]:
    scheduler = SCHEDULERS[name](prediction)
    scheduler.set_timesteps(STEPS)
    return sc.compile_plan(f"lagrange:order=1,evaluations={evaluations}", scheduler), scheduler


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_plans_of_diffusion_models_are_their_schedulers(comfy: Any, name: str, prediction: str) -> None:
    """Whatever the scheduler's own samples are: those of k-diffusion, or variance preserving ones."""
    plan, scheduler = diffusion_plan(name, prediction)
    model, noise = patcher(Sampling(prediction)), drawn()
    wanted = by_hand(plan, model, noise * float(scheduler.init_noise_sigma))
    assert relative(run(plan, model, noise), wanted) < 2e-5


def test_a_whole_grid_of_euler_is_comfyuis_own(comfy: Any) -> None:
    plan, model, noise = flow_plan(STEPS), patcher(), drawn()
    sampler = stand_in.KSAMPLER(stand_in.sample_euler)
    wanted = guided(model).sample(noise, torch.zeros_like(noise), sampler, sigmas_of(plan, Network(Flow(SHIFT))))
    assert relative(run(plan, model, noise), wanted) < 1e-6


def test_a_moved_timestep_is_told(comfy: Any) -> None:
    plan, model, noise = flow_plan(), patcher(), drawn()
    moved = replace(plan, evaluation_timesteps=plan.evaluation_timesteps + np.array([0, 3, -4, 2, 1, -5]))
    found = run(moved, model, noise)
    assert relative(found, by_hand(moved, model, noise)) < 1e-5
    assert relative(found, by_hand(plan, model, noise)) > 1e-4


def test_every_evaluation_is_told_and_may_be_stopped(comfy: Any) -> None:
    plan, model, noise = flow_plan(), patcher(), drawn()
    told: list[tuple[int, int]] = []
    run(plan, model, noise, callback=lambda i, denoised, x, total: told.append((i, total)))
    assert told == [(n, len(plan)) for n in range(len(plan))]

    def callback(i: int, denoised: Tensor, x: Tensor, total: int) -> None:
        comfy.stop = i == 2

    model.model.calls = 0
    with pytest.raises(Interrupted):
        run(plan, model, noise, callback=callback)
    assert model.model.calls == 2 * 3


def test_a_departing_sample_is_warned_of(comfy: Any, caplog: pytest.LogCaptureFixture) -> None:
    plan = flow_plan()
    forecasts = tuple(np.eye(n)[-1] if n else np.zeros(0) for n in range(len(plan)))
    near = replace(plan, forecasts=forecasts, expected=np.full((len(plan), 2), 1e-4))
    run(near, patcher(), drawn())
    assert "departs" in caplog.text
    caplog.clear()
    run(replace(near, expected=np.full((len(plan), 2), 10.0)), patcher(), drawn())
    assert not caplog.text


# Which models a plan fits -------------------------------------------------------------------------------------------


def refused_model(plan: sc.Plan, sampling: Any, words: str, kind: str = "Model") -> None:
    network = Network(sampling)
    with pytest.raises(ValueError, match=words) as caught:
        check_model(plan, network, kind)
    assert len(str(caught.value)) < 500


def test_another_prediction_is_refused() -> None:
    refused_model(flow_plan(), Sampling(), "predicts 'velocity'.*predicts 'epsilon'")
    refused_model(diffusion_plan("ddim")[0], Sampling("v_prediction"), "predicts 'epsilon'.*predicts 'v_prediction'")
    refused_model(diffusion_plan("ddim")[0], Flow(), "predicts 'epsilon'.*predicts 'velocity'")


@pytest.mark.parametrize("shift", [1.0, 2.9, 3.16, 6.0])
def test_another_shift_is_refused_by_name(shift: float) -> None:
    refused_model(flow_plan(), Flow(shift), rf"shifted by {shift:.3g}, the plan by about 3;.*strict")
    check_model(flow_plan(), Network(Flow(shift)), "Model", strict=False)
    check_model(flow_plan(), Network(Flow(SHIFT)), "Model")


def test_steps_even_over_a_part_of_the_models_way_fit() -> None:
    """As those of SD3 and Wan, whose schedulers end above 1 / N or begin below 1."""
    u = np.linspace(1.0, 0.003, STEPS)
    made = sc.compile_plan("reuse:evaluations=5", sc.TimeGrid.flow(3 * u / (1 + 2 * u)))
    plan = replace(made, origin=replace(made.origin, config={"shift": 3.0}))
    check_model(plan, Network(Flow(3.0)), "Model")
    refused_model(plan, Flow(3.1), "shifted by 3.1")


def test_the_levels_of_training_must_be_the_schedulers() -> None:
    plan = diffusion_plan("ddim")[0]
    check_model(plan, Network(Sampling()), "Model")
    refused_model(plan, Sampling(last=0.0121), "not those of DDIMScheduler")


def test_levels_that_rise_are_refused() -> None:
    plan = flow_plan()
    refused_model(replace(plan, timesteps=1000 - plan.timesteps), Flow(SHIFT), "rise, as with invert_sigmas")


def test_where_no_signal_is_left_levels_are_not_compared() -> None:
    plan = diffusion_plan("euler-trailing")[0]
    rescaled = {**plan.origin.config, "rescale_betas_zero_snr": True}
    signal = DDIMScheduler(**BETAS, rescale_betas_zero_snr=True).alphas_cumprod.clamp(min=4.9e-8)
    sampling = Sampling()
    sampling.sigmas = ((1 - signal) / signal) ** 0.5
    check_model(replace(plan, origin=replace(plan.origin, config=rescaled)), Network(sampling), "Model")
    refused_model(plan, sampling, "not those of EulerDiscreteScheduler")


def test_timesteps_that_the_model_rounds_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    scheduler = EulerDiscreteScheduler(**BETAS, timestep_spacing="linspace")
    scheduler.set_timesteps(STEPS)
    plan = sc.compile_plan("reuse:evaluations=5", scheduler)
    refused_model(plan, Sampling(), "rounds them to whole ones.*free_timesteps=False")
    check_model(plan, Network(Sampling()), "Model", strict=False)
    assert "rounded timesteps" in caplog.text
    moved = diffusion_plan("ddim")[0]
    refused_model(
        replace(moved, evaluation_timesteps=moved.evaluation_timesteps + 0.4), Sampling(), "rounds them to whole ones"
    )


def test_a_plan_is_compared_with_the_model_of_the_run_as_well(comfy: Any) -> None:
    sampler, sigmas = plan_sampler(patcher(), flow_plan())
    with pytest.raises(ValueError, match="shifted by 1"):
        guided(patcher(Flow(1.0))).sample(drawn(), torch.zeros(2, *SHAPE), sampler, sigmas)


def test_the_levels_of_training_are_those_of_diffusers() -> None:
    from skipcast.engines.comfy.sampler import _training_levels

    for options in (BETAS, {**BETAS, "beta_schedule": "linear"}, {**BETAS, "rescale_betas_zero_snr": True}):
        scheduler = DDIMScheduler(**options)
        signal = scheduler.alphas_cumprod.double().numpy()
        found = _training_levels(dict(scheduler.config))
        assert found is not None
        assert np.allclose(found[:-1], np.sqrt((1 - signal[:-1]) / signal[:-1]), rtol=1e-3)


# Sigmas: whole, cut at the front, and what is refused ---------------------------------------------------------------


def sampled(sigmas: list[float], model: Patcher | None = None, **options: Any) -> Tensor:
    model = model or patcher()
    sampler, _ = plan_sampler(model, flow_plan())
    sampler.extra_options |= options
    return guided(model).sample(drawn(), torch.zeros(2, *SHAPE), sampler, torch.tensor(sigmas))


def test_sigmas_that_are_not_the_plans_are_refused() -> None:
    model = patcher()
    own = sigmas_of(flow_plan(), Network(Flow(SHIFT))).tolist()
    with pytest.MonkeyPatch.context() as patch, stand_in.installed(patch, Path()):
        for sigmas, words in [
            (own[:4], "end at .*left in the middle"),
            (own[2:4], "left in the middle"),
            ([0.51, *own[2:]], "begin at 0.51, at which no step of the plan lies"),
            ([own[0], *own[2:]], "are not the plan's"),
            (simple(Flow(SHIFT), STEPS).tolist(), "are not the plan's"),
            (own[::-1], "left in the middle"),
        ]:
            with pytest.raises(ValueError, match=words):
                sampled(sigmas, model)
        with pytest.raises(ValueError, match=r"s_churn=0.3 cannot be followed"):
            sampled(own, model, s_churn=0.3)
        sampled(own, model, s_churn=0.0)
        assert model.model.calls == 2 * 6


@pytest.mark.parametrize("denoise, begin", [(0.5, 10), (0.31, 14), (0.95, 1)])
def test_image_to_image_begins_at_its_step_as_the_scheduler_does(comfy: Any, denoise: float, begin: int) -> None:
    plan, model, noise, image = flow_plan(), patcher(), drawn(), drawn(seed=5)
    levels = levels_of(plan, Network(Flow(SHIFT)))
    found = run(plan, model, noise, denoise=denoise, latent=image)
    scheduler = sc.PlanScheduler(replace(plan, origin=replace(plan.origin, config={})))
    scheduler.set_timesteps(STEPS)
    scheduler.cut(begin)
    x = levels[begin] * noise + (1 - levels[begin]) * image
    for t in scheduler.timesteps:
        x = scheduler.step(output(model, x, float(t)), t, x).prev_sample
    assert relative(found, x) < 1e-5


def test_a_front_cut_elsewhere_is_the_same_run(comfy: Any) -> None:
    plan, model, noise = flow_plan(), patcher(), drawn()
    sampler, sigmas = plan_sampler(model, plan)
    latent = drawn(seed=5)
    found = guided(model).sample(noise, latent, sampler, sigmas[3:])
    denoise = 1 - plan.steps[3] / STEPS
    assert torch.equal(found, run(plan, model, noise, denoise=denoise, latent=latent))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_image_to_image_of_diffusion_models_is_eulers_where_every_step_is_evaluated(comfy: Any, name: str) -> None:
    plan, _ = diffusion_plan(name, evaluations=STEPS)
    model, noise, image = patcher(Sampling()), drawn(), drawn(seed=5)
    sigmas = sigmas_of(plan, Network(Sampling()), 0.6)
    euler = stand_in.KSAMPLER(stand_in.sample_euler)
    wanted = guided(model).sample(noise, image, euler, sigmas)
    assert relative(run(plan, model, noise, denoise=0.6, latent=image), wanted) < 1e-5


def test_nothing_to_run_is_refused(comfy: Any) -> None:
    with pytest.raises(ValueError, match="leaves none"):
        plan_sampler(patcher(), flow_plan(), denoise=0.04)
    with pytest.raises(ValueError, match="denoise"):
        plan_sampler(patcher(), flow_plan(), denoise=1.5)


@pytest.mark.parametrize("denoise", [1.0, 0.5])
def test_the_protected_region_stays_as_it_was(comfy: Any, denoise: float) -> None:
    plan, model, image = flow_plan(), patcher(), drawn(seed=5)
    mask = torch.zeros(1, 1, 6, 6)
    mask[..., :3] = 1.0
    found = run(plan, model, drawn(), denoise=denoise, latent=image, denoise_mask=mask)
    assert torch.equal(found[..., 3:], image[..., 3:])
    assert (found[..., :3] - image[..., :3]).abs().mean() > 0.1


# Guidance -----------------------------------------------------------------------------------------------------------


def knotted(argument: str) -> sc.Plan:
    """Rows that tell at which scale they run: the last one is longer by a tenth of it."""
    plan = flow_plan()

    def at(value: float) -> Knot:
        rows = [row.copy() for row in plan.rows]
        rows[-1][-1] *= 1 + value / 10
        prediction = Prediction(40.0 + value, 30.0, 20.0, 8, held_out=True, closed=True)
        return Knot(value, tuple(rows), plan.evaluation_timesteps, predicted=prediction)

    knots = (at(1.0), at(2.0), at(4.0))
    return replace(plan, argument=argument, knots=knots, rows=knots[1].rows, predicted=knots[1].predicted)


def test_a_plan_with_knots_takes_the_guiders_scale(comfy: Any) -> None:
    plan, model, noise = knotted("cfg"), patcher(), drawn()
    found = run(plan, model, noise, guider=guided(model, 3.0))
    assert torch.equal(found, run(plan.at(3.0), model, noise, guider=guided(model, 3.0)))
    assert not torch.equal(found, run(plan, model, noise, guider=guided(model, 3.0), guidance=2.0))
    for cfg in (0.9, 4.1):
        with pytest.raises(ValueError, match=f"cfg={cfg:g} lies outside the 1 to 4"):
            run(plan, model, noise, guider=guided(model, cfg))
    with pytest.raises(ValueError, match="lies outside"):
        plan_sampler(model, plan, guidance=9.0)


def test_a_network_that_is_told_its_scale_takes_that(comfy: Any) -> None:
    model, noise = patcher(), drawn()
    guider = stand_in.BasicGuider(model)
    guider.set_conds(cond(0.8, guidance=3.0))
    for argument in ("guidance", "guidance_scale"):
        plan = knotted(argument)
        assert torch.equal(run(plan, model, noise, guider=guider), run(plan.at(3.0), model, noise, guider=guider))
        told = guided(model, 1.0, guidance=3.0)
        assert torch.equal(run(plan, model, noise, guider=told), run(plan.at(3.0), model, noise, guider=told))
    with pytest.raises(ValueError, match=r"does not say which value.*guidance"):
        run(knotted("cfg"), model, noise, guider=guider)
    with pytest.raises(ValueError, match="does not say"):  # two scales at once
        run(knotted("guidance_scale"), model, noise, guider=guided(model, 2.0, guidance=3.0))
    with pytest.raises(ValueError, match="does not say"):
        run(knotted("strength"), model, noise)
    run(knotted("strength"), model, noise, guidance=2.0)


def test_another_scale_than_the_recorded_one_is_warned_of(comfy: Any, caplog: pytest.LogCaptureFixture) -> None:
    plan, model = flow_plan(), patcher()
    plan = replace(plan, origin=replace(plan.origin, call={"guidance_scale": 2.0}))
    run(plan, model, drawn())
    assert not caplog.text
    run(plan, model, drawn(), guider=guided(model, 5.0))
    assert "made for guidance_scale=2 and runs at 5" in caplog.text


# Forecasts ----------------------------------------------------------------------------------------------------------


def euler(**options: Any) -> stand_in.KSAMPLER:
    return stand_in.KSAMPLER(stand_in.sample_euler, options)


@pytest.mark.parametrize("sampling", [Flow(SHIFT), Sampling(), Sampling("v_prediction")], ids=["flow", "eps", "v"])
def test_a_forecast_is_the_methods_plan(comfy: Any, sampling: Sampling) -> None:
    """A linear method compiled into rows does the same, so both seams must agree."""
    method, model, noise = method_of("lagrange", 7, "order=2"), patcher(sampling), drawn()
    network = Network(sampling)
    sigmas = simple(sampling, STEPS)
    levels = sigmas.double().numpy()
    alpha, sigma = network.shares(levels)
    where = network.levels(levels)
    assert where is not None
    table = first_order(where.grid, where.end, where.prediction)
    scale = np.array([network.scale(float(level)) for level in levels[:-1]])
    table = table / np.append(scale, 1.0)[:, None]
    table[:, 0] *= scale[0]
    made = sc.compile_plan(method, where.grid, states=table)
    config = {"alpha": alpha.tolist(), "sigma": sigma.tolist(), "prediction": where.prediction}
    plan = replace(made, origin=Origin("", "", config, STEPS), scale=scale[list(made.steps)])
    latent = torch.zeros_like(noise)
    found = guided(forecasting(model, method)).sample(noise, latent, euler(), sigmas)
    assert model.model.calls == 2 * len(plan)
    assert relative(found, run(plan, model, noise, strict=False)) < 2e-5


@pytest.mark.parametrize("name", names())
def test_every_method_of_the_output_runs(comfy: Any, name: str) -> None:
    model, steps = patcher(), 50  # what published lists of steps are for
    method = method_of(name, 10)
    found = guided(forecasting(model, method)).sample(drawn(), torch.zeros(2, *SHAPE), euler(), simple(Flow(), steps))
    assert found.isfinite().all()
    count = len(method.controller.evaluated(steps))  # type: ignore[attr-defined]
    assert model.model.calls == 2 * count < 2 * steps


def test_the_list_of_methods_holds_no_other() -> None:
    found = names()
    assert {"reuse", "lagrange", "taylorseer", "resilphase", "spectrum", "foca", "fsampler"} <= set(found)
    assert not {"teacache", "easycache", "magcache", "predit", "euler", "tc-pade"} & set(found)
    for name, words in [
        ("teacache", "inside of the network"),
        ("predit", "decides by what it sees"),
        ("ab2", "a plain sampler"),
        ("nonsense", "unknown method"),
    ]:
        with pytest.raises(ValueError, match=words):
            method_of(name)
    with pytest.raises(ValueError, match="give them once"):
        method_of("lagrange", 5, "evaluations=6")
    with pytest.raises(ValueError, match="unknown option 'ordr'"):
        method_of("lagrange", 5, "ordr=1")
    assert method_of("taylorseer", 0, "order=2").forecaster.order == 2  # type: ignore[attr-defined]


def test_samplers_that_cannot_be_forecast_are_refused_before_any_evaluation(comfy: Any) -> None:
    model = patcher()
    forecast = forecasting(model, method_of("lagrange", 7))
    plan_own, _ = plan_sampler(model, flow_plan())
    for sampler, words in [
        (stand_in.KSAMPLER(stand_in.sample_heun), "heun evaluates 39 times over 20 steps"),
        (stand_in.KSAMPLER(stand_in.sample_ancestral), "ancestral adds noise"),
        (euler(s_churn=0.5), "euler adds noise"),
        (stand_in.KSAMPLER(stand_in.sample_cfg_pp), "cfg_pp cannot be followed: it looks at the outputs without"),
        (stand_in.KSAMPLER(lambda *_, **__: 1 / 0), "ZeroDivisionError"),
        (plan_own, "without Forecast"),
    ]:
        with pytest.raises(ValueError, match=words):
            guided(forecast).sample(drawn(), torch.zeros(2, *SHAPE), sampler, simple(Flow(SHIFT), STEPS))
    assert model.model.calls == 0
    with pytest.raises(ValueError, match="forecasts already"):
        forecasting(forecast, method_of("reuse"))
    assert not model.wrappers  # the model itself stays as it is
    with pytest.raises(ValueError, match="num_inference_steps=2 is fewer"):
        guided(forecasting(model, method_of("lagrange", 7))).sample(
            drawn(), torch.zeros(2, *SHAPE), euler(), torch.tensor([1.0, 0.5, 0.0])
        )


class Elsewhere:
    """A SAMPLER of another class, which cannot be tried before."""

    def sample(
        self, guider: Any, sigmas: Tensor, extra: Any, callback: Any, noise: Tensor, *_: Any, **__: Any
    ) -> Tensor:
        for level in (0.9, 0.7):
            guider(noise, torch.full((len(noise),), level), model_options=extra["model_options"])
        return noise


def test_an_unknown_sampler_is_followed_while_it_keeps_to_its_sigmas(comfy: Any) -> None:
    guider = guided(forecasting(patcher(), method_of("reuse", 1)))
    latent = torch.zeros(2, *SHAPE)
    guider.sample(drawn(), latent, Elsewhere(), torch.tensor([0.9, 0.7, 0.0]))
    with pytest.raises(ValueError, match=r"evaluates at sigma=0.7, which is not its step 1"):
        guider.sample(drawn(), latent, Elsewhere(), torch.tensor([0.9, 0.8, 0.0]))


def test_a_run_that_ends_early_leaves_nothing_behind(comfy: Any) -> None:
    seen: list[dict[str, Any]] = []

    class Watching(stand_in.KSAMPLER):
        def sample(self, model_wrap: Any, sigmas: Tensor, extra_args: Any, *rest: Any, **options: Any) -> Tensor:
            seen.append(extra_args["model_options"]["transformer_options"])
            assert KEY in seen[-1]
            return super().sample(model_wrap, sigmas, extra_args, *rest, **options)

    def callback(i: int, *_: Any) -> None:
        if i == 3:
            raise Interrupted

    guider = guided(forecasting(patcher(), method_of("lagrange", 7)))
    sampler, sigmas, latent = Watching(stand_in.sample_euler), simple(Flow(SHIFT), STEPS), torch.zeros(2, *SHAPE)
    with pytest.raises(Interrupted):
        guider.sample(drawn(), latent, sampler, sigmas, callback=callback)
    assert KEY not in seen[-1]
    first = guider.sample(drawn(), latent, sampler, sigmas)
    assert torch.equal(first, guider.sample(drawn(), latent, sampler, sigmas))


# Recording and solving ----------------------------------------------------------------------------------------------

PROMPTS = "a star\na circle\na square\na long prompt of more tokens\na moon\na tree\na house\na bird"


def recording(model: Patcher, prompts: str = PROMPTS, scales: str = "", batch: int = 4, **options: Any) -> sc.Profile:
    guider = guided(model)
    pairs = Pairs.of(guider, prompts, 40, 5, scales)
    sigmas = simple(model.model.model_sampling, STEPS)
    return record(guider, options.pop("sampler", euler()), sigmas, SHAPE, pairs, clip=Clip(), batch=batch, **options)


def test_a_table_is_the_samplers() -> None:
    for sampling in (Flow(SHIFT), Sampling()):
        network, sigmas = Network(sampling), simple(sampling, 8)
        levels = network.levels(sigmas.double().numpy())
        assert levels is not None
        table = table_of(euler(), network, sigmas)
        wanted = first_order(levels.grid, levels.end, levels.prediction)
        scale = np.append([network.scale(float(level)) for level in sigmas[:-1]], 1.0)
        wanted = wanted / scale[:, None]
        wanted[:, 0] *= scale[0]
        assert np.allclose(table, wanted, atol=1e-6)
        for sampler in (stand_in.KSAMPLER(stand_in.sample_heun), stand_in.KSAMPLER(stand_in.sample_ancestral)):
            with pytest.raises(ValueError, match=r"evaluates 15 times|adds noise"):
                table_of(sampler, network, sigmas)
        check_sampler(object(), network, sigmas)
        with pytest.raises(ValueError, match="no sampler that can be recorded"):
            table_of(object(), network, sigmas)

    def bending(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, **_: Any) -> Tensor:
        for sigma in sigmas[:-1]:
            x = (x - 0.1 * model(x, sigma.view(1))).tanh()
        return x

    with pytest.raises(ValueError, match="bending is not linear"):
        table_of(stand_in.KSAMPLER(bending), network, sigmas)


@pytest.mark.parametrize("sampling", [Flow(SHIFT), Sampling(), Sampling("v_prediction")], ids=["flow", "eps", "v"])
def test_record_solve_and_run(comfy: Any, sampling: Sampling) -> None:
    model, done = patcher(sampling), list[int]()
    profile = recording(model, count=done.append)
    assert sum(done) == 8 * STEPS
    assert profile.origin.pipeline == "comfyui:Model"
    assert profile.origin.call == {"sampler": "euler", "cfg": 2.0}
    assert profile.origin.prompts == tuple(PROMPTS.splitlines())
    # The recorded run is that of ComfyUI's own nodes, pair by pair.
    guider = guided(model)
    guider.inner_set_conds({"positive": Clip().encode_from_tokens_scheduled("a square")})
    noise = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(42))
    sigmas = simple(sampling, STEPS)
    wanted = guider.sample(noise, torch.zeros_like(noise), euler(), sigmas)
    assert profile.trajectory is not None
    assert relative(profile.trajectory[2:3, -1], wanted) < 1e-6
    calls = model.model.calls
    plan = solve(profile, guided(model), evaluations=6, effort="low", clip=Clip(), batch=4)
    assert model.model.calls > calls
    assert plan.predicted is not None
    assert plan.predicted.closed
    found = run(plan, model, noise, guider=guider)
    few = guider.sample(noise, torch.zeros_like(noise), euler(), simple(sampling, 6))
    assert relative(found, wanted) < 0.5 * relative(few, wanted)
    if sampling.flow:
        refused_model(plan, Flow(2.0), "halfway", "Model")
    else:
        assert set(plan.evaluation_timesteps) <= set(profile.timesteps)  # whole, as they were
    refused_model(plan, sampling, "recorded on Model, this model is Other", "Other")


def test_one_recording_of_several_scales_makes_one_plan(comfy: Any) -> None:
    model = patcher()
    profile = recording(model, "a star\na circle\na moon", "3, 1.5 2")
    assert len(profile) == 9
    assert profile.origin.varied == {"cfg": (1.5,) * 3 + (2.0,) * 3 + (3.0,) * 3}
    plan = solve(profile, guided(model), evaluations=5, effort="low", clip=Clip(), batch=3)
    assert (plan.argument, [knot.value for knot in plan.knots]) == ("cfg", [1.5, 2.0, 3.0])
    run(plan, model, drawn(), guider=guided(model, 2.5))
    with pytest.raises(ValueError, match=r"cfg=3.5 lies outside"):
        run(plan, model, drawn(), guider=guided(model, 3.5))


def test_without_prompts_the_guiders_own_is_recorded(comfy: Any) -> None:
    model = patcher()
    guider = stand_in.BasicGuider(model)
    guider.set_conds(cond(0.5, guidance=2.0))
    pairs = Pairs.of(guider, " \n", 7, 3, "1, 2")
    assert (pairs.argument, pairs.seeds, pairs.scales) == ("guidance", (7, 8, 9) * 2, (1.0,) * 3 + (2.0,) * 3)
    profile = record(guider, euler(), simple(Flow(SHIFT), STEPS), SHAPE, pairs, batch=2)
    assert profile.origin.varied == {"guidance": (1.0,) * 3 + (2.0,) * 3}
    plan = solve(profile, guider, evaluations=4, effort="low")
    assert plan.argument == "guidance"
    run(plan, model, drawn(), guider=guider)


def test_what_cannot_be_recorded_is_refused_before_any_evaluation(comfy: Any) -> None:
    model = patcher()
    guider, sigmas = guided(model), simple(Flow(SHIFT), STEPS)
    pairs = Pairs.of(guider, PROMPTS, 0, 1, "")
    for sampler, given, clip, words in [
        (euler(), sigmas, None, "connect the CLIP"),
        (euler(), sigmas[:-1], Clip(), "0 at the end"),
        (euler(), sigmas.flip(0), Clip(), "levels that fall"),
        (stand_in.KSAMPLER(stand_in.sample_heun), sigmas, Clip(), "heun evaluates"),
        (object(), sigmas, Clip(), "no sampler that can be recorded"),
    ]:
        with pytest.raises(ValueError, match=words):
            record(guider, sampler, given, SHAPE, pairs, clip=clip)
    with pytest.raises(ValueError, match="must be numbers"):
        Pairs.of(guider, "", 0, 1, "two")
    plain = stand_in.BasicGuider(model)
    plain.set_conds(cond(0.5))
    with pytest.raises(ValueError, match="no one guidance scale"):
        Pairs.of(plain, "", 0, 1, "2, 3")
    assert model.model.calls == 0
    comfy.stop = True
    with pytest.raises(Interrupted):
        record(guider, euler(), sigmas, SHAPE, pairs, clip=Clip())
    assert model.model.calls == 0


def test_what_was_not_recorded_is_not_solved_on(comfy: Any) -> None:
    model = patcher()
    profile = recording(model, "a star\na circle")
    with pytest.raises(ValueError, match="not what was recorded: at step 0"):
        GuiderEvaluator(_other(model), profile, clip=Clip())
    elsewhere = replace(profile, origin=replace(profile.origin, pipeline="FluxPipeline"))
    with pytest.raises(ValueError, match="recorded from FluxPipeline"):
        GuiderEvaluator(guided(model), elsewhere, clip=Clip())
    with pytest.raises(ValueError, match="no trajectories"):
        GuiderEvaluator(guided(model), replace(profile, trajectory=None), clip=Clip())
    with pytest.raises(ValueError, match="connect the CLIP"):
        GuiderEvaluator(guided(model), profile)
    for wanted in ({}, {"evaluations": 4, "psnr": 30.0}):
        with pytest.raises(ValueError, match="give one of the two"):
            solve(profile, guided(model), clip=Clip(), **wanted)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be one of low, normal, high"):
        solve(profile, guided(model), evaluations=4, effort="most", clip=Clip())


def _other(model: Patcher) -> Any:
    """A guider with another negative prompt."""
    guider = guided(model)
    guider.inner_set_conds({"negative": cond(0.9)})
    return guider


# The nodes ----------------------------------------------------------------------------------------------------------


def test_the_nodes_explain_every_input(comfy: Any) -> None:
    from skipcast.engines.comfy import extension

    made = asyncio.run(extension().get_node_list())
    assert [node.__name__ for node in made] == [
        "LoadPlan", "PlanSampler", "Forecast", "RecordProfile", "SolvePlan", "PlanInfo",
    ]  # fmt: skip
    ids = set()
    for node in made:
        schema = node.define_schema()
        ids.add(schema.node_id)
        assert schema.description
        for each in [*schema.inputs, *schema.outputs]:
            assert len(each.tooltip) > 10, (schema.node_id, each)
    assert len(ids) == 6
    assert all(name.startswith("Skipcast") for name in ids)


def test_outside_of_comfyui_the_nodes_say_what_they_need() -> None:
    from skipcast.engines.comfy import extension

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "comfy_api.latest", None)
        with pytest.raises(ImportError, match=r"need ComfyUI 0.3.64 or newer"):
            extension()


def test_the_life_of_a_plan_in_nodes(comfy: Any) -> None:
    model = patcher()
    guider, sigmas, latent = guided(model), simple(Flow(SHIFT), STEPS), {"samples": torch.zeros(1, *SHAPE)}
    recorded = RecordProfile.execute(
        guider, euler(), sigmas, latent, prompts=PROMPTS, pairs=1, seed=0, scales="", batch=4, name="mine", clip=Clip()
    )
    bar = stand_in.Bar.made[-1]
    assert bar.current == bar.total == 8 * STEPS
    (profile,) = recorded.args
    assert files.listed(files.PROFILE) == ["mine.profile.safetensors"]
    assert "8 pairs of 20 steps" in recorded.ui["text"][0]
    options = {"evaluations": 5, "psnr": 0.0, "effort": "low", "batch": 4, "clip": Clip()}
    by_socket = SolvePlan.execute(guider, "(connected)", name="mine", profile=profile, **options)
    by_file = SolvePlan.execute(guider, "mine.profile.safetensors", name="again", **options)
    assert by_socket.args[0].as_dict() == by_file.args[0].as_dict()
    assert files.listed(files.PLAN) == ["again.plan.json", "mine.plan.json"]
    for name, given in (("(connected)", None), ("mine.profile.safetensors", profile)):
        with pytest.raises(ValueError, match="connect a profile and leave"):
            SolvePlan.execute(guider, name, name="no", profile=given, **options)
    before = LoadPlan.fingerprint_inputs("mine.plan.json")
    (plan,) = LoadPlan.execute("mine.plan.json").args
    sampler, given = PlanSampler.execute(model, plan, 1.0, 0.0, True).args
    noise = drawn()
    found = guider.sample(noise, torch.zeros_like(noise), sampler, given)
    assert torch.equal(found, run(plan, model, noise))
    info = PlanInfo.execute(plan)
    assert info.args == (described(plan), 5)
    for words in (
        "5 evaluations of 20 steps (4.0 times fewer)",
        "comfyui:Model (sampler euler, cfg 2.0)",
        "dB",
        "4 x 6",
    ):
        assert words in info.args[0]
    plan.save(files.path_of("mine.plan.json"))
    assert LoadPlan.fingerprint_inputs("mine.plan.json") != before
    assert SolvePlan.fingerprint_inputs("(connected)", evaluations=5) == ""
    (forecast,) = Forecast.execute(model, "lagrange", 5, "order=1").args
    assert forecast is not model


def test_files_that_are_none_are_refused(comfy: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file 'x.plan.json'"):
        LoadPlan.execute("x.plan.json")
    assert LoadPlan.fingerprint_inputs("x.plan.json") == ""
    for name in ("", "../x", "a/b", ".hidden", "x" * 101):
        with pytest.raises(ValueError, match="must be letters"):
            files.new_path(name, files.PLAN)
    assert files.new_path("x.plan.json", files.PLAN) == tmp_path / "skipcast" / "x.plan.json"
    pair = sc.AdaptivePlan([toy.profile().plan(evaluations=count) for count in (4, 6)])
    pair.save(files.new_path("pair", files.PLAN))
    with pytest.raises(ValueError, match=r"format 'skipcast-adaptive-1'.*one of its two plans"):
        LoadPlan.execute("pair.plan.json")
    full = {"samples": torch.ones(1, *SHAPE)}
    with pytest.raises(ValueError, match="must be an empty latent"):
        RecordProfile.execute(guided(patcher()), euler(), simple(Flow(), 4), full, "", 1, 0, "", 1, "x")


def test_a_plan_with_knots_is_described(comfy: Any) -> None:
    text = described(knotted("cfg"))
    assert "for cfg from 1 to 4" in text
    assert "at 2: 42.0 dB expected on average, 20.0 dB at worst of 8 pairs (held out)" in text
    assert "what it reaches is not known" in described(flow_plan())


def test_routes_of_flows_are_the_plans_own_rows() -> None:
    plan = flow_plan()
    found = route(plan, Network(Flow(SHIFT)))
    assert all(np.array_equal(a, b) for a, b in zip(found.course.rows, plan.rows, strict=True))


# The real one, in this process ---------------------------------------------------------------------------------------

needs_comfyui = pytest.mark.skipif(not comfyui.PATH, reason=comfyui.WHY_NOT)
TEXT = "a large red star on a blue background"


@pytest.fixture(scope="module")
def real() -> Any:
    """ComfyUI's modules, the reference pipeline, and its weights in ComfyUI's own FLUX."""
    if not comfyui.PATH:
        pytest.skip(comfyui.WHY_NOT)
    pipe, own = sc.load_reference("shapes-flux"), comfyui.imported()
    model, clip = comfyui.shapes_flux(own, pipe), comfyui.Clip(pipe)
    guider = own.samplers.CFGGuider(model)
    guider.set_conds(clip.encode_from_tokens_scheduled(TEXT), clip.encode_from_tokens_scheduled(""))
    guider.set_cfg(2.0)
    latents = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(3))
    return types.SimpleNamespace(
        comfy=own,
        pipe=pipe,
        model=model,
        clip=clip,
        guider=guider,
        latents=latents,
        noise=comfyui.unpacked(latents),
        sampling=model.get_model_object("model_sampling"),
    )


def in_comfyui(
    real: Any, sampler: Any, sigmas: Tensor, guider: Any = None, latent: Any = None, **options: Any
) -> Tensor:
    """The final sample as the pipeline counts it."""
    empty = torch.zeros_like(real.noise)
    with torch.inference_mode():
        found = (guider or real.guider).sample(
            real.noise, empty if latent is None else latent, sampler, sigmas, disable_pbar=True, seed=0, **options
        )
        return real.model.model.process_latent_in(found)  # type: ignore[no-any-return]


def in_diffusers(real: Any, steps: int = 50) -> Tensor:
    call = {"negative_prompt": [""] * 2, "true_cfg_scale": 2.0, "num_inference_steps": steps, "output_type": "latent"}
    return comfyui.unpacked(real.pipe([TEXT] * 2, latents=real.latents.clone(), **call).images)


def stock(real: Any, name: str = "euler", steps: int = 50) -> tuple[Any, Tensor]:
    sigmas = real.comfy.samplers.calculate_sigmas(real.sampling, "simple", steps)
    return real.comfy.samplers.sampler_object(name), sigmas


@needs_comfyui
def test_the_reference_model_is_the_same_in_both(real: Any) -> None:
    assert relative(in_comfyui(real, *stock(real)), in_diffusers(real)) < 1e-6


@needs_comfyui
def test_a_shipped_plan_is_that_of_diffusers(real: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = sc.shipped_plan("shapes-flux", 10)
    told: list[int] = []
    sampler, sigmas = plan_sampler(real.model, plan)
    found = in_comfyui(real, sampler, sigmas, callback=lambda i, *_: told.append(i))
    monkeypatch.setattr(real.pipe, "scheduler", sc.PlanScheduler(plan, guidance=2.0))
    assert relative(found, in_diffusers(real)) < 1e-6
    assert told == list(range(10))
    # The stand-in of the other tests does the same to the bit.
    again = stand_in.KSAMPLER(sampler.sampler_function, sampler.extra_options)
    assert torch.equal(found, in_comfyui(real, again, sigmas))


@needs_comfyui
@pytest.mark.parametrize("name", ["lagrange", "taylorseer", "resilphase"])
def test_forecasts_are_those_of_diffusers(real: Any, name: str) -> None:
    method = method_of(name, 10)
    guider = real.comfy.samplers.CFGGuider(forecasting(real.model, method))
    guider.original_conds, guider.cfg = real.guider.original_conds, 2.0
    with sc.accelerate(real.pipe, method):
        wanted = in_diffusers(real)
    assert relative(in_comfyui(real, *stock(real), guider=guider), wanted) < 5e-6
    for sampler in ("heun", "euler_ancestral", "dpmpp_2m_sde", "dpmpp_2m_cfg_pp", "dpm_adaptive", "lcm"):
        with pytest.raises(ValueError, match=r"evaluates|adds noise|cannot be followed"):
            in_comfyui(real, *stock(real, sampler), guider=guider)


@needs_comfyui
def test_an_image_is_begun_late_and_a_region_kept(real: Any) -> None:
    plan = sc.shipped_plan("shapes-flux", 10)
    latent = real.model.model.process_latent_out(in_diffusers(real))
    sampler, sigmas = plan_sampler(real.model, plan, denoise=0.56)
    assert len(sigmas) - 1 == 6
    euler, whole = stock(real)
    wanted = in_comfyui(real, euler, whole[22:], latent=latent)
    error = relative(in_comfyui(real, sampler, sigmas, latent=latent), wanted)
    assert error < 0.6 * relative(in_comfyui(real, euler, sigmas, latent=latent), wanted)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1.0
    found = in_comfyui(real, sampler, sigmas, latent=latent, denoise_mask=mask)
    kept = real.model.model.process_latent_in(latent)
    assert torch.allclose(found[..., 4:], kept[..., 4:], atol=1e-5)


@needs_comfyui
@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "uni_pc", "deis", "ipndm"])
def test_tables_of_comfyuis_samplers(real: Any, name: str) -> None:
    table = table_of(*_swapped(stock(real, name, 12), Network(real.sampling)))
    assert table.shape == (13, 13)
    assert np.allclose(np.triu(table, 1), 0)


def _swapped(pair: tuple[Any, Tensor], network: Network) -> tuple[Any, Network, Tensor]:
    return pair[0], network, pair[1]


@needs_comfyui
@pytest.mark.parametrize("prediction", ["EPS", "V_PREDICTION"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_plans_of_diffusion_models_in_comfyuis_own_numbers(real: Any, name: str, prediction: str) -> None:
    numbers = real.comfy.model_sampling
    kinds = (numbers.ModelSamplingDiscrete, getattr(numbers, prediction))
    sampling = type("Sampling", kinds, {})()
    kind = {"EPS": "epsilon", "V_PREDICTION": "v_prediction"}[prediction]
    plan, scheduler = diffusion_plan(name, kind)
    model = patcher(sampling)
    guider, noise = guided(model), drawn()
    guider.conds, guider.inner_model = guider.original_conds, model.model
    sampler, sigmas = plan_sampler(model, plan)
    assert isinstance(sampler, real.comfy.samplers.KSAMPLER)
    extra: dict[str, Any] = {"model_options": {}, "seed": 0}
    found = sampler.sample(guider, sigmas, extra, None, noise, torch.zeros_like(noise), disable_pbar=True)
    assert relative(found, by_hand(plan, model, noise * float(scheduler.init_noise_sigma))) < 2e-5


@needs_comfyui
def test_record_and_solve_in_comfyui(real: Any) -> None:
    texts = f"{TEXT}\na small green circle on a black background\na blue square on a white background\na yellow star"
    with torch.inference_mode():
        pairs = Pairs.of(real.guider, texts, 100, 1, "")
        sampler, sigmas = stock(real)
        profile = record(real.guider, sampler, sigmas, (16, 8, 8), pairs, clip=real.clip, batch=4)
        plan = solve(profile, real.guider, evaluations=8, effort="low", clip=real.clip, batch=4)
    assert profile.origin.pipeline == "comfyui:Flux"
    wanted = in_comfyui(real, sampler, sigmas)
    error = relative(in_comfyui(real, *plan_sampler(real.model, plan)), wanted)
    assert error < 0.2 * relative(in_comfyui(real, *stock(real, "euler", 8)), wanted)


# The real one, as a server -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[comfyui.Server]:
    if not comfyui.PATH:
        pytest.skip(comfyui.WHY_NOT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = comfyui.Server(tmp_path_factory.mktemp("comfyui"), port)
    try:
        made.wait()
        yield made
    finally:
        made.close()


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def graph(**more: Any) -> dict[str, Any]:
    """A model, two texts, a guider, noise and a latent, to which a sampler comes."""
    return {
        "load": node("ShapesFlux"),
        "text": node("CLIPTextEncode", clip=["load", 1], text=TEXT),
        "none": node("CLIPTextEncode", clip=["load", 1], text=""),
        "guider": node("CFGGuider", model=["load", 0], positive=["text", 0], negative=["none", 0], cfg=2.0),
        "noise": node("RandomNoise", noise_seed=7),
        "latent": node("EmptySD3LatentImage", width=64, height=64, batch_size=1),
        "euler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=["load", 0], scheduler="simple", steps=20, denoise=1.0),
        **more,
    }


def sampling(sampler: list[Any], sigmas: list[Any]) -> dict[str, Any]:
    return {
        "sample": node(
            "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=sampler, sigmas=sigmas,
            latent_image=["latent", 0],
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["load", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="test"),
    }  # fmt: skip


def image_of(server: comfyui.Server, history: dict[str, Any]) -> np.ndarray:
    from PIL import Image

    assert history["status"]["status_str"] == "success", history["status"]
    (found,) = history["outputs"]["save"]["images"]
    return np.asarray(Image.open(server.folder / "output" / found["filename"])).astype(float)


@needs_comfyui
def test_the_life_of_a_plan_on_a_server(server: comfyui.Server) -> None:
    about = server.get("/object_info")
    ours = {name: about[name] for name in about if name.startswith("Skipcast")}
    assert len(ours) == 6
    for schema in ours.values():
        for _, options in [
            *schema["input"].get("required", {}).values(),
            *schema["input"].get("optional", {}).values(),
        ]:
            assert options["tooltip"]
    prompts = (
        "a red star on a blue background\na small green circle\na blue square on a white background\na yellow star"
    )
    made = server.run(
        graph(
            record=node(
                "SkipcastRecordProfile", guider=["guider", 0], sampler=["euler", 0], sigmas=["sigmas", 0],
                latent_image=["latent", 0], clip=["load", 1], prompts=prompts, pairs=1, seed=0, scales="", batch=4,
                name="shapes",
            ),
            solve=node(
                "SkipcastSolvePlan", guider=["guider", 0], profile=["record", 0], clip=["load", 1],
                profile_name="(connected)", evaluations=6, psnr=0.0, effort="low", batch=4, name="shapes-6",
            ),
        )
    )  # fmt: skip
    assert made["status"]["status_str"] == "success", made["status"]
    assert "6 evaluations of 20 steps" in made["outputs"]["solve"]["text"][0]
    assert server.get("/object_info/SkipcastLoadPlan")
    plan = {"plan": node("SkipcastLoadPlan", plan_name="shapes-6.plan.json")}
    planned = node("SkipcastPlanSampler", model=["load", 0], plan=["plan", 0], denoise=1.0, guidance=0.0, strict=True)
    ours_image = image_of(
        server, server.run(graph(**plan, planned=planned, **sampling(["planned", 0], ["planned", 1])))
    )
    whole = image_of(server, server.run(graph(**sampling(["euler", 0], ["sigmas", 0]))))
    few = node("BasicScheduler", model=["load", 0], scheduler="simple", steps=6, denoise=1.0)
    short = image_of(server, server.run(graph(few=few, **sampling(["euler", 0], ["few", 0]))))
    assert np.square(ours_image - whole).mean() < 0.2 * np.square(short - whole).mean()
    info = server.run({**plan, "info": node("SkipcastPlanInfo", plan=["plan", 0])})
    assert "comfyui:Flux" in info["outputs"]["info"]["text"][0]
    forecast = graph(
        forecast=node("SkipcastForecast", model=["load", 0], method="lagrange", evaluations=10, options="order=2"),
        **sampling(["euler", 0], ["sigmas", 0]),
    )
    forecast["guider"]["inputs"]["model"] = ["forecast", 0]
    close = image_of(server, server.run(forecast))
    assert np.square(close - whole).mean() < np.square(short - whole).mean()


@needs_comfyui
def test_a_refusal_reaches_the_user_of_a_server(server: comfyui.Server) -> None:
    shutil.copy(shipped_folder() / "default-8.plan.json", server.folder / "models" / "skipcast")
    planned = node("SkipcastPlanSampler", model=["shift", 0], plan=["plan", 0], denoise=1.0, guidance=0.0, strict=True)
    more = {
        "plan": node("SkipcastLoadPlan", plan_name="default-8.plan.json"),
        "shift": node("ModelSamplingFlux", model=["load", 0], max_shift=2.0, base_shift=2.0, width=64, height=64),
        "planned": planned,
    }
    failed = server.run(graph(**more, **sampling(["planned", 0], ["planned", 1])))
    assert failed["status"]["status_str"] == "error"
    assert "it is shifted by 7.39, the plan by about 3.16" in str(failed["status"]["messages"])


def shipped_folder() -> Path:
    import skipcast_models

    return Path(skipcast_models.__file__).parent / "plans" / "shapes-flux"


# The pack ------------------------------------------------------------------------------------------------------------

PACK = ROOT / "integrations" / "comfyui"


def test_the_pack_hands_on_the_nodes(comfy: Any) -> None:
    spec = importlib.util.spec_from_file_location("pack", PACK / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    assert len(asyncio.run(pack.comfy_entrypoint().get_node_list())) == 6


def test_the_pack_says_what_the_registry_needs() -> None:
    about = tomllib.loads((PACK / "pyproject.toml").read_text())
    project, own = about["project"], about["tool"]["comfy"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert "comfyui" not in project["name"].lower()
    assert project["dependencies"] == (PACK / "requirements.txt").read_text().split()
    assert own["DisplayName"]
    assert own["requires-comfyui"] == ">=0.3.64"
    for file in (project["license"]["file"], "README.md"):
        assert (PACK / file).stat().st_size > 500


WORKFLOWS = sorted((PACK / "example_workflows").glob("*.json"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_example_workflows_fit_the_nodes(comfy: Any, path: Path) -> None:
    """Every socket that is connected exists, of its type, and every widget has a value that its node allows."""
    from skipcast.engines.comfy.nodes import NODES

    schemas = {schema.node_id: schema for schema in (node.define_schema() for node in NODES)}
    drawn_graph = json.loads(path.read_text())
    nodes = {each["id"]: each for each in drawn_graph["nodes"]}
    assert any(each["type"] in schemas for each in nodes.values())
    for _, source, out, target, place, kind in drawn_graph["links"]:
        assert nodes[source]["outputs"][out]["type"] == kind
        assert nodes[target]["inputs"][place]["type"] in (kind, "*")
    for each in nodes.values():
        if each["type"] not in schemas:
            continue
        schema = schemas[each["type"]]
        widgets = [one for one in schema.inputs if one.io_type in ("BOOLEAN", "COMBO", "FLOAT", "INT", "STRING")]
        sockets = [one for one in schema.inputs if one not in widgets]
        assert [(one.id, one.io_type) for one in sockets] == [(one["name"], one["type"]) for one in each["inputs"]]
        assert [one.io_type for one in schema.outputs] == [one["type"] for one in each["outputs"]]
        assert all(one["link"] for one in each["inputs"])
        for widget, value in zip(widgets, each["widgets_values"], strict=True):
            if widget.io_type == "COMBO" and widget.id != "plan_name":
                assert value in widget.options
            if widget.io_type in ("INT", "FLOAT"):
                assert widget.min <= value <= widget.max
