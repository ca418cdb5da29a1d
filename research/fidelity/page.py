"""The table of fidelity as text and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import diffusers

from research.cost.rows import CACHE_DIT
from research.fidelity.calibrators import Calibrated
from research.fidelity.hooks import Beside
from research.fidelity.rows import Compared
from research.fidelity.sequences import SEEDS
from research.pages import render
from skipcast.targets import (
    AlternatingReuse,
    CarriedDrift,
    GlobalDrift,
    LastHidden,
    ModuleOutputs,
    Output,
    OutputDrift,
    SpanDrift,
    StagedSpans,
    Target,
    VerifiedModules,
)

COMMAND = "python -m research.fidelity --out docs/results/fidelity.md"
#: Largest difference that counts as equal.
EQUAL = 1e-10
#: What was compared, by the target.
_SEAMS: dict[type[Target], str] = {
    Output: "output",
    OutputDrift: "output less input",
    GlobalDrift: "residual of the blocks",
    CarriedDrift: "residual of the blocks, and a share of the input's move",
    LastHidden: "last hidden feature",
    SpanDrift: "residual of a span",
    AlternatingReuse: "residual of a span",
    StagedSpans: "residual of a span",
    ModuleOutputs: "one module",
    VerifiedModules: "one module",
}
_GRIDS = ("FLUX.1, 50 steps, shift 3", "FLUX.1, 28 steps, mu 1.15", "Wan, 30 steps, shift 5")


def agrees(found: Compared) -> bool:
    """Whether a row has a transcription and is the same."""
    return found.difference is not None and found.difference <= EQUAL and found.steps


def number(value: float | None) -> str:
    """A difference, to one digit."""
    if value is None:
        return ""
    return f"{value:.0e}" if value else "0"


def page(rows: Sequence[Compared], peers: Sequence[Beside], calibrators: Sequence[Calibrated]) -> str:
    """The page as Markdown; without calibrators it says that cache-dit was not installed."""
    return render(
        "fidelity",
        rows=[_row(found) for found in rows],
        equal=sum(map(agrees, rows)),
        peers=[_peer(found) for found in peers],
        calibrators=[_calibrated(found) for found in calibrators],
        cache_dit=version("cache-dit") if calibrators else "",
        missing=CACHE_DIT,
        grids=_GRIDS,
        seeds=len(SEEDS),
        diffusers=diffusers.__version__,
        command=COMMAND,
    )


def _row(found: Compared) -> dict[str, Any]:
    row, (fewest, most) = found.row, found.evaluations
    counts = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    steps = f"{'same' if found.steps else 'others'}, {counts}"
    return {
        "spec": row.spec,
        "family": row.family or "-",
        "compared": _compared(found),
        "difference": number(found.difference),
        "steps": "-" if found.difference is None else steps,
        "source": row.source,
        "differs": row.differs,
    }


def _compared(found: Compared) -> str:
    if found.difference is None:
        return f"nothing: {found.row.note}"
    seam = _SEAMS[type(found.row.made(len(found.row.grids[0])).target)]
    return f"{seam}; {found.row.note}" if found.row.note else seam


def _peer(found: Beside) -> dict[str, Any]:
    peer = found.peer
    return {
        "name": peer.name,
        "method": peer.told or peer.method,
        "model": f"{peer.model}, {peer.steps} steps",
        "difference": number(found.difference),
        "moved": number(found.moved),
        "theirs": " ".join(map(str, found.theirs)),
        "ours": "the same" if found.ours == found.theirs else " ".join(map(str, found.ours)),
        "why": peer.why,
    }


def _calibrated(found: Calibrated) -> dict[str, Any]:
    calibrator = found.calibrator
    return {
        "name": calibrator.name,
        "method": calibrator.told or calibrator.method,
        "difference": number(found.difference),
        "why": calibrator.why,
    }


def table(rows: Sequence[Compared], peers: Sequence[Beside], calibrators: Sequence[Calibrated]) -> str:
    """The figures alone, for a terminal."""
    lines = []
    for found in rows:
        row = _row(found)
        spec = row["spec"] + ("" if row["family"] == "-" else f" [{row['family']}]")
        lines.append(f"{spec:48} {row['difference'] or '-':>6}  {row['steps']:18} {row['source']}")
    lines.append("")
    for beside in peers:
        row = _peer(beside)
        same = "same steps" if beside.ours == beside.theirs else "other steps"
        lines.append(f"diffusers: {row['name']:64} {row['difference']:>6}  {same}")
    lines += [f"cache-dit: {row['name']:64} {row['difference']:>6}" for row in map(_calibrated, calibrators)]
    return "\n".join(lines if calibrators else [*lines, CACHE_DIT])
