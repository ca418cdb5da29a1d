"""TeaCache's polynomial for a network that nobody has published one for, fitted on plain runs of a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from skipcast.controllers import Controller, Probe
from skipcast.forecasters import Reuse
from skipcast.history import RunState
from skipcast.parts import Method
from skipcast.pipelines.accelerate import accelerate
from skipcast.targets import GlobalDrift

DEGREE = 4  # of the published polynomials


@dataclass
class _Before:
    """The first modulated input and the output at the step before."""

    probe: Tensor | None = None
    output: Tensor | None = None


@dataclass(frozen=True)
class _Noting(Controller):
    """Evaluates every step and notes the relative changes of the first modulated input and of the output."""

    noted: list[tuple[float, float]] = field(default_factory=list, compare=False)
    probe: Probe = "modulated"

    def check(self, steps: int) -> None:
        """Any run will do."""

    def begin(self) -> _Before:
        return _Before()

    def evaluate(self, run: RunState) -> bool:
        return True

    def observed(self, run: RunState, x: Tensor, y: Tensor) -> None:
        assert run.probe is not None
        probe, output, before = run.probe.detach().float(), y.detach().float(), run.state
        if before.probe is not None:
            self.noted.append((_change(probe, before.probe), _change(output, before.output)))
        before.probe, before.output = probe.clone(), output.clone()


def _change(now: Tensor, before: Tensor) -> float:
    return float((now - before).abs().mean() / before.abs().mean())


@dataclass(frozen=True)
class Fitted:
    """A polynomial and what it was fitted on.

    Args:
        polynomial: coefficients, highest power first, as `AccumulatedChange` takes them.
        points: changes of the first modulated input and of the output, of every two neighbouring steps.
        error: mean absolute error of the polynomial over them, relative to their mean.
    """

    polynomial: tuple[float, ...]
    points: tuple[tuple[float, float], ...]
    error: float

    @property
    def spec(self) -> str:
        """The method with it."""
        return "teacache:polynomial=" + "/".join(f"{coefficient:.9g}" for coefficient in self.polynomial)


def fit_teacache(pipe: Any, prompts: Sequence[Any], *, degree: int = DEGREE, seed: int = 0, **call: Any) -> Fitted:
    """TeaCache's polynomial p for a pipeline, from unaccelerated runs: one for each prompt.

        fitted = fit_teacache(pipe, ["a cat", "a harbour"], num_inference_steps=50)
        with sc.accelerate(pipe, fitted.spec): ...

    p minimises the sum of (p(L1(F_s, F_{s-1})) - L1(O_s, O_{s-1}))^2 over steps, prompts and guidance branches, where
    L1(a, b) = mean |a - b| / mean |b|, F is the first block's modulated input and O what leaves the block stack.
    Reference: TeaCache, arXiv:2411.19108, whose polynomials are of degree 4; which tensor its authors took for O, and
    on which prompts, is not in their repository. A polynomial is good in the range of its points alone.

    Args:
        pipe: a diffusers pipeline whose first block has a modulated input.
        prompts: one run each; as the pipeline takes them.
        degree: at least 1.
        seed: of the first run; the next ones count up.
        call: further arguments of the pipeline's calls.

    Raises:
        ValueError: no prompts, too few steps for the degree, a degree below 1, or a network without such a block.
    """
    import torch

    if degree < 1:
        raise ValueError(
            f"fit_teacache(degree={degree}) must be at least 1; the published ones are of degree {DEGREE}."
        )
    if not prompts:
        raise ValueError("fit_teacache(prompts=...) is empty; give at least one prompt.")
    controller = _Noting()
    with accelerate(pipe, Method(Reuse(), controller, target=GlobalDrift())):
        for number, prompt in enumerate(prompts):
            pipe(prompt, generator=torch.Generator().manual_seed(seed + number), **{"output_type": "latent", **call})
    points = np.array(controller.noted)
    if len(np.unique(points[:, 0])) <= degree:
        raise ValueError(
            f"{len(points)} changes do not fix a polynomial of degree {degree}; run more steps or more prompts."
        )
    polynomial = np.polyfit(points[:, 0], points[:, 1], degree)
    error = np.abs(np.polyval(polynomial, points[:, 0]) - points[:, 1]).mean() / points[:, 1].mean()
    return Fitted(tuple(map(float, polynomial)), tuple(map(tuple, points.tolist())), float(error))
