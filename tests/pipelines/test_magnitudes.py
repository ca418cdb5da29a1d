"""Curves for MagCache, measured on tiny pipelines."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.hooks.mag_cache import MagCacheConfig

import skipcast as sc
from families.all import NAMED
from skipcast.controllers import MagnitudeError
from skipcast.forecasters import Reuse
from skipcast.targets import GlobalDrift
from support.tiny import PROMPT, flux_pipeline, latents

CALL: dict[str, Any] = {"num_inference_steps": 12, "height": 64, "width": 64, "output_type": "latent"}


def measured(pipe: Any, **call: Any) -> dict[str, tuple[float, ...]]:
    return sc.magnitude_curve(pipe, PROMPT, generator=torch.Generator().manual_seed(7), **{**CALL, **call})


def test_the_ratios_are_those_of_the_hook_of_diffusers(capsys: pytest.CaptureFixture[str]) -> None:
    pipe = flux_pipeline()
    ours = measured(pipe, guidance_scale=0.0)
    pipe.transformer.enable_cache(MagCacheConfig(num_inference_steps=12, calibrate=True))
    pipe(PROMPT, generator=torch.Generator().manual_seed(7), guidance_scale=0.0, **CALL)
    pipe.transformer.disable_cache()
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[1.0")]
    assert len(ours) == 1
    theirs = [float(text) for text in printed[0].strip("[]").split(",")]
    assert next(iter(ours.values())) == pytest.approx(theirs, abs=1e-5)


def test_every_branch_has_a_curve_that_a_method_takes() -> None:
    pipe = flux_pipeline()
    found = measured(pipe, true_cfg_scale=2.0, negative_prompt="")
    assert len(found) == 2
    assert all(len(curve) == 12 and curve[0] == 1.0 for curve in found.values())
    assert len(set(found.values())) == 2
    controller = MagnitudeError(next(iter(found.values())), threshold=0.5)
    with sc.accelerate(pipe, sc.Method(Reuse(), controller, target=GlobalDrift())) as acceleration:
        latents(pipe, steps=12)
    assert acceleration.summary().evaluated_steps == controller.evaluated(12)
    assert acceleration.summary().forecasts > 0


def test_measuring_changes_nothing() -> None:
    pipe = flux_pipeline()
    plain = latents(pipe)
    measured(pipe)
    assert torch.equal(latents(pipe), plain)


def test_a_pipeline_without_known_blocks_is_refused() -> None:
    family = next(known for name, known in NAMED.items() if "Stable Diffusion XL" in name or "SDXL" in name)
    with pytest.raises(ValueError, match=r"needs the block stack, which is not known for UNet2DConditionModel"):
        sc.magnitude_curve(family.build(), PROMPT)
