"""The panels of the page as HTML: a picture or its progress, and what is known of it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from html import escape

import numpy as np
from PIL import Image
from torch import Tensor

from skipcast.bench.curve import how
from skipcast.plans.plan import Plan
from skipcast.ui.solving import Progress, Solved
from skipcast.ui.strip import strip
from skipcast.ui.wishes import ACCELERATED, FEWER, REFERENCE, Picture, Working

TITLES = {REFERENCE: "Reference", ACCELERATED: "Accelerated", FEWER: "Fewer steps"}
_EMPTY = {
    REFERENCE: "every step evaluated",
    ACCELERATED: "the method or the plan",
    FEWER: "a plain sampler with as many evaluations",
}
AMPLIFY = 8  # of the differences shown
_SMALL = 256  # pixels: below, pictures are enlarged without smoothing, or the enlargement would hide differences


def empty(panel: str) -> str:
    """A panel that waits."""
    return _figure(panel, f'<div class="sc-blank">{escape(_EMPTY[panel])}</div>', "")


def working(event: Working) -> str:
    """A panel under way."""
    words = event.words or f"{100 * event.done // max(1, event.of)} %"
    share = event.done / event.of if event.of else None
    return _figure(event.panel, f'<div class="sc-blank">{bar(share, words)}</div>', "")


def shown(panel: str, pictures: Mapping[str, Picture], *, difference: bool = False) -> str:
    """A panel with its picture, or with what parts it from the reference, amplified."""
    picture, truth = pictures[panel], pictures.get(REFERENCE)
    image, alt = picture.image, f"{TITLES[panel]}: {picture.label}"
    if difference and truth is not None and panel != REFERENCE and truth.image.shape == image.shape:
        image = (image - truth.image).abs() * AMPLIFY
        alt = f"{AMPLIFY} times the difference between this picture and the reference"
    crisp = ' class="sc-crisp"' if max(image.shape[-2:]) < _SMALL else ""
    return _figure(panel, f'<img{crisp} src="{_data(image)}" alt="{escape(alt)}">', _caption(picture))


def bar(share: float | None, words: str) -> str:
    """A progress bar with words; without a share it only says that something is under way."""
    value = "" if share is None else f' value="{share:.3f}"'
    return f'<div class="sc-progress"><progress max="1"{value}></progress><span>{escape(words)}</span></div>'


def progress(event: Progress) -> str:
    """How far an order is."""
    return bar(event.share, event.words)


def plan(solved: Solved) -> str:
    """What a solved plan promises, and its steps."""
    found: Plan = solved.plan
    told = found.predicted
    promise, kind = "no prediction", ""
    if told is not None:
        promise = f"{told.psnr:.1f} dB predicted"
        pairs = f"{told.pairs} {'picture' if told.pairs == 1 else 'pictures'}"
        kind = f"{told.worst5:.1f} dB for the worst 5 % · {how(told)}, {pairs}"
    facts = [kind, f"up to {found.speedup:.3g} x as fast", f"solved in {solved.seconds:.1f} s"]
    if solved.made:
        facts.append(f"{solved.made} network calls")
    heading = f"{solved.label}: {found.evaluations} of {found.origin.steps} evaluations · "
    return (
        f'<section class="sc-plan"><h4>{escape(heading)}<b>{escape(promise)}</b></h4>'
        f"{strip(found.steps, found.origin.steps)}<p>steps {', '.join(map(str, found.steps))}</p>"
        f"<p>{' · '.join(map(escape, filter(None, facts)))}</p></section>"
    )


def message(words: str, *, bad: bool = False) -> str:
    """A line under the controls; empty for none."""
    return f'<p class="sc-message{" sc-bad" if bad else ""}" role="status">{escape(words)}</p>' if words else ""


def _figure(panel: str, inside: str, caption: str) -> str:
    return (
        f'<figure class="sc-panel" data-panel="{panel}"><h3>{TITLES[panel]}</h3>{inside}'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _caption(picture: Picture) -> str:
    made = f"{picture.evaluations:g} evaluations"
    time = f"{picture.seconds:.2f} s"
    if picture.kept:
        time += ' · <span class="sc-kept">kept</span> from an earlier draw'
    rows = [f"<code>{escape(picture.label)}</code>", f"{made} · {time}"]
    if picture.speedup is not None:
        rows.append(f"<b>{picture.speedup:.2f} x</b> as fast as the reference")
    if picture.psnr is not None:
        quality = "identical to the reference" if math.isinf(picture.psnr) else f"PSNR <b>{picture.psnr:.1f} dB</b>"
        rows.append(quality + ("" if picture.ssim is None else f" · SSIM {picture.ssim:.3f}"))
    if picture.evaluated is not None:
        rows.append(strip(picture.evaluated, picture.steps))
    if picture.trusted is not None:
        rows.append(
            "✓ the plan trusts this picture: its outputs stayed where the plan was made"
            if picture.trusted
            else "✗ the plan doubts this picture: its outputs left the range that it was made for"
        )
    rows += [f'<span class="sc-note">{escape(note)}</span>' for note in picture.notes]
    return "".join(f"<div>{row}</div>" for row in rows)


def _data(image: Tensor) -> str:
    array = np.nan_to_num(image.numpy(), nan=1.0).clip(0, 1)
    pixels = (array * 255).round().astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
