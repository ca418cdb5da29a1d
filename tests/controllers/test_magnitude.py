"""MagCache's rule against transcriptions of the released ones, and against the hook of diffusers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS, MagCacheConfig

import skipcast as sc
from research.fidelity.decisions import magcache_flux, magcache_guided
from skipcast.controllers import MAGNITUDES, MagnitudeError, Windowed, WindowedSteps, windowed
from skipcast.forecasters import Reuse
from skipcast.methods.published import CurveName
from skipcast.targets import GlobalDrift
from support.cases import drive
from support.seams import Deep
from support.tiny import flux_pipeline, latents

STEPS = [50, 40, 28, 20, 9]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", MAGNITUDES)
def test_the_published_curves_give_the_published_steps(name: str, steps: int) -> None:
    known = MAGNITUDES[name]
    settings = np.array(known.ratios), steps, known.threshold, known.max_forecasts, known.retention
    expected = magcache_flux(*settings) if name.startswith("flux") else magcache_guided(*settings, known.calls)
    assert MagnitudeError(name).evaluated(steps) == expected


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("seed", range(5))
def test_any_curve_gives_the_steps_of_the_rule(seed: int, steps: int) -> None:
    random = np.random.default_rng(seed)
    ratios = np.append(1.0, 1 + 0.1 * random.standard_normal(steps - 1))
    for threshold, most, retention in [(0.06, 3, 0.2), (0.3, 6, 0.1), (0.0, 2, 0.3)]:
        found = MagnitudeError(tuple(ratios), threshold, most, retention).evaluated(steps)
        kept = int(retention * steps + 0.5)
        later = [s for s in magcache_guided(ratios, steps, threshold, most, (kept + 0.25) / steps, 1) if s >= kept]
        assert list(found) == [*range(max(1, kept)), *later]


@pytest.mark.parametrize("steps", [50, 28, 20])
@pytest.mark.parametrize("settings", [(0.06, 3, 0.2), (0.24, 5, 0.1), (0.12, 4, 0.0)], ids=str)
def test_the_hook_of_diffusers_evaluates_the_same_steps(steps: int, settings: tuple[float, int, float]) -> None:
    """And reuses the same residual: the steps and the latents of a tiny FLUX pipeline."""
    threshold, most, retention = settings
    ratios = tuple(FLUX_MAG_RATIOS.double().tolist())
    pipe = flux_pipeline()
    ran: list[bool] = []
    handle = pipe.transformer.transformer_blocks[0].ff.register_forward_hook(lambda *_: ran.append(True))
    config = MagCacheConfig(
        threshold=threshold, max_skip_steps=most, retention_ratio=retention, num_inference_steps=steps,
        mag_ratios=FLUX_MAG_RATIOS,
    )  # fmt: skip
    calls = pipe.transformer.register_forward_hook(lambda *_: ran.append(False))
    pipe.transformer.enable_cache(config)
    theirs = latents(pipe, steps=steps, true_cfg_scale=1.0)
    pipe.transformer.disable_cache()
    handle.remove()
    calls.remove()
    evaluated, step = [], 0
    for mark in ran:
        if mark:
            evaluated.append(step)
        else:
            step += 1
    controller = MagnitudeError(ratios, threshold, most, retention)
    assert list(controller.evaluated(steps)) == evaluated
    with sc.accelerate(pipe, sc.Method(Reuse(), controller, target=GlobalDrift())):
        ours = latents(pipe, steps=steps, true_cfg_scale=1.0)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-5)


def test_the_names_are_those_of_the_registry() -> None:
    assert CurveName.__args__ == tuple(MAGNITUDES)
    assert sc.method("magcache") == sc.Method(Reuse(), MagnitudeError("flux", 0.24, 5, 0.1), target=GlobalDrift())
    made = sc.method("magcache:curve=wan-t2v-1.3b")
    assert isinstance(made, sc.Method)
    assert made.controller == MagnitudeError("wan-t2v-1.3b", 0.12, 4, 0.2)


def test_a_count_is_met_by_the_threshold() -> None:
    assert len(MagnitudeError("flux", evaluations=15).evaluated(50)) == 15
    assert MagnitudeError("flux", evaluations=15).evaluated(50) == MagnitudeError("flux").evaluated(50)
    for count in (16, 20, 30):
        assert len(MagnitudeError("flux", evaluations=count).evaluated(50)) == pytest.approx(count, abs=1)
    assert (
        len(MagnitudeError("flux", max_forecasts=5, evaluations=1).evaluated(50)) == 12
    )  # six steps at most in one go
    assert len(MagnitudeError("flux", evaluations=10).evaluated(50)) == 10
    for name in MAGNITUDES:
        assert len(MagnitudeError(name, evaluations=14).evaluated(50)) == pytest.approx(14, abs=1)


def test_the_residual_is_reused_as_it_is() -> None:
    values = torch.randn(28, 1, 4, 3, dtype=torch.float64)
    inputs = torch.randn_like(values)
    method = sc.method("magcache")
    assert isinstance(method, sc.Method)
    found = drive(method, sc.TimeGrid.shifted(28), values, inputs)
    newest = 0
    for step in range(28):
        newest = step if step in method.controller.evaluated(28) else newest
        assert torch.allclose(found[step], inputs[step] + values[newest] - inputs[newest], rtol=0, atol=1e-10)


def test_a_curve_of_another_network_is_refused() -> None:
    with pytest.raises(
        sc.IncompatibleParts, match=r"MagnitudeError\(.*measured on WanTransformer3DModel; give it those of Flux"
    ):
        sc.accelerate(Deep(), "magcache:curve=wan-t2v-14b")
    with pytest.raises(sc.IncompatibleParts, match="measured on WanTransformer3DModel"):
        sc.accelerate(Deep(), "magcache:curve=wan-t2v-14b,start=0.3")
    with sc.accelerate(Deep(), "magcache"):
        pass
    assert isinstance(windowed(MagnitudeError(), 0.1), WindowedSteps)
    assert windowed(MagnitudeError(), 0.1).fitted_on == MagnitudeError().fitted_on
    assert Windowed(sc.controllers.EasyRatio(1.0), 0.1).fitted_on is None
