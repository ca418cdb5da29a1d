"""The page of the cost benchmark, from its record alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research.cost.rows import ROWS
from research.cost.runs import Measured

#: What the page shows even where it was not measured: model, device, compiled.
EXPECTED = (
    ("flux-depth", "cpu", False),
    *(
        (name, "cuda", compiled)
        for name in ("flux-dev", "wan-1.3b", "wan-14b", "hunyuan-video")
        for compiled in (False, True)
    ),
)
_INTRODUCTION = """# What acceleration costs

Skipping evaluations of the network saves their time; deciding, remembering and forecasting takes some of it back, and
memory besides. This page says how much, for the methods of this library at every seam, for a plan, and for the caches
of diffusers and cache-dit. The networks have the published shapes and **random weights**: time and memory do not depend
on the weights, and nothing here says how good an image is.

Every row evaluates the same evenly spaced steps. All figures are ratios within one measurement; seconds and
bytes are in the record next to this page, [cost.json](cost.json).

- **evaluated**: steps at which the middle of the network really ran, counted in the network itself; with two denoiser
  calls a step, half their number.
- **times shorter**: seconds of the plain denoising loop (network, guidance and scheduler) by seconds of the row's, the
  median over rounds; in brackets the least and the most. The rows take turns, and each is compared with the plain runs
  just before and after it.
- **share of ideal**: that ratio by steps / evaluated, which is what the evaluations saved could give at most. 100%
  means that nothing but evaluations takes time.
- **forecast step**: time of the denoiser calls of a step that is not evaluated, as a share of an evaluated step of the
  same run. A plan has no such steps.
- **evaluated step**: time of the denoiser calls of an evaluated step, by that of the plain run: what remembering costs.
- **memory**: bytes held beyond what the plain run holds, in outputs of the network for this size (of one branch) and in
  MB. CPU: the most that is alive between two steps, exact. CUDA: difference of the peaks of the allocator.
- **predicted**: what the library says beforehand that its method will hold.
"""


def page(record: Mapping[str, Any]) -> str:
    """Markdown of everything measured, and of what was not."""
    runs = record.get("runs", {})
    parts = [_INTRODUCTION, _commands()]
    expected = [key_of(*each) for each in EXPECTED]
    for key in (*expected, *(key for key in runs if key not in expected)):
        parts.append(_section(key, runs.get(key)))
    parts.append(_told(runs))
    return "\n".join(parts).rstrip() + "\n"


def key_of(model: str, device: str, compiled: bool) -> str:
    """Name of a measurement in the record."""
    return f"{model} on {device}, {'compiled' if compiled else 'eager'}"


def _commands() -> str:
    return """## Commands

```bash
pip install --no-deps cache-dit==1.5.3 pyyaml                      # for its rows; the others run without
python -m research.cost                                          # a network of FLUX.1's depth on one CPU thread
python -m research.cost --device cuda --model flux-dev           # full size, random bf16 weights, on a GPU
python -m research.cost --device cuda --model flux-dev --compile # the same with compiled blocks
python -m research.cost page                                     # this page from the record
```

Every measurement adds to the record. Where one takes too long or does not fit, `--size`, `--steps`, `--repeats` and
`--between` make it smaller; what was requested stands under each heading.
"""


def _section(key: str, run: Mapping[str, Any] | None) -> str:
    heading = f"## {key[0].upper() + key[1:]}\n"
    if run is None:
        cuda = " on cuda" in key
        return f"{heading}\nnot measured: {'no GPU was at hand' if cuda else 'not run yet'}\n"
    rows = [Measured(**row) for row in run["rows"]]
    return "\n".join([heading, _about(run), "", *_table(rows, run["settings"]["output_bytes"]), ""])


def _about(run: Mapping[str, Any]) -> str:
    s, about = run["settings"], run["about"]
    height, width, frames = s["size"]
    where = f"{width}x{height}, {frames} frames" if frames > 1 else f"{width}x{height}"
    versions = ", ".join(f"{name} {found}" for name, found in about["versions"].items())
    return "\n\n".join(
        [
            f"{s['layers']} blocks of width {s['width']}, {s['tokens']} image tokens ({where}), {s['dtype']}, "
            f"{_count(len(s['branches']), 'denoiser call')} a step; {s['evaluations']} of {s['steps']} steps; "
            f"{_count(s['repeats'], 'round')} after one of warm-up.",
            f"{about['hardware']}; {versions}; commit {about['commit']}; {about['date']}.",
            f"`{about['command']}`",
        ]
    )


def _table(rows: list[Measured], output: int) -> list[str]:
    columns = (
        "row",
        "from",
        "seam",
        "evaluated",
        "times shorter",
        "share of ideal",
        "forecast step",
        "evaluated step",
        "memory",
        "predicted",
    )
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for row in rows:
        first = [row.label, row.whose or "-", row.seam]
        if row.reason is not None:
            lines.append(f"| {' | '.join([*first, f'not measured: {_cell(row.reason)}', *['-'] * 6])} |")
            continue
        low, high = row.spread or (0.0, 0.0)
        plain = not row.whose
        lines.append(
            "| "
            + " | ".join(
                [
                    *first,
                    f"{row.ran:g} of {row.steps}",
                    "1" if plain else f"{row.ratio:.2f} ({low:.2f} to {high:.2f})",
                    "-" if plain or row.of_ideal is None else f"{row.of_ideal:.1%}",
                    _share(row.forecast_share),
                    "1" if plain else f"{row.evaluation_share:.3f}",
                    "-" if plain else _bytes(row.memory, output),
                    _bytes(row.predicted, output),
                ]
            )
            + " |"
        )
    return lines


def _share(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3%}" if value < 0.01 else f"{value:.1%}"


def _bytes(value: int | None, output: int) -> str:
    if value is None:
        return "-"
    return f"{_count(f'{value / output:,.4g}', 'output')}, {value / 1e6:,.4g} MB"


def _count(number: int | str, noun: str) -> str:
    return f"{number} {noun}{'' if str(number) == '1' else 's'}"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def _told(runs: Mapping[str, Any]) -> str:
    """How each row was configured to evaluate those steps."""
    lines = ["## How each was configured", "", "| row | from | configured by |", "| --- | --- | --- |"]
    lines += [f"| {row.label} | {row.whose} | {row.configured} |" for row in ROWS if row.whose]
    more = sorted({row["label"] for run in runs.values() for row in run["rows"] if _elsewhere(row, run)})
    if more:
        lines += ["", f"At other steps than requested, whatever their configuration: {', '.join(more)}."]
    return "\n".join(lines) + "\n"


def _elsewhere(row: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    return bool(row["whose"] and row["reason"] is None and row["evaluated"] != run["settings"]["places"])
