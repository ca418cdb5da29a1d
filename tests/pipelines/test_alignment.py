"""RA-CFGCache's cosines, measured on a tiny pipeline."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import skipcast as sc
from skipcast.controllers import GuidedRisk
from skipcast.forecasters import Reuse
from skipcast.pipelines.alignment import guidance_alignment
from skipcast.targets import GlobalDrift
from support.tiny import PROMPT, flux_pipeline

CALL: dict[str, Any] = {
    "num_inference_steps": 8,
    "height": 64,
    "width": 64,
    "output_type": "latent",
    "true_cfg_scale": 3.0,
    "negative_prompt": "a ring",
}


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def test_the_cosines_are_those_of_both_branches_changes() -> None:
    pipe, seen = flux_pipeline(), []
    handle = pipe.transformer.register_forward_hook(
        lambda _m, _args, given, made: seen.append(made[0] - given["hidden_states"]), with_kwargs=True
    )
    pipe(PROMPT, generator=torch.Generator().manual_seed(3), **CALL)
    handle.remove()
    one, other = seen[::2], seen[1::2]
    found = guidance_alignment(pipe, PROMPT, generator=torch.Generator().manual_seed(3), **CALL)
    for a in range(8):
        for s in range(8):
            expected = 1.0 if a == s else _cosine(one[a] - one[s], other[a] - other[s])
            assert found[a][s] == pytest.approx(expected, abs=1e-4)


def test_a_method_takes_what_is_measured() -> None:
    pipe = flux_pipeline()
    rho = guidance_alignment(pipe, PROMPT, **CALL)
    one, other = sc.magnitude_curve(pipe, PROMPT, **CALL).values()
    controller = GuidedRisk(one, other, rho, 3.0, threshold=0.5, first=2)
    with sc.accelerate(pipe, sc.Method(Reuse(), controller, target=GlobalDrift())) as acceleration:
        pipe(PROMPT, **CALL)
    runs = [[r.step for r in run.trace if r.evaluated] for run in acceleration.runs.values()]
    assert runs[0] == runs[1] == list(controller.evaluated(8))


def test_a_run_without_guidance_is_refused() -> None:
    with pytest.raises(ValueError, match="compares two guidance branches at every step, but this run had 1"):
        guidance_alignment(flux_pipeline(), PROMPT, **{**CALL, "true_cfg_scale": 1.0})
