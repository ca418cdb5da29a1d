"""The panels of the page as HTML: a sample and what is known of it, a solved plan, and messages."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from PIL import Image
from torch import Tensor

from skipcast.bench.curve import how
from skipcast.ui.solving import Solved
from skipcast.ui.state import ACCELERATED, FEWER, UNACCELERATED, Sample

TITLES = {UNACCELERATED: "Unaccelerated", ACCELERATED: "Accelerated", FEWER: "Fewer steps"}
_EMPTY = {
    UNACCELERATED: "every step evaluated",
    ACCELERATED: "the method or the plan",
    FEWER: "a plain sampler with as many evaluations",
}
AMPLIFY = 8  # of the differences shown
_CELL, _GAP, _HEIGHT = 10, 2, 18  # of a step in the strip, in pixels
_SMALL = 256  # pixels: below, images are enlarged without smoothing, or the enlargement would hide differences


def empty(panel: str) -> str:
    """Return an empty panel."""
    return _figure(panel, f'<div class="sc-blank">{escape(_EMPTY[panel])}</div>', "")


def sample(panel: str, samples: Mapping[str, Sample], *, difference: bool = False) -> str:
    """Return a panel with its sample, or with its amplified difference from the unaccelerated run."""
    found, full = samples[panel], samples.get(UNACCELERATED)
    image, alt = found.image, f"{TITLES[panel]}: {found.label}"
    if difference and full is not None and panel != UNACCELERATED and full.image.shape == image.shape:
        image = (image - full.image).abs() * AMPLIFY
        alt = f"{AMPLIFY} times the difference between this image and the unaccelerated one"
    crisp = ' class="sc-crisp"' if max(image.shape[-2:]) < _SMALL else ""
    return _figure(panel, f'<img{crisp} src="{_data(image)}" alt="{escape(alt)}">', _caption(found))


def plan(solved: Solved) -> str:
    """Return the predictions of a solved plan and its steps."""
    found = solved.plan
    promise, kind = "no prediction", ""
    if (predicted := found.predicted) is not None:
        promise = f"{predicted.psnr:.1f} dB predicted"
        pairs = f"{predicted.pairs} pair{'s' * (predicted.pairs > 1)}"
        kind = f"{predicted.worst5:.1f} dB for the worst 5 % · {how(predicted)}, {pairs}"
    facts = [kind, f"up to {found.speedup:.3g} x as fast", f"solved in {solved.seconds:.1f} s"]
    if solved.calls:
        facts.append(f"{solved.calls} network calls")
    heading = f"{solved.label}: {found.evaluations} of {found.origin.steps} evaluations · "
    return (
        f'<section class="sc-plan"><h4>{escape(heading)}<b>{escape(promise)}</b></h4>'
        f"{strip(found.steps, found.origin.steps)}<p>steps {', '.join(map(str, found.steps))}</p>"
        f"<p>{' · '.join(map(escape, filter(None, facts)))}</p></section>"
    )


def strip(evaluated: Sequence[int], steps: int) -> str:
    """Return an SVG of `steps` cells; evaluated ones are filled and taller, so that they differ without colour."""
    chosen = set(evaluated)
    cells = []
    for step in range(steps):
        name, y, height = ("on", 0, _HEIGHT) if step in chosen else ("off", _HEIGHT - 6, 6)
        cells.append(
            f'<rect class="{name}" x="{step * _CELL + _GAP / 2:g}" y="{y}" width="{_CELL - _GAP}" '
            f'height="{height}" rx="1"/>'
        )
    title = f"evaluated {len(chosen)} of {steps} steps: {', '.join(map(str, sorted(chosen)))}"
    return (
        f'<svg class="sc-strip" viewBox="0 0 {steps * _CELL} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>{"".join(cells)}</svg>'
    )


def message(words: str, *, bad: bool = False) -> str:
    """Return a line for below the controls; empty for no text."""
    return f'<p class="sc-message{" sc-bad" if bad else ""}" role="status">{escape(words)}</p>' if words else ""


def _figure(panel: str, inside: str, caption: str) -> str:
    return (
        f'<figure class="sc-panel" data-panel="{panel}"><h3>{TITLES[panel]}</h3>{inside}'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _caption(found: Sample) -> str:
    time = f"{found.seconds:.2f} s"
    if found.kept:
        time += ' · <span class="sc-kept">kept</span> from an earlier draw'
    rows = [f"<code>{escape(found.label)}</code>", f"{found.evaluations:g} evaluations · {time}"]
    if found.speedup is not None:
        rows.append(f"<b>{found.speedup:.2f} x</b> as fast as unaccelerated")
    if found.psnr is not None:
        quality = "identical to unaccelerated" if math.isinf(found.psnr) else f"PSNR <b>{found.psnr:.1f} dB</b>"
        rows.append(quality + ("" if found.ssim is None else f" · SSIM {found.ssim:.3f}"))
    if found.evaluated is not None:
        rows.append(strip(found.evaluated, found.steps))
    if found.trusted is not None:
        rows.append(
            "✓ the plan trusts this image: the outputs stayed where the plan was made"
            if found.trusted
            else "✗ the plan doubts this image: the outputs left the range that it was made for"
        )
    rows += [f'<span class="sc-note">{escape(remark)}</span>' for remark in found.remarks]
    return "".join(f"<div>{row}</div>" for row in rows)


def _data(image: Tensor) -> str:
    array = np.nan_to_num(image.numpy(), nan=1.0).clip(0, 1)
    pixels = (array * 255).round().astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
