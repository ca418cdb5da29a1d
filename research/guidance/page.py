"""The section on guided sampling of docs/results/neighbours.md, from the measurements alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from research.pages import render


def section(found: Mapping[str, Any]) -> str:
    """The section as Markdown."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in found["mixture"]["rows"]:
        groups.setdefault(row["group"], []).append(row)
    return render("neighbours-guidance", **found, groups=groups, checks=list(checks(found)))


def checks(found: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """What was to be found again: a claim, the figures, and whether they bear it out."""
    at = {(row["group"], row["name"]): row["distance"] for row in found["mixture"]["rows"]}

    def rising(group: str, *names: str) -> tuple[str, bool]:
        figures = [at[group, name] for name in names]
        return " < ".join(f"{d:.3f}" for d in figures), all(a < b for a, b in zip(figures, figures[1:], strict=False))

    group, fewer = "Proximal, eta 0", "fewer steps"
    for order in (0, 1, 2):
        name = f"1 in 3, estimate, order {order}"
        yield f"eta 0: order {order} is nearer than fewer steps", *rising(group, name, fewer)
    wrong = "1 in 3, order 1, corrected history"
    yield "eta 0: a corrected history is worse than fewer steps", *rising(group, fewer, wrong)
    group = "Proximal, eta 0.5"
    orders = [f"1 in 3, estimate, order {k}" for k in (0, 1, 2)]
    yield "eta 0.5, estimate forecast: order 0, then 1, then 2, then fewer steps", *rising(group, *orders, fewer)
    yield (
        "eta 0.5, noise forecast: order 2, then 1, then 0",
        *rising(group, *(f"1 in 3, noise, order {k}" for k in (2, 1, 0))),
    )
    yield "eta 0.5: a corrected history is worse than fewer steps", *rising(group, fewer, wrong)
    yield "eta 1: fewer steps are nearer than forecasts", *rising("Proximal, eta 1", fewer, "1 in 3, estimate, order 1")
    group = "DPS, eta 0.5"
    yield (
        "DPS, 1 in 2: identity, forecast, hold, fewer steps, drop",
        *rising(group, *(f"1 in 2, {k}" for k in ("identity", "forecast", "hold")), "fewer steps, 34", "1 in 2, drop"),
    )
    for policy in ("hold", "forecast", "identity"):
        names = (f"1 in 3, {policy}", "fewer steps, 25", "1 in 3, drop")
        yield f"DPS, 1 in 3: {policy}, fewer steps, drop", *rising(group, *names)
    group = "MCG, eta 0.5"
    yield (
        "MCG: all evaluated, forecast, fewer steps, drop",
        *rising(group, "all evaluated", "1 in 3, forecast", fewer, "1 in 3, drop"),
    )
    with_gradient, without = (at["MCG, 100 steps", name] for name in ("scale 1", "projection alone"))
    share = with_gradient / without
    yield "MCG is at most 0.5 of the projection alone", f"{share:.2f}", share <= 0.5
    for kind in ("mask", "super-resolution"):
        reached = {row["name"]: row["psnr"] for row in found["videos"] if row["kind"] == kind}
        for order in (0, 1):
            lost = reached["all evaluated"] - reached[f"13 of 20, order {order}"]
            yield f"SVI, {kind}: 13 of 20 within 0.2 dB, order {order}", f"{lost:+.2f} dB", lost <= 0.2
        ahead = max(reached[f"13 of 20, order {k}"] for k in (0, 1)) - reached["13 steps"]
        yield f"SVI, {kind}: at least 1 dB above 13 steps", f"{ahead:+.2f} dB", ahead >= 1
    rows = {(row["kind"], row["name"]): row for row in found["spiral"]}
    trust = rows["cubic", "Trust, size 0.05, bound 0.7"]
    for scale in ("0.05", "0.1", "0.2"):
        other = rows["cubic", f"DPS, scale {scale}"]
        near, median = trust["distance"] / other["distance"], trust["median"] / other["median"]
        yield (
            f"Trust at most 0.6 of the distance of DPS of scale {scale}, at a median constraint of at most 1.2",
            f"{near:.2f}, {median:.2f}",
            near <= 0.6 and median <= 1.2,
        )
