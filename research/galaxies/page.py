"""docs/results/galaxies.md from the measurements alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from research.pages import render

Row = Mapping[str, Any]
KEYS = ("mean", "worst5")


def page(found: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    surveys = found["surveys"]
    return render(
        "galaxies",
        about=found["about"],
        surveys={name: {**data, "sections": list(sections(data["rows"]))} for name, data in surveys.items()},
        again=[line for name, data in surveys.items() for line in beginning(name, data)],
        summary=[line for name, data in surveys.items() for line in verdicts(name, data["rows"])],
        figure=figure,
    )


def beginning(survey: str, data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The adaptive plan of a survey beside the fixed rows of its budget; nothing where it was not measured."""
    found = data.get("adaptive")
    if found is None:
        return
    best = leader([row for row in data["rows"] if row["budget"] == found["budget"]], "worst5")
    own = found.get("adaptive")
    ahead = own["worst5"] - best["default"]["worst5"] if own else None
    yield {"survey": survey, "adaptive": None, **found, "best": best, "ahead": ahead}


def figure(found: Mapping[str, float]) -> str:
    """Mean and 5 % worst, in dB."""
    return f"{found['mean']:.1f} / {found['worst5']:.1f}"


def sections(rows: Sequence[Row]) -> Iterator[tuple[int, list[Row]]]:
    """The rows by budget, the best mean first."""
    for budget in sorted({row["budget"] for row in rows}):
        yield budget, sorted((row for row in rows if row["budget"] == budget), key=lambda row: -row["default"]["mean"])


def leader(rows: Sequence[Row], key: str) -> Row:
    """The best row by "mean" or by "worst5"."""
    return max(rows, key=lambda row: float(row["default"][key]))


def verdicts(survey: str, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Per budget the plan of the first effort, and by how much it leads the best other row, by mean and 5 % worst.

    One effort for all budgets: the better of several on held-out noise would be a choice by the test itself.
    """
    for budget, some in sections(rows):
        plan = next(row for row in rows if row["kind"] == "plan" and row["budget"] == budget)
        others = {kind: [row for row in some if row["kind"] == kind] for kind in ("sampler", "forecaster")}
        leaders = {kind: {key: leader(rows, key) for key in KEYS} for kind, rows in others.items()}
        ahead = {key: plan["default"][key] - max(of[key]["default"][key] for of in leaders.values()) for key in KEYS}
        yield {"survey": survey, "budget": budget, "plan": plan, "ahead": ahead, **leaders}
