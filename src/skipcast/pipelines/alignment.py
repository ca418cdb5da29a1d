"""How alike both guidance branches change, for RA-CFGCache's rule, measured in one plain run of a pipeline."""

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
from skipcast.targets import Output


@dataclass(frozen=True)
class _Noting(Controller):
    """Evaluates every step and keeps the output less the sample, for every run by itself."""

    noted: dict[int, list[Tensor]] = field(default_factory=dict, compare=False)

    def check(self, steps: int) -> None:
        """Any run will do."""

    def evaluate(self, run: RunState) -> bool:
        return True

    def observed(self, run: RunState, x: Tensor, y: Tensor) -> None:
        dtype = torch.promote_types(y.dtype, torch.float32)
        change = (y.detach().to(dtype) - x.detach().to(dtype)).flatten(1).cpu()
        self.noted.setdefault(id(run), []).append(change)


def guidance_alignment(pipe: Any, prompt: Any = None, **call: Any) -> tuple[tuple[float, ...], ...]:
    """The table of cosines that `GuidedRisk(alignment=...)` takes, from one unaccelerated run under guidance.

        rho = guidance_alignment(pipe, "a cat", negative_prompt="", true_cfg_scale=3.5, num_inference_steps=50)
        curves = sc.magnitude_curve(pipe, "a cat", negative_prompt="", true_cfg_scale=3.5, num_inference_steps=50)
        controller = sc.controllers.GuidedRisk(curves["cond"], curves["uncond"], rho, scale=3.5)

    rho_{a,s} = cos(r_u,a - r_u,s, r_c,a - r_c,s), r the network's output less its sample in either branch, the mean
    over the batch; 1 where one of them does not change. Reference: RA-CFGCache, whose tables are means over prompts.

    Args:
        pipe: a diffusers pipeline that calls its network once for each of two guidance branches.
        prompt: as the pipeline takes it; left out where it takes none.
        call: further arguments of the pipeline's call, guidance among them.

    Raises:
        ValueError: the run had another number of branches than two, or one that sat out some of the steps.
    """
    controller = _Noting()
    with accelerate(pipe, Method(Reuse(), controller, target=Output())) as acceleration:
        pipe(**call) if prompt is None else pipe(prompt, **call)
    found = [controller.noted[id(run)] for run in acceleration.runs.values()]
    if len(found) != 2 or len(found[0]) != len(found[1]):
        raise ValueError(
            f"guidance_alignment(...) compares two guidance branches at every step, but this run had {len(found)}; "
            "call with guidance, on a pipeline that calls its network once for each branch."
        )
    one, other = (torch.stack(changes, dim=1) for changes in found)  # (B, steps, values)
    rows = [_cosines(one[:, [step]] - one, other[:, [step]] - other) for step in range(one.shape[1])]
    return tuple(tuple(row) for row in torch.stack(rows).tolist())


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """The mean over the batch of the cosine at every step, 1 where there is nothing to compare."""
    norms, others = a.norm(dim=-1), b.norm(dim=-1)
    cosine = ((a * b).sum(-1) / (norms * others + 1e-12)).clamp(-1, 1)
    still = (norms < 1e-12) | (others < 1e-12)
    return torch.where(still, torch.ones_like(cosine), cosine).mean(0)
