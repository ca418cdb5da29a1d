"""Figures of many images, exactly, and the bars, reached and missed by those that say so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from research.plans.figures import correlation, fidelity, ranks
from research.plans.verdicts import bars


def psnr(mean: float, worst5: float) -> dict[str, float]:
    return {"mean": mean, "worst5": worst5, "worst": worst5 - 1, "images": 8}


def row(kind: str, budget: int, default: Any, converged: float = 0.0, **more: Any) -> dict[str, Any]:
    return {
        "method": f"{kind}:evaluations={budget}", "kind": kind, "budget": budget, "evaluations": budget,
        "planned_for": None, "predicted": None, "default": default, "converged": psnr(converged, converged),
        "judge": 1.0, "speedup": 5.0, **more,
    }  # fmt: skip


def measured(gain: float, worst: float) -> dict[str, Any]:
    predicted = {"planned_for": "default", "predicted": {"psnr": 51.0, "worst5": 40.0, "worst": 39.0}}
    return {
        "rows": [
            row("reference", 50, None, 44.0),
            row("plan", 10, psnr(45 + gain, 36 + worst), **predicted),
            row("plan", 6, psnr(44.9, 30), **predicted),
            row("plan", 10, psnr(40, 30), 45.0, planned_for="converged"),
            row("sampler", 10, psnr(45, 36)),
            row("forecast", 10, psnr(44, 38)),
            row("sampler", 13, psnr(60, 60)),
        ],
    }


def test_gains_are_over_the_best_other_at_ten() -> None:
    found = bars({"bars": measured(10.0, 4.0)})
    mean, worst, stricter, fewer, fewest, converged = found[:6]
    assert (mean.reached, worst.reached, stricter.reached) == (True, True, False)
    assert "55.0 dB against 45.0 dB (`sampler:evaluations=10`): +10.0 dB" in mean.figure
    assert "(`forecast:evaluations=10`): +2.0 dB" in stricter.figure
    assert fewer.reached is False
    assert fewest.reached is None
    assert converged.reached is True
    assert bars({"bars": measured(9.9, 2.9)})[0].reached is False
    assert bars({"bars": measured(9.9, 2.9)})[1].reached is False


def test_plans_of_passes_have_bars_of_their_own() -> None:
    data = measured(8.0, 4.0)
    data["rows"] += [
        row("plan", 10, psnr(56, 40), planned_for="default", passes=True),
        row("plan", 5, psnr(41, 30), planned_for="default", passes=True),
        row("sampler", 5, psnr(35, 30)),
    ]
    found = [bar for bar in bars({"bars": data}) if "as passes" in bar.name]
    assert [bar.reached for bar in found] == [True, True, False, True]
    assert "56.0 dB against 45.0 dB" in found[0].figure
    assert "41.0 dB against 35.0 dB (`sampler:evaluations=5`): +6.0 dB" in found[-1].figure
    assert bars({"bars": data})[0].reached is False  # of whole evaluations


def test_retries_are_held_against_the_best_worst_images() -> None:
    held = {"held_out": psnr(50, 41.5), "again": 13}
    rows = [
        {"first": 10, "factor": 3.0, "evaluations": 10.3, **held},
        {"first": 10, "factor": 3.0, "evaluations": 10.6, **held, "again": 25},
        {"first": 8, "factor": 3.0, "evaluations": 8.5, **held},
    ]
    found = bars({"bars": measured(6.0, 0.0), "retry": {"rows": rows}})
    bar = next(bar for bar in found if bar.source == "retry")
    assert bar.reached is True
    assert "(`forecast:evaluations=10`): +3.5 dB, at 10.3 evaluations" in bar.figure
    assert next(bar for bar in bars({}) if bar.source == "retry").reached is None


def test_beginning_again_is_held_against_other_methods_and_the_plan_alone() -> None:
    row = {"rule": "fitted", "evaluations": 10.4, "held_out": psnr(51, 45.5)}
    rows = [row, {**row, "evaluations": 11.0, "held_out": psnr(60, 60)}, {**row, "rule": "check", "evaluations": 10.1}]
    for alone, reached in ((50, True), (52, False)):
        early = {"first": 10, "alone": psnr(alone, 42), "rows": rows}
        found = bars({"bars": measured(6.0, 0.0), "retry": {"rows": [], "early": early}})
        bar = next(bar for bar in found if "begun again at once" in bar.name)
        assert bar.reached is reached
        assert "45.5 dB against 38.0 dB (`forecast:evaluations=10`): +7.5 dB, at 10.4 evaluations" in bar.figure
    same = {"rows": [], "early": early, "others": {"own": psnr(40, 40.0)}}
    bar = next(bar for bar in bars({"bars": measured(6.0, 0.0), "retry": same}) if "begun again at once" in bar.name)
    assert "against 40.0 dB (`own`): +5.5 dB" in bar.figure  # of the same images, where these were drawn
    assert next(bar for bar in bars({"retry": {"rows": []}}) if "begun again at once" in bar.name).reached is None


def test_predictions_are_held_against_every_plan() -> None:
    bar = next(bar for bar in bars({"bars": measured(6.0, 4.0)}) if bar.name.startswith("predicted"))
    assert bar.reached is False  # six evaluations are predicted 6.1 dB too high
    assert "1 of 2 plans within; the furthest, `plan:evaluations=6`, is predicted +6.1 dB off" in bar.figure
    row = {"method": "plan:default-6", "predicted": {"psnr": 41.0}, "held_out": {"mean": 40.0}}
    more = {"images": 256, "leads": [], "rows": [row, {**row, "predicted": None}]}
    bar = next(bar for bar in bars({"bars": measured(6.0, 4.0), "tails": more}) if bar.name.startswith("predicted"))
    assert (bar.reached, bar.source) == (True, "tails")  # of more images, where these are measured


def test_leads_on_many_images_are_held_against_what_they_are_to_be() -> None:
    lead = {
        "evaluations": 5, "at": 5, "key": "mean", "by": "mean", "plan": "p", "passes": True, "rival": "r", "ours": 39.9,
        "theirs": 33.7, "interval": [5.5, 6.8], "least": 6.0,
    }  # fmt: skip
    found = bars({"tails": {"images": 256, "rows": [], "leads": [lead, {**lead, "ours": 39.6}]}})
    own = [bar for bar in found if bar.name.startswith("on 256 images: mean PSNR of 5 evaluations as passes")]
    assert [bar.reached for bar in own] == [True, False]
    assert own[0].figure == "39.9 dB against 33.7 dB (`r`): +6.2 dB, 95 % interval +5.5 to +6.8"


def test_what_is_not_measured_is_neither() -> None:
    assert {(bar.figure, bar.reached) for bar in bars({})} == {("not measured", None)}


def test_loop_and_cost() -> None:
    loop = {"rows": [{"ratio": 5.0, "batch": 1}, {"ratio": 4.8, "batch": 8}]}
    means = [
        {"pairs": pairs, "generations": 1.4 * pairs, "seconds_outside": 1.0, "mean": mean}
        for pairs, mean in ((2, 49.0), (8, 50.0))
    ]
    found = bars({"loop": loop, "cost": {"means": means, "others": {"ab2": psnr(45, 40)}}})
    assert [bar.reached for bar in found if bar.source == "loop"] == [False]
    whole, few = (bar for bar in found if bar.source == "cost")
    assert (whole.reached, few.reached) == (True, True)
    assert few.figure.startswith("80%")


def test_a_check_must_find_most_failures() -> None:
    line = {"threshold": 3.0, "failures_found": 0.6, "failures_flagged": 0.9, "failures_others": 0.1}
    check = {"failures": 0.2, "promised": 40.0, "images": 10, "thresholds": [line]}

    def reached(**changes: Any) -> bool | None:
        return bars({"transfer": {"check": {**check, "thresholds": [{**line, **changes}]}}})[-1].reached

    assert reached() is True
    assert reached(failures_found=0.4) is False
    assert reached(failures_flagged=0.1) is False
    assert reached(failures_found=None) is None


def test_fidelity_is_mean_worst_twentieth_and_worst() -> None:
    found = fidelity(np.arange(40.0))
    assert found == {"mean": 19.5, "worst5": 0.5, "worst": 0.0, "images": 40, "identical": 0}
    identical = fidelity([30.0, float("inf")])
    assert (identical["mean"], identical["identical"]) == (30, 1)
    with pytest.raises(ValueError, match="at least one image"):
        fidelity([])


def test_ranks_share_ties_and_correlation_is_of_ranks() -> None:
    assert ranks([3.0, 1.0, 3.0]).tolist() == [1.5, 0.0, 1.5]
    assert correlation([1.0, 2.0, 3.0], [1.0, 10.0, 1e6]) == pytest.approx(1)
    assert correlation([1.0, 2.0, 3.0], [3.0, 2.0, -1.0]) == pytest.approx(-1)
    assert correlation([1.0, 1.0], [0.0, 1.0]) is None
