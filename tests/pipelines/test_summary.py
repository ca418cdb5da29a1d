"""What an accelerated run tells of itself: memory as predicted, warnings, and with diagnose=True errors."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch

import skipcast as sc
from skipcast.controllers import FixedSteps
from skipcast.forecasters import Reuse
from skipcast.parts import memory
from skipcast.pipelines.summary import Acceleration
from skipcast.run import Run, StepRecord
from skipcast.targets import GlobalDrift, ModuleOutputs, Target
from support.seams import METHODS, Deep, method_id, state
from support.tiny import latents, twin


def summary(pipe: Any, method: Any, **call: Any) -> Any:
    with sc.accelerate(pipe, method) as acceleration:
        latents(pipe, **call)
    return acceleration.summary()


@pytest.mark.parametrize(
    "spec",
    ["reuse:interval=3", "lagrange:order=2,interval=3", "taylorseer:order=2,interval=3", "resilphase:interval=3"],
)
def test_memory_is_what_was_predicted(pipe: Any, spec: str) -> None:
    made = sc.method(f"{spec},target=output")
    assert isinstance(made, sc.Method)
    found = summary(pipe, made)
    expected = memory(made, found.evaluations).bytes((16, 16), 4)
    assert found.cached_bytes == 2 * expected  # one history per branch of guidance


def test_memory_inside_is_that_of_image_tokens(pipe: Any) -> None:
    made = sc.method("resilphase:interval=3")
    assert isinstance(made, sc.Method)
    found = summary(pipe, made, true_cfg_scale=1.0)
    assert found.cached_bytes == memory(made, found.evaluations).bytes((16, 32), 4)


def test_a_plan_holds_what_it_says(pipe: Any) -> None:
    pipe.scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 12, 12).tolist(), mu=1.15)
    plan = sc.compile_plan(sc.method("lagrange:order=2,interval=3"), pipe.scheduler)
    found = summary(pipe, plan, true_cfg_scale=1.0)
    assert found.cached_bytes == plan.memory * 16 * 16 * 4
    assert plan.memory == 2


def test_what_controllers_note_is_counted(pipe: Any) -> None:
    found = summary(pipe, "easycache:threshold=0.5", true_cfg_scale=1.0)
    assert found.cached_bytes > memory(sc.method("easycache:threshold=0.5"), 12).bytes((16, 16), 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("broken", [0, 6])
def test_outputs_that_are_not_finite_are_warned_of(pipe: Any, broken: int) -> None:
    calls = []

    def overflow(_module: Any, _given: Any, output: Any) -> None:
        calls.append(1)
        if len(calls) == broken + 1:
            output[0].view(-1)[:3] = float("inf")

    handle = pipe.transformer.register_forward_hook(overflow)
    try:
        step = broken + 3  # every third is evaluated, and this hook comes after the evaluation was compared
        with pytest.warns(UserWarning, match=f"not finite at step {step} or at the evaluation before"):
            found = summary(pipe, "lagrange:order=1,interval=3,warmup=1,target=output", true_cfg_scale=1.0)
    finally:
        handle.remove()
    assert "not finite" in found.warnings[0]
    assert not math.isfinite(found.forecast_error_worst)


@pytest.mark.parametrize("spec", ["reuse:interval=1", "resilphase:interval=1", "taylorseer:warmup=8,interval=9"])
def test_a_method_without_effect_is_told_of(pipe: Any, spec: str) -> None:
    """Neither a speed-up nor a word about its absence is the worst of both."""
    found = summary(pipe, spec, steps=8)
    assert found.forecasts == 0
    assert any("no effect" in warning for warning in found.warnings)
    assert "warning: the method had no effect" in str(found)


def test_few_steps_are_told_of(pipe: Any) -> None:
    assert any("consider a plan" in warning for warning in summary(pipe, "reuse:interval=3", steps=11).warnings)
    assert summary(pipe, "reuse:interval=3", steps=12).warnings == ()


@pytest.mark.parametrize(
    ("errors", "grown"),
    [([0.01, 0.01, 0.05, 0.06], True), ([0.01, 0.01, 0.02, 0.02], False), ([1e-6, 1e-6, 1e-3, 1e-3], False)],
)
def test_growing_errors_are_told_of(errors: list[float], grown: bool) -> None:
    method = sc.method("reuse:interval=3")
    assert isinstance(method, sc.Method)
    run = Run(method, sc.TimeGrid.shifted(20))
    run.trace = [StepRecord(i, float(i), True, torch.tensor(error)) for i, error in enumerate(errors)]
    warned = Acceleration(method, "reuse", runs={"cond": run}, calls={"cond": [0, 1, 2, 3]}).summary().warnings
    assert any("grew" in warning for warning in warned) == grown


def test_a_run_that_never_reaches_the_denoiser_is_warned_of(pipe: Any) -> None:
    other = twin(pipe, scheduler=pipe.scheduler)
    with pytest.warns(UserWarning, match="none of its denoisers was called"), sc.accelerate(pipe, "reuse:interval=3"):
        latents(other)
    with warnings.catch_warnings(), sc.accelerate(pipe, "reuse:interval=3"):
        warnings.simplefilter("error")
        latents(pipe)


# Diagnosis ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["taylorseer:interval=4", "resilphase:interval=4", *METHODS], ids=method_id)
def test_diagnosis_changes_nothing(pipe: Any, method: str | sc.Method) -> None:
    latents(pipe)  # a scheduler that has run has more attributes
    before = state(pipe)
    with sc.accelerate(pipe, method) as plain:
        expected = latents(pipe)
    with sc.accelerate(pipe, method, diagnose=True) as diagnosed:
        assert torch.equal(latents(pipe), expected)
    assert state(pipe) == before
    assert plain.errors == {}
    for errors in (diagnosed.errors["cond"], diagnosed.errors["uncond"]):
        assert list(errors) == [3, 4, 5, 7, 8, 9, 11]
        assert min(errors.values()) > 0
    plainly, same = plain.summary(), diagnosed.summary()
    assert (plainly.evaluated_steps, plainly.forecasts) == (same.evaluated_steps, same.forecasts)
    assert (plainly.cached_bytes, plainly.forecast_error_mean) == (same.cached_bytes, same.forecast_error_mean)
    assert diagnosed.calls == {"cond": [*range(12)], "uncond": [*range(12)]}


@pytest.mark.parametrize("target", [sc.Output(), GlobalDrift(), ModuleOutputs()], ids=repr)
def test_an_error_by_hand(target: Target) -> None:
    """The denoiser's output, after the final layers, against the network without any hook."""
    deep = Deep()
    with sc.accelerate(deep, sc.Method(Reuse(), FixedSteps((0,)), target=target), diagnose=True) as acceleration:
        deep.begin()
        forecast = [deep.call(step) for step in range(3)]
    assert list(acceleration.errors) == ["call 1"]
    assert list(acceleration.errors["call 1"]) == [1, 2]
    for step, error in acceleration.errors["call 1"].items():
        truth = deep.call(step)
        assert error == pytest.approx(((forecast[step] - truth).norm() / truth.norm()).item(), rel=1e-5)


def test_a_sampler_has_nothing_to_diagnose(pipe: Any) -> None:
    with sc.accelerate(pipe, "ab2:evaluations=5", diagnose=True) as acceleration:
        latents(pipe)
    assert acceleration.errors == {}
