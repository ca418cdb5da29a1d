"""The controller of SeaCache: changes of a probe add up after a filter that keeps what a sampler settles now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from skipcast.controllers.adaptive import _Accumulated, _below, _distance, _share, _shown, _size
from skipcast.controllers.base import Controller, Probe, forced, refuse_below, refuse_negative, refuse_shorter
from skipcast.grid import Vector
from skipcast.history import RunState

_EDGE = 1e-6  # how near alpha and sigma may come to 0 and 1, as released


def wiener_gain(sizes: Sequence[int], alpha: float, sigma: float, power: float) -> Vector:
    """The gain of each frequency of a grid of `sizes`, of mean 1.

    H(f) = a S / (a^2 S + b^2) along each axis, S = 1 / |f|^power, f in cycles per place; the axes' gains multiplied.
    """
    a, b = (min(max(level, _EDGE), 1 - _EDGE) for level in (alpha, sigma))
    gain = np.ones(())
    for size in sizes:
        signal = 1 / (np.abs(np.fft.fftfreq(size)) ** power + 1e-16)
        gain = np.multiply.outer(gain, a * signal / (a * a * signal + b * b + 1e-16))
    return np.asarray(gain / gain.mean(), dtype=np.float64)


@dataclass(frozen=True)
class FilteredChange(Controller):
    """Evaluates once the changes of the filtered probe since the newest evaluation add up to a threshold.

        total += mean |h - h_before| / mean |h_before| at every step, h the filtered probe, h_before of the step before
        evaluate where total >= threshold, and at the forced steps; then total = 0

    The filter is the Wiener filter of a signal of spectrum 1 / |f|^power under the noise of the step, `wiener_gain`, on
    the grid of the probe's places: h of tokens (B, L, D) on L places, of latents (B, C, ...) on all axes behind C.
    Reference: SeaCache, arXiv:2602.18993. On FLUX.1 (thresholds 0.3 and 0.6) the code probes the first modulated input
    with power 2, on HunyuanVideo (0.2) with power 3; diffusers' hook probes the latents with power 3, forecasts a line
    instead of reusing and allows 2 forecasts in a row. One decision for the whole batch, which one network call serves;
    one for each guidance branch.

    Args:
        threshold: at least 0; 0 evaluates every step.
        probe: what is filtered.
        power: exponent of the spectrum: 2 for images, 3 for videos.
        first: steps evaluated at the start.
        last: also evaluate the last step.
        max_forecasts: forecasts in a row at most; any number when left out.
        forced: what the forced steps leave to compare with, the "raw" probe, as the code for FLUX and Wan does, or the
            "filtered" one, as that for HunyuanVideo and diffusers' hook do.
        grid: sizes of the token grid, where neither the network tells them nor tokens form a square.
    """

    wants_places = True

    threshold: float = 0.3
    probe: Probe = "modulated"
    power: float = 2.0
    first: int = 1
    last: bool = True
    max_forecasts: int | None = None
    forced: Literal["raw", "filtered"] = "raw"
    grid: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        refuse_negative(self, "threshold", "0 evaluates every step")
        if self.probe not in ("modulated", "block", "input"):
            raise ValueError(f"FilteredChange(probe=...) must be 'modulated', 'block' or 'input', got {self.probe!r}.")
        if not self.power > 0:
            raise ValueError(
                f"FilteredChange(power=...) must be positive, got {self.power}; 2 for images, 3 for videos."
            )
        refuse_below(self, "first", 1, "step 0 is always evaluated")
        refuse_below(self, "max_forecasts", 1, "leave it out for any number")
        if self.grid is not None:
            object.__setattr__(self, "grid", tuple(self.grid))
            if not self.grid or min(self.grid) < 1:
                raise ValueError(f"FilteredChange(grid=...) must be sizes of at least 1, got {self.grid}.")

    def check(self, steps: int) -> None:
        refuse_shorter(steps, self.first, "first")

    def begin(self) -> _Accumulated:
        return _Accumulated()

    def evaluate(self, run: RunState) -> bool:
        state = run.state
        stands = forced(run, self.first, self.last)
        now = self._seen(run, stands)
        if state.before is None:  # the first evaluation came unasked, without a probe
            state.total = math.nan
        else:
            state.total += _share(_distance(now, state.before), _size(state.before))
        state.before = now
        many = self.max_forecasts is not None and run.since_evaluation > self.max_forecasts
        if not stands and not many and _below(state.total, self.threshold):
            return False
        state.total = 0.0
        return True

    def observed(self, run: RunState, x: Tensor, y: Tensor) -> None:
        if run.state.before is None and run.probe is not None:
            run.state.before = self._seen(run, forced=True)

    def _seen(self, run: RunState, forced: bool) -> Tensor:
        """The probe as it is compared."""
        probe = _shown(self, run)
        return probe if forced and self.forced == "raw" else self._filtered(probe, run)

    def _filtered(self, probe: Tensor, run: RunState) -> Tensor:
        if run.grid is None:
            raise RuntimeError(f"{self!r} filters by the noise of a step, but this run knows no noise levels.")
        sizes = tuple(probe.shape[2:]) if probe.ndim > 3 else self._places(probe.shape[1], run)
        alpha, sigma = (float(level[run.step]) for level in (run.grid.alpha, run.grid.sigma))
        gain = torch.as_tensor(wiener_gain(sizes, alpha, sigma, self.power), dtype=torch.float32, device=probe.device)
        field, start = probe.float(), 2
        if probe.ndim <= 3:  # tokens: their channels stand last
            field, start, gain = field.reshape(len(probe), *sizes, -1), 1, gain[..., None]
        dims = tuple(range(start, start + len(sizes)))
        found: Tensor = torch.fft.ifftn(torch.fft.fftn(field, dim=dims) * gain, dim=dims).real
        return found.reshape(probe.shape)

    def _places(self, count: int, run: RunState) -> tuple[int, ...]:
        side = math.isqrt(count)
        sizes = self.grid or run.places or (side, side)
        if math.prod(sizes) != count:
            problem = f"is of {math.prod(sizes)} places" if self.grid else "is needed"
            raise ValueError(f"FilteredChange(grid=...) {problem} for {count} tokens; give their (height, width).")
        return tuple(sizes)
