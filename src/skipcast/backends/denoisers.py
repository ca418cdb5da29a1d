"""The networks that a pipeline evaluates at every step."""

from __future__ import annotations

from typing import Any

from torch import nn

#: Attributes of pipelines that hold them.
NAMES = ("transformer", "transformer_2", "unet")


def denoisers(pipe: Any) -> list[nn.Module]:
    """One network, or one expert per range of noise levels.

    Raises:
        ValueError: the pipeline has none, or no scheduler.
    """
    found = [network for name in NAMES if isinstance(network := getattr(pipe, name, None), nn.Module)]
    if not found or getattr(pipe, "scheduler", None) is None:
        raise ValueError(
            f"a pipeline needs a transformer or unet and a scheduler, got {type(pipe).__name__}; any other denoiser "
            "goes through skipcast.wrap(callable, method, grid)."
        )
    return found
