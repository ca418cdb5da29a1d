"""Plans against everything else at equal evaluations, and against their own predictions: `compare`, summarised."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from research.plans.draws import drawn_images, planned
from research.plans.figures import fidelity
from research.plans.study import Study
from skipcast.bench.calibrate import Unreached, calibrate, threshold_of
from skipcast.bench.compare import Comparison, compare
from skipcast.bench.models import ModelSpec
from skipcast.bench.records import images, lines, value
from skipcast.bench.rows import check
from skipcast.bench.run import quiet
from skipcast.bench.spec import Spec
from skipcast.bench.statistics import interval
from skipcast.checkpoint import write_whole
from skipcast.methods import names
from skipcast.models.judge import ClipJudge, Judge, frechet_distance
from skipcast.plans.plan import Plan

#: Rows at every one of BUDGETS, rows at MORE too, and rows whose threshold is found first.
OTHERS = (
    "lagrange:order=1,schedule=even",
    "lagrange:order=2,schedule=even",
    "ab2",
    "ab3",
    "dpmpp2m",
    "unipc",
    "euler",
    "taylorseer",
    "resilphase",
    "spectrum",
)
FURTHER = ("lagrange:order=1,schedule=even", "ab2", "dpmpp2m", "unipc", "euler")
DRIVEN = ("speca",)
BUDGETS, MORE = (6, 8, 10), (4, 5, 13, 17, 25)
#: The budget whose images the judge looks at.
JUDGED = 8
REPEATS = 3  # of the timing pass, behind a warm-up


def measure(
    study: Study,
    *,
    records: Path | None = None,
    others: Sequence[str] = OTHERS,
    further: Sequence[str] = FURTHER,
    driven: Sequence[str] = DRIVEN,
    budgets: Sequence[int] = BUDGETS,
    more: Sequence[int] = MORE,
    converged_steps: int = 200,
    judged: int = JUDGED,
    resamples: int = 200,
) -> dict[str, Any]:
    """All plans and the other methods on the held-out images.

    Args:
        study: model, images, plans.
        records: where the records of single images are kept, packed by gzip.
        others: methods at each of `budgets`.
        further: methods at each of `more` too.
        driven: methods that decide by values, at each of `budgets`; left out where no threshold reaches one.
        budgets: evaluations.
        more: further ones, for fewer methods.
        converged_steps: of the second reference, by AB2.
        judged: evaluations of the plan whose images the judge compares; left out where there is no such plan.
        resamples: of the bootstrap.

    Raises:
        FileNotFoundError: no plans in the folder.
        ValueError: a method or a plan that cannot run with these steps.
    """
    fixed = (*_at(others, budgets), *_at(further, more))
    plans = tuple(map(str, study.plan_files()))
    if not plans:
        raise FileNotFoundError(f"no plans in {study.plans}; run `make plans`, or give --plans FOLDER.")
    model, settings = replace(study.model, call=study.settings.call), study.settings
    given: dict[str, Any] = {key: getattr(settings, key) for key in ("steps", "prompts", "seeds", "seed", "batch")}
    spec = Spec.of(
        models=ModelSpec.of(model),
        methods=fixed,
        plans=plans,
        budgets=tuple(budgets),
        converged_steps=converged_steps,
        timing={"repeats": REPEATS},
        flops=False,
        images=False,
        threads=torch.get_num_threads(),
        **given,
    )
    check(spec)  # refuse what cannot run before thresholds are looked for
    found_driven, left = _driven(study, spec, driven, budgets)
    spec = spec.model_copy(update={"methods": (*fixed, *found_driven)})

    found = compare(spec, model, progress=quiet(study.advance), command=study.command or "")
    if records is not None:
        _write(records, found.records)
    data: dict[str, Any] = {
        "rows": summary(found.records),
        "converged_agreement_db": found.records[0]["settings"].get("converged_agreement_db"),
        "left_out": [*left, *found.left_out],
        "notes": list(found.notes),
        "records": records.name if records is not None else None,
    }
    judge, file = study.model.judge, study.plan_file(judged)
    if judge is not None and file.is_file():
        data["adherence"] = adherence(found, study.plan(judged))
        data["frechet"] = frechet(study, judge, study.plan(judged), resamples)
    return data


def _at(specs: Sequence[str], budgets: Sequence[int]) -> Iterator[str]:
    for budget in budgets:
        for spec in specs:
            yield names.with_evaluations(spec, budget)


def _driven(study: Study, spec: Spec, methods: Sequence[str], budgets: Sequence[int]) -> tuple[list[str], list[str]]:
    """Specifications with the thresholds that reach the budgets, and what was left out and why."""
    settings = study.settings
    pairs = spec.calibration_pairs(spec.models[0])
    given: dict[str, Any] = {"pairs": pairs, "steps": settings.steps, "call": settings.call}
    found: list[str] = []
    left: list[str] = []
    for method in methods:
        name, options = names.split(method)
        if threshold_of(name) is None:
            raise ValueError(f"{method}: no threshold to be found; name it among the other methods.")
        for budget in budgets:
            study.advance(f"threshold of {method} for {budget} evaluations")
            try:
                reached = calibrate(study.model.pipe, name, options, budget, **given)
                found.append(names.joined(name, reached))
            except Unreached as error:
                left.append(str(error))
    return list(dict.fromkeys(found)), left


def _write(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    write_whole(path, gzip.compress(lines(records).encode(), compresslevel=9, mtime=0))


def summary(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line per method and budget: fidelity to both references, what the judge says, speed-up."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for record in images(records):
        groups.setdefault((record["method"], record["budget"]), []).append(record)
    return [_line(group) for group in groups.values()]


def _line(group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = group[0]
    judged = [all(record["judge"].values()) for record in group if record.get("judge")]
    return {
        "method": first["method"],
        "kind": first["kind"],
        "budget": first["budget"],
        "evaluations": round(float(np.mean([record["evaluations"] for record in group])), 2),
        "planned_for": first.get("planned_for"),
        "passes": first["kind"] == "plan" and len(set(first["evaluated_steps"])) < len(first["evaluated_steps"]),
        "predicted": first.get("predicted"),
        "default": _fidelity([value(record, "psnr") for record in group]),
        "converged": _fidelity([value(record, "psnr_converged") for record in group]),
        "judge": round(float(np.mean(judged)), 4) if judged else None,
        "speedup": round(float(np.median([record["speedup"] for record in group])), 2),
    }


def _fidelity(psnr: Sequence[float | None]) -> dict[str, Any] | None:
    known = [value for value in psnr if value is not None]
    return fidelity(known) if known else None


def adherence(found: Comparison, plan: Plan) -> dict[str, Any]:
    """The judge on the plan's images and on the 50-step run's, with a paired bootstrap of the difference."""
    right: dict[str, dict[tuple[str, int], bool]] = {"plan": {}, "reference": {}}
    for record in images(found.records):
        is_plan = record.get("planned_for") == "default" and record["evaluated_steps"] == list(plan.steps)
        role = "plan" if is_plan else record["kind"]
        if record.get("judge") and role in right and (is_plan or role == "reference"):
            right[role][record["prompt"], record["seed"]] = all(record["judge"].values())
    keys = list(right["reference"])
    ours, theirs = (np.array([right[role][key] for key in keys], dtype=float) for role in ("plan", "reference"))
    low, high = interval(lambda chosen: float((ours - theirs)[chosen].mean()), [prompt for prompt, _ in keys])
    return {
        "evaluations": plan.evaluations,
        "plan": float(ours.mean()),
        "reference": float(theirs.mean()),
        "difference": float((ours - theirs).mean()),
        "interval": [low, high],
        "images": len(keys),
    }


def frechet(study: Study, judge: Judge | ClipJudge, plan: Plan, resamples: int) -> dict[str, Any]:
    """Frechet distances with the judge's features, next to that between two sets of seeds of the 50-step run.

    A is the held-out images, B the same prompts with the seeds of another run. *same seeds*: the plan's A to the
    50-step run's A; *noise*: the 50-step run's B to its A; *other seeds*: the 50-step run's B to the plan's A, which
    is what *noise* would be if the plan drew the images. The interval is a bootstrap over prompts of the difference
    of the last two.
    """
    settings = study.settings
    others = replace(settings, seed=settings.seed + 1)
    study.advance("images for the judge")
    ours = _features(judge, planned(study.model, settings, plan).images)
    here = _features(judge, drawn_images(study.model, settings))
    there = _features(judge, drawn_images(study.model, others))
    prompts = [str(pair.prompt) for pair in settings.pairs]
    of_prompt = [np.flatnonzero([other == prompt for other in prompts]) for prompt in dict.fromkeys(prompts)]

    def difference(chosen: np.ndarray[Any, Any]) -> float:
        # Both sets are drawn anew from their own images; the plan's images go with their seeds.
        drawn = np.random.default_rng(chosen.tolist()).integers(len(of_prompt), size=len(of_prompt))
        second = np.concatenate([of_prompt[prompt] for prompt in drawn])
        return frechet_distance(there[second], ours[chosen]) - frechet_distance(there[second], here[chosen])

    low, high = interval(difference, prompts, resamples=resamples)
    return {
        "evaluations": len(plan),
        "same_seeds": frechet_distance(ours, here),
        "noise": frechet_distance(there, here),
        "other_seeds": frechet_distance(there, ours),
        "difference_interval": [low, high],
        "images": len(here),
    }


def _features(judge: Judge | ClipJudge, images: Tensor) -> Tensor:
    with torch.no_grad():
        return judge.features(images)
