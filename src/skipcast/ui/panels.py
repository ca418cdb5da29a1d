"""The panels of the page as HTML: a sample and what is known of it, a solved plan, and messages."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor

from skipcast.bench.curve import how
from skipcast.ui.drawing import ACCELERATED, FEWER, UNACCELERATED, Sample
from skipcast.ui.solving import Solved

#: Title of every panel, and what it waits for.
_TITLES = {
    UNACCELERATED: ("Unaccelerated", "every step evaluated"),
    ACCELERATED: ("Accelerated", "the method or the plan"),
    FEWER: ("Fewer steps", "a plain sampler with as many evaluations"),
}
AMPLIFY = 8  # of the differences shown
_SMALL = 256  # pixels: below, images are enlarged without smoothing, or the enlargement would hide differences
_environment = Environment(loader=PackageLoader("skipcast.ui", ""), autoescape=True, undefined=StrictUndefined)
_template: Any = _environment.get_template("panels.html.j2", globals={"infinity": math.inf}).module


def figure(panel: str, samples: Mapping[str, Sample], *, difference: bool = False) -> str:
    """Return a panel with its sample, or with its amplified difference from the unaccelerated run, or empty."""
    title, waiting = _TITLES[panel]
    found, full = samples.get(panel), samples.get(UNACCELERATED)
    if found is None:
        return str(_template.figure(panel, title, waiting, None, "", "", False))
    image, alt = found.image, f"{title}: {found.label}"
    if difference and full is not None and panel != UNACCELERATED and full.image.shape == image.shape:
        image = (image - full.image).abs() * AMPLIFY
        alt = f"{AMPLIFY} times the difference between this image and the unaccelerated one"
    return str(_template.figure(panel, title, waiting, found, _data(image), alt, max(image.shape[-2:]) < _SMALL))


def plan(solved: Solved) -> str:
    """Return the predictions of a solved plan and its steps."""
    return str(_template.plan(solved, how(solved.plan.predicted) if solved.plan.predicted else ""))


def message(words: str, *, bad: bool = False) -> str:
    """Return a line for below the controls; empty for no text."""
    return str(_template.message(words, bad))


def _data(image: Tensor) -> str:
    array = np.nan_to_num(image.numpy(), nan=1.0).clip(0, 1)
    pixels = (array * 255).round().astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
