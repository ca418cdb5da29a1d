"""What a network is made to do: rows of its batches and the seconds inside it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Meter:
    """Rows evaluated (images times guidance branches) and seconds spent in the network's forward."""

    rows: int = 0
    seconds: float = 0.0


def network_of(pipe: Any) -> Any:
    """The denoiser of a pipeline."""
    return getattr(pipe, "transformer", None) or pipe.unet


@contextmanager
def metered(pipe: Any) -> Iterator[Meter]:
    """Count what the network of a pipeline does meanwhile; its hooks are gone on exit."""
    meter, begun, network = Meter(), [0.0], network_of(pipe)

    def before(_module: Any, _given: Any) -> None:
        begun[0] = time.perf_counter()

    def after(_module: Any, _given: Any, output: Any) -> None:
        meter.seconds += time.perf_counter() - begun[0]
        meter.rows += len(output[0])

    hooks = [network.register_forward_pre_hook(before), network.register_forward_hook(after)]
    try:
        yield meter
    finally:
        for hook in hooks:
            hook.remove()
