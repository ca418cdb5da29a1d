"""The steps of a sampler as numbers; knows no scheduler and no tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skipcast.checks import check, guarded

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TimeGrid:
    """The N steps of a sampler, noisy to clean: x_i = alpha_i x_0 + sigma_i e.

    Args:
        timestep: the timestep that the network takes at each step, (N,).
        alpha: share of the clean sample, (N,).
        sigma: noise level, (N,), strictly falling.

    Raises:
        ValueError: an array is empty, not one-dimensional, not finite, of another length, or sigma does not fall.
    """

    timestep: Vector
    alpha: Vector
    sigma: Vector

    def __post_init__(self) -> None:
        for name in ("timestep", "alpha", "sigma"):
            check(f"TimeGrid({name}=...)", getattr(self, name), ArrayLike)
            value = np.asarray(getattr(self, name), dtype=np.float64).copy()
            value.setflags(write=False)
            object.__setattr__(self, name, value)
            if value.ndim != 1 or not len(value) or not np.isfinite(value).all():
                raise ValueError(f"TimeGrid({name}=...) must be a non-empty, finite vector, got shape {value.shape}.")
            if len(value) != len(self.timestep):
                raise ValueError(
                    f"TimeGrid({name}=...) has {len(value)} entries, "
                    f"timestep has {len(self.timestep)}; give one per step."
                )
        if (np.diff(self.sigma) >= 0).any():
            raise ValueError("TimeGrid(sigma=...) must fall strictly from step to step, noisy to clean.")

    @classmethod
    @guarded()
    def flow(cls, sigma: ArrayLike, *, scale: float = 1000.0) -> TimeGrid:
        """Rectified flow: alpha = 1 - sigma, timestep = scale * sigma."""
        noise = np.asarray(sigma, dtype=np.float64)
        return cls(timestep=scale * noise, alpha=1 - noise, sigma=noise)

    @classmethod
    @guarded(steps=1)
    def shifted(cls, steps: int, shift: float = 1.0) -> TimeGrid:
        """The flow grid of `steps` equal steps, shifted: s -> shift s / (1 + (shift - 1) s), from s = 1."""
        if not shift > 0:
            raise ValueError(f"TimeGrid.shifted(shift=...) must be positive, got {shift}.")
        s = np.linspace(1.0, 1.0 / steps, steps)
        return cls.flow(shift * s / (1 + (shift - 1) * s))

    def __len__(self) -> int:
        return len(self.sigma)
