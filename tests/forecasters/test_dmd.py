"""HiCache++ against its released fit (Archerkattri/hicache-plus-plus at 031a440), and what it is exact on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from research.fidelity.forecasts import dmd
from research.fidelity.sequences import GRIDS, largest_difference
from skipcast import History, IncompatibleParts, Method, Point, TimeGrid, method
from skipcast.controllers import FixedSteps, Periodic
from skipcast.coordinates import Sigma
from skipcast.forecasters import DMD, HiCache
from support.cases import drive


@pytest.mark.parametrize("grid", GRIDS, ids=len)
@pytest.mark.parametrize(
    "history, order, scale, warmup, interval", [(6, 1, 0.5, 4, 5), (5, 1, 0.5, 2, 4), (6, 2, 0.7, 2, 3)]
)
def test_it_is_the_released_fit(
    grid: TimeGrid, history: int, order: int, scale: float, warmup: int, interval: int
) -> None:
    spec = f"hicache-dmd:history={history},order={order},scale={scale},warmup={warmup},interval={interval}"
    built = Method(DMD(history, order, scale), Periodic(warmup, interval))
    assert method(spec) == built
    for seed in range(3):
        assert largest_difference(built, dmd(history, order, scale), grid, seed) < 1e-10


def test_by_name() -> None:
    assert method("hicache-dmd") == Method(DMD(6, 1, 0.5), Periodic(4, 5))


def exponentials(steps: np.ndarray) -> np.ndarray:
    """A decaying oscillation and a decay, their amplitudes random over 16 elements: (N, 1, 16)."""
    rng = np.random.default_rng(0)
    pole = 0.92 * np.exp(0.35j)
    a, b, c = rng.standard_normal((3, 16))
    powers = pole ** steps[:, None]
    return (powers.real * a + powers.imag * b + 0.7 ** steps[:, None] * c)[:, None]


def test_it_is_exact_on_exponentials_between_and_beyond_the_spacing() -> None:
    values = torch.from_numpy(exponentials(np.arange(20.0)))
    found = drive(Method(DMD(), FixedSteps((0, 1, 4, 7, 10))), TimeGrid.shifted(20), values)
    error = (found - values).abs().flatten(1).amax(1)
    assert error[11:].max() < 1e-6 * values.abs().max()
    assert error[8] > 1e-3  # three values at one spacing: still HiCache


def test_uneven_evaluations_leave_hicache() -> None:
    values = torch.from_numpy(exponentials(np.arange(20.0)))
    steps = FixedSteps((0, 1, 3, 6, 10))
    fitted = drive(Method(DMD(), steps), TimeGrid.shifted(20), values)
    assert torch.allclose(fitted, drive(Method(HiCache(1), steps), TimeGrid.shifted(20), values), atol=1e-12)


def test_a_fit_is_made_once_per_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[int] = []
    factor = torch.linalg.qr
    monkeypatch.setattr(torch.linalg, "qr", lambda *a, **k: fits.append(1) or factor(*a, **k))
    drive(Method(DMD(), Periodic(1, 4)), TimeGrid.shifted(20), torch.randn(20, 2, 8, dtype=torch.float64))
    assert len(fits) == 2  # behind steps 12 and 16


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_what_cannot_be_fitted_is_reused(value: float) -> None:
    history = History(5)
    for step in (0, 2, 4, 6, 8):
        history.push(step, float(step), torch.full((1, 3), value if step != 8 else 0.5))
    found = DMD().forecast(history, Point(9, np.arange(20.0)))
    assert found.isfinite().all() or value == 0.0
    if value != 0.0:
        assert found.tolist() == [[0.5] * 3]


def test_items_fail_by_themselves() -> None:
    history = History(5)
    series = torch.from_numpy(exponentials(np.arange(10.0))).float()
    for step in (0, 2, 4, 6, 8):
        broken = torch.full_like(series[step], float("nan") if step < 8 else 1.0)
        history.push(step, float(step), torch.cat([series[step], broken]))
    found = DMD().forecast(history, Point(9, np.arange(20.0)))
    assert torch.allclose(found[0], series[9, 0], atol=1e-3)
    assert (found[1] == 1).all()


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"DMD\(history=...\) must be at least 4, got 3"):
        DMD(3)
    with pytest.raises(ValueError, match=r"DMD\(order=...\) must be 1 to history - 1 = 4, got 5"):
        DMD(5, 5)
    with pytest.raises(ValueError, match=r"HiCache\(scale=...\) must be positive, got 0"):
        DMD(scale=0.0)
    with pytest.raises(ValueError, match=r"DMD\(ridge=...\) must be >= 0, got -1"):
        DMD(ridge=-1)
    with pytest.raises(IncompatibleParts, match=r"is a rule in StepIndex\(\), not in Sigma\(\)"):
        Method(DMD(), coordinate=Sigma())
