"""What each part of the solve is worth: the loop, the places, the choice among places, the joint sweep, the times."""

from __future__ import annotations

from typing import Any

from research.plans.draws import drawn_images, planned, psnr
from research.plans.figures import fidelity
from research.plans.meter import metered
from research.plans.study import TEN, Study
from skipcast.plans.open_loop import placed
from skipcast.plans.refine import Effort


def measure(
    study: Study, *, pairs: int = 32, evaluations: int = TEN, candidates: int = 5, sweeps: int = 2, draw: int = 11
) -> dict[str, Any]:
    """Plans from one recording, each with one part more, on the held-out images.

    Args:
        study: model and images; its plans are not used.
        pairs: recorded.
        evaluations: the budget.
        candidates: step sets of "the best of several".
        sweeps: joint sweeps.
        draw: which captions and noise are recorded.
    """
    model, settings = study.model, study.settings
    pipe = model.pipe
    with metered(pipe) as one:
        drawn_images(model, study.changed(prompts=settings.prompts[:1], seeds=1).settings)
    study.advance(f"recording {pairs} pairs")
    profile = study.record(pairs, draw)
    even = placed(evaluations, settings.steps)
    alone = Effort(candidates=1)
    several = Effort(candidates=candidates)
    swept = Effort(candidates=candidates, sweeps=sweeps, free_timesteps=False)
    timed = Effort(candidates=candidates, sweeps=sweeps)
    closed = {"refine": pipe, "batch": pairs}
    stages: dict[str, dict[str, Any]] = {
        "open loop, even steps": {"steps": even},
        "open loop, searched steps": {"nfe": evaluations},
        "closed loop, even steps": {"steps": even, "effort": alone, **closed},
        "closed loop, searched steps": {"nfe": evaluations, "effort": alone, **closed},
        f"closed loop, the best of {candidates} step sets": {"nfe": evaluations, "effort": several, **closed},
        f"the same and {sweeps} joint sweeps of the weights": {"nfe": evaluations, "effort": swept, **closed},
        f"the same and {sweeps} joint sweeps of weights and timesteps": {
            "nfe": evaluations,
            "effort": timed,
            **closed,
        },
    }
    truth = drawn_images(model, settings)
    rows = []
    for name, given in stages.items():
        study.advance(name)
        with metered(pipe) as meter:
            plan = profile.plan(**given)
        assert plan.predicted is not None
        found = psnr(planned(model, settings, plan, strict=True).images, truth)
        rows.append(
            {
                "stage": name,
                "steps": list(plan.steps),
                "predicted": plan.predicted.psnr,
                "held_out": fidelity(found),
                "generations": meter.rows / one.rows,
            }
        )
    return {"evaluations": evaluations, "pairs": pairs, "rows": rows}
