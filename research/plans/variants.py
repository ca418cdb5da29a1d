"""What else was tried at equal evaluations: richer rows, and a choice among step sets per image."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from research.plans.figures import fidelity
from research.plans.richer import (
    Kind,
    Tap,
    bands,
    bends,
    change,
    channels,
    close,
    cosine,
    errors_of,
    frequencies,
    of_tokens,
    tapped,
    turning,
)
from research.plans.study import TEN, Study
from skipcast.grid import Vector
from skipcast.pipelines.recording.replay import PipelineEvaluator
from skipcast.plans.open_loop import OpenLoop, Steps, placed, search
from skipcast.plans.profile import Profile
from skipcast.plans.refine import Split

PLAIN = Kind("plain rows")
KINDS = (
    PLAIN,
    Kind("with the noise x_0 as one more column", noise=True),
    Kind("two bands: mean over tokens, rest", split=bands),
    Kind("three bands: discrete cosines", split=frequencies),
    Kind("two groups of channels", split=channels(2)),
    Kind("four groups of channels", split=channels(4)),
    Kind("gated by the cosine of the newest output differences", gate=cosine),
    Kind("gated by log(1 - cosine)", gate=turning),
    Kind("gated by the log of the newest relative change", gate=change),
    Kind("gated token by token by the log of the newest relative change", gate=of_tokens),
    Kind("gated token by token by the log of the second difference over the first", gate=bends),
    Kind("per guidance branch", branches=True),
    Kind(
        "per guidance branch, gated token by token by the log of the newest relative change",
        gate=of_tokens,
        branches=True,
    ),
)
#: Every kind may choose its own on the validation pairs: more columns need more of it.
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
#: Exponents of the placements besides the searched sets.
POWERS = (1.0, 1.3, 0.8)


def measure(
    study: Study,
    *,
    pairs: int = 64,
    evaluations: int = TEN,
    kinds: Sequence[Kind] = KINDS,
    ridges: Sequence[float] = RIDGES,
    draw: int = 12,
) -> dict[str, Any]:
    """Closed loops with each kind of row on the same steps, and the best of several step sets for every image.

    PSNR here is that of the final sample's error times the image's own decoder gain, as in a plan's prediction.

    Args:
        study: model, images, and the plan whose steps are used.
        pairs: recorded to fit and validate on.
        evaluations: of the plan.
        kinds: of rows; the first is what the others are compared with.
        ridges: among which the validation pairs choose.
        draw: which captions and noise are recorded.
    """
    pipe = study.model.pipe
    study.advance(f"recording {pairs} pairs")
    profile = study.record(pairs, draw)
    study.advance("recording the held-out images")
    held = study.record_held_out()
    runs = _Runs(profile, held, PipelineEvaluator(pipe, profile.origin, pairs), _evaluator(pipe, held))
    file = study.plan_file(evaluations)
    steps = study.plan(evaluations).steps if file.is_file() else runs.sets(evaluations)[0]
    rows, plain = [], None
    for kind in kinds:
        study.advance(kind.name)
        with tapped(pipe) if kind.branches else nullcontext() as tap:
            found = runs.best(kind, steps, ridges, tap)
        plain = found["psnr"] if plain is None else plain
        rows.append(_line(kind.name, found, plain))
    return {
        "evaluations": evaluations,
        "pairs": pairs,
        "steps": list(steps),
        "rows": rows,
        "choice": _choice(study, runs, steps, ridges),
    }


def _evaluator(pipe: Any, held: Profile) -> PipelineEvaluator:
    return PipelineEvaluator(pipe, held.origin, min(len(held), 32))


class _Runs:
    """A fitted recording and a held-out one."""

    def __init__(self, profile: Profile, held: Profile, here: PipelineEvaluator, there: PipelineEvaluator) -> None:
        assert profile.trajectory is not None
        assert held.trajectory is not None
        self.profile, self.held, self.here, self.there = profile, held, here, there
        self.trajectory, self.final = profile.trajectory.float(), held.trajectory[:, -1].float()
        split = Split.of(len(profile))
        self.fit, self.judge = split.fit, split.choose

    def sets(self, evaluations: int) -> list[Steps]:
        """Step sets worth trying: searched ones, then placements."""
        loop = OpenLoop(self.profile.grams.mean(axis=0), self.profile.states)
        even = [placed(evaluations, self.profile.origin.steps, power) for power in POWERS]
        return list(dict.fromkeys([*search(loop, evaluations), *even]))

    def best(self, kind: Kind, steps: Steps, ridges: Sequence[float], tap: Tap | None = None) -> dict[str, Any]:
        """Rows of the ridge that the validation pairs like best, on the held-out images."""
        timesteps, scale = self.profile.timesteps[list(steps)], self.profile.scale[list(steps)]
        tried = []
        for ridge in ridges:
            rows, errors = close(kind, steps, timesteps, scale, self.here, self.trajectory, self.fit, tap, ridge)
            validated = float(_psnr(errors[self.judge], self.profile.gain[self.judge]).mean())
            tried.append((validated, ridge, rows))
        validated, ridge, rows = max(tried, key=lambda found: found[0])
        errors = errors_of(kind, rows, timesteps, scale, self.there, self.final, tap)
        weights = sum(len(row.weights) for row in rows)
        psnr = _psnr(errors, self.held.gain)
        return {"psnr": psnr, "validated": validated, "ridge": ridge, "weights": weights}


def _psnr(errors: Vector, gain: Vector) -> Vector:
    found: Vector = -10 * np.log10(np.maximum(errors * gain, 1e-20))
    return found


def _line(name: str, found: dict[str, Any], plain: Vector) -> dict[str, Any]:
    ours, base = fidelity(found["psnr"]), fidelity(plain)
    return {
        "kind": name,
        "weights": found["weights"],
        "ridge": found["ridge"],
        "validated": found["validated"],
        "held_out": ours,
        "gain": {key: round(ours[key] - base[key], 3) for key in ("mean", "worst5", "worst")},
        "better_on": float(np.mean(found["psnr"] > plain)),
    }


def _choice(study: Study, runs: _Runs, steps: Steps, ridges: Sequence[float]) -> dict[str, Any]:
    """Plain rows on several step sets: the one that the validation pairs choose, and the best for every image."""
    sets = list(dict.fromkeys([steps, *runs.sets(len(steps))]))
    tried = []
    for some in sets:
        study.advance(f"plain rows on {some}")
        tried.append(runs.best(PLAIN, some, ridges))
    table = np.stack([found["psnr"] for found in tried])
    order = sorted(range(len(sets)), key=lambda k: -tried[k]["validated"])
    single = fidelity(table[order[0]])

    def bound(count: int) -> dict[str, Any]:
        reached = fidelity(table[order[:count]].max(axis=0))
        gain = {key: round(reached[key] - single[key], 3) for key in ("mean", "worst5", "worst")}
        return {"sets": count, "held_out": reached, "gain": gain}

    return {
        "sets": [
            {"steps": list(sets[k]), "validated": tried[k]["validated"], "held_out": fidelity(table[k])} for k in order
        ],
        "single": single,
        "oracle": [bound(count) for count in range(2, len(sets) + 1)],
    }
