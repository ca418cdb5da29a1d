"""What an accelerated run tells of itself: memory as predicted, warnings where something is likely not wanted."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import skipcast as sc
from skipcast.parts import memory
from skipcast.pipelines.summary import Acceleration
from skipcast.run import Run, StepRecord
from support.tiny import flux_pipeline, latents


@pytest.fixture(scope="module")
def pipe() -> Any:
    return flux_pipeline()


def summary(pipe: Any, method: Any, **call: Any) -> Any:
    with sc.accelerate(pipe, method) as acceleration:
        latents(pipe, **call)
    return acceleration.summary()


@pytest.mark.parametrize("spec", ["reuse", "lagrange:order=1", "lagrange:order=2", "taylorseer:order=2", "resilphase"])
def test_memory_is_what_was_predicted(pipe: Any, spec: str) -> None:
    made = sc.method(f"{spec},target=output,interval=3" if ":" in spec else f"{spec}:target=output,interval=3")
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


def test_a_method_without_effect_is_told_of(pipe: Any) -> None:
    found = summary(pipe, "reuse:interval=1")
    assert any("no effect" in warning for warning in found.warnings)
    assert "warning: the method had no effect" in str(found)
    assert not any("no effect" in warning for warning in summary(pipe, "reuse:interval=3").warnings)


def test_few_steps_are_told_of(pipe: Any) -> None:
    assert any("consider a plan" in warning for warning in summary(pipe, "reuse:interval=3", steps=11).warnings)
    assert not any("consider" in warning for warning in summary(pipe, "reuse:interval=3", steps=12).warnings)


@pytest.mark.parametrize(
    ("errors", "grown"),
    [([0.01, 0.01, 0.05, 0.06], True), ([0.01, 0.01, 0.02, 0.02], False), ([1e-6, 1e-6, 1e-3, 1e-3], False)],
)
def test_growing_errors_are_told_of(errors: list[float], grown: bool) -> None:
    method = sc.method("reuse:interval=3")
    assert isinstance(method, sc.Method)
    run = Run(method, sc.TimeGrid.shifted(20))
    run.trace = [StepRecord(i, float(i), True, torch.tensor(error)) for i, error in enumerate(errors)]
    warned = Acceleration(method, "reuse", runs={"cond": run}, calls={"cond": 4}).summary().warnings
    assert any("grew" in warning for warning in warned) == grown


def test_a_run_that_never_reaches_the_denoiser_is_warned_of(pipe: Any) -> None:
    other = flux_pipeline()
    other.scheduler = pipe.scheduler
    with pytest.warns(UserWarning, match="none of its denoisers was called"), sc.accelerate(pipe, "reuse:interval=3"):
        latents(other)
    with warnings.catch_warnings(), sc.accelerate(pipe, "reuse:interval=3"):
        warnings.simplefilter("error")
        latents(pipe)
