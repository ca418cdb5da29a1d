"""accelerate(diagnose=True): the error of every forecast, and nothing else changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import skipcast as sc
from skipcast.controllers import FixedSteps
from skipcast.forecasters import Reuse
from skipcast.targets import GlobalDrift, ModuleOutputs, Target
from support.seams import METHODS, Deep, method_id, state
from support.tiny import flux_pipeline, latents


@pytest.fixture(scope="module")
def pipe() -> Any:
    return flux_pipeline()


@pytest.mark.parametrize("method", ["taylorseer:interval=4", "resilphase:interval=4", *METHODS], ids=method_id)
def test_diagnosis_changes_nothing(pipe: Any, method: str | sc.Method) -> None:
    latents(pipe)  # a scheduler that has run has more attributes
    before = state(pipe)
    with sc.accelerate(pipe, method) as plain:
        expected = latents(pipe)
    with sc.accelerate(pipe, method, diagnose=True) as diagnosed:
        assert torch.equal(latents(pipe), expected)
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
