"""The part of a page that shows pictures: a choice of methods, a slider, and a grid with the worst first."""

from __future__ import annotations

import json
import math
from typing import Any

from skipcast.report.gallery import EACH, SIDE, Gallery, labels


def pictures(found: Gallery | None, room: int) -> str:
    """The pictures of one state as HTML; why there are none, in words, where there are none."""
    if found is None:
        return (
            '<p class="note">The records name no pictures: they were not kept, so there is nothing to look at. '
            "<code>skipcast compare</code> keeps them unless it is told not to.</p>"
        )
    missing = ""
    if found.missing:
        missing = (
            f'<p class="note">{found.missing} of the files that were looked for are not where the records say, or '
            "hold no picture: keep the folder <code>pictures</code> beside the results.</p>"
        )
    if not found.methods:
        return f'<p class="note">None of the {found.named} pictures that the records name can be shown.</p>{missing}'
    embedded = sum(len(shown.cells) for shown in found.methods)
    rule = (
        f"{embedded} of {found.named} pictures are embedded: of each method the up to {EACH} with the lowest PSNR; "
        "first the plans, the best forecast and the best plain sampler of the middle budget, then those of the other "
        f"budgets, then the rest from the best down, until they take {room / 1e6:.3g} MB."
        + (f" Larger ones are shrunk to {SIDE} pixels a side." if found.shrunk else "")
    )
    video = any(cell.video for shown in found.methods for cell in shown.cells)
    return f"""<div class="gallery">
<p>The pictures that are furthest from the unaccelerated run stand first. Click one to lay it over its reference; drag
the line, or move it with the arrow keys.{" Videos play as short loops, without a slider." if video else ""}</p>
<div class="controls"><label>Method <select></select></label></div>
<p class="shown"></p>
<figure class="slider"><div class="stack"><img alt=""><img alt=""><div class="bar"></div>
<span class="left">reference</span><span class="right"></span>
<input type="range" min="0" max="100" step="1" value="50" aria-label="how much of the reference is shown"></div>
<figcaption></figcaption></figure>
<ul class="grid"></ul>
<noscript><p>Pictures are laid out by a script of this page, which this browser does not run.</p></noscript>
<p class="note">{rule}</p>
{missing}<script type="application/json">{_json(found)}</script>
</div>"""


def _json(found: Gallery) -> str:
    """What the script reads; nothing in it can end the element that it stands in."""
    document: dict[str, Any] = {
        "pictures": found.pictures,
        "methods": [
            {
                "label": label,
                "kind": shown.kind,
                "cells": [
                    {
                        "picture": cell.picture,
                        "reference": cell.reference,
                        "video": cell.video,
                        "prompt": cell.prompt,
                        "seed": cell.seed,
                        "psnr": _plain(cell.psnr) if shown.measured else "",
                    }
                    for cell in shown.cells
                ],
            }
            for label, shown in zip(labels(found.methods), found.methods, strict=True)
        ],
    }
    return json.dumps(document, allow_nan=False).replace("<", "\\u003c")


def _plain(psnr: float | None) -> float | str | None:
    if psnr is None or math.isnan(psnr):
        return None
    return psnr if math.isfinite(psnr) else "inf"
