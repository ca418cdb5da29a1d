"""Samples of cells, that others are measured against: pictures and latents as bytes, and back."""

from __future__ import annotations

import hashlib

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from skipcast.bench.draw import Sample


def packed(made: Sample) -> bytes:
    """The sample of a cell."""
    return save({"images": made.images, "latents": made.latents})


def check_sample(content: bytes) -> None:
    """Raises ValueError for what is no whole sample."""
    unpacked("sample", content)


def unpacked(label: str, content: bytes) -> Sample:
    """What a cell drew; ValueError names it by `label` where it is broken."""
    try:
        tensors = load(content)
        return Sample(tensors["images"], tensors["latents"])
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"the {label} is no whole sample: {error}") from error


def sha256(tensor: Tensor) -> str:
    """What the values of a tensor are known by."""
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
