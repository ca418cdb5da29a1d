"""docs/results/plans.md from the measurements alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research.pages import render
from research.plans.study import TEN
from research.plans.verdicts import Measured, bars, best_by, differences, others, plans

_TITLES = {
    "bars": "Equal evaluations",
    "tails": "The bars on more images",
    "loop": "Wall clock of the denoising loop",
    "cost": "What a plan costs, and few pairs",
    "transfer": "Where it was not made",
    "guidance": "One plan for every guidance scale",
    "retry": "Drawing hard images again",
    "seam": "The plan's steps for published forecasters",
    "ablation": "What each part of the solve is worth",
    "variants": "What else was tried",
    "limit": "The limit of fixed schemes",
}


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
    prepared: dict[str, Any] = dict(found)
    for kind, more in (("bars", _bars), ("cost", _cost), ("transfer", _transfer), ("guidance", _guidance)):
        if kind in found:
            prepared[kind] = {**found[kind], **more(found[kind])}
    return render(
        "plans",
        model=next(iter(models), None),
        bars=bars(found),
        titles=_TITLES,
        found=prepared,
        command=command,
        prompts=list(dict.fromkeys(prompt for data in found.values() for prompt in data["about"]["prompts"])),
        ten=TEN,
        psnr=_psnr,
        triple=_triple,
        gain=lambda data: _triple(data["mean"], data["worst5"], data["worst"], "+.2f"),
    )


def _triple(mean: float, worst5: float, worst: float, form: str = ".1f") -> str:
    return f"{mean:{form}} / {worst5:{form}} / {worst:{form}}"


def _psnr(found: Mapping[str, Any] | None) -> str:
    return _triple(found["mean"], found["worst5"], found["worst"]) if found else "-"


def _bars(data: Mapping[str, Any]) -> dict[str, Any]:
    """Rows in sections of equal evaluations, and the best other rows."""
    full = next(row for row in data["rows"] if row["kind"] == "reference")
    count = (full["converged"] or next(iter(plans(data).values()), full)["default"] or {}).get("images", "?")
    found = sorted((row for row in data["rows"] if row is not full), key=lambda row: -row["default"]["mean"])
    budgets = [row["budget"] for row in found]
    # A method that decides by values may miss its budget; it stands in the nearest section.
    sections = sorted({row["budget"] for row in found if row["kind"] == "plan" or budgets.count(row["budget"]) > 1})
    nearest = {budget: min(sections, key=lambda section: abs(section - budget)) for budget in budgets}
    rivals = others(data, TEN)
    return {
        "full": {"images": count, "converged": full["converged"]},
        "agreement": data.get("converged_agreement_db"),
        "sections": [(at, [row for row in found if nearest[row["budget"]] == at]) for at in sections],
        "best": best_by(rivals, "mean") if rivals else None,
        "best5": best_by(rivals, "worst5") if rivals else None,
        "differences": differences(data),
        "listed": [*data.get("left_out", ()), *data.get("notes", ())],
        "records": data.get("records"),
    }


def _cost(data: Mapping[str, Any]) -> dict[str, Any]:
    return {"best": max(data["others"].items(), key=lambda item: float(item[1]["mean"]), default=None)}


def _transfer(data: Mapping[str, Any]) -> dict[str, Any]:
    specs = list(data["rows"][0]["others"]) if data["rows"] else []
    rows = [{"own_reference": None, **row, "flagged": {"2": None, "3": None, **row["flagged"]}} for row in data["rows"]]
    return {"labels": [f"`{spec}`" for spec in specs], "rows": rows}


def _guidance(data: Mapping[str, Any]) -> dict[str, Any]:
    """Every row with the best of its plain rows by the mean."""
    rows = [
        {**row, "plain": max(row["others"].items(), key=lambda item: float(item[1]["mean"]))} for row in data["rows"]
    ]
    return {"rows": rows}
