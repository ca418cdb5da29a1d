"""The plans that ship with the reference model: recorded, solved, judged, written; goes on where it was interrupted.

Run by `make plans`, which is `python -m research.training.ship`.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from research.shapes_flux import DATA
from skipcast.bench.prompts import prompts_to_record
from skipcast.checkpoint import Folder
from skipcast.models.load import Model, load_model
from skipcast.models.shipped import PLAN
from skipcast.pipelines.calls import guided
from skipcast.pipelines.recording.record import record
from skipcast.pipelines.recording.replay import PipelineEvaluator
from skipcast.plans.closed_loop import final_errors
from skipcast.plans.knots import varied_number
from skipcast.plans.plan import Plan, Prediction, Reference, middle
from skipcast.plans.profile import Profile
from skipcast.plans.refine import EFFORTS, Effort

STEPS = 50
BUDGETS = (4, 5, 6, 8, 10, 13, 17, 25)
REFERENCES: tuple[Reference, ...] = ("default", "converged")
#: "high" would take hours on two cores, and so would "normal" at every knot.
EFFORT = replace(EFFORTS["normal"], generations=8)
#: From 10 evaluations on so many pairs of every knot leave fewer than four sweeps; many over few pairs come further.
DEAR, DEAR_EFFORT = 10, replace(EFFORTS["normal"], generations=6, sweep_pairs=5)
#: Of plans of passes, whose second branch may be evaluated at any of the steps: more sets to close. At six evaluations
#: they were no better than whole ones, and at ten behind: twice as many numbers want more sweeps than this affords.
PASSES_EFFORT = replace(EFFORTS["normal"], moves=24, generations=6)
PASSES_BUDGETS = (5,)
SOURCE = DATA / "plans"
#: True CFG scales that every plan has a knot at; the pairs take them in turn.
GUIDANCE = (1.5, 2.0, 3.0, 4.0, 6.0)
#: In all; the numbers of a scale are fitted on half of its own pairs.
PAIRS = 48 * len(GUIDANCE)
#: Further pairs, which judge: a mean over 48 of a scale is known to 0.9 dB, over the 12 of a split to 1.7.
JUDGING = 48 * len(GUIDANCE)
#: Pairs of every scale in the profile that ships: megabytes of what nobody closes the loop on.
KEPT = 16
#: Seeds of the recorded noise; comparisons begin at 1000.
FIRST_SEED = 5000


def recorded(
    model: Model,
    reference: Reference,
    pairs: int,
    work: Path,
    batch: int,
    steps: int = STEPS,
    guidance: Sequence[float] = GUIDANCE,
    first: int = 0,
) -> Profile:
    """The profile of so many pairs from the first on, with its states; from the working folder if it is there already.

    Raises:
        ValueError: a first pair in the middle of the scales.
    """
    if first % len(guidance):
        raise ValueError(f"recorded(first={first}) must be a multiple of the {len(guidance)} scales.")
    name = next(iter(guided(model.pipe, guidance[0])))
    scales = tuple(guidance[pair % len(guidance)] for pair in range(pairs))
    kind = f"{reference}{'' if steps == STEPS else f'-of-{steps}'}{f'-from-{first}' if first else ''}"
    path = work / f"{kind}.profile.safetensors"
    if path.exists():
        profile = Profile.load(path)
        origin = profile.origin
        if (origin.revision, origin.steps, origin.varied.get(name)) == (model.revision, steps, scales):
            return profile
        path.unlink()
    return record(
        model.pipe,
        prompts_to_record(model, first + pairs)[first:],
        seeds=FIRST_SEED + first,
        reference=reference,
        batch=batch,
        path=path,
        revision=model.revision,
        num_inference_steps=steps,
        guidance=guidance,
        **{key: value for key, value in model.call.items() if key != name},
    )


def ship(
    model: Model,
    folder: Path,
    work: Path,
    *,
    budgets: Sequence[int] = BUDGETS,
    passes: Sequence[int] = (),
    references: Sequence[Reference] = REFERENCES,
    pairs: int = PAIRS,
    judging: int = JUDGING,
    batch: int = 48,
    effort: str | Effort | None = None,
    steps: int = STEPS,
    guidance: Sequence[float] = GUIDANCE,
) -> None:
    """Write <reference>-<m>.plan.json and <reference>.profile.safetensors, the latter short and without its states.

    Plans of passes are <reference>-<m>-passes.plan.json. A plan of these weights and scales that lies in the folder
    already is gone on from; one of passes otherwise from that of as many whole evaluations.

    Args:
        model: the reference model.
        folder: where the plans go.
        work: where profiles with states, and the plans solved so far, are kept between runs.
        budgets: evaluations, one plan each.
        passes: evaluations of plans of passes, which are solved for the default reference.
        references: what plans shall reach.
        pairs: recorded to solve on, at all scales together.
        judging: further pairs, by which every plan in the folder is judged in the end; 0 for the solve's own judgement.
        batch: pairs per pipeline call of the recording.
        effort: of closing the loop; None for `EFFORT`, `DEAR_EFFORT` from `DEAR` evaluations on, and `PASSES_EFFORT`.
        steps: of the unaccelerated run.
        guidance: two or more scales, a knot of every plan each.
    """
    marks = Folder(work, {}, "plans", {"done": re.compile(r"(.+)\.piece")}, manifest="plans.json", shared=True)
    with marks.opened() as done:
        for reference in references:
            wanted = [(budget, False) for budget in budgets]
            wanted += [(budget, True) for budget in passes if reference == "default"]
            if wanted:
                profile = recorded(model, reference, pairs, work, batch, steps, guidance)
                kept = profile.subset(range(min(len(profile), KEPT * len(guidance))))
                replace(kept, trajectory=None).save(folder / f"{reference}.profile.safetensors")
                evaluator = PipelineEvaluator(model.pipe, profile.origin, batch=pairs)
            for budget, branches in wanted:
                path = folder / f"{reference}-{budget}{'-passes' if branches else ''}{PLAN}"
                mark = f"{path.name}{'' if steps == STEPS else f'-of-{steps}'}"
                spent = effort or (PASSES_EFFORT if branches else EFFORT if budget < DEAR else DEAR_EFFORT)
                settings = f"{model.revision} {pairs} {spent} {guidance}".encode()
                if path.exists() and done.has("done", mark) and done.read("done", mark) == settings:
                    continue
                started, before = time.perf_counter(), evaluator.evaluations
                beside = [path, folder / f"{reference}-{budget}{PLAN}"] if branches else [path]
                plan = profile.plan(
                    evaluations=budget,
                    refine=evaluator,
                    effort=spent,
                    branches=branches,
                    start=_start(beside, profile, guidance),
                    advance=lambda note, share: print(f"  {share:4.0%}", note),
                )
                plan.save(path)
                done.write("done", mark, settings)
                cost = (evaluator.evaluations - before) / profile.origin.steps
                seconds = time.perf_counter() - started
                print(f"{path.name}: {plan!r}, {cost:.0f} unaccelerated runs, {seconds:.0f} s", flush=True)
            unjudged = [
                path for path in sorted(folder.glob(f"{reference}-*{PLAN}")) if _unjudged(path, judging, guidance)
            ]
            if unjudged:
                others = recorded(model, reference, judging, work, batch, steps, guidance, first=pairs)
                evaluator = PipelineEvaluator(model.pipe, others.origin, batch=judging)
                for path in unjudged:
                    plan = judged(Plan.load(path), others, evaluator)
                    plan.save(path)
                    print(f"{path.name}: {plan!r}, judged by {judging} further pairs", flush=True)


def _unjudged(path: Path, judging: int, guidance: Sequence[float]) -> bool:
    """Whether a plan is predicted by other pairs than so many further ones."""
    found = Plan.load(path).predicted
    return judging > 0 and (found is None or found.pairs != judging // len(guidance))


def judged(plan: Plan, profile: Profile, evaluator: PipelineEvaluator) -> Plan:
    """A plan with knots, predicted by decoded images of pairs that it was not solved on, at every scale by its own.

    Raises:
        ValueError: it was solved on one of them.
    """
    varied = varied_number(profile.origin)
    assert profile.trajectory is not None
    assert varied is not None
    if {*plan.origin.pairs} & {*profile.origin.pairs}:
        raise ValueError(f"judged(plan={plan!r}) was solved on some of these pairs; judge it by others.")
    knots = []
    for value, pairs in varied[1].items():
        table = plan.at(value).table
        errors = final_errors(table, evaluator, profile.trajectory[:, -1].float(), pairs, images=True)
        psnr = -10 * np.log10(np.maximum(errors, 1e-20))
        knot = next(knot for knot in plan.knots if knot.value == value)
        knots.append(replace(knot, predicted=Prediction.of(psnr, held_out=True, closed=True)))
    return replace(plan, knots=tuple(knots), predicted=middle(knots).predicted)


def _start(paths: Sequence[Path], profile: Profile, guidance: Sequence[float]) -> Plan | None:
    """The first plan that is there for the recorded weights and steps, with knots from the least scale to the greatest.

    Its numbers saw no pair that judges here: pairs are divided by their place, whatever their number.
    """
    for path in paths:
        plan = Plan.load(path) if path.exists() else None
        same = plan and (plan.origin.revision, plan.origin.steps) == (profile.origin.revision, profile.origin.steps)
        if (
            plan
            and same
            and plan.knots
            and plan.knots[0].value <= min(guidance) <= max(guidance) <= plan.knots[-1].value
        ):
            return plan
    return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of `make plans`."""
    parser = argparse.ArgumentParser(prog="python -m research.training.ship", description=__doc__)
    parser.add_argument("--model", default="shapes-flux")
    parser.add_argument("--out", type=Path, default=None, help="default: the plans folder of the model")
    parser.add_argument("--work", type=Path, default=Path("build/plans"))
    parser.add_argument("--pairs", type=int, default=PAIRS, help="at all scales together")
    parser.add_argument("--judging", type=int, default=JUDGING, help="further pairs that judge; 0 for none")
    parser.add_argument("--guidance", type=float, nargs="+", default=list(GUIDANCE), help="two or more scales")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--effort", default=None, choices=list(EFFORTS), help="default: the shipped plans' own")
    parser.add_argument("--nfe", type=int, nargs="*", default=list(BUDGETS))
    parser.add_argument("--passes", type=int, nargs="*", default=list(PASSES_BUDGETS), help="evaluations of such plans")
    parser.add_argument("--reference", nargs="+", default=list(REFERENCES), choices=REFERENCES)
    given = parser.parse_args(arguments)
    ship(
        load_model(given.model),
        given.out or SOURCE / given.model,
        given.work,
        budgets=given.nfe,
        passes=given.passes,
        references=given.reference,
        pairs=given.pairs,
        judging=given.judging,
        batch=given.batch,
        effort=given.effort,
        steps=given.steps,
        guidance=tuple(given.guidance),
    )


if __name__ == "__main__":
    main()
