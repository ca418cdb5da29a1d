"""Forecasts both guidance branches while what that does to the guided output stays small: RA-CFGCache's rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from skipcast.controllers.base import StaticController, Steps, refuse_below, refuse_negative, refuse_shorter


@dataclass(frozen=True)
class GuidedRisk(StaticController):
    """Forecasts while the risk to the guided output, from tables measured for one network, stays within a budget.

        e_b  = | 1 - prod_{i = a+1 .. s} gamma_b,i |   of either branch b, a the newest evaluation
        d^2  = w^2 e_c^2 + (1 - w)^2 e_u^2 + 2 w (1 - w) rho_{a,s} e_c e_u,   w the guidance scale
        risk = g_s d,   g_s = (A ((N - 1 - s) / (N - 1))^p + B) / mean over s
        forecast where the risks since a, this one included, sum to at most the threshold

    Reference: RA-CFGCache as released for FLUX with true guidance, whose risk of a branch is MagCache's; its variants
    on TeaCache's and DiCache's probes look at both branches before either is evaluated, which no pipeline does. No name
    stands for it, since its tables rho are not readable; `skipcast.magnitude_curve` measures gamma and
    `skipcast.pipelines.alignment` rho. The released clamps steps beyond a table's end; here a run has as many steps as
    the tables. One set of steps for all guidance branches, whose residuals of the block stack are reused:
    `Method(Reuse(), GuidedRisk(...), target=GlobalDrift())`.

    Checked against: yiming-l21/RA-CFGCache@76359ee models/flux/src/flux/racfgcache_utils/__init__.py,
    proxies/mag_proxy.py, ideas/cache_denoise.py.

    Args:
        conditional: gamma of the conditional branch at every step, the first one 1.
        unconditional: that of the other branch.
        alignment: rho of every two steps, a row for each newest evaluation.
        scale: w.
        threshold: the budget, at least 0. Released: 0.18 for FLUX.
        gain: A, p and B, fitted to how errors of each step reach the end. Released: those of FLUX; for Wan (1.214,
            3.832, 0.2463), for CogVideoX (2.185, 3.449, 0.213).
        first: steps evaluated at the start. Released: 6 for FLUX.
    """

    conditional: tuple[float, ...]
    unconditional: tuple[float, ...]
    alignment: tuple[tuple[float, ...], ...]
    scale: float
    threshold: float = 0.18
    gain: tuple[float, float, float] = (0.4806165972188018, 0.4782565130260521, 0.06411702055286407)
    first: int = 6

    def __post_init__(self) -> None:
        object.__setattr__(self, "alignment", tuple(tuple(map(float, row)) for row in self.alignment))
        for name in ("conditional", "unconditional", "gain"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        for name in ("conditional", "unconditional"):
            ratios = getattr(self, name)
            if not ratios or len(ratios) != len(self.conditional) or not all(0 < ratio < math.inf for ratio in ratios):
                raise ValueError(
                    f"GuidedRisk({name}=...) must be positive ratios, as many as the other branch has, got {ratios}; "
                    "skipcast.magnitude_curve(pipe, ...) measures them."
                )
        steps = len(self.conditional)
        if np.shape(self.alignment) != (steps, steps) or not np.all(np.abs(self.alignment) <= 1 + 1e-6):
            raise ValueError(
                f"GuidedRisk(alignment=...) must be {steps} rows of {steps} cosines, as the ratios have {steps} steps; "
                "skipcast.pipelines.alignment.guidance_alignment(pipe, ...) measures them."
            )
        if len(self.gain) != 3 or not all(map(math.isfinite, self.gain)):
            raise ValueError(f"GuidedRisk(gain=...) must be three numbers A, p and B, got {self.gain}.")
        if not math.isfinite(self.scale):
            raise ValueError(f"GuidedRisk(scale=...) must be the guidance scale, got {self.scale}.")
        refuse_negative(self, "threshold", "0 forecasts only where nothing changes")
        refuse_below(self, "first", 1, "step 0 is always evaluated")

    def _gains(self, steps: int) -> list[float]:
        slope, power, floor = self.gain
        left = [(steps - 1 - s) / (steps - 1) for s in range(steps)] if steps > 1 else [1.0]
        raw = [slope * rest**power + floor for rest in left]
        mean = max(sum(raw) / steps, 1e-12)
        return [value / mean for value in raw]

    @lru_cache(maxsize=64)  # noqa: B019  (instances are small, frozen and few)
    def evaluated(self, steps: int) -> Steps:
        if steps != len(self.conditional):
            raise ValueError(
                f"num_inference_steps={steps}, but the tables of GuidedRisk(...) were measured at "
                f"{len(self.conditional)}; run that many steps or measure anew."
            )
        refuse_shorter(steps, self.first, "first")
        gains, w = self._gains(steps), self.scale
        chosen, since, total = [0], (1.0, 1.0), 0.0
        for step in range(1, steps):
            since = since[0] * self.conditional[step], since[1] * self.unconditional[step]
            c, u = w * abs(1 - since[0]), (1 - w) * abs(1 - since[1])
            square = c * c + u * u + 2 * c * u * self.alignment[chosen[-1]][step]
            risk = max(gains[step] * math.sqrt(max(square, 0.0)), 0.0)
            if step >= self.first and total + risk <= self.threshold:
                total += risk
                continue
            chosen.append(step)
            since, total = (1.0, 1.0), 0.0
        return tuple(chosen)
