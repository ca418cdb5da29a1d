"""Hard images drawn again: a cheap plan first, a dearer one where the run-time check says no."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from research.plans.draws import FACTORS, Planned, drawn_images, planned, psnr
from research.plans.figures import fidelity
from research.plans.study import TEN, Study
from skipcast.grid import Vector

FIRST = (8, TEN)
AGAIN = (13, 17, 25)


def measure(study: Study, *, first: Sequence[int] = FIRST, again: Sequence[int] = AGAIN) -> dict[str, Any]:
    """What it costs on average, and reaches, to draw again what a plan's own check does not trust.

    Args:
        study: model, images, plans.
        first: evaluations of the plans that draw every image.
        again: evaluations of the plans that draw the flagged ones again.
    """
    model, settings = study.model, study.settings
    truth = drawn_images(model, settings)
    made: dict[int, Planned] = {}
    for evaluations in sorted({*first, *again}):
        study.advance(f"plan of {evaluations}")
        made[evaluations] = planned(model, settings, study.plan(evaluations), strict=True)
    reached: dict[int, Vector] = {evaluations: psnr(found.images, truth) for evaluations, found in made.items()}
    rows: list[dict[str, Any]] = []
    for cheap in first:
        rows.append(_row(cheap, None, None, np.zeros(len(truth), dtype=bool), reached))
        for factor in FACTORS:
            flagged = np.array(made[cheap].flagged[factor])
            rows += [_row(cheap, factor, dear, flagged, reached) for dear in again if dear > cheap]
    return {"rows": rows, "alone": {str(dear): fidelity(reached[dear]) for dear in again}}


def _row(
    cheap: int, factor: float | None, dear: int | None, flagged: np.ndarray[Any, Any], reached: dict[int, Vector]
) -> dict[str, Any]:
    found = reached[cheap] if dear is None else np.where(flagged, reached[dear], reached[cheap])
    share = float(flagged.mean())
    return {
        "first": cheap,
        "factor": factor,
        "again": dear,
        "flagged": share,
        "evaluations": cheap + share * (dear or 0),
        "held_out": fidelity(found),
    }
