"""docs/results/plans.md from the measurements alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from research.plans.asked import TEN
from research.plans.store import KINDS
from research.plans.verdicts import Measured, bars, best_by, differences, others, plans

Data = Mapping[str, Any]
_MISSING = "Not measured."
_INTRODUCTION = """\
What plans reach on held-out pictures: prompts that no plan was recorded on, half of the drawn ones asking for a shape
and a colour that training never shows together, and noise that no plan was recorded on. PSNR is in dB, in the form
**mean / mean of the 5 % worst pictures / worst picture**. How plans work is in [plans.md](../plans.md)."""


def page(found: Measured, command: str) -> str:
    """The page as Markdown.

    Args:
        found: measurements by kind, as `store.read` gives them; a missing one is said to be missing.
        command: that makes this page.

    Raises:
        ValueError: the measurements are of several models.
    """
    models = dict.fromkeys(f"{data['about']['model']} ({data['about']['revision']})" for data in found.values())
    if len(models) > 1:
        raise ValueError(f"measurements must be of one model and one revision, got {', '.join(models)}.")
    parts = [f"# What plans reach{': ' + next(iter(models)) if models else ''}", _INTRODUCTION, "## The bars"]
    parts.append(
        _table(
            ("bar", "measured", "reached", "by"),
            ((bar.name, bar.figure, _yes(bar.reached), f"`{bar.source}`") for bar in bars(found)),
        )
    )
    for kind in KINDS:
        title, section = _SECTIONS[kind]
        parts.append(f"## {title}")
        if kind in found:
            parts += [f"`{found[kind]['about']['command']}`", *section(found[kind])]
        else:
            parts.append(_MISSING)
    parts += ["## Where the numbers come from", *_provenance(found, command)]
    return "\n\n".join(parts) + "\n"


def _yes(reached: bool | None) -> str:
    return "-" if reached is None else "yes" if reached else "**no**"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _psnr(found: Data | None) -> str:
    return f"{found['mean']:.1f} / {found['worst5']:.1f} / {found['worst']:.1f}" if found else "-"


def _gain(found: Data) -> str:
    return f"{found['mean']:+.2f} / {found['worst5']:+.2f} / {found['worst']:+.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _steps(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps))


def _bars(data: Data) -> Iterator[str]:
    full = next(row for row in data["rows"] if row["kind"] == "reference")
    count = (full["converged"] or next(iter(plans(data).values()), full)["default"] or {}).get("pictures", "?")
    agreement = data.get("converged_agreement_db")
    yield (
        f"{count} pictures a row. To the converged run, the 50-step run itself has {_psnr(full['converged'])} dB"
        + ("." if agreement is None else f"; with half its steps the converged run has {agreement} dB to itself.")
    )
    found = [row for row in data["rows"] if row["kind"] != "reference"]
    held = [row["budget"] for row in found]
    # A method that decides by values may miss the budget that it was asked for; it stands beside the nearest.
    sections = sorted({row["budget"] for row in found if row["kind"] == "plan" or held.count(row["budget"]) > 1})
    for budget in sections:
        rows = [row for row in found if sections[int(np.abs(np.array(sections) - row["budget"]).argmin())] == budget]
        rows.sort(key=lambda row: -row["default"]["mean"])
        yield f"### {budget} evaluations"
        yield _table(
            ("method", "evaluations", "to the 50-step run", "to the converged run", "judge", "speed-up"),
            (
                (
                    f"**`{row['method']}`**" if row["kind"] == "plan" else f"`{row['method']}`",
                    f"{row['evaluations']:g}",
                    _psnr(row["default"]),
                    _psnr(row["converged"]),
                    _share(row["judge"]),
                    f"{row['speedup']:.1f}x",
                )
                for row in rows
            ),
        )
    if others(data, TEN):
        best, best5 = (best_by(others(data, TEN), key) for key in ("mean", "worst5"))
        yield (
            f"At {TEN} evaluations the best other method by the mean is `{best['method']}` ({_psnr(best['default'])}), "
            f"by its 5 % worst pictures `{best5['method']}` ({_psnr(best5['default'])})."
        )
    yield "### Predicted and held out"
    yield _table(
        ("evaluations", "reference", "predicted", "held out", "difference of means", "of the 5 % worst"),
        (
            (
                str(row["budget"]),
                reference,
                f"{row['predicted']['psnr']:.1f} / {row['predicted']['worst5']:.1f} / {row['predicted']['worst']:.1f}",
                _psnr(row[reference]),
                f"{mean:+.1f}",
                _number(worst5, "+.1f"),
            )
            for row, reference, mean, worst5 in differences(data)
        ),
    )
    listed = [*data.get("left_out", ()), *data.get("notes", ())]
    if listed:
        yield "\n".join(f"- {line}" for line in listed)
    if data.get("records"):
        yield f"Records of single pictures: `plans/{data['records']}`."


def _loop(data: Data) -> Iterator[str]:
    yield (
        f"From the first call of the network to the last step of the scheduler, {data['steps']} steps and "
        f"{data['evaluations']} planned evaluations in turn, {data['threads']} threads; the ratio of every round, its "
        "median and its range."
    )
    yield _table(
        ("batch", "unaccelerated", "plan", "ratio", "quartiles", "least to most", "of the fastest"),
        (
            (
                str(row["batch"]),
                f"{row['full_seconds']:.3f} s",
                f"{row['plan_seconds']:.3f} s",
                f"{row['ratio']:.2f}",
                f"{row['quartiles'][0]:.2f} to {row['quartiles'][1]:.2f}",
                f"{row['least']:.2f} to {row['most']:.2f}",
                f"{row['ratio_of_fastest']:.2f}",
            )
            for row in data["rows"]
        ),
    )


def _cost(data: Data) -> Iterator[str]:
    best = max(data["others"].items(), key=lambda item: float(item[1]["mean"]), default=None)
    yield (
        f"{data['evaluations']} evaluations, effort {data['effort']}, from nothing. Network evaluations are counted in "
        "unaccelerated generations of one picture."
        + (f" The best other row is `{best[0]}`: {_psnr(best[1])}." if best else "")
    )
    yield _table(
        ("pairs", "draws", "recording", "solving", "together", "seconds outside the network", "held out (means)"),
        (
            (
                str(row["pairs"]),
                str(row["draws"]),
                f"{row['recording']:.1f}",
                f"{row['solving']:.1f}",
                f"{row['generations']:.1f}",
                f"{row['seconds_outside']:.1f}",
                _psnr(row),
            )
            for row in data["means"]
        ),
    )
    single = "; ".join(f"{row['pairs']} pairs: {_psnr(row['held_out'])}" for row in data["rows"])
    yield f"Single draws: {single}."


def _transfer(data: Data) -> Iterator[str]:
    yield (
        f"The plan of {data['evaluations']} evaluations, not fitted anew, against the unaccelerated run under the same "
        "condition. *flagged*: the share of pictures that `PlanScheduler.trusted` warns of, at 2 and at 3 times the "
        "largest recorded residual."
    )
    beside = list(data["rows"][0]["others"]) if data["rows"] else []
    yield _table(
        ("condition", "plan", *(f"`{spec}`" for spec in beside), "flagged at 2", "at 3"),
        (
            (
                row["condition"]
                + (f" (the plan's own reference: {_psnr(row['own_reference'])})" if row.get("own_reference") else ""),
                _psnr(row["plan"]),
                *(_psnr(row["others"][spec]) for spec in beside),
                _share(row["flagged"].get("2")),
                _share(row["flagged"].get("3")),
            )
            for row in data["rows"]
        ),
    )
    check = data["check"]
    yield "### What the run-time check tells"
    yield (
        "A picture's *departure* is its largest residual over the largest recorded one. Over the "
        f"{check['pictures']} pictures of the table that are compared with a run of the plan's own steps, its rank "
        f"correlation is {_number(check['correlation_with_psnr'], '+.2f')} with the plan's PSNR and "
        f"{_number(check['correlation_with_gain'], '+.2f')} with its gain over the better one of the plain rows. A "
        "*failure* is a picture below the mean of the 5 % worst that the plan predicts of itself "
        f"({_number(check['promised'], '.1f')} dB): {_share(check['failures'])} of all; a *loss* one on which a plain "
        f"row is closer: {_share(check['losses'])}."
    )
    yield _table(
        (
            "departure above",
            "share flagged",
            "plan's PSNR: flagged / not",
            "gain: flagged / not",
            "failures: flagged / not",
            "failures found",
            "losses: flagged / not",
            "losses found",
        ),
        (
            (
                f"{row['threshold']:g}",
                _share(row["flagged"]),
                f"{_number(row['psnr_flagged'], '.1f')} / {_number(row['psnr_others'], '.1f')}",
                f"{_number(row['gain_flagged'], '+.1f')} / {_number(row['gain_others'], '+.1f')}",
                f"{_share(row['failures_flagged'])} / {_share(row['failures_others'])}",
                _share(row["failures_found"]),
                f"{_share(row['losses_flagged'])} / {_share(row['losses_others'])}",
                _share(row["losses_found"]),
            )
            for row in check["thresholds"]
        ),
    )
    if data["resolved"]:
        yield "### Other budgets from the same profile, open loop"
        yield "No network evaluation: the shipped profile holds Gram matrices alone."
        yield _table(
            ("evaluations", "plan", "predicted", "`ab2`"),
            (
                (str(row["evaluations"]), _psnr(row["plan"]), f"{row['predicted']:.1f}", _psnr(row["ab2"]))
                for row in data["resolved"]
            ),
        )

    several = data.get("scales")
    if several:
        listed = ", ".join(f"{scale:g}" for scale in several["fitted_on"])
        yield "### One plan for several guidance scales"
        yield (
            f"{data['evaluations']} evaluations, {several['pairs']} pairs, low effort: fitted on the usual scale "
            f"alone, and on {listed} at once."
        )
        yield _table(
            ("guidance", "fitted on one", "fitted on several"),
            ((f"{row['guidance']:g}", _psnr(row["one"]), _psnr(row["several"])) for row in several["rows"]),
        )


def _retry(data: Data) -> Iterator[str]:
    yield (
        "A plan draws every picture, and a dearer one draws again those that the first plan's own run-time check does "
        "not trust, at 2 or 3 times the largest recorded residual. *evaluations*: the mean over all pictures, both "
        "plans counted."
    )
    yield _table(
        ("first", "flagged at", "drawn again by", "share", "evaluations", "held out"),
        (
            (
                str(row["first"]),
                _number(row["factor"], "g"),
                str(row["again"] or "-"),
                _share(row["flagged"]),
                f"{row['evaluations']:.2f}",
                _psnr(row["held_out"]),
            )
            for row in data["rows"]
        ),
    )
    alone = "; ".join(f"{count} evaluations {_psnr(found)}" for count, found in data["alone"].items())
    yield f"The dearer plans on all pictures: {alone}."


def _seam(data: Data) -> Iterator[str]:
    yield (
        f"{data['evaluations']} evaluations: where the method's own rule places them, evenly, and on the plan's steps "
        f"({_steps(data['steps'])}). The plan itself: {_psnr(data['plan'])}."
    )
    yield _table(
        ("method", "own", "even", "the plan's steps", "gain over own"),
        (
            (
                f"`{row['method']}`",
                _psnr(row["own"]),
                _psnr(row["even"]),
                _psnr(row["plan"]),
                f"{row['plan']['mean'] - row['own']['mean']:+.1f}",
            )
            for row in data["rows"]
        ),
    )


def _ablation(data: Data) -> Iterator[str]:
    yield f"{data['evaluations']} evaluations, one recording of {data['pairs']} pairs; *cost* in generations per plan."
    yield _table(
        ("solve", "held out", "predicted", "cost", "steps"),
        (
            (
                row["stage"],
                _psnr(row["held_out"]),
                f"{row['predicted']:.1f}",
                f"{row['generations']:.0f}",
                _steps(row["steps"]),
            )
            for row in data["rows"]
        ),
    )


def _variants(data: Data) -> Iterator[str]:
    yield (
        f"{data['evaluations']} evaluations at the steps {_steps(data['steps'])}, {data['pairs']} pairs; closed loop, "
        "no joint sweep, the ridge chosen on validation pairs for every kind. PSNR from the error of the final sample. "
        "*gain*: over plain rows; *better on*: share of the pictures."
    )
    yield _table(
        ("rows", "weights", "ridge", "held out", "gain", "better on"),
        (
            (
                row["kind"],
                str(row["weights"]),
                f"{row['ridge']:g}",
                _psnr(row["held_out"]),
                _gain(row["gain"]),
                _share(row["better_on"]),
            )
            for row in data["rows"]
        ),
    )
    choice = data["choice"]
    yield "### Choosing among step sets for every picture"
    yield (
        "Plain rows on several step sets, in the order in which the validation pairs like them. The oracle takes for "
        "every picture the set that is best there, which no rule can know: it bounds any choice per sample. The one "
        f"chosen set: {_psnr(choice['single'])}."
    )
    yield _table(
        ("steps", "held out"),
        ((_steps(row["steps"]), _psnr(row["held_out"])) for row in choice["sets"]),
    )
    yield _table(
        ("oracle over the first", "held out", "gain"),
        ((str(row["sets"]), _psnr(row["held_out"]), _gain(row["gain"])) for row in choice["oracle"]),
    )


_SECTIONS: dict[str, tuple[str, Callable[[Data], Iterator[str]]]] = {
    "bars": ("Equal evaluations", _bars),
    "loop": ("Wall clock of the denoising loop", _loop),
    "cost": ("What a plan costs, and few pairs", _cost),
    "transfer": ("Where it was not made", _transfer),
    "retry": ("Drawing hard pictures again", _retry),
    "seam": ("The plan's steps for published forecasters", _seam),
    "ablation": ("What each part of the solve is worth", _ablation),
    "variants": ("What else was tried", _variants),
}


def _provenance(found: Measured, command: str) -> Iterator[str]:
    lines = [f"- this page: `{command}`"]
    for kind, data in found.items():
        told = data["about"]
        versions = ", ".join(f"{name} {number}" for name, number in told["versions"].items())
        settings = told["settings"]
        held = (
            f"{len(told['prompts'])} prompts, {settings['seeds']} seeds from {settings['first_seed']}, "
            f"batch {settings['batch']}"
        )
        lines.append(
            f"- {kind}: {told['date']}, commit {told['commit']}, {told['hardware']}, {versions}; {held}; "
            f"{data['seconds'] / 60:.0f} minutes"
        )
    yield "\n".join(lines)
    prompts = dict.fromkeys(prompt for data in found.values() for prompt in data["about"]["prompts"])
    if prompts:
        yield "The held-out prompts:"
        yield "\n".join(f"{number}. {prompt}" for number, prompt in enumerate(prompts, start=1))
