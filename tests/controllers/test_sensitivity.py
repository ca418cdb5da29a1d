"""SenCache's rule against a transcription of the released scripts, in float64."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from research.fidelity.decisions import sencache
from skipcast import Method, Run, TimeGrid
from skipcast.controllers import SensitivityBound
from skipcast.forecasters import Reuse
from skipcast.targets import GlobalDrift

GRIDS = [TimeGrid.shifted(50, shift=5.0), TimeGrid.shifted(30, shift=5.0), TimeGrid.shifted(20, shift=3.0)]
TIMES = np.linspace(1000, 20, 40)
BY_SAMPLE, BY_TIME = 0.2 + TIMES / 4000, 0.05 + TIMES / 50000


def run_of(controller: SensitivityBound, grid: TimeGrid, samples: Tensor) -> list[int]:
    run = Run(Method(Reuse(), controller, target=GlobalDrift()), grid)
    for sample in samples:
        shown = sample.clone()
        run.advance(shown, lambda shown=shown: shown)
        shown.fill_(99.0)  # what showed it overwrites it
    return [record.step for record in run.trace if record.evaluated]


@pytest.mark.parametrize("grid", GRIDS, ids=len)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("main, early, most, edge", [(12.0, 3.0, 3, 0), (25.0, 6.0, 10, 1), (40.0, 2.0, 4, 1)])
def test_it_is_the_released_rule(grid: TimeGrid, seed: int, main: float, early: float, most: int, edge: int) -> None:
    noise = torch.randn(len(grid), 1, 4, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    samples = 0.1 * noise.cumsum(0)
    controller = SensitivityBound(tuple(TIMES), tuple(BY_SAMPLE), tuple(BY_TIME), main, early, most, edge)
    expected = sencache(samples, grid.timestep, (TIMES, BY_SAMPLE, BY_TIME), main, early, most, edge)
    assert tuple(run_of(controller, grid, samples)) == expected
    assert 1 < len(expected) < len(grid)


def test_the_item_that_moved_most_decides() -> None:
    still = torch.zeros(20, 2, 3, 3, dtype=torch.float64)
    moving = still.clone()
    moving[:, 1] = 0.5 * torch.arange(20)[:, None, None]
    controller = SensitivityBound((500.0,), (1.0,), (0.0,), 4.0, 4.0, max_forecasts=9)
    assert run_of(controller, GRIDS[2], still) == [0, 10]
    assert run_of(controller, GRIDS[2], moving) == [0, 3, 6, 9, 12, 15, 18]  # 1.5 a step: 4.5 is reached at the third


@pytest.mark.parametrize("name", ["timesteps", "by_sample", "by_time"])
@pytest.mark.parametrize("values", [(), (1.0, float("nan")), (1.0, 2.0, 3.0)], ids=str)
def test_tables_of_other_lengths_are_refused(name: str, values: tuple[float, ...]) -> None:
    tables = {"timesteps": (900.0, 100.0), "by_sample": (1.0, 1.0), "by_time": (1.0, 1.0), name: values}
    with pytest.raises(ValueError, match=r"SensitivityBound\(\w+=\.\.\.\) must hold one finite number for each of the"):
        SensitivityBound(**tables, threshold=1.0, early=1.0)
    assert re.match("SensitivityBound", repr(SensitivityBound((1.0,), (1.0,), (1.0,), 1.0, 1.0)))
