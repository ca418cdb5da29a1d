"""Arguments of a pipeline call for chosen prompts and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def arguments(
    call: Mapping[str, Any], prompts: Sequence[str], seeds: Sequence[int], steps: int | None = None
) -> dict[str, Any]:
    """Arguments of a pipeline call for these pictures; noise is drawn on the CPU, so that a seed means one noise."""
    given = dict(call)
    for name, value in call.items():
        if name.startswith(("prompt", "negative_prompt")) and isinstance(value, str):
            given[name] = [value] * len(prompts)
    if steps is not None:
        given["num_inference_steps"] = steps
    noise = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return {"prompt": list(prompts), "generator": noise, **given}
