"""The page of all methods from records alone: `python -m research.pages.methods RESULTS... --out PAGE.md`."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research.pages import origins, render
from research.pages.factors import effects, factors_of, weights
from skipcast.bench.records import LEFT_OUT
from skipcast.bench.results import Results, Row, State, load, versus
from skipcast.checkpoint import write_whole
from skipcast.models.scenes import COLOURS, HELD_OUT, SHAPES, read_caption
from skipcast.report.tables import FEW, Column, columns, gain, images, legend, lines, sections

_SHOWN = ("NFE", "PSNR dB", "worst 5 %", "worst", "vs sampler", "in its time", "judge", "cached", "speedup")
_FACTS = ("command", "commit", "settings", "versions", "hardware")


def page(results: Results, command: str) -> str:
    """The page as Markdown.

    Args:
        results: of one model, on the same prompts and seeds for each number of steps.
        command: that makes this page.

    Raises:
        ValueError: no record of an image, several models, or rows of one number of steps on different images.
    """
    found = (head.get("calibrated_on") for head in results.heads)
    calibrated = dict.fromkeys((each["images"], each["prompts"], each["seeds"]) for each in found if each)
    return render(
        "methods",
        **origins(results, _FACTS),
        states=[_state(results, state) for state in sorted(results.rows, key=lambda state: -int(state.steps))],
        command=command,
        calibrated=list(calibrated),
        prompts=[(prompt, _never_trained(prompt)) for prompt in results.prompts],
        captions=all({"shape", "colour"} <= read_caption(prompt).keys() for prompt in results.prompts),
    )


def _state(results: Results, state: State) -> dict[str, Any]:
    """What the template shows of one state of the pipeline."""
    rows = results.rows[state]
    _check_images(state.steps, rows)
    return {
        "steps": state.steps,
        "images": images(rows),
        "prompts": len({prompt for row in rows for prompt, _ in row.psnrs}),
        "few": FEW,
        "legend": legend(rows),
        "judge": next((row.judge for row in rows if row.kind == "reference"), None),
        "identical": any(0 < row.identical < row.images for row in rows),
        "budgets": [_budget(section, rows) for section in sections(rows) if section[0].kind != "reference"],
        "left_out": list(dict.fromkeys(
            (record["method"], record["budget"] or "?", record["reason"]) for record in results.of_kind(LEFT_OUT, state)
        )),
    }  # fmt: skip


def _budget(section: Sequence[Row], rows: Sequence[Row]) -> dict[str, Any]:
    """The tables of one budget: methods as their authors run them, and those all on one set of evaluated steps."""
    published = [row for row in section if "schedule" not in row.options]
    fixed = sorted((row for row in section if factors_of(row)), key=lambda row: str(row.options["schedule"]))
    samplers = [row for row in section if row.kind == "sampler"]
    found = versus(section, rows)
    duels = [(row, found[row.key].evaluations) for row in section if row.key in found]
    return {
        "evaluations": section[0].budget,
        "published": lines(published, _columns(published, rows)) if published != samplers or not fixed else None,
        "factorial": lines([*fixed, *samplers], _factorial([*fixed, *samplers], rows)) if fixed else None,
        "weights": weights(fixed),
        "effects": effects(fixed),
        "compared": len(section) > len(samplers),
        "verdicts": {
            sign: [
                f"`{row.method}` ({gain(duel)} dB, better on {duel.better} of {duel.images})"
                for row, duel in duels
                if duel is not None and duel.verdict == sign
            ]
            for sign in (1, 0, -1)
        },
        "alone": [f"`{row.method}`" for row, duel in duels if duel is None],
    }


def _check_images(steps: str, rows: Sequence[Row]) -> None:
    """Means of different images must not stand in one table."""
    for row in rows:
        if row.psnrs.keys() != rows[0].psnrs.keys():
            raise ValueError(
                f"{row.method} and {rows[0].method} of {steps} steps were measured on different prompts or seeds "
                f"({row.images} and {rows[0].images} images); only rows of the same images can be compared."
            )


def _columns(rows: Sequence[Row], among: Sequence[Row]) -> list[Column]:
    """One column of each shown header; a header that stands twice means PSNR first."""
    found: dict[str, Column] = {}
    for column in columns(rows, among):
        found.setdefault(column.header, column)
    return [found[header] for header in _SHOWN if header in found]


def _factorial(rows: Sequence[Row], among: Sequence[Row]) -> list[Column]:
    """Schedule, forecaster, target and coordinate in columns of their own."""

    def part(name: str) -> Column:
        def cell(row: Row) -> str:
            factors = factors_of(row)
            return f"`{getattr(factors, name)}`" if factors else "-"

        return Column(name, cell)

    return [*map(part, ("schedule", "forecaster", "target", "coordinate")), *_columns(rows, among)]


def _never_trained(prompt: str) -> bool:
    scene = read_caption(prompt)
    return {"shape", "colour"} <= scene.keys() and (SHAPES[scene["shape"]], COLOURS[scene["colour"]]) in HELD_OUT


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m research.pages.methods", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="results.jsonl files of skipcast compare or bench")
    parser.add_argument("--out", type=Path, default=Path("docs/results/methods.md"), help="the page to write")
    given = parser.parse_args(arguments)
    command = shlex.join([*parser.prog.split(), *map(str, given.results), "--out", str(given.out)])
    try:
        text = page(load(given.results), command)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    write_whole(given.out, text.encode())


if __name__ == "__main__":
    main()
