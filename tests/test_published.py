"""Whole runs against literal transcriptions of the published recursions, on random data in float64."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from research.fidelity.decisions import counter
from research.fidelity.forecasts import resilphase, series, svd_cache, taylor
from research.fidelity.sequences import Array, alone
from skipcast import Method, Point, TimeGrid, method, tableau
from skipcast.controllers import Periodic
from skipcast.coordinates import Balanced, Chebyshev
from skipcast.forecasters import ABCache, Lagrange, Mapped, PadeCode, TaylorSeer
from skipcast.history import History
from skipcast.targets import GlobalDrift
from support.cases import GRID, drive

STEPS = 50


def taylorseer(values: Array, order: int, interval: int, first_enhance: int) -> Array:
    return alone(series(partial(taylor, order), first_enhance), values, counter(STEPS, first_enhance, interval))


def random(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((STEPS, 2, 3))


@pytest.mark.parametrize("warmup, interval", [(3, 6), (3, 4), (3, 5), (2, 4), (1, 5), (5, 3)])
@pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
def test_taylorseer_is_the_released_recursion(order: int, warmup: int, interval: int) -> None:
    values = random(1)
    built = Method(TaylorSeer(order, start=max(warmup - 2, 0)), Periodic(warmup, interval))
    assert built == method(f"taylorseer:order={order},warmup={warmup},interval={interval}")
    found = drive(built, GRID, torch.from_numpy(values))
    assert np.abs(found.numpy() - taylorseer(values, order, interval, warmup)).max() < 1e-10


@pytest.mark.parametrize("warmup, interval", [(3, 6), (3, 5), (2, 4), (1, 5)])
@pytest.mark.parametrize("mapping", ["balanced", "chebyshev"])
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_resilphase_is_the_published_formula(m: int, mapping: str, warmup: int, interval: int) -> None:
    inputs, outputs = random(2), random(3)
    phase = Balanced(0.55) if mapping == "balanced" else Chebyshev()
    built = Method(Mapped(Lagrange(m), phase), Periodic(warmup, interval), target=GlobalDrift())
    assert built == method(f"resilphase:order={m},phase={mapping},warmup={warmup},interval={interval}")
    found = drive(built, GRID, torch.from_numpy(outputs), torch.from_numpy(inputs))
    expected = inputs + alone(resilphase(m, mapping), outputs - inputs, counter(STEPS, warmup, interval))
    assert np.abs(found.numpy() - expected).max() < 1e-10


def test_the_transcriptions_tell_variants_apart() -> None:
    """A start at step 0 instead of 1 shows from the second evaluated window on; another alpha everywhere."""
    values = random(1)
    published = taylorseer(values, 2, 6, 3)
    early = drive(Method(TaylorSeer(2), Periodic(3, 6)), GRID, torch.from_numpy(values)).numpy()
    assert np.abs(early - published)[3:8].min() > 1e-3
    assert np.abs(early - published)[8:].max() < 1e-10


# Values of the authors' own rules, computed from their code; weights run from the oldest evaluation to the newest.


@pytest.mark.parametrize(
    "step, nodes, weights",
    [
        (4, (1, 2), (-2, 3)),
        (8, (1, 2, 5), (1.5, -3, 2.5)),
        (25, (5, 11, 20), (0.231481, -0.941358, 1.709877)),
        (45, (20, 29, 40), (0.126263, -0.684114, 1.557851)),
    ],
)
def test_dpcache_divides_by_one_gap(step: int, nodes: tuple[int, ...], weights: tuple[float, ...]) -> None:
    """argsss/DPCache@59f08a4, dpcache/schedule_utils.py, on the steps of Golden-Path's calibration."""
    made = method("dpcache:steps=dpcache-golden")
    assert isinstance(made, Method)
    table = tableau(made, TimeGrid.shifted(50))
    assert table[step, list(nodes)].tolist() == pytest.approx(weights, abs=1e-6)
    assert np.flatnonzero(table[step]).tolist() == list(nodes)


@pytest.mark.parametrize("evaluations", [8, 10, 11, 13, 17])
def test_dpcache_is_the_released_recursion(evaluations: int) -> None:
    """One gap for every derivative, none built before step 2."""
    made = method(f"dpcache:evaluations={evaluations}")
    assert isinstance(made, Method)
    full = made.controller.evaluated(50)  # type: ignore[attr-defined]
    values = random(4)
    expected = alone(series(partial(taylor, 2), 3), values, full)
    found = drive(made, GRID, torch.from_numpy(values)).numpy()
    assert np.abs(found - expected).max() < 1e-10


def pade(step: int, steps: int, rule: PadeCode) -> float:
    """The forecast after residuals of 0.9 and, newest, 1."""
    history = History(rule.window)
    for back, value in ((4, 0.9), (3, 0.9), (2, 0.9), (1, 1.0)):
        history.push(step - back, float(step - back), torch.full((1, 1), value, dtype=torch.float64))
    return float(rule.forecast(history, Point(step, np.arange(float(steps)))))


def test_the_stages_of_tc_pade_are_those_of_20_steps() -> None:
    """Alibaba-YuFeng/TC_Pade@a2be8ea, utils/predict.py: the middle stage from step 7 on, the late one from step 17."""
    made = method("tc-pade")
    assert isinstance(made, Method)
    assert made.forecaster == PadeCode(horizon=20)
    assert pade(7, 50, PadeCode()) == pytest.approx(0.89221, abs=1e-5)
    assert pade(7, 50, PadeCode(horizon=None)) == pytest.approx(0.99, abs=1e-12)  # the stages of the run's own steps
    found = [round(pade(step, 50, PadeCode()), 5) for step in range(4, 50)]
    assert found == [0.99] * 3 + [0.89221] * 10 + [0.92221] * 33


def test_meancache_takes_the_published_spans() -> None:
    """UnicomAI/MeanCache@2e12280: span 2 on the gap from 1 to 3, 4 on the last one, else reuse."""
    made = method("meancache")
    assert isinstance(made, Method)
    table = tableau(made, TimeGrid.shifted(50))
    full = made.controller.evaluated(50)  # type: ignore[attr-defined]
    newest = [max(s for s in full if s <= step) for step in range(50)]
    reused = [bool((table[step] == np.eye(50)[newest[step]]).all()) for step in range(50)]
    assert [step for step in range(50) if not reused[step]] == [2, *range(43, 49)]
    assert np.flatnonzero(table[2]).tolist() == [0, 1]
    # In a run of twice the steps the evaluations lie twice as far apart, and so do the spans' ends.
    table = tableau(made, TimeGrid.shifted(99))
    full = made.controller.evaluated(99)  # type: ignore[attr-defined]
    newest = [max(s for s in full if s <= step) for step in range(99)]
    assert [step for step in range(99) if (table[step] != np.eye(99)[newest[step]]).any()] == [3, 4, 5, *range(85, 98)]


def test_ab_cache_has_two_terms_or_five() -> None:
    """aSleepyTree/AB-Cache, flux_our.py:115-119."""
    assert ABCache(2).weights(np.array([3.0, 9.0]), 11.0).tolist() == [-1, 2]
    assert ABCache(5).weights(np.arange(5.0), 9.0).tolist() == [1, -5, 10, -10, 5]


def test_svd_cache_is_the_printed_average() -> None:
    """arXiv:2601.07396, eq. 11: coordinates in the first evaluation's principal directions are averaged, decay 0.9."""
    made = method("svd-cache")
    assert isinstance(made, Method)
    values = np.random.default_rng(6).standard_normal((STEPS, 1, 12, 8))
    expected = alone(svd_cache(0.9, 0.85, 32), values, counter(STEPS, 3, 5))
    found = drive(made, GRID, torch.from_numpy(values)).numpy()
    assert np.abs(found - expected).max() < 1e-10
