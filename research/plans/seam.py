"""Published forecasters on the plan's evaluated steps: what the placement alone is worth to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from research.plans.draws import drawn_images, planned, psnr
from research.plans.figures import fidelity
from research.plans.study import TEN, Study
from skipcast.methods import names

SPECS = (
    "resilphase",
    "taylorseer",
    "taylorseer:target=hidden",
    "spectrum",
    "lagrange:order=1",
    "tc-pade",
    "hicache",
    "meancache",
)
PLACEMENTS = ("own", "even", "plan")


def placed(spec: str, placement: str, steps: Sequence[int]) -> str:
    """The specification with its evaluations placed by its own rule, evenly, or at these steps.

    Raises:
        ValueError: another placement.
    """
    if placement not in PLACEMENTS:
        raise ValueError(f"placement={placement!r} must be one of {', '.join(PLACEMENTS)}.")
    if placement == "own":
        return names.with_evaluations(spec, len(steps))
    join = "," if ":" in spec else ":"
    if placement == "even":
        return f"{spec}{join}schedule=even,evaluations={len(steps)}"
    return f"{spec}{join}schedule={'.'.join(map(str, steps))}"


def measure(study: Study, *, evaluations: int = TEN, specs: Sequence[str] = SPECS) -> dict[str, Any]:
    """Every forecaster on three placements at equal evaluations, next to the plan.

    Args:
        study: model, images, plans.
        evaluations: of the plan.
        specs: forecasters.
    """
    plan = study.plan(evaluations)
    for spec in specs:
        for placement in PLACEMENTS:
            names.method(placed(spec, placement, plan.steps))
    model, settings = study.model, study.settings
    truth = drawn_images(model, settings)
    rows = []
    for spec in specs:
        row: dict[str, Any] = {"method": spec}
        for placement in PLACEMENTS:
            label = placed(spec, placement, plan.steps)
            study.advance(label)
            row[placement] = fidelity(psnr(drawn_images(model, settings, label), truth))
        rows.append(row)
    ours = fidelity(psnr(planned(model, settings, plan, strict=True).images, truth))
    return {"evaluations": len(plan), "steps": list(plan.steps), "rows": rows, "plan": ours}
