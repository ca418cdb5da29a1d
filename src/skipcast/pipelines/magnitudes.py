"""Ratios of magnitudes for MagCache, measured in one plain run of a pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from skipcast.controllers import Controller
from skipcast.forecasters import Reuse
from skipcast.history import RunState
from skipcast.parts import Method
from skipcast.pipelines.accelerate import accelerate
from skipcast.targets import GlobalDrift


@dataclass
class _Norms:
    """The norms of the residual's tokens at the step before."""

    before: Tensor | None = None


@dataclass(frozen=True)
class _Noting(Controller):
    """Evaluates every step and notes by how much the residual's magnitude has changed, for every run by itself."""

    noted: dict[int, list[float]] = field(default_factory=dict, compare=False)

    def check(self, steps: int) -> None:
        """Any run will do."""

    def begin(self) -> _Norms:
        return _Norms()

    def evaluate(self, run: RunState) -> bool:
        return True

    def observed(self, run: RunState, x: Tensor, y: Tensor) -> None:
        value = run.history[-1].value
        norms = value.to(torch.promote_types(value.dtype, torch.float32)).norm(dim=-1)
        before = run.state.before
        ratio = 1.0 if before is None else float((norms / (before + 1e-8)).mean())
        self.noted.setdefault(id(run), []).append(ratio)
        run.state.before = norms


def magnitude_curve(pipe: Any, prompt: Any = None, **call: Any) -> dict[str, tuple[float, ...]]:
    """Ratios of magnitudes of every guidance branch, from one unaccelerated run: what `MagnitudeError(curve)` takes.

        curve = sc.magnitude_curve(pipe, "a cat", num_inference_steps=50)["cond"]
        controller = sc.controllers.MagnitudeError(curve)
        method = sc.Method(sc.forecasters.Reuse(), controller, target=sc.targets.GlobalDrift())

    gamma_s = mean over the batch and the tokens of |r_s| / |r_{s-1}|, r the residual of the block stack, gamma_0 = 1.
    Reference: MagCache, arXiv:2506.09045, which measures with one prompt; as its hook in diffusers does, 1e-8 is added
    to the denominator.

    Args:
        pipe: a diffusers pipeline whose block stack is known.
        prompt: as the pipeline takes it; left out where it takes none.
        call: further arguments of the pipeline's call.

    Raises:
        ValueError: the block stack is not known, or a branch sat out some of the steps.
    """
    controller = _Noting()
    with accelerate(pipe, Method(Reuse(), controller, target=GlobalDrift())) as acceleration:
        pipe(**call) if prompt is None else pipe(prompt, **call)
    found = {branch: tuple(controller.noted[id(run)]) for branch, run in acceleration.runs.items()}
    for branch, run in acceleration.runs.items():
        if len(found[branch]) != len(run.grid):
            raise ValueError(
                f"branch {branch!r} ran at {len(found[branch])} of {len(run.grid)} steps, so its ratios belong to no "
                "step; measure without a guidance interval."
            )
    return found
