"""`wrap`: any denoiser with a method, called as before."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from skipcast.checks import check, guarded
from skipcast.grid import TimeGrid
from skipcast.methods.names import method as parse
from skipcast.parts import Method
from skipcast.run import Run

#: Times that differ by less, relative to the largest of the grid, are one: callers round them to the model's dtype.
_SAME = 4e-3


class Wrapped:
    """A denoiser that evaluates at some steps and forecasts at the others; made by `wrap`.

    `runs` holds one run per guidance branch of the newest trajectory.
    """

    def __init__(self, denoiser: Callable[..., Tensor], method: Method, grid: TimeGrid) -> None:
        self.denoiser, self.method, self.grid = denoiser, method, grid
        self.runs: dict[str, Run] = {}

    def __repr__(self) -> str:
        return f"wrap({self.denoiser!r}, {self.method!r}, {len(self.grid)} steps)"

    @guarded("Wrapped")
    def __call__(self, x: Tensor, timestep: Any, *args: Any, branch: str = "output", **kwargs: Any) -> Tensor:
        """denoiser(x, timestep, *args, **kwargs), or its forecast.

        Args:
            x: the sample.
            timestep: one of `grid.timestep`, as a number or a tensor of equal numbers; it tells the step.
            args: go on to the denoiser.
            kwargs: go on to the denoiser.
            branch: name of the guidance branch, where a sampler calls the denoiser several times a step.

        Raises:
            ValueError: the timestep is not of the grid.
            RuntimeError: a branch is called twice at one step.
        """
        step = self._step(timestep)
        known = self.runs.get(branch)
        if known is not None and step < known.step:
            if step != 0:
                raise RuntimeError(
                    f"branch {branch!r} stands at step {known.step} and was called at step {step}: name the branch of "
                    "every call with branch=..., and begin each trajectory at the first step."
                )
            known = None
            if not any(run.step == 1 for run in self.runs.values()):
                self.reset()  # a new trajectory, and this is its first call
        if known is None:
            leader = next(iter(self.runs.values()), None) if self.method.controller.shared else None
            known = self.runs[branch] = Run(self.method, self.grid, leader=leader)
        known.step = step  # a branch may sit out some steps, as under a guidance interval
        y = known.advance(x, lambda: self.denoiser(x, timestep, *args, **kwargs))
        if known.step == len(self.grid):
            known.release()
        return y

    def reset(self) -> None:
        """Forget the trajectory, as after one that was broken off; its successor may then begin anywhere."""
        self.runs = {}

    @property
    def evaluated_steps(self) -> dict[str, tuple[int, ...]]:
        """The evaluated steps of the newest trajectory, by branch."""
        return {name: tuple(record.step for record in run.trace if record.evaluated) for name, run in self.runs.items()}

    @property
    def forecast_errors(self) -> dict[str, list[float]]:
        """||forecast - y|| / ||y|| at the evaluated steps of the newest trajectory, by branch."""
        return {
            name: [float(record.forecast_error) for record in run.trace if record.forecast_error is not None]
            for name, run in self.runs.items()
        }

    def _step(self, timestep: Any) -> int:
        check("timestep=...", timestep, ArrayLike)
        times = np.ravel(timestep.detach().cpu() if isinstance(timestep, Tensor) else timestep)
        value = float(times[0]) if len(times) else math.nan
        distance = np.abs(self.grid.timestep - value)
        step = int(distance.argmin())
        if not distance[step] <= _SAME * max(1e-12, float(np.abs(self.grid.timestep).max())):
            raise ValueError(
                f"timestep {value:g} is none of the grid's {len(self.grid)} (nearest: {self.grid.timestep[step]:g}); "
                "give wrap(grid=...) the timesteps that the sampler passes."
            )
        return step


@guarded()
def wrap(denoiser: Callable[..., Tensor], method: str | Method, grid: TimeGrid) -> Wrapped:
    """A denoiser of any kind under a method: evaluated at some steps of the grid, forecast at the others.

        grid = sc.TimeGrid.flow(sigmas, scale=1.0)
        velocity = sc.wrap(model, "lagrange:order=2,evaluations=10", grid)
        for t, dt in zip(times, steps):
            x = x + dt * velocity(x, t, condition)

    Args:
        denoiser: called as denoiser(x, timestep, ...), returns one tensor.
        method: a `Method` or its name, with the denoiser's output as its target.
        grid: the sampler's steps; its `timestep` is what the denoiser takes.

    Raises:
        ValueError: a target inside the network, a plain sampler, or a grid that the method cannot govern.
    """
    found = parse(method)
    if not isinstance(found, Method):
        raise ValueError(f"wrap(method={method!r}) takes the place of your sampler, which wrap() keeps; give a method.")
    if found.target.seam != "output":
        raise ValueError(
            f"wrap(method={method!r}): {found.target!r} lies inside the network, which a callable does not show; use "
            "target=output."
        )
    found.check(len(grid))
    return Wrapped(denoiser, found, grid)
