"""The bars: what was to be reached, what was measured, and whether that is enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from research.plans.cost import share_of_gain
from research.plans.study import TEN

Measured = Mapping[str, Mapping[str, Any]]
Line = Mapping[str, Any]

#: dB that plans are to lead by at ten evaluations: in the mean, in the 5 % worst, in these by beginning again.
GAIN, WORST_GAIN, AGAIN_GAIN = 10.0, 3.0, 6.0
#: Evaluations that are to do as well as ten of anything else; and fewest ones, with their lead.
FEWER, FEWEST, FEWEST_GAIN = 6, 5, 6.0
SPEEDUP = 4.9
GENERATIONS, SECONDS, SHARE = 12.0, 60.0, 0.7
PREDICTED = 1.5
LOST = 1.0  # dB that a plan with knots may lose to one solved for the scale alone
BEHIND, TIMES = 0.5, 50.0  # dB that a plan may stay behind the limit, and how many times cheaper it is to be
WARNED = 3.0  # times the largest recorded residual, at which PlanScheduler warns


@dataclass(frozen=True)
class Bar:
    """One bar; `reached` is None where it was not measured.

    Args:
        name: what was to be reached.
        figure: what was measured, in words.
        reached: whether that is enough.
        source: the measurement it comes from.
    """

    name: str
    figure: str
    reached: bool | None
    source: str


def bars(found: Measured) -> list[Bar]:
    """Every bar, measured or not."""
    fidelity, cost = found.get("bars"), found.get("cost")
    return [
        *_fidelity(fidelity),
        *_tails(found.get("tails")),
        _retry(fidelity, found.get("retry")),
        _early(fidelity, found.get("retry")),
        _loop(found.get("loop")),
        *_judge(fidelity),
        _predicted(found.get("tails"), fidelity),
        *_cost(cost),
        _limit(found.get("limit")),
        _guidance(found.get("guidance")),
        _transfer(found.get("transfer")),
    ]


def _bar(name: str, source: str, figure: str | None = None, reached: bool | None = None) -> Bar:
    return Bar(name, "not measured" if figure is None else figure, reached, source)


def plans(data: Line, reference: str = "default", *, passes: bool = False) -> dict[int, Line]:
    """Rows of plans for one reference, of whole evaluations or of passes, by evaluations."""
    rows = (row for row in data["rows"] if row["kind"] == "plan" and row["planned_for"] == reference)
    return {row["budget"]: row for row in rows if row.get("passes", False) == passes}


def others(data: Line, budget: int) -> list[Line]:
    """Rows at a budget that are no plan, the best mean first."""
    rows = [row for row in data["rows"] if row["kind"] not in ("plan", "reference") and row["budget"] == budget]
    return sorted(rows, key=lambda row: -row["default"]["mean"])


def best_by(rows: Sequence[Line], key: str) -> Line:
    """The row with the largest mean, worst5 or worst."""
    return max(rows, key=lambda row: float(row["default"][key]))


def _fidelity(data: Line | None) -> Iterator[Bar]:
    yield from _ahead(data, passes=False)
    if data is not None and plans(data, passes=True):
        yield from _ahead(data, passes=True)
    name = f"{TEN} planned evaluations closer to the converged run than the 50-step default"
    full = next((row for row in (data or {"rows": ()})["rows"] if row["kind"] == "reference"), None)
    converged = plans(data, "converged").get(TEN) if data else None
    if full and converged and full["converged"] and converged["converged"]:
        own, beaten = converged["converged"]["mean"], full["converged"]["mean"]
        yield _bar(name, "bars", f"{own:.1f} dB against {beaten:.1f} dB", own > beaten)
    else:
        yield _bar(name, "bars")


def _tails(data: Line | None) -> Iterator[Bar]:
    """The same bars on more images."""
    if data is None:
        yield _bar("the bars on more images", "tails")
        return
    for lead in data["leads"]:
        what = "mean PSNR" if lead["key"] == "mean" else "the 5 % worst"
        whose = "" if lead["by"] == "mean" else ", best by its 5 % worst"
        passes = " as passes" if lead["passes"] else ""
        name = (
            f"on {data['images']} images: {what} of {lead['evaluations']} evaluations{passes} at least "
            f"{lead['least']:g} dB above the best other method at {lead['at']}{whose}"
        )
        ahead, (low, high) = lead["ours"] - lead["theirs"], lead["interval"]
        figure = (
            f"{lead['ours']:.1f} dB against {lead['theirs']:.1f} dB (`{lead['rival']}`): {ahead:+.1f} dB, "
            f"95 % interval {low:+.1f} to {high:+.1f}"
        )
        yield _bar(name, "tails", figure, ahead >= lead["least"])


def _ahead(data: Line | None, *, passes: bool) -> Iterator[Bar]:
    """Whether plans, of whole evaluations or of passes, are far enough ahead of everything else."""
    kind = ", as passes of single guidance branches" if passes else ""
    for budget, key, least, by in (
        (TEN, "mean", GAIN, "mean"),
        (TEN, "worst5", WORST_GAIN, "mean"),
        (TEN, "worst5", WORST_GAIN, "worst5"),
        (FEWER, "mean", 0.0, "mean"),
        (FEWEST, "mean", FEWEST_GAIN, "mean"),
    ):
        at = TEN if budget == FEWER else budget
        rivals = others(data, at) if data else []
        what = "mean PSNR" if key == "mean" else "the 5 % worst images"
        whose = "the best other method" if by == "mean" else "whichever other method has the best 5 % worst (stricter)"
        name = f"{budget} evaluations{kind}: {what} at least {least:g} dB above {whose} at {at}"
        if budget == FEWER:
            name = f"{budget} planned evaluations{kind} at least as faithful as anything else with {at}"
        own = plans(data, passes=passes).get(budget) if data else None
        if own is None or not rivals:
            if not passes:  # of which some budgets alone ship
                yield _bar(name, "bars")
            continue
        other = best_by(rivals, by)
        ours, theirs = own["default"][key], other["default"][key]
        text = f"{ours:.1f} dB against {theirs:.1f} dB (`{other['method']}`): {ours - theirs:+.1f} dB"
        if key == "worst5":
            text += f"; single worst image {own['default']['worst']:.1f} against {other['default']['worst']:.1f}"
        yield _bar(name, "bars", text, ours - theirs >= least)


def _rival(data: Line | None, again: Line | None) -> tuple[str, Line] | None:
    """The other method with the best 5 % worst at ten: of the same images, where the measurement drew them."""
    found = (again or {}).get("others") or {
        row["method"]: row["default"] for row in (others(data, TEN) if data else [])
    }
    return max(found.items(), key=lambda item: float(item[1]["worst5"]), default=None)


def _retry(data: Line | None, again: Line | None) -> Bar:
    name = (
        f"beyond the bars: {TEN} evaluations, what the check doubts drawn again by a dearer plan: the 5 % worst "
        f"images at least {WORST_GAIN:g} dB above those of any other method at {TEN}"
    )
    rival = _rival(data, again)
    rows = [row for row in again["rows"] if row["first"] == TEN and row["factor"] == WARNED] if again else []
    if rival is None or not rows:
        return _bar(name, "retry")
    row = min(rows, key=lambda row: float(row["evaluations"]))
    own, (method, beaten) = row["held_out"], rival
    gain = own["worst5"] - beaten["worst5"]
    text = (
        f"{own['worst5']:.1f} dB against {beaten['worst5']:.1f} dB (`{method}`): {gain:+.1f} dB, "
        f"at {row['evaluations']:.1f} evaluations on average; single worst image {own['worst']:.1f} against "
        f"{beaten['worst']:.1f}"
    )
    return _bar(name, "retry", text, gain >= WORST_GAIN)


def _early(data: Line | None, again: Line | None) -> Bar:
    """The best 5 % worst of a fitted rule at no more than so many evaluations, to the nearest whole."""
    name = (
        f"beyond the bars: {TEN} evaluations, and begun again at once where a fitted rule doubts: the 5 % worst images "
        f"at least {AGAIN_GAIN:g} dB above those of any other method at {TEN}, the mean not below the plan's alone"
    )
    rival, early = _rival(data, again), (again or {}).get("early")
    rows = [
        row
        for row in (early["rows"] if early and early["first"] == TEN else [])
        if row["rule"] == "fitted" and round(row["evaluations"]) <= TEN
    ]
    if rival is None or not rows or early is None:
        return _bar(name, "retry")
    row, alone, (method, beaten) = max(rows, key=lambda row: float(row["held_out"]["worst5"])), early["alone"], rival
    gain = row["held_out"]["worst5"] - beaten["worst5"]
    text = (
        f"{row['held_out']['worst5']:.1f} dB against {beaten['worst5']:.1f} dB (`{method}`): {gain:+.1f} dB, at "
        f"{row['evaluations']:.1f} evaluations on average; the plan alone {alone['worst5']:.1f} dB; mean "
        f"{row['held_out']['mean']:.1f} against {alone['mean']:.1f}"
    )
    return _bar(name, "retry", text, gain >= AGAIN_GAIN and row["held_out"]["mean"] >= alone["mean"])


def _loop(data: Line | None) -> Bar:
    name = f"the denoising loop at {TEN} evaluations at least {SPEEDUP:g} times shorter than at 50"
    if data is None:
        return _bar(name, "loop")
    figure = ", ".join(f"{row['ratio']:.2f} at batch {row['batch']}" for row in data["rows"])
    return _bar(name, "loop", figure, all(row["ratio"] >= SPEEDUP for row in data["rows"]))


def _judge(data: Line | None) -> Iterator[Bar]:
    adherence, frechet = (data or {}).get("adherence"), (data or {}).get("frechet")
    name = "judge accuracy at 8 evaluations within noise of the 50-step run"
    if adherence:
        low, high = adherence["interval"]
        figure = (
            f"{adherence['plan']:.1%} against {adherence['reference']:.1%}; difference "
            f"{adherence['difference']:+.1%}, 95 % interval {low:+.1%} to {high:+.1%}"
        )
        yield _bar(name, "bars", figure, high >= 0)
    else:
        yield _bar(name, "bars")
    name = "Frechet distance at 8 evaluations within noise of the 50-step run"
    if frechet:
        low, high = frechet["difference_interval"]
        figure = (
            f"{frechet['same_seeds']:.3g} to the 50-step run of the same seeds, where two sets of seeds of the 50-step "
            f"run are {frechet['noise']:.3g} apart; with the plan's images as one of the sets "
            f"{frechet['other_seeds']:.3g} (95 % interval of the difference {low:+.2g} to {high:+.2g})"
        )
        yield _bar(name, "bars", figure, frechet["same_seeds"] <= frechet["noise"] and low <= 0)
    else:
        yield _bar(name, "bars")


def differences(data: Line) -> list[tuple[Line, str, float, float | None]]:
    """(row, reference, predicted mean - held-out mean, the same of the 5 % worst) of every plan."""
    found = []
    for row in data["rows"]:
        if row["kind"] != "plan" or not row["predicted"]:
            continue
        reached = row[row["planned_for"]]
        if reached:
            predicted = row["predicted"]
            apart = predicted["psnr"] - reached["mean"], predicted["worst5"] - reached["worst5"]
            found.append((row, row["planned_for"], *apart))
    return found


def _predicted(more: Line | None, data: Line | None) -> Bar:
    """Of the default plans on many images; where these are not measured, of all plans on few."""
    name = f"predicted against held-out PSNR of the refined plans within {PREDICTED:g} dB (mean)"
    if more is not None:
        found = [
            (row["method"], row["predicted"]["psnr"] - row["held_out"]["mean"])
            for row in more["rows"]
            if row["predicted"]
        ]
    else:
        found = [(row["method"], apart) for row, _, apart, _ in (differences(data) if data else [])]
    source = "bars" if more is None else "tails"
    if not found:
        return _bar(name, source)
    method, apart = max(found, key=lambda item: abs(item[1]))
    within = sum(abs(each) <= PREDICTED for _, each in found)
    figure = f"{within} of {len(found)} plans within; the furthest, `{method}`, is predicted {apart:+.1f} dB off"
    return _bar(name, source, figure, within == len(found))


def _cost(data: Line | None) -> Iterator[Bar]:
    name = (
        f"8 pairs recorded, solved and refined for one budget: at most {GENERATIONS:g} unaccelerated generations and "
        f"{SECONDS:g} s of solving"
    )
    few = f"2 pairs give at least {SHARE:.0%} of the gain of 8"
    means = {row["pairs"]: row for row in data["means"]} if data else {}
    if 8 in means:
        row = means[8]
        figure = f"{row['generations']:.1f} generations, {row['seconds_outside']:.1f} s outside the network"
        yield _bar(name, "cost", figure, row["generations"] <= GENERATIONS and row["seconds_outside"] <= SECONDS)
    else:
        yield _bar(name, "cost")
    share = share_of_gain(dict(data)) if data else None
    if share is None:
        yield _bar(few, "cost")
    else:
        yield _bar(few, "cost", f"{share:.0%}: {means[2]['mean']:.1f} dB against {means[8]['mean']:.1f} dB",
                   share >= SHARE)  # fmt: skip


def _limit(data: Line | None) -> Bar:
    name = (
        f"at most {BEHIND:g} dB (mean) behind the best fixed scheme that gradients through the network find from the "
        f"same pairs, at a {TIMES:g}th of its cost or less"
    )
    if data is None:
        return _bar(name, "limit")
    gaps = {row["budget"]: row["plan"]["held_out"]["mean"] - row["limit"]["held_out"]["mean"] for row in data["rows"]}
    times = [row["limit"]["generations"] / row["plan"]["generations"] for row in data["rows"]]
    worst = min(gaps, key=lambda budget: gaps[budget])
    figure = f"at the worst of {len(gaps)} budgets, {worst}: {gaps[worst]:+.2f} dB"
    figure += f"; the limit cost {min(times):.1f} to {max(times):.1f} times as much"
    return _bar(name, "limit", figure, gaps[worst] >= -BEHIND and min(times) >= TIMES)


def _guidance(data: Line | None) -> Bar:
    name = f"one plan for every guidance scale loses at most {LOST:g} dB to a plan solved for that scale alone"
    if data is None:
        return _bar(name, "guidance")
    gains = {row["guidance"]: row["knots"]["mean"] - row["alone"]["mean"] for row in data["rows"]}
    worst = min(gains, key=lambda scale: gains[scale])
    figure = f"at the worst of {len(gains)} scales, {worst:g}: {gains[worst]:+.1f} dB"
    return _bar(name, "guidance", figure, gains[worst] >= -LOST)


def _transfer(data: Line | None) -> Bar:
    """Reached if most failures are flagged at the factor of the warning, and flagged images fail more often."""
    name = "where a plan should not be trusted, a cheap run-time check says so"
    row = next((row for row in data["check"]["thresholds"] if row["threshold"] == WARNED), None) if data else None
    if data is None or row is None or data["check"]["failures"] is None:
        return _bar(name, "transfer")
    check, found = data["check"], row["failures_found"]
    figure = (
        f"{check['failures']:.1%} of {check['images']} images under all conditions fall below the 5 % worst that "
        f"the plan predicts ({check['promised']:.1f} dB)"
    )
    if found is None:
        return _bar(name, "transfer", figure)
    flagged = row["failures_flagged"]
    figure += f"; {found:.0%} of them depart more than {WARNED:g} times further than any recorded pair"
    if flagged is not None:
        figure += f"; {flagged:.0%} of the images that do so fail, {row['failures_others'] or 0:.1%} of the others"
    return _bar(name, "transfer", figure, found >= 0.5 and (flagged or 0) > (row["failures_others"] or 0))
