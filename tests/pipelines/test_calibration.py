"""Calibration calls: exactly those that the accelerated sampler makes, replayed to the bit; ranges over time."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import skipcast as sc
from skipcast.pipelines import calibration
from support.seams import state
from support.tiny import latents

PROMPTS = ["a", "b", "c"]
GUIDED = {"num_inference_steps": 12, "true_cfg_scale": 2.0, "negative_prompt": "", "height": 32, "width": 32}


@pytest.fixture(scope="module")
def plan(pipe: Any) -> sc.Plan:
    return sc.record(pipe, PROMPTS[:2], seeds=0, progress=False, **GUIDED).plan(evaluations=4)


def outputs_of(network: nn.Module) -> tuple[list[Tensor], Any]:
    seen: list[Tensor] = []
    return seen, network.register_forward_hook(lambda _module, _given, output: seen.append(output[0].clone()))


FORECAST = "lagrange:order=1,evaluations=4,target=output"


@pytest.mark.parametrize("method", ["plan", "euler:evaluations=4", FORECAST, None])
def test_the_calls_are_those_that_the_sampler_makes(method: str | None, pipe: Any, plan: sc.Plan) -> None:
    latents(pipe, 12)
    before = state(pipe)
    made, hook = outputs_of(pipe.transformer)
    try:
        chosen = plan if method == "plan" else method
        calls = sc.calibration_calls(pipe, chosen, PROMPTS, seeds=5, batch=2, **GUIDED)
    finally:
        hook.remove()
    per_run = 2 * (12 if method is None else 4)
    assert [(call.run, call.index) for call in calls] == [(run, i) for run in range(2) for i in range(per_run)]
    assert {call.denoiser for call in calls} == {"transformer"}
    assert [len(call.kwargs["hidden_states"]) for call in calls] == [2] * per_run + [1] * per_run
    assert state(pipe) == before
    again, hook = outputs_of(pipe.transformer)
    try:
        assert sc.replay(pipe.transformer, calls) == len(calls)
    finally:
        hook.remove()
    if method != FORECAST:  # whose forecasts come out of the network as well
        assert len(made) == len(again)
        for a, b in zip(made, again, strict=True):
            assert torch.equal(a, b)


def test_the_told_times_are_the_plan_s(pipe: Any, plan: sc.Plan) -> None:
    calls = sc.calibration_calls(pipe, plan, PROMPTS[:1], **GUIDED)
    told = [float(call.kwargs["timestep"][0]) * 1000 for call in calls[::2]]
    np.testing.assert_allclose(told, plan.evaluation_timesteps, rtol=1e-5)


def test_calls_are_copies(pipe: Any, plan: sc.Plan) -> None:
    first, *_ = sc.calibration_calls(pipe, plan, PROMPTS[:1], **GUIDED)
    kept = first.kwargs["hidden_states"].clone()
    sc.calibration_calls(pipe, plan, PROMPTS[1:2], **GUIDED)
    assert torch.equal(first.kwargs["hidden_states"], kept)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "resilphase"}, "runs parts of the network at forecast steps"),
        ({"prompts": []}, "holds no prompt"),
        ({"seeds": [1]}, "1 entries for 3 prompts"),
        ({"generator": None}, r"calibration_calls\(generator=...\) is set here"),
        ({"pipe": None}, r"pipe=...\) needs a diffusers pipeline"),
    ],
)
def test_what_cannot_be_recorded_is_refused(options: dict[str, Any], words: str, pipe: Any) -> None:
    with pytest.raises(ValueError, match=words):
        sc.calibration_calls(**{"pipe": pipe, "method": "euler:evaluations=4", "prompts": PROMPTS, **options})


def test_a_compiled_denoiser_is_refused(pipe: Any) -> None:
    pipe.transformer._compiled_call_impl = lambda: None
    try:
        with pytest.raises(ValueError, match="its transformer is compiled"):
            sc.calibration_calls(pipe, None, PROMPTS, **GUIDED)
    finally:
        del pipe.transformer._compiled_call_impl


def test_what_cannot_be_replayed_is_refused(pipe: Any) -> None:
    call = calibration.DenoiserCall("transformer", 0, 0, (torch.ones(1, 3),), {})
    other = calibration.DenoiserCall("transformer_2", 0, 0, (torch.ones(1, 3),), {})
    network = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="transformer and transformer_2; choose those of one"):
        sc.replay(network, [call, other])
    with pytest.raises(ValueError, match="holds no call"):
        sc.replay(network, [])
    with pytest.raises(ValueError, match="must come from calibration_calls, got Tensor"):
        sc.replay(network, [torch.ones(1)])
    with pytest.raises(ValueError, match=r"replay\(network=...\) must be a Module"):
        sc.replay(pipe, [call])


def test_modelopt_takes_a_replay_as_its_forward_loop(pipe: Any, plan: sc.Plan) -> None:
    """Its ranges are those that the calls show; with modelopt 0.47, which `pip install --group quantized` brings."""
    quantization = pytest.importorskip("modelopt.torch.quantization", reason="needs nvidia-modelopt")
    calls = sc.calibration_calls(pipe, plan, PROMPTS[:1], seeds=5, **GUIDED)
    ranges = calibration.channel_ranges(pipe.transformer, calls)
    network = copy.deepcopy(pipe.transformer)
    quantization.quantize(network, quantization.INT8_DEFAULT_CFG, forward_loop=lambda net: sc.replay(net, calls))
    found = {name: module.input_quantizer for name, module in network.named_modules() if name in ranges}
    measured = {name: float(each.amax) for name, each in found.items() if each.is_enabled}
    assert len(measured) > 10
    for name, largest in measured.items():
        assert largest == pytest.approx(float(ranges[name].max()), rel=1e-6)


def scaled(values: list[float]) -> calibration.DenoiserCall:
    return calibration.DenoiserCall("net", 0, 0, (torch.tensor([values, [0.0] * len(values)]),), {})


def test_ranges_and_their_weighted_mean() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    calls = [scaled([1.0, -4.0, 2.0]), scaled([3.0, 2.0, -1.0])]
    found = calibration.channel_ranges(network, calls)
    assert list(found) == ["0", "2"]
    torch.testing.assert_close(found["0"], torch.tensor([[1.0, 4.0, 2.0], [3.0, 2.0, 1.0]]))
    mean = torch.tensor([4 * 1 + 3 * 3, 4 * 4 + 3 * 2, 4 * 2 + 3 * 1]) / 7  # weights 4 and 3
    torch.testing.assert_close(calibration.time_weighted(found)["0"], (mean / mean.min()).sqrt())
    wide = calibration.time_weighted({"0": torch.tensor([[1.0, 1000.0]])})["0"]
    torch.testing.assert_close(wide, torch.tensor([1.0, 10.0**0.5]))


def test_balancing_changes_nothing_before_rounding() -> None:
    network, x = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2, bias=False)), torch.randn(6, 4)
    before = network(x)
    calibration.balance(network, {"0": torch.tensor([1.0, 2.0, 3.0, 1.5]), "1": 1 + torch.rand(5)})
    torch.testing.assert_close(network(x), before)
    with pytest.raises(ValueError, match="'0' is no linear layer of 4 inputs"):
        calibration.balance(network, {"0": torch.ones(4)})
