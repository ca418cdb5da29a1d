"""SeaCache's rule: the filter by its numbers, its decisions beside diffusers' hook, and its grid of tokens."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import skipcast as sc
from research.fidelity.decisions import seacache
from skipcast import Method, Output, Run, TimeGrid
from skipcast.controllers import FilteredChange
from skipcast.controllers.filtered import wiener_gain
from skipcast.forecasters import Lagrange, Reuse
from skipcast.pipelines.seams.stack import token_grid
from skipcast.targets import GlobalDrift
from support.tiny import flux_pipeline, latents


def test_the_gain_by_its_numbers() -> None:
    """The port of the released filter at sigma 1/2 on four places; two axes multiply."""
    gain = wiener_gain((4,), 0.5, 0.5, 2.0)
    assert gain.tolist() == pytest.approx([1.08626, 1.02236, 0.86901, 1.02236], abs=1e-5)
    assert wiener_gain((4, 4), 0.5, 0.5, 2.0).ravel() == pytest.approx(np.outer(gain, gain).ravel(), abs=1e-12)
    assert wiener_gain((1, 4), 0.5, 0.5, 2.0).ravel() == pytest.approx(gain, abs=1e-12)


def test_noise_leaves_the_mean_and_a_clean_sample_everything() -> None:
    assert wiener_gain((8,), 0.0, 1.0, 2.0) == pytest.approx([8, *[0] * 7], abs=1e-5)
    assert wiener_gain((8,), 1.0, 0.0, 2.0) == pytest.approx(np.ones(8), abs=1e-5)


def decided(controller: FilteredChange, probes: Tensor, grid: TimeGrid) -> list[int]:
    """The evaluated steps of a run that is shown `probes`."""
    target = Output() if controller.probe == "input" else GlobalDrift()
    run = Run(Method(Reuse(), controller, target=target), grid)
    for probe in probes:
        if run.wants_evaluation(probe):
            run.observe(probe, probe)
        else:
            run.forecast(probe)
    return [record.step for record in run.trace if record.evaluated]


@pytest.mark.parametrize("kept", ["raw", "filtered"])
@pytest.mark.parametrize("threshold", [0.3, 0.6, 1.0, 3.0])
@pytest.mark.parametrize("places, power", [((4, 4), 2.0), ((2, 6), 2.0), ((2, 3, 4), 3.0)], ids=str)
def test_its_steps_are_the_released_ones(kept: Any, threshold: float, places: tuple[int, ...], power: float) -> None:
    grid = TimeGrid.shifted(50, 3.0)
    rule = FilteredChange(threshold, power=power, forced=kept, grid=places)
    rng = torch.Generator().manual_seed(2)
    steps = torch.randn(50, 1, int(np.prod(places)), 5, generator=rng, dtype=torch.float64)
    for scale in (0.1, 0.3, 1.0):
        probes = 1.0 + scale * steps.cumsum(0)
        assert tuple(decided(rule, probes, grid)) == seacache(probes, grid, threshold, places, power, kept)


def test_its_steps_are_those_of_diffusers_hook() -> None:
    """At the hook's defaults, on latents of one video; the hook compares the items of a batch each by itself."""
    hooks = pytest.importorskip("diffusers.hooks.sea_cache")
    config, grid = hooks.SeaCacheConfig(), TimeGrid.shifted(30, 5.0)
    rule = FilteredChange(0.25, "input", 3.0, max_forecasts=2, forced="filtered")
    for seed in range(5):
        rng = torch.Generator().manual_seed(seed)
        probes = 1.0 + 0.2 * torch.randn(30, 1, 4, 3, 4, 6, generator=rng).cumsum(0)
        for threshold in (0.25, 0.5, 1.0):
            config.threshold = threshold
            shared, state, full = hooks.SeaCacheSharedState(), hooks.SeaCacheContextState(), []
            for step, probe in enumerate(probes):
                seen = hooks._SeaCacheForwardMetadata(step, float(grid.sigma[step]), 30, list(probe.unbind(0)))
                if shared.resolve_gate(state, seen, hooks._build_indicator(config, seen), config):
                    state.consecutive_cached = 0
                    full.append(step)
                else:
                    state.consecutive_cached += 1
            assert decided(dataclasses.replace(rule, threshold=threshold), probes, grid) == full


def test_a_run_is_that_of_diffusers_hook() -> None:
    """A tiny Wan at the hook's defaults, guidance branches and the continued residual included."""
    hooks = pytest.importorskip("diffusers.hooks.sea_cache")
    from families.videos import SIZE, text, wan

    pipe = wan()
    pipe.set_progress_bar_config(disable=True)

    def run() -> Tensor:
        noise = torch.Generator().manual_seed(1)
        given = {**text(0), **SIZE, "guidance_scale": 5.0, "num_inference_steps": 12}
        found: Tensor = pipe(**given, generator=noise).frames
        return found

    plain = run()
    pipe.transformer.enable_cache(hooks.SeaCacheConfig(threshold=0.6))
    theirs = run()
    pipe.transformer.disable_cache()
    rule = FilteredChange(0.6, "input", 3.0, max_forecasts=2, forced="filtered")
    with sc.accelerate(pipe, Method(Lagrange(1), rule, target=GlobalDrift())) as acceleration:
        ours = run()
    assert 2 < acceleration.summary().evaluations < 12
    assert (theirs - plain).abs().max() > 1e-3
    assert (ours - theirs).abs().max() < 1e-5 * plain.abs().max()


def test_the_network_tells_its_grid() -> None:
    pipe = flux_pipeline()
    with sc.accelerate(pipe, "seacache:threshold=0.3") as acceleration:
        latents(pipe)
    assert 2 <= acceleration.summary().evaluations < 12
    assert {run.places for run in acceleration.runs.values()} == {(1, 4, 4)}


def test_grids() -> None:
    assert token_grid({"patch_size": (1, 2, 2)}, torch.zeros(1, 16, 5, 8, 12), None) == (5, 4, 6)
    assert token_grid({"patch_size": 2, "patch_size_t": 1}, torch.zeros(1, 16, 5, 8, 12), None) == (5, 4, 6)
    assert token_grid({"patch_size": 2}, torch.zeros(1, 16, 8, 12), None) == (4, 6)
    rows = torch.cartesian_prod(torch.zeros(1), torch.arange(3.0), torch.arange(5.0))
    assert token_grid({}, torch.zeros(1, 15, 4), rows) == (1, 3, 5)
    assert token_grid({}, torch.zeros(1, 17, 4), torch.cat([rows, rows[:2]])) is None  # of two images
    assert token_grid({}, torch.zeros(1, 15, 4), None) is None


def test_a_grid_that_does_not_fit() -> None:
    run = Run(Method(Reuse(), FilteredChange(forced="filtered"), target=GlobalDrift()), TimeGrid.shifted(4))
    probe = torch.ones(1, 6, 2)
    assert run.wants_evaluation(probe)
    with pytest.raises(ValueError, match=r"FilteredChange\(grid=...\) is needed for 6 tokens; give their \(height"):
        run.observe(probe, probe)
    with pytest.raises(ValueError, match=r"FilteredChange\(grid=...\) must be sizes of at least 1, got \(0, 4\)"):
        FilteredChange(grid=(0, 4))
