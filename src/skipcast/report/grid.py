"""The grid of images: a row per method, a column per prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from torch import Tensor

_SIDE, _GAP, _LABEL = 128, 6, 190  # pixels: longer side of an image, space between images, label column
_INK, _FAINT = (20, 20, 20), (110, 110, 110)


def grid(
    images: Mapping[str, Tensor], prompts: Sequence[str], *, reference: Tensor, heading: str = "", amplify: float = 4.0
) -> Image.Image:
    """Draw the unaccelerated run and below it every method with its difference, one column per prompt.

    A difference is shown as amplify * |difference to the unaccelerated run|.

    Args:
        images: label -> float (P, 3, H, W) in [0, 1], for P prompts.
        prompts: P texts.
        reference: of the unaccelerated run, (P, 3, H, W).
        heading: stands above the labels.
        amplify: factor of the differences.

    Raises:
        ValueError: images of another number or size.
    """
    label = "unaccelerated run"
    for name, batch in {label: reference, **images}.items():
        if batch.shape != reference.shape or batch.ndim != 4 or len(batch) != len(prompts) or batch.shape[1] != 3:
            raise ValueError(
                f"the images of {name} must be ({len(prompts)}, 3, H, W), one per prompt and all of one size, "
                f"got {tuple(batch.shape)}."
            )
    rows = [(label, _INK, _pixels(reference))]
    for name, batch in images.items():
        difference = (batch.float() - reference.float()).abs() * amplify
        rows += [(name, _INK, _pixels(batch)), (f"{amplify:g} x |difference|", _FAINT, _pixels(difference))]
    return _draw(rows, prompts, heading)


def _pixels(batch: Tensor) -> NDArray[np.uint8]:
    """Convert (P, 3, H, W) in [0, 1] to (P, H, W, 3) in bytes; other values and NaN are clipped."""
    array = np.nan_to_num(batch.detach().float().cpu().numpy(), nan=1.0)
    shown: NDArray[np.uint8] = (array.clip(0, 1) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    return shown


def _draw(
    rows: Sequence[tuple[str, tuple[int, int, int], NDArray[np.uint8]]], prompts: Sequence[str], heading: str
) -> Image.Image:
    height, width = rows[0][2].shape[1:3]
    scale = _SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resample = Image.Resampling.NEAREST if scale.is_integer() else Image.Resampling.LANCZOS
    font, small = ImageFont.load_default(size=13), ImageFont.load_default(size=11)
    line, pitch = 14, max(size[0], 96) + _GAP  # narrow images still leave room for their prompt
    starts = [_LABEL + column * pitch for column in range(len(prompts))]
    titles = {_GAP: _wrap(heading, small, _LABEL - 2 * _GAP, 5)}
    titles |= {x: _wrap(prompt, small, pitch - _GAP, 5) for x, prompt in zip(starts, prompts, strict=True)}
    top = _GAP + line * max(map(len, titles.values())) + _GAP
    canvas = Image.new("RGB", (_LABEL + pitch * len(prompts), top + len(rows) * (size[1] + _GAP)), "white")
    draw = ImageDraw.Draw(canvas)
    for x, title in titles.items():
        for i, text in enumerate(reversed(title)):  # the last line rests on the image
            draw.text((x, top - _GAP - (i + 1) * line), text, _INK, small)
    for i, (label, ink, batch) in enumerate(rows):
        y = top + i * (size[1] + _GAP)
        face = font if ink == _INK else small
        lines = _wrap(label, face, _LABEL - 2 * _GAP, max(1, size[1] // 16))
        start = y + (size[1] - 16 * len(lines)) // 2
        for j, text in enumerate(lines):
            draw.text((_GAP, start + 16 * j), text, ink, face)
        for x, image in zip(starts, batch, strict=True):
            canvas.paste(Image.fromarray(image).resize(size, resample), (x, y))
    return canvas


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, most: int) -> list[str]:
    """Break text into at most `most` lines of at most `width` pixels, at spaces and after ":" and ","."""
    lines = [""]
    for word in re.split(r"(?<=[:, ])", " ".join(text.split())):
        if lines[-1] and font.getlength((lines[-1] + word).rstrip()) > width:
            lines.append("")
        lines[-1] += word
    lines = [line.rstrip() for line in lines]
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1] + "..."]
    for i, line in enumerate(lines):
        while len(line) > 4 and font.getlength(line) > width:
            line = line.removesuffix("...")[:-1] + "..."
        lines[i] = line
    return lines
