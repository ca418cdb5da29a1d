"""DiCache and the confidence-gated Taylor: whole runs against transcriptions of the released rules, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import skipcast as sc
from research.fidelity.decisions import cg_taylor, dicache
from skipcast import IncompatibleParts, Method, Output, Run, TimeGrid, method
from skipcast.controllers import ConfidenceGate, FirstBlockChange, Periodic, ShallowChange
from skipcast.forecasters import Aligned, Reuse, TaylorSeer
from skipcast.targets import GlobalDrift, LastHidden
from support.seams import Deep, counted

GRIDS = [TimeGrid.shifted(50, shift=3.0), TimeGrid.shifted(30, shift=5.0), TimeGrid.shifted(20, shift=1.15)]


def walk(seed: int, steps: int, pace: float, *, batch: int = 1) -> Tensor:
    """Tokens before the first block, behind it and behind the last one at every step: (3, N, B, L, D)."""
    noise = torch.randn(3, steps, batch, 6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 1.0 + pace * noise.cumsum(1)


def driven(chosen: Method, grid: TimeGrid, tokens: Tensor) -> tuple[list[int], Tensor]:
    """The evaluated steps of a run that is shown the tokens, and what flows on."""
    run, found = Run(chosen, grid), []
    for x, first, y in tokens.unbind(1):
        shown = torch.stack((x, first))
        found.append(run.observe(x, y) if run.wants_evaluation(shown) else run.forecast(x))
        shown.fill_(99.0)  # what showed it overwrites it
    return [record.step for record in run.trace if record.evaluated], torch.stack(found)


@pytest.mark.parametrize("grid", GRIDS, ids=len)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "spec, threshold, choice, retention, limit, flux",
    [
        ("dicache", 0.4, "output", 0.2, 1.5, True),
        ("dicache:measure=difference", 0.08, "difference", 0.0, 1.5, True),
        ("dicache:family=hunyuan-video", 0.1, "output", 0.2, 1.5, False),
        ("dicache:family=wan", 0.08, "output", 0.2, 2.0, False),
    ],
)
def test_dicache_is_the_released_rule(
    grid: TimeGrid, seed: int, spec: str, threshold: float, choice: str, retention: float, limit: float, flux: bool
) -> None:
    chosen = method(spec)
    assert isinstance(chosen, Method)
    tokens = walk(seed, len(grid), 0.02)
    steps, found = driven(chosen, grid, tokens)
    expected, values = dicache(tokens, threshold, choice, retention, limit, flux=flux)
    assert tuple(steps) == expected
    assert 1 < len(steps) < len(grid)
    assert (found - values).abs().max() < 1e-10


@pytest.mark.parametrize("gone, gain", [(0.5, 1.0), (1.2, 1.2), (1.7, 1.5)])
def test_the_gain_is_what_the_first_block_has_gone_within_limits(gone: float, gain: float) -> None:
    """From 2 at step 0 to 4 at step 1; the first block has gone from 0 to 1 there, and to `gone` now."""
    run = Run(Method(Aligned(), Periodic(2, 9), target=GlobalDrift()), TimeGrid.shifted(4))
    x = torch.zeros(1, 1, 1)
    for added, y in ((0.0, 2.0), (1.0, 4.0)):
        assert run.wants_evaluation(torch.stack((x, x + added)))
        run.observe(x, x + y)
    assert not run.wants_evaluation(torch.stack((x, x + gone)))
    assert run.forecast(x).item() == pytest.approx(2.0 + 2.0 * gain)


def test_items_of_a_batch_have_gains_of_their_own() -> None:
    tokens = walk(4, 20, 0.02, batch=3)
    chosen = Method(Aligned(), Periodic(2, 4), target=GlobalDrift())
    together = driven(chosen, GRIDS[2], tokens)[1]
    alone = [driven(chosen, GRIDS[2], tokens[:, :, i : i + 1])[1] for i in range(3)]
    assert torch.equal(together, torch.cat(alone, dim=1))


def test_a_first_block_that_stands_still_is_reuse() -> None:
    tokens = walk(5, 20, 0.02)
    tokens[1] = tokens[0]  # it adds nothing: 0 / 0
    chosen = Method(Aligned(), Periodic(2, 4), target=GlobalDrift())
    again = Method(Reuse(), Periodic(2, 4), target=GlobalDrift())
    assert torch.equal(driven(chosen, GRIDS[2], tokens)[1], driven(again, GRIDS[2], tokens)[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_forecast_keeps_its_type_and_a_probe_is_remembered(dtype: torch.dtype) -> None:
    tokens = walk(6, 20, 0.02).to(dtype)
    chosen = Method(Aligned(), Periodic(2, 4), target=GlobalDrift())
    assert driven(chosen, GRIDS[2], tokens)[1].dtype == dtype
    run = Run(chosen, GRIDS[2])
    for x, first, y in tokens[:, :2].unbind(1):
        run.wants_evaluation(torch.stack((x, first)))
        run.observe(x, y)
    assert run.bytes() == 2 * 30 * (tokens.element_size() + 4)  # two values, and two of the first block's in float32


@pytest.mark.parametrize("grid", GRIDS, ids=len)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "spec, settings, pace",
    [
        ("cg-taylor", (0.03, 1, 1, 5, 5, 3), 0.01),
        ("cg-taylor:threshold=0.13", (0.13, 1, 1, 5, 5, 3), 0.05),
        ("cg-taylor:family=hunyuan-video", (0.08, 1, 2, 6, 0, 1), 0.01),
        ("cg-taylor:family=wan", (0.36, 1, 3, 6, 0, 1), 0.02),
        ("cg-taylor:family=dit", (0.008, 1, 3, 3, 0, 1), 0.0003),
        ("cg-taylor:family=wan,order=2,block_order=1", (0.36, 2, 1, 6, 0, 1), 0.1),
    ],
)
def test_the_confidence_gate_is_the_released_rule(
    grid: TimeGrid, seed: int, spec: str, settings: tuple[float, int, int, int, int, int], pace: float
) -> None:
    chosen = method(spec)
    assert isinstance(chosen, Method)
    tokens = walk(seed, len(grid), pace)
    steps, found = driven(chosen, grid, tokens)
    expected, values = cg_taylor(tokens, *settings)
    assert tuple(steps) == expected
    assert (found - values).abs().max() < 1e-10


def test_the_gate_both_passes_and_fails_in_these_runs() -> None:
    for spec, pace in (("cg-taylor", 0.01), ("cg-taylor:family=wan", 0.02)):
        chosen = method(spec)
        assert isinstance(chosen, Method)
        steps = driven(chosen, GRIDS[0], walk(0, 50, pace))[0]
        assert 6 < len(steps) < 50
        assert steps[-1] == 49


def test_what_does_not_move_is_forecast_from_the_first_noted_step_on() -> None:
    still = walk(0, 20, 0.0)
    flux, wan = method("cg-taylor"), method("cg-taylor:family=wan")
    assert isinstance(flux, Method)
    assert isinstance(wan, Method)
    assert driven(flux, GRIDS[2], still)[0] == [0, 1, 2, 3, 4, 5, 19]
    assert driven(wan, GRIDS[2], still)[0] == [0, 1, 2, 3, 4, 5, 19]
    assert driven(Method(TaylorSeer(1), ConfidenceGate(0.1, 1, 3, 0), target=LastHidden()), GRIDS[2], still)[0] == [
        *(0, 1, 2, 19)
    ]


def test_no_number_is_evaluated() -> None:
    tokens = walk(0, 20, 0.0)
    tokens[1, 10] = math.nan
    for chosen in (method("dicache:threshold=9"), method("cg-taylor:family=wan")):
        assert isinstance(chosen, Method)
        assert 10 in driven(chosen, GRIDS[2], tokens)[0]


def test_the_published_settings_of_the_families() -> None:
    drift, hidden = GlobalDrift(), LastHidden()
    assert method("dicache") == Method(Aligned(1.5), ShallowChange(0.4, "output", 0.2, 1, True), target=drift)
    assert method("dicache:measure=difference") == Method(
        Aligned(1.5), ShallowChange(0.08, "difference", 0.0, 1, True), target=drift
    )
    assert method("dicache:family=wan") == Method(
        Aligned(2.0), ShallowChange(0.08, "output", 0.2, 0, False), target=drift
    )
    assert method("cg-taylor") == Method(TaylorSeer(1, start=1), ConfidenceGate(0.03, 1, 5, 5), target=hidden)
    assert method("cg-taylor:family=dit") == Method(TaylorSeer(1), ConfidenceGate(0.008, 3, 3, 0), target=hidden)


@pytest.mark.parametrize("spec", ["dicache:threshold=9", "dicache:schedule=0.2.3", "cg-taylor:threshold=9,family=dit"])
def test_only_the_first_block_runs_at_a_forecast_step(spec: str) -> None:
    deep = Deep()
    with sc.accelerate(deep, spec) as acceleration, counted(*deep.attentions) as counted_runs:
        deep.begin()
        found = [deep.call(step) for step in range(6)]
    summary = acceleration.summary()
    assert summary.forecasts > 0
    first, *others = counted_runs.values()
    assert first == 6
    assert set(others) == {summary.evaluations}
    assert all(torch.isfinite(value).all() for value in found)


def test_parts_that_look_at_different_things_are_refused() -> None:
    with pytest.raises(IncompatibleParts, match=r"FirstBlockChange\(.*probe 'block' and Aligned\(.*at 'around'; a run"):
        Method(Aligned(), FirstBlockChange(0.1), target=GlobalDrift())
    with pytest.raises(IncompatibleParts, match=r"Aligned\(limit=1\.5\) looks at the first block, so its target must"):
        Method(Aligned(), Periodic())
    with pytest.raises(IncompatibleParts, match=r"ShallowChange\(.*looks at the first block.*got Output\(\)"):
        Method(Reuse(), ShallowChange(0.1), target=Output())


def test_a_probe_that_nobody_shows() -> None:
    x = torch.ones(1, 2, 3)
    run = Run(Method(Aligned(), Periodic(2, 9), target=GlobalDrift()), TimeGrid.shifted(5), forecast_error=False)
    run.advance(x, lambda: x)
    run.advance(x, lambda: x)
    with pytest.raises(
        RuntimeError, match=r"Aligned\(limit=1\.5\) looks at the probe 'around', but this run was shown"
    ):
        run.advance(x, lambda: x)
