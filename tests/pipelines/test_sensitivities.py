"""SenCache's tables, measured on networks whose sensitivities are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

import skipcast as sc
from skipcast.controllers import SensitivityBound
from skipcast.forecasters import Reuse
from skipcast.pipelines.sensitivities import sensitivities
from skipcast.targets import GlobalDrift
from support.tiny import PROMPT, flux_pipeline, latents


class Affine(nn.Module):
    """0.7 x + 3 t for every number of the sample, t from 0 to 1; the second branch's answer is another."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, hidden_states: Tensor, timestep: Tensor, branch: int = 0) -> tuple[Tensor]:
        self.calls += 1
        return ((0.7 + branch) * hidden_states + 3.0 * timestep.view(-1, 1, 1),)


class Pipe:
    def __init__(self) -> None:
        self.transformer, self.scheduler = Affine(), FlowMatchEulerDiscreteScheduler(shift=3.0)

    def __call__(self, prompt: Any = None, steps: int = 8, items: int = 2) -> Tensor:
        self.scheduler.set_timesteps(steps)
        x = torch.randn(items, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        for t in self.scheduler.timesteps:
            time = (t / 1000).expand(items)
            y = self.transformer(x, timestep=time)[0]
            self.transformer(x, timestep=time, branch=1)
            x = self.scheduler.step(y, t, x, return_dict=False)[0]
        return x


def test_an_affine_network_has_its_coefficients() -> None:
    """3 t for 20 numbers per item, with t in thousandths of the scheduler's timesteps."""
    pipe = Pipe()
    table = sensitivities(pipe)
    assert table["timesteps"] == tuple(pipe.scheduler.timesteps[:-1].double().tolist())
    assert table["by_sample"] == pytest.approx([0.7] * 7, rel=1e-6)
    assert table["by_time"] == pytest.approx([3.0 * 20**0.5 / 1000] * 7, rel=1e-5)
    assert pipe.transformer.calls == 2 * 8 + 2 * 7


def test_measuring_leaves_nothing_behind() -> None:
    pipe = Pipe()
    plain = pipe()
    sensitivities(pipe, steps=5)
    assert torch.equal(pipe(), plain)
    assert not pipe.transformer._forward_hooks


def test_the_table_goes_into_the_controller() -> None:
    pipe = flux_pipeline()
    call: dict[str, Any] = {"height": 64, "width": 64, "output_type": "latent", "num_inference_steps": 12}
    table = sensitivities(pipe, PROMPT, generator=torch.Generator().manual_seed(7), true_cfg_scale=1.0, **call)
    assert all(len(column) == 11 for column in table.values())
    method = sc.Method(Reuse(), SensitivityBound(**table, threshold=1e9, early=0.0), target=GlobalDrift())
    with sc.accelerate(pipe, method) as acceleration:
        latents(pipe)
    assert acceleration.summary().evaluated_steps == (0, 1, 5, 9)  # none in the first fifth, then three in a row
    assert len(acceleration.summary().branches) == 2


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="run at least two"):
        sensitivities(Pipe(), steps=1)
    two = Pipe()
    two.transformer_2 = Affine()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="two denoisers that take turns"):
        sensitivities(two)
    timeless = Pipe()
    timeless.transformer = nn.Linear(2, 2)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="Linear takes no timestep"):
        sensitivities(timeless)
