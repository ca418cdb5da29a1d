"""One plan for every guidance scale: its knots, and between them, beside plans that were solved for one scale alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from research.plans.draws import drawn_images, planned, psnr
from research.plans.figures import fidelity
from research.plans.study import TEN, Study
from skipcast.methods import names
from skipcast.pipelines.recording.replay import PipelineEvaluator
from skipcast.plans.knots import Share, varied_number
from skipcast.plans.plan import Plan

#: True CFG scales that the plan has knots at, and others that it is run at.
KNOTS, BETWEEN = (1.5, 2.0, 3.0, 4.0, 6.0), (2.5, 3.5, 5.0)
#: Recorded for each scale.
PAIRS = 24
PLAIN = ("ab2", "lagrange:order=1,schedule=even", "lagrange:order=2,schedule=even")
_DRAW = 13


def measure(
    study: Study,
    *,
    evaluations: int = TEN,
    knots: Sequence[float] = KNOTS,
    between: Sequence[float] = BETWEEN,
    pairs: int = PAIRS,
    plain: Sequence[str] = PLAIN,
    effort: str = "low",
) -> dict[str, Any]:
    """A plan with knots at several scales, against the unaccelerated run at these scales and between them.

    Beside it at every scale: a plan solved for that scale alone, on as many pairs of it as the knots have each, and
    that for the usual scale; one set of rows fitted on the pairs of all knots; the plan of the folder; and plain rows.

    Args:
        study: model, images, plans.
        evaluations: of every plan and row.
        knots: true CFG scales of the plan.
        between: further scales, which are recorded for the plans of one scale alone.
        pairs: recorded for each scale.
        plain: plain rows at equal evaluations.
        effort: of every plan that is solved here.
    """
    scales = sorted({*knots, *between})
    study.advance(f"recording {pairs} pairs at each of {len(scales)} scales")
    profile = study.record(pairs * len(scales), _DRAW, scales)
    found = varied_number(profile.origin)
    assert found is not None
    evaluator = PipelineEvaluator(study.model.pipe, profile.origin, batch=pairs)

    def solved(some: Sequence[float], *, joint: bool = True) -> Plan:
        study.advance(f"solving for {', '.join(f'{scale:g}' for scale in some)}")
        chosen = [pair for scale in some for pair in found[1][scale]]
        return profile.subset(chosen).plan(
            evaluations=evaluations, refine=Share(evaluator, chosen), effort=effort, knots=joint
        )

    whole = solved(knots)
    fitted, alone = solved(knots, joint=False), {scale: solved([scale]) for scale in scales}
    usual, ships = study.settings.call.get("true_cfg_scale"), Plan.load(study.plan_file(evaluations))
    rows = []
    for scale in scales:
        study.advance(f"drawing at {scale:g}")
        settings = replace(study.settings, call={**study.settings.call, "true_cfg_scale": scale})
        truth = drawn_images(study.model, settings)
        plans = {"knots": whole, "alone": alone[scale], "fitted": fitted, "ships": ships}
        plans |= {"usual": alone[usual]} if usual in alone else {}
        row = {name: fidelity(psnr(planned(study.model, settings, plan).images, truth)) for name, plan in plans.items()}
        specs = [names.with_evaluations(spec, evaluations) for spec in plain]
        others = {spec: fidelity(psnr(drawn_images(study.model, settings, spec), truth)) for spec in specs}
        rows.append({"guidance": scale, "knot": scale in knots, **row, "others": others})
    return {
        "evaluations": evaluations,
        "usual": usual,
        "knots": list(knots),
        "pairs": pairs,
        "effort": effort,
        "steps": list(whole.steps),
        "rows": rows,
    }
