"""FSampler against its released sampler step (obisin/ComfyUI-FSampler at 128c7ff) on the denoised sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from research.fidelity.decisions import fsampler
from research.fidelity.sequences import GRIDS, random_walk
from skipcast import IncompatibleParts, Method, Run, TimeGrid, evaluated_steps, method
from skipcast.controllers import Interleaved
from skipcast.coordinates import Sigma, StepIndex
from skipcast.forecasters import FSampler
from support.cases import drive


@pytest.mark.parametrize("grid", GRIDS, ids=len)
@pytest.mark.parametrize("order, calls", [(2, 2), (2, 5), (3, 3), (3, 4), (4, 4), (4, 6)])
@pytest.mark.parametrize("decay, first, tail", [(0.9999, 2, 3), (0.9, 2, 4), (0.0, 3, 2)])
def test_it_is_the_released_step(grid: TimeGrid, order: int, calls: int, decay: float, first: int, tail: int) -> None:
    built = method(f"fsampler:order={order},calls={calls},decay={decay},warmup={first},tail={tail}")
    assert built == Method(FSampler(order, decay), Interleaved(order, calls, first, tail), Sigma())
    velocities = random_walk(len(grid), 4)
    called, theirs = fsampler(velocities, grid.sigma, order, calls, first, tail, decay)
    ours = drive(built, grid, torch.from_numpy(velocities)).numpy()
    assert evaluated_steps(built, grid) == called
    assert np.abs(ours - theirs).max() < 1e-10


def test_published_counts() -> None:
    """The modes save about 24, 20, 16 and 12 %, says its page: of FLUX's 28 steps here 7, 5, 4 and 3."""
    for mode, saved in {"order=2": 8, "order=2,calls=3": 6, "order=3": 5, "order=4": 4}.items():
        built = method(f"fsampler:{mode}")
        assert isinstance(built, Method)
        assert 28 - len(evaluated_steps(built, GRIDS[1])) == pytest.approx(saved, abs=1)


def test_the_ratio_stays_in_its_bounds_and_is_one_per_item() -> None:
    """A value that keeps doubling is overshot by all: L ends at its upper bound, and halves what is forecast."""
    grid = TimeGrid.flow(np.linspace(1.0, 0.05, 20))
    growing = torch.from_numpy(8.0 ** np.arange(20))[:, None]
    still = torch.from_numpy(1 / grid.sigma)[:, None]  # sigma F constant
    values = torch.cat([growing, still], dim=1)
    run = Run(Method(FSampler(2, 0.0), Interleaved(2, 2), Sigma()), grid)
    found = torch.stack([run.advance(value, lambda value=value: value) for value in values])
    forecast = [record.step for record in run.trace if not record.evaluated]
    assert torch.allclose(found[forecast, 1], still[forecast, 0], rtol=1e-6)
    step = forecast[1]
    sigma = grid.sigma
    unscaled = (2 * sigma[step - 1] * values[step - 1, 0] - sigma[step - 2] * values[step - 2, 0]) / sigma[step]
    seen = 2 - sigma[step - 2] / (8 * sigma[step - 1])  # |2 e_0 - e_1| / |e_0|
    assert found[step, 0] == pytest.approx(float(unscaled) / min(seen, 2.0), rel=1e-9)


def test_before_three_evaluations_there_is_no_ratio() -> None:
    grid = TimeGrid.flow(np.linspace(1.0, 0.1, 10))
    values = random_walk(10, 0)
    found = drive(Method(FSampler(2, 0.0), Interleaved(1, 1, 2, 0), Sigma()), grid, torch.from_numpy(values)).numpy()
    moved = (2 * grid.sigma[1] * values[1] - grid.sigma[0] * values[0]) / grid.sigma[3]
    assert np.abs(found[3] - moved).max() > 1e-3  # three are known at step 3
    assert evaluated_steps(Method(FSampler(2), Interleaved(1, 1, 2, 0), Sigma()), grid)[:3] == (0, 1, 2)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"FSampler\(order=...\) must be 2, 3 or 4, got 5"):
        FSampler(5)
    with pytest.raises(ValueError, match=r"FSampler\(decay=...\) must lie in \[0, 1\], got 1.5"):
        FSampler(2, 1.5)
    with pytest.raises(IncompatibleParts, match=r"is a rule in Sigma\(\), not in StepIndex\(\)"):
        Method(FSampler(), coordinate=StepIndex())
    with pytest.raises(ValueError, match=r"FSampler.* divides by sigma, which is 0 at step 5"):
        drive(
            Method(FSampler(), Interleaved(2, 1, 2, 0), Sigma()),
            TimeGrid.flow(np.linspace(1, 0, 6)),
            torch.ones(6, 1, 2),
        )
    with pytest.raises(ValueError, match="batch and resolution must not change"):
        run = Run(Method(FSampler(), Interleaved(), Sigma()), TimeGrid.shifted(10))
        for width in (3, 3, 4):
            run.advance(torch.zeros(1, width), lambda width=width: torch.ones(1, width))
