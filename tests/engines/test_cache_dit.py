"""A tableau as a calibrator of cache-dit: the weights of the method, at its steps, in cache-dit's own loop."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch

import skipcast as sc
from skipcast.controllers import FixedSteps
from skipcast.engines.cache_dit import TableauCalibrator, register, settings
from skipcast.forecasters import Lagrange, TaylorSeer
from support.tiny import flux_transformer, latents, twin

os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "error")  # else it reports every run
STEPS, GRID = (0, 1, 2, 5, 8, 11), sc.TimeGrid.shifted(12, 3.0)
MISSING = "cache-dit 1.5 is not installed: pip install --no-deps cache-dit==1.5.3 pyyaml"


@pytest.fixture
def cache_dit(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = pytest.importorskip("cache_dit", reason=MISSING)
    from cache_dit.caching.cache_contexts import cache_context

    monkeypatch.setattr(cache_context, "Calibrator", cache_context.Calibrator)  # restored
    return found


def method(order: int) -> sc.Method:
    return sc.Method(Lagrange(order), FixedSteps(STEPS))


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_it_forecasts_as_the_method_does(order: int, dtype: torch.dtype) -> None:
    values = torch.randn(len(GRID), 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    chosen = method(order) if order else sc.Method(sc.forecasters.Reuse(), FixedSteps(STEPS))
    calibrator = TableauCalibrator(sc.tableau(chosen, GRID))
    for _ in range(2):  # the second run after the first
        run = sc.Run(chosen, GRID, forecast_error=False)
        calibrator.reset_cache()
        for step, value in enumerate(values):
            calibrator.mark_step_begin()
            ours = run.advance(value, lambda value=value: value)  # type: ignore[misc]
            if step in STEPS:
                calibrator.update(value, name="residual")
                continue
            found = calibrator.approximate("residual")
            assert found.dtype == dtype
            assert found.double() == pytest.approx(
                ours.double(), rel=2e-2 if dtype == torch.bfloat16 else 1e-5, abs=1e-4
            )


def test_it_holds_no_more_than_its_rows_need() -> None:
    calibrator = TableauCalibrator(sc.tableau(method(1), GRID))
    held = []
    for step in range(len(GRID)):
        calibrator.mark_step_begin()
        if step in STEPS:
            calibrator.update(torch.ones(1), name="a")
        held.append(len(calibrator._known["a"]))
    assert max(held) == 2


def test_other_steps_than_its_own_are_refused() -> None:
    calibrator = TableauCalibrator(sc.tableau(method(1), GRID))
    for _ in range(2):
        calibrator.mark_step_begin()
        calibrator.update(torch.ones(1))
    for _ in range(2):
        calibrator.mark_step_begin()
    with pytest.raises(ValueError, match=r"step 3 is forecast from steps \[1, 2\], computed were \[1\]"):
        calibrator.approximate()


@pytest.mark.parametrize(
    ("table", "words"),
    [(np.eye(3)[:2], r"\(2, 3\)"), (np.full((2, 2), np.nan), "finite"), (np.ones((2, 2)), "still to come")],
)
def test_a_table_that_is_none_is_refused(table: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TableauCalibrator(table)


def test_a_method_by_values_is_refused_before_anything_is_registered() -> None:
    with pytest.raises(ValueError, match="decides by the values"):
        settings(sc.method("teacache"), GRID)


def drawn(cache_dit: Any, pipe: Any, **options: Any) -> tuple[torch.Tensor, list[list[int]]]:
    """Latents of a run, and the steps that each branch forecast."""
    network = pipe.transformer
    cache_dit.enable_cache(network, **options)
    try:
        cache_dit.refresh_context(network, **options)
        found = latents(pipe, len(GRID))
        contexts = network._context_manager._cached_context_manager.values()
        return found, [steps for each in contexts for steps in (each.cached_steps, each.cfg_cached_steps)]
    finally:
        cache_dit.disable_cache(network)


def test_cache_dit_runs_the_tableau_at_its_steps(cache_dit: Any, pipe: Any) -> None:
    """Of order 1 it is cache-dit's own Taylor calibrator, which in a first run has no derivative before step 3."""
    ours = settings(sc.Method(TaylorSeer(1, start=2), FixedSteps(STEPS)), GRID, True)
    theirs = {**ours, "calibrator_config": cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1)}
    plain = latents(pipe, len(GRID))
    own, forecast = drawn(cache_dit, twin(pipe, transformer=flux_transformer()), **ours)
    their, also = drawn(cache_dit, twin(pipe, transformer=flux_transformer()), **theirs)
    skipped = [step for step in range(len(GRID)) if step not in STEPS]
    assert forecast == also
    assert all(steps == skipped for steps in forecast)
    assert len(forecast) == 2  # branches
    assert own == pytest.approx(their, rel=1e-4, abs=1e-5)
    assert not torch.allclose(own, plain, atol=1e-4)
    second, _ = drawn(cache_dit, twin(pipe, transformer=flux_transformer()), **settings(method(2), GRID, True))
    assert not torch.allclose(second, own, atol=1e-5)


def test_registering_twice_is_registering_once(cache_dit: Any) -> None:
    from cache_dit.caching.cache_contexts import cache_context

    register()
    made = cache_context.Calibrator
    register()
    assert cache_context.Calibrator is made
    assert "Taylor" in repr(made(cache_dit.TaylorSeerCalibratorConfig()))


def test_without_cache_dit_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cache_dit", None)
    with pytest.raises(ImportError, match=r"cache-dit>=1\.5,<2"):
        settings(sc.Method(TaylorSeer(1), FixedSteps(STEPS)), GRID)
