"""What a pipeline returns, as the content of files: PNG for pictures, animated WebP for videos."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

FRAMES_PER_SECOND = 8


def encoded(found: Any) -> list[tuple[str, bytes]]:
    """The ending and the content of one file per picture or video of a pipeline's output.

    Raises:
        ValueError: it is neither pictures nor videos.
    """
    if (images := getattr(found, "images", None)) is not None:
        return [(".png", _file(_picture(image), "PNG")) for image in images]
    if (videos := getattr(found, "frames", None)) is not None:
        return [(".webp", _video(video)) for video in videos]
    raise ValueError(
        f"the pipeline returns neither pictures nor videos but {type(found).__name__}; call it in Python and keep "
        "what it returns."
    )


def _video(frames: Any) -> bytes:
    first, *others = [_picture(frame) for frame in frames]
    duration = 1000 // FRAMES_PER_SECOND
    return _file(first, "WEBP", save_all=True, append_images=others, duration=duration, loop=0, lossless=True)


def _picture(values: Any) -> Image.Image:
    """A picture of Pillow, or values from 0 to 1 as (height, width, channels)."""
    if isinstance(values, Image.Image):
        return values
    return Image.fromarray((np.clip(np.asarray(values, np.float32), 0, 1) * 255).round().astype(np.uint8))


def _file(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    try:
        image.save(buffer, kind, **options)
    except KeyError as error:
        raise ValueError(f"this Pillow cannot write {kind}; install Pillow from its wheels.") from error
    return buffer.getvalue()
