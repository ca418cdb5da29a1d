"""How much an error of the final sample counts in the decoded picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.modular_pipelines import PipelineState
from torch import Tensor

from skipcast.backends.scripted import scripted, swapped
from skipcast.grid import Vector
from skipcast.planning.accumulate import Shelf, combination

#: Norm of the error that is decoded, relative to the sample: small enough to be linear, large against rounding.
_SIZE = 0.02


def decoded_gain(
    pipe: Any, shelf: Shelf, basis: Sequence[int], delta: Vector, told: float, arguments: dict[str, Any]
) -> Tensor:
    """Squared error of the picture in [0, 1] over that of the sample, for an error in the direction of `delta`, (M,).

    The last of the basis is the final sample, delta are weights on the basis. Where a pipeline returns no float
    pictures in [0, 1], the gain is 1 and a PSNR is that of the sample itself.
    """
    final = shelf[basis[-1]]
    exact = final.double()
    error = combination(shelf, basis, delta)
    pairs = (slice(None), *([None] * (exact.ndim - 1)))
    norms = [value.flatten(1).norm(dim=1) for value in (exact, error)]
    # A run of five steps or fewer may hold nothing over; its noise is then a direction as good as any.
    void = norms[1] <= 1e-6 * norms[0]
    if void.any():
        noise = shelf[basis[0]].double()
        error = torch.where(void[pairs], noise, error)
        norms[1] = error.flatten(1).norm(dim=1)
    moved = (exact + error * (_SIZE * norms[0] / norms[1])[pairs]).to(final.dtype)
    clean, other = (_decoded(pipe, sample, told, arguments) for sample in (final, moved))
    ones = torch.ones(len(final), dtype=torch.float64)
    if clean is None or other is None:
        return ones
    above = (other - clean).square().flatten(1).mean(dim=1)
    below = (moved.double() - exact).square().flatten(1).mean(dim=1)
    gain = above / below
    return torch.where(gain.isfinite() & (gain > 0), gain, ones)


def _decoded(pipe: Any, sample: Tensor, told: float, arguments: dict[str, Any]) -> Tensor | None:
    """Float pictures in [0, 1] of a final sample, float64; None where the pipeline makes none."""
    # Only the decoder is wanted; one evaluation is what it costs to get past the loop.
    made = scripted(pipe.scheduler, [float(told)], lambda place, output, given: sample.to(given), pairs=len(sample))
    with swapped(pipe, made):
        try:
            output = pipe(output_type="pt", **arguments)
            pictures = output.get("images") if isinstance(output, PipelineState) else output[0]
        except torch.OutOfMemoryError:
            raise
        except (ValueError, TypeError, RuntimeError):
            return None
    if not isinstance(pictures, Tensor) or not pictures.is_floating_point() or len(pictures) != len(sample):
        return None
    pictures = pictures.double().cpu()
    return pictures if bool(((pictures >= 0) & (pictures <= 1)).all()) else None
