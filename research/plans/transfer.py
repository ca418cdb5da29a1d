"""A plan where it was not made: other guidance, sizes, captions, weights and references, without fitting anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from research.plans.captions import drawn
from research.plans.draws import FACTORS, Planned, Settings, drawn_images, planned, psnr
from research.plans.figures import correlation, fidelity
from research.plans.meter import network_of
from research.plans.study import TEN, Study
from skipcast.grid import Vector
from skipcast.methods import names
from skipcast.pipelines.calls import plan_of_call
from skipcast.plans.plan import Plan

GUIDANCE = (1.5, 2.0, 3.0, 5.0, 7.0, 9.0)
SIDES = (96,)
SHARES = (0.01, 0.03)
COUNTS = (30, 100)
PLAIN = ("ab2", "lagrange:order=1,schedule=even")
RESOLVED = (6, 8, 10, 13)
#: Departures at which the run-time check is evaluated.
THRESHOLDS = (1.0, 1.5, 2.0, 3.0, 5.0)
_UNSEEN, _WEIGHTS = 6174, 3  # seeds: of captions never trained, of the perturbations
_RANK = 4


@dataclass(frozen=True)
class Condition:
    """What is different from how the plan was made.

    Args:
        name: in the table.
        settings: prompts, seeds and call.
        around: brings the model into the condition and back.
        count: steps of the run that is compared with; None for the plan's own N.
    """

    name: str
    settings: Settings
    around: Callable[[Any], AbstractContextManager[Any]] = nullcontext
    count: int | None = None


def measure(
    study: Study,
    *,
    evaluations: int = TEN,
    guidance: Sequence[float] = GUIDANCE,
    sides: Sequence[int] = SIDES,
    shares: Sequence[float] = SHARES,
    counts: Sequence[int] = COUNTS,
    resolved: Sequence[int] = RESOLVED,
    plain: Sequence[str] = PLAIN,
    unseen: int = 16,
) -> dict[str, Any]:
    """The plan under every condition, against the unaccelerated run under the same one.

    Args:
        study: model, images, plans; also the folder's default profile, for `resolved`.
        evaluations: of the plan.
        guidance: true CFG scales; a plan with knots runs at every one, outside the knots on the line through the last.
        sides: images of other sizes; the reference is on the grid of that size, the plan on its own.
        shares: relative Frobenius norms of a random update of rank 4 to every linear weight of the network.
        counts: steps of other references.
        resolved: budgets solved in the open loop from the same profile.
        plain: plain rows at equal evaluations.
        unseen: captions of combinations that training never showed.
    """
    plan = Plan.load(study.plan_file(evaluations))
    rows = []
    for condition in _conditions(study, plan, guidance, sides, shares, counts, unseen):
        study.advance(condition.name)
        with condition.around(network_of(study.model.pipe)):
            rows.append(_row(study, condition, plan, [names.with_evaluations(spec, len(plan)) for spec in plain]))
    return {
        "evaluations": len(plan),
        "rows": rows,
        "check": check(rows, here.predicted.worst5 if (here := study.plan(evaluations)).predicted else 0.0),
        "resolved": list(_resolved(study, resolved)),
    }


def _conditions(
    study: Study,
    plan: Plan,
    guidance: Sequence[float],
    sides: Sequence[int],
    shares: Sequence[float],
    counts: Sequence[int],
    unseen: int,
) -> Iterator[Condition]:
    settings = study.settings
    known: list[float] = [knot.value for knot in plan.knots] or [settings.call.get("true_cfg_scale", 1.0)]
    for scale in guidance:
        between = plan.knots and min(known) < scale < max(known)
        made = " (recorded)" if scale in known else " (between knots)" if between else " (outside of what was recorded)"
        yield Condition(f"guidance {scale:g}{made}", replace(settings, call={**settings.call, "true_cfg_scale": scale}))
    for side in sides:
        call = {**settings.call, "height": side, "width": side}
        yield Condition(f"{side} x {side} pixels (never trained)", replace(settings, call=call))
    prompts = drawn(unseen, [_UNSEEN], held_out=True, without=settings.prompts)
    yield Condition("only combinations never trained", replace(settings, prompts=prompts))
    for share in shares:

        def around(network: nn.Module, share: float = share) -> AbstractContextManager[None]:
            return perturbed(network, share)

        yield Condition(f"weights moved by {share:.0%}, rank {_RANK}", settings, around)
    for count in counts:
        yield Condition(f"against the {count}-step run", settings, count=count)


def _row(study: Study, condition: Condition, plan: Plan, plain: Sequence[str]) -> dict[str, Any]:
    model, settings = study.model, condition.settings
    truth = drawn_images(model, settings, steps=condition.count)
    made: Planned = planned(model, settings, plan)
    ours = psnr(made.images, truth)
    others = {spec: psnr(drawn_images(model, settings, spec), truth) for spec in plain}
    row = {
        "condition": condition.name,
        "plan": fidelity(ours),
        "others": {spec: fidelity(found) for spec, found in others.items()},
        "flagged": {f"{factor:g}": float(np.mean(made.flagged[factor])) for factor in FACTORS},
        "images": {
            "departure": _rounded(made.departure),
            "plan": _rounded(ours),
            **{spec: _rounded(found) for spec, found in others.items()},
        },
    }
    if condition.count is not None:  # how far the plan's own reference is from this one
        row["own_reference"] = fidelity(psnr(drawn_images(model, settings), truth))
    return row


def _rounded(found: Sequence[float] | Vector) -> list[float | None]:
    return [round(float(value), 3) if np.isfinite(value) else None for value in found]


@contextmanager
def perturbed(network: nn.Module, share: float, rank: int = _RANK, seed: int = _WEIGHTS) -> Iterator[None]:
    """Add U V of relative Frobenius norm `share` to every linear weight; the very weights are back on exit."""
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    kept = [module.weight.detach().clone() for module in linear]
    random = torch.Generator().manual_seed(seed)
    try:
        with torch.no_grad():
            for module in linear:
                rows, columns = module.weight.shape
                update = torch.randn(rows, rank, generator=random) @ torch.randn(rank, columns, generator=random)
                size = share * module.weight.float().norm().cpu() / update.norm()
                module.weight += (size * update).to(module.weight)
        yield
    finally:
        with torch.no_grad():
            for module, weight in zip(linear, kept, strict=True):
                module.weight.copy_(weight)


def check(rows: Sequence[dict[str, Any]], promised: float, thresholds: Sequence[float] = THRESHOLDS) -> dict[str, Any]:
    """How well an image's departure from the recording tells that the plan does badly there, over all conditions.

    A failure is an image whose PSNR is below what was promised, a loss one on which one of the other rows is closer
    to the reference. Rows against references of other step counts are left out: how far these are from each other is
    no fault of the plan.
    """
    departure, ours, theirs = (list[float]() for _ in range(3))
    for row in rows:
        found = row["images"]
        if not row["others"] or "own_reference" in row:
            continue
        plain = zip(*(found[spec] for spec in row["others"]), strict=True)
        for far, own, others in zip(found["departure"], found["plan"], plain, strict=True):
            if None not in (far, own, *others):
                departure.append(far)
                ours.append(own)
                theirs.append(max(others))
    far, reached = np.array(departure), np.array(ours)
    gain = reached - np.array(theirs)
    events = {"failures": reached < promised, "losses": gain < 0}
    table = []
    for threshold in thresholds:
        over = far > threshold
        line: dict[str, Any] = {"threshold": threshold, "flagged": _mean(over)}
        for name, values in {"psnr": reached, "gain": gain, **events}.items():
            line |= {f"{name}_flagged": _mean(values[over]), f"{name}_others": _mean(values[~over])}
        table.append(line | {f"{name}_found": _mean(over[happened]) for name, happened in events.items()})
    return {
        "images": len(far),
        "promised": promised,
        **{name: _mean(happened) for name, happened in events.items()},
        "correlation_with_psnr": correlation(far, reached) if len(far) else None,
        "correlation_with_gain": correlation(far, gain) if len(far) else None,
        "thresholds": table,
    }


def _mean(values: np.ndarray[Any, Any]) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None


def _resolved(study: Study, budgets: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Plans for other budgets from the shipped profile alone: no network evaluation, the open loop."""
    profile = study.profile()
    if profile is None:
        return
    truth = drawn_images(study.model, study.settings)
    for budget in budgets:
        study.advance(f"open loop, {budget} evaluations")
        plan = plan_of_call(study.model.pipe, profile.plan(evaluations=budget), study.settings.call)
        found = fidelity(psnr(planned(study.model, study.settings, plan).images, truth))
        assert plan.predicted is not None
        other = fidelity(psnr(drawn_images(study.model, study.settings, f"ab2:evaluations={budget}"), truth))
        yield {"evaluations": budget, "plan": found, "predicted": plan.predicted.psnr, "ab2": other}
