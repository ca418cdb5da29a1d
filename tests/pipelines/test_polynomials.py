"""TeaCache's polynomial, fitted on tiny pipelines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import skipcast as sc
from families.all import NAMED
from skipcast.controllers import AccumulatedChange
from skipcast.pipelines.polynomials import fit_teacache
from support.tiny import PROMPT, latents

CALL: dict[str, Any] = {"num_inference_steps": 12, "height": 64, "width": 64, "guidance_scale": 0.0}


def test_the_points_are_the_changes_of_plain_runs(pipe: Any) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    network, modulated = pipe.transformer, []
    first, last = network.transformer_blocks[0], network.norm_out
    handles = [
        first.norm1.register_forward_hook(lambda _m, _a, output: modulated.append(output[0].clone())),
        last.register_forward_pre_hook(lambda _m, args: seen.append((modulated[-1], args[0].clone()))),
    ]

    def run() -> torch.Tensor:
        noise = torch.Generator().manual_seed(3)
        latents: torch.Tensor = pipe(PROMPT, generator=noise, output_type="latent", **CALL).images
        return latents

    plain = run()
    for handle in handles:
        handle.remove()

    def change(now: torch.Tensor, before: torch.Tensor) -> float:
        return float((now - before).abs().mean() / before.abs().mean())

    expected = [(change(f, f0), change(o, o0)) for (f0, o0), (f, o) in zip(seen, seen[1:], strict=False)]
    fitted = fit_teacache(pipe, [PROMPT], seed=3, **CALL)
    assert np.allclose(fitted.points, expected, rtol=1e-5)
    assert np.allclose(fitted.polynomial, np.polyfit(*np.array(expected).T, 4), rtol=1e-2)
    assert fitted.error < 0.2
    assert torch.equal(plain, run())


def test_the_specification_runs_with_it(pipe: Any) -> None:
    fitted = fit_teacache(pipe, [PROMPT, "a small blue ring"], degree=2, **CALL)
    assert len(fitted.points) == 2 * 11
    method = sc.method(f"{fitted.spec},threshold=0.3")
    assert isinstance(method, sc.Method)
    assert isinstance(method.controller, AccumulatedChange)
    assert method.controller.polynomial == pytest.approx(fitted.polynomial, rel=1e-8)
    with sc.accelerate(pipe, method) as acceleration:
        latents(pipe)
    assert acceleration.summary().evaluated_steps[0] == 0


@pytest.mark.parametrize(
    "given, words",
    [
        ({"degree": 0}, "degree=0"),
        ({"prompts": []}, "is empty"),
        ({"num_inference_steps": 3}, "2 changes do not fix a polynomial of degree 4"),
    ],
)
def test_what_cannot_be_fitted_is_refused(pipe: Any, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fit_teacache(pipe, **{"prompts": [PROMPT], **CALL, **given})


def test_a_network_without_a_modulated_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"modulated input|block stack"):
        fit_teacache(NAMED["Stable Diffusion XL"].build(), [PROMPT])
