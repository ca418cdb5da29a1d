"""The grid of images: a row per method, a column per prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from torch import Tensor

_SIDE, _GAP, _LABEL = 128, 6, 190  # pixels: longer side of an image, space between images, label column
_LINE, _LETTER = 15, 6.5  # pixels: height of a line of text, width of a letter


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
    rows = [(label, reference)]
    for name, batch in images.items():
        rows += [(name, batch), (f"{amplify:g} x |difference|", (batch.float() - reference.float()).abs() * amplify)]

    height, width = reference.shape[2:]
    scale = _SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resample = Image.Resampling.NEAREST if scale.is_integer() else Image.Resampling.LANCZOS
    pitch = max(size[0], 96) + _GAP  # narrow images still leave room for their prompt
    starts = [_LABEL + column * pitch for column in range(len(prompts))]
    titles = [(_GAP, _folded(heading, _LABEL, 5))]
    titles += [(x, _folded(prompt, pitch, 5)) for x, prompt in zip(starts, prompts, strict=True)]
    top = 2 * _GAP + _LINE * max(text.count("\n") + 1 for _, text in titles)
    canvas = Image.new("RGB", (_LABEL + pitch * len(prompts), top + len(rows) * (size[1] + _GAP)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=11)
    for x, text in titles:
        draw.text((x, top - _GAP), text, "black", font, anchor="ld")
    for y, (name, batch) in zip(range(top, canvas.height, size[1] + _GAP), rows, strict=True):
        text = _folded(name, _LABEL, max(1, size[1] // _LINE))
        draw.text((_GAP, y + size[1] // 2), text, "black", font, anchor="lm")
        shown = np.nan_to_num(batch.detach().float().cpu().numpy(), nan=1.0).clip(0, 1) * 255
        for x, image in zip(starts, shown.round().astype(np.uint8).transpose(0, 2, 3, 1), strict=True):
            canvas.paste(Image.fromarray(image).resize(size, resample), (x, y))
    return canvas


def _folded(text: str, width: int, most: int) -> str:
    """Break text at spaces and after ":" and "," into lines of about as many pixels; too many are cut off."""
    letters = int((width - _GAP) / _LETTER)
    return "\n".join(wrap(re.sub(r"(?<=[:,])(?=\S)", " ", text), letters, max_lines=most, placeholder="..."))
