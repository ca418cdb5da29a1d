"""The benchmark of videos as a page: `python -m research.pages.video RESULTS --out FOLDER`.

Writes FOLDER/MODEL.md and, where the clips lie next to the results, loops of the worst of them.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from research.pages import files, origins, render
from research.pages.record import published, tally
from skipcast.bench.media import encoded
from skipcast.bench.records import LEFT_OUT
from skipcast.bench.results import Results, Row, load, versus
from skipcast.checkpoint import write_whole
from skipcast.methods import names
from skipcast.report.tables import caption, columns, gain, legend, lines, sections

#: What the tables show of a video; columns are named by their headers.
SHOWN = ("NFE", "PSNR dB", "worst 5 %", "worst", "conv. PSNR", "worst frame dB", "SSIM", "flicker",
         "error flicker", "motion", "judge", "vs sampler", "speedup")  # fmt: skip
_FACTS = ("command", "settings", "scheduler", "versions", "hardware", "commit")
_LOOPS, _SHOWN_BUDGET = 3, 10
_STILLS = Path(__file__).parents[2] / "docs" / "results" / "shapes-flux-50.jsonl.gz"


def page(results: Results, stills: Results, experts: Mapping[str, Any] | None, command: str, made_by: str) -> str:
    """The page as Markdown.

    Args:
        results: of one video model at one number of steps.
        stills: those of the benchmark of record, which videos are compared with.
        experts: what `research.shapes_wan.experts` measured.
        command: that makes this page.
        made_by: the command that makes the results.
    """
    ((state, rows),) = results.rows.items()
    reference = next(row for row in rows if row.kind == "reference")
    others = [row for row in rows if row is not reference]
    return render(
        "video",
        steps=state.steps,
        rows=len({row.method for row in others}),
        clips=reference.images,
        legend=legend(rows),
        judge=reference.attributes,
        converged=reference.of("psnr_converged", "mean"),
        budgets=[_budget(section, rows) for section in sections(others)],
        left_out=_left_out(results.of_kind(LEFT_OUT, state)),
        caption=caption(others, [column for column in columns(others, rows) if not column.detail]),
        stills=_beside_stills(others, stills),
        errors=_errors(others),
        experts=experts,
        psnr=partial(_psnr, others),
        loops=_LOOPS,
        shown=_SHOWN_BUDGET,
        command=command,
        made_by=made_by,
        **origins(results, _FACTS),
        prompts=results.prompts,
        sources=results.sources,
    )


def _budget(section: Sequence[Row], rows: Sequence[Row]) -> dict[str, Any]:
    """One budget: all its rows, and how published forecasts stand against samplers."""
    found = versus(section, rows)
    authors = [row for row in section if published(row)]
    plan = next((row for row in section if row.kind == "plan" and row.planned_for != "converged"), None)

    def gained(row: Row | None) -> str:
        duel = found[row.key].evaluations if row is not None and row.key in found else None
        return "-" if row is None else f"`{row.method}`" + (f" {gain(duel)} dB" if duel else "")

    every = {column.header: column for column in reversed(columns(section, rows))}
    return {
        "evaluations": section[0].budget,
        "tally": tally(found[row.key].evaluations for row in authors),
        "forecast": gained(next(iter(authors), None)),
        "plan": gained(plan),
        "table": lines(section, [every[header] for header in SHOWN if header in every]),
    }


def _beside_stills(rows: Sequence[Row], stills: Results) -> list[dict[str, Any]]:
    """By budget, how alike methods rank on stills and on videos, and which of them moved most."""
    ((_, known),) = stills.rows.items()
    found = []
    for section in sections(rows):
        budget = section[0].budget
        here = {row.name: row.psnr for row in reversed(section) if row.psnr is not None}
        there = {row.name: row.psnr for row in reversed(known) if row.budget == budget and row.psnr is not None}
        names = sorted(here.keys() & there.keys())
        if len(names) < 3:
            continue
        a, b = (_ranks([scores[name] for name in names]) for scores in (here, there))
        moved = sorted(zip(b - a, names, strict=True))
        found.append({
            "evaluations": budget,
            "methods": len(names),
            "correlation": float(np.corrcoef(a, b)[0, 1]),
            "up": [name for change, name in reversed(moved) if change > 0][:3],
            "down": [name for change, name in moved if change < 0][:3],
        })  # fmt: skip
    return found


def _ranks(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Ranks, the best first, 1."""
    ranks = np.empty(len(values))
    ranks[np.argsort(-np.asarray(values))] = np.arange(1, len(values) + 1)
    return ranks


def _errors(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """By budget and kind of row, medians of what errors are like in time: some rows diverge."""
    found = []
    for section in sections(rows):
        for kind in ("plan", "forecast", "sampler"):
            of_kind = [row for row in section if row.kind == kind]
            if of_kind:
                keys = ("psnr", "worst_frame", "flicker", "error_flicker")
                found.append({
                    "evaluations": section[0].budget,
                    "kind": kind,
                    **{key: _median(row.of(key, "mean") for row in of_kind) for key in keys},
                    "motion": _median(row.attributes.get("motion") for row in of_kind),
                })  # fmt: skip
    return found


def _psnr(rows: Sequence[Row], method: str, statistic: str = "mean") -> str:
    """A statistic of the PSNR of a row in dB, for a sentence."""
    found = next((row.of("psnr", statistic) for row in rows if row.method == method), None)
    return "-" if found is None else f"{found:.1f}"


def _left_out(records: Iterable[Mapping[str, Any]]) -> str:
    """The methods that `all` stands for and that could not run, with the evaluations asked for."""
    budgets: dict[str, list[int]] = {}
    for record in records:
        name, given = names.split(record["method"])
        spec = names.joined(name, {option: text for option, text in given.items() if option != "evaluations"})
        budgets.setdefault(spec, []).append(record["budget"])
    return ", ".join(f"`{spec}` ({', '.join(map(str, sorted(each)))})" for spec, each in budgets.items())


def _median(values: Iterable[float | None]) -> float | None:
    kept = [value for value in values if value is not None and math.isfinite(value)]
    return median(kept) if kept else None


def loops(results: Results) -> bytes | None:
    """The clips on which the plan is worst, worst first: unaccelerated, plan, best forecast, best sampler; in a loop.

    None where the clips do not lie next to the results.
    """
    ((state, rows),) = results.rows.items()
    section = [row for row in rows if row.budget == _SHOWN_BUDGET and row.psnr is not None]
    plan = next((row for row in section if row.kind == "plan" and row.planned_for != "converged"), None)
    if plan is None:
        return None
    best = [next(row for row in section if row.kind == kind) for kind in ("forecast", "sampler")]
    reference = next(row for row in rows if row.kind == "reference")
    worst = sorted((psnr, pair) for pair, psnr in plan.psnrs.items() if psnr is not None)[:_LOOPS]
    wanted = [reference, plan, *best]
    found = files(results, state, wanted)
    clips = [[found.get((row.method, *pair)) for row in wanted] for _, pair in worst]
    if not all(path is not None and path.is_file() for line in clips for path in line):
        return None
    return side_by_side([[_frames(path) for path in line if path] for line in clips])


def _frames(path: Path) -> Tensor:
    """A clip (F, 3, H, W) in [0, 1] from its file."""
    with Image.open(path) as opened:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(opened)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255


def side_by_side(clips: Sequence[Sequence[Tensor]], scale: int = 2) -> bytes:
    """Lines of clips (F, 3, H, W) in one animated picture, enlarged."""
    frames, channels, height, width = clips[0][0].shape
    sheet = torch.ones(frames, channels, len(clips) * (height + 2), len(clips[0]) * (width + 2))
    for i, line in enumerate(clips):
        for j, clip in enumerate(line):
            y, x = i * (height + 2) + 1, j * (width + 2) + 1
            sheet[:, :, y : y + height, x : x + width] = clip
    return encoded(sheet.repeat_interleave(scale, 2).repeat_interleave(scale, 3), 8)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and its loops."""
    parser = argparse.ArgumentParser(prog="python -m research.pages.video", description=__doc__)
    parser.add_argument("results", type=Path, help="results of skipcast bench")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="the folder of the page")
    parser.add_argument("--made-by", default="make benchmark-video", help="the command that makes the results")
    given = parser.parse_args(arguments)
    command = shlex.join([*parser.prog.split(), str(given.results), "--out", str(given.out)])
    results = load([given.results])
    ((state, _),) = results.rows.items()
    measured = given.out / f"{state.model}-experts.json"
    experts = json.loads(measured.read_text()) if measured.exists() else None
    text = page(results, load([_STILLS]), experts, command, given.made_by)
    write_whole(given.out / f"{state.model}.md", text.encode())
    drawn = loops(results)
    if drawn is None:
        print("the clips do not lie next to the results: the loops stay as they are")
        return
    write_whole(given.out / f"{state.model}-worst.webp", drawn)


if __name__ == "__main__":
    main()
