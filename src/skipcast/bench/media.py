"""Images and videos as files for people to look at: PNG, and lossless WebP that plays in a loop."""

from __future__ import annotations

import hashlib
import io

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from skipcast.bench.draw import Sample

IMAGE, VIDEO = ".png", ".webp"
FRAMES_PER_SECOND = 8
_EFFORT = 3  # of zlib: as small as the usual 6 to a tenth, at half the time


def is_video(images: Tensor) -> bool:
    """Whether a batch is one of videos (B, F, 3, H, W) rather than of images (B, 3, H, W)."""
    return images.ndim == 5


def suffix_of(content: bytes) -> str:
    """What a file of this content ends in."""
    return VIDEO if content.startswith(b"RIFF") else IMAGE


def encoded(image: Tensor, fps: int) -> bytes:
    """An image (3, H, W) in [0, 1] as an 8-bit PNG, or a video (F, 3, H, W) as an animated WebP without loss."""
    first, *more = [_eight_bits(frame) for frame in (image if image.ndim == 4 else image[None])]
    file = io.BytesIO()
    if image.ndim == 3:
        first.save(file, "PNG", compress_level=_EFFORT)
    else:
        times = [round(1000 * (i + 1) / fps) - round(1000 * i / fps) for i in range(len(image))]
        first.save(
            file, "WEBP", save_all=True, append_images=more, duration=times, loop=0, lossless=True, quality=50, method=2
        )
    return file.getvalue()


def _eight_bits(image: Tensor) -> Image.Image:
    shown = image.nan_to_num(nan=1.0).clamp(0, 1)  # a byte would wrap around; a broken image is white
    values = (shown * 255).round().to(torch.uint8)  # rounded: to cut off would darken
    return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())


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
