"""`wrap`: a callable under a method, stepped by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import skipcast as sc
from skipcast.wrapped import Wrapped

GRID = sc.TimeGrid.flow(np.linspace(1.0, 1 / 12, 12), scale=1.0)


class Counted:
    """y = (2 t + 1) scale, and how often it was called."""

    def __init__(self) -> None:
        self.calls: list[float] = []

    def __call__(self, x: Tensor, t: float, scale: float = 1.0) -> Tensor:
        self.calls.append(float(t))
        return torch.full_like(x, (2 * float(t) + 1) * scale)


def walk(model: Wrapped, branches: dict[str, float] | None = None) -> dict[str, Tensor]:
    """What every branch returns at all steps."""
    x = torch.zeros(1, 3)
    out: dict[str, list[Tensor]] = {name: [] for name in branches or {"output": 1.0}}
    for t in GRID.timestep:
        for name in out:
            out[name].append(model(x, t, branch=name, scale=(branches or {}).get(name, 1.0)))
    return {name: torch.cat(found) for name, found in out.items()}


def test_a_straight_line_is_forecast_exactly_at_a_third_of_the_evaluations() -> None:
    model = Counted()
    line = sc.wrap(model, "lagrange:order=1,interval=4", GRID)
    found = walk(line)["output"]
    assert len(model.calls) < len(GRID)
    assert torch.allclose(found[:, 0].double(), torch.tensor(2 * GRID.timestep + 1), atol=1e-5)
    assert max(line.forecast_errors["output"][1:]) < 1e-6
    assert len(line.evaluated_steps["output"]) == len(model.calls)


def test_branches_are_kept_apart_and_trajectories_begin_anew() -> None:
    line = sc.wrap(Counted(), "lagrange:order=1,interval=4", GRID)
    first, second = (walk(line, {"cond": 1.0, "uncond": -3.0}) for _ in range(2))
    assert torch.allclose(first["uncond"], -3 * first["cond"], atol=1e-4)
    for name in first:
        assert torch.equal(first[name], second[name])
        assert not len(line.runs[name].history)  # nothing is kept after the last step


def test_a_broken_trajectory_leaves_nothing_behind() -> None:
    line = sc.wrap(Counted(), "lagrange:order=1,interval=4", GRID)
    whole = walk(line)["output"]
    for t in GRID.timestep[:5]:
        line(torch.zeros(2, 7), t)
    assert torch.equal(walk(line)["output"], whole)


def test_every_step_evaluated_is_the_denoiser_itself() -> None:
    model = Counted()
    same = sc.wrap(model, "reuse:interval=1", GRID)
    expected = [model(torch.zeros(1, 3), t) for t in GRID.timestep]
    assert torch.equal(walk(same)["output"], torch.cat(expected))


def test_misuse_is_refused_by_name() -> None:
    line = sc.wrap(Counted(), "lagrange:order=1,interval=4", GRID)
    with pytest.raises(ValueError, match="none of the grid's 12"):
        line(torch.zeros(1), 500.0)
    line(torch.zeros(1), GRID.timestep[0])
    line(torch.zeros(1), GRID.timestep[1])
    with pytest.raises(RuntimeError, match="branch="):
        line(torch.zeros(1), GRID.timestep[1])
    for denoiser, method, grid, message in (
        (Counted(), "resilphase", GRID, "inside the network"),
        (Counted(), "ab2", GRID, "sampler"),
        (3, "reuse", GRID, "callable"),
        (Counted(), "taylorseer", sc.TimeGrid.flow([1.0]), "warm-up"),
    ):
        with pytest.raises(ValueError, match=message):
            sc.wrap(denoiser, method, grid)  # type: ignore[arg-type]
