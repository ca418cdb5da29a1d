"""The section on alignment of docs/results/neighbours.md, from its measurement alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from research.alignment.study import runs
from research.pages import render

_SHARE = 0.75


def section(found: Mapping[str, Any]) -> str:
    """The section as Markdown."""
    names = [run.name for run in runs(found["stop"])]
    at = [{row["name"]: row for row in each["rows"]} for each in found["seeds"]]
    read = [(each["seed"], row) for each in found["seeds"] for row in each["rows"] if row["cosine"]]
    whole = [(seed, row) for seed, row in read if row["cosine"][-1][0] == max(found["at"])]
    return render("neighbours-alignment", **found, names=names, found_at=at, whole=whole, checks=list(checks(found)))


def checks(found: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """What was to be found again, seed by seed: a claim, the figures, and whether they bear it out."""
    none, features, both, features_stopped, both_stopped = (run.name for run in runs(found["stop"]))
    last = str(max(found["at"]))
    later = [str(k) for k in found["at"] if k > found["stop"]]
    for each in found["seeds"]:
        rows = {row["name"]: row for row in each["rows"]}
        distance = {name: row["distance"] for name, row in rows.items()}
        seed = f"seed {each['seed']}"
        shares = [distance[both][k] / distance[none][k] for k in later]
        yield (
            f"{seed}: {both} is at most {_SHARE} of none at {' or '.join(later)}",
            ", ".join(f"{share:.2f}" for share in shares),
            min(shares) <= _SHARE,
        )
        for k in map(str, found["at"]):
            figures = [distance[name][k] for name in (both, features, none)]
            yield (
                f"{seed}, {k}: {both} < {features} < none",
                ", ".join(f"{d:.1f}" for d in figures),
                figures[0] < figures[1] < figures[2],
            )
        kept = {}
        for name, stopped in ((features, features_stopped), (both, both_stopped)):
            a, b = distance[stopped][last], distance[name][last]
            yield f"{seed}, {last}: {name}, stopped so early, is worse than not stopped", f"{a:.1f}, {b:.1f}", a > b
            gain = distance[none][last] - b
            kept[name] = (distance[none][last] - a) / gain if gain > 0 else 0.0
        yield (
            f"{seed}, {last}: stopped, {both} keeps more than half of its gain, {features} less",
            f"{kept[both]:.2f}, {kept[features]:.2f}",
            kept[both] > 0.5 > kept[features],
        )
        calls = [rows[name]["calls"] for name in (features_stopped, both_stopped)]
        yield (
            f"{seed}: the teacher is not called after the stop",
            f"{', '.join(map(str, calls))} calls",
            all(count == found["stop"] for count in calls),
        )
