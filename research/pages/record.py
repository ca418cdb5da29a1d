"""The benchmark of record as a page: `python -m research.pages.record RESULTS... --out FOLDER`.

Writes FOLDER/MODEL.md, its plots and, where the pictures lie beside the results, the grid of the README.
"""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from skipcast.bench.spec import SHAPES_PROMPTS
from skipcast.checkpoint import write_whole
from skipcast.report.columns import caption, columns, gain, legend, sections
from skipcast.report.factors import option
from skipcast.report.load import Results, load
from skipcast.report.origins import distinct, ranges
from skipcast.report.pictures import grid
from skipcast.report.plot import pareto_svg
from skipcast.report.records import Record
from skipcast.report.states import State, by_state
from skipcast.report.summary import Row, summarise
from skipcast.report.tables import lines
from skipcast.report.versus import Duel, Versus, versus

_FORECASTS, _SAMPLERS = 3, 2  # of a budget that the page shows, beside every plan and Euler's method
_SHOWN_BUDGET = 10
_FACTS = ("command", "settings", "scheduler", "versions", "hardware", "commit")
_INTRODUCTION = """\
Every method of the registry and every plan, asked for equally many evaluations of the network, on the same prompts and
seeds, next to plain samplers that just take fewer steps. Here stand the plans, the three best forecasts, the two best
plain samplers and Euler's method at each budget; **[all rows](methods.md)** have a page of their own, and
**[a page to look at](shapes-flux-report.html)** has the pictures, worst first.
[How we measure, and why](../benchmark-method.md)."""
_VERDICTS = """\
How the forecasts that run as their authors run them stand against the best plain sampler, picture by picture: a method
*wins* or *loses* where the 95 % interval of the mean difference, over prompts, lies on one side of zero. The sampler is
the one with the best mean on these very pictures, which favours it a little. *In its time* compares with the best
sampler in as many seconds, 5 % more at most."""


@dataclass(frozen=True)
class Tally:
    """How many rows win, lose, or neither; those without a sampler to stand against are not counted."""

    wins: int
    undecided: int
    loses: int

    @classmethod
    def of(cls, duels: Iterable[Duel | None]) -> Tally:
        found = [verdict(duel) for duel in duels if duel is not None]
        return cls(found.count(1), found.count(0), found.count(-1))

    def __str__(self) -> str:
        return f"{self.wins} / {self.undecided} / {self.loses}"


def verdict(duel: Duel) -> int:
    """1 where the interval of the gain lies above zero, -1 where it lies below, 0 where neither can be said."""
    interval = duel.gain.interval
    if interval is None:
        return 0
    return 1 if interval[0] > 0 else -1 if interval[1] < 0 else 0


def published(row: Row) -> bool:
    """Whether a forecast evaluates where its authors evaluate."""
    return row.kind == "forecast" and option(row.method, "schedule") is None


def page(results: Results, command: str, made_by: str) -> tuple[str, dict[str, str]]:
    """The page as Markdown, and its plots by file name.

    Args:
        results: of one model.
        command: that makes this page.
        made_by: that makes the results.

    Raises:
        ValueError: no pictures, or several models.
    """
    states = {state: found for state, found in by_state(results.records).items() if any(map(_of_picture, found))}
    models = {(state.model, state.revision) for state in states}
    if len(models) != 1:
        raise ValueError(f"the results must be of one model and one revision, got {len(models)}.")
    ((model, revision),) = models
    plots: dict[str, str] = {}
    parts = [f"# The benchmark of record: {model} ({revision})", f"{_INTRODUCTION} Made by `{made_by}`."]
    for state, records in sorted(states.items(), key=lambda pair: -int(pair[0].steps)):
        text, drawn = _of_state(state, records)
        parts += text
        plots |= drawn
    parts += ["## Where the numbers come from", _provenance(results, command)]
    return "\n\n".join(parts) + "\n", plots


def _of_picture(record: Record) -> bool:
    return "evaluations" in record and record.get("prompt") is not None


def _of_state(state: State, records: Sequence[Record]) -> tuple[list[str], dict[str, str]]:
    rows = summarise(records)
    stand = versus(rows)
    names = {against: f"{state.model}-{state.steps}-{against}.svg" for against in ("evaluations", "seconds")}
    plots = {
        names["evaluations"]: _file(pareto_svg(rows, "evaluations")),
        names["seconds"]: _file(pareto_svg(rows, "seconds")),
    }
    reference = next(row for row in rows if row.kind == "reference")
    parts = [f"## {state.steps} steps", _opening(rows, reference)]
    parts += [
        f"![Mean PSNR of plans, forecasts and plain samplers against {against}]({name})"
        for against, name in names.items()
    ]
    parts += [f"### Against plain samplers, of {state.steps} steps", _VERDICTS, _verdicts(rows, stand)]
    for section in sections(rows):
        if section[0].kind == "reference":
            continue
        shown = chosen(section)
        found = [column for column in columns(shown, rows) if not column.detail]
        parts += [f"### {section[0].budget} evaluations of {state.steps}", lines(shown, found)]
    shown = [row for row in rows if row.kind != "reference"]
    parts.append(caption(shown, [column for column in columns(shown, rows) if not column.detail]))
    return parts, plots


def _opening(rows: Sequence[Row], reference: Row) -> str:
    count = len({row.method for row in rows if row.kind != "reference"})
    judge = "" if reference.judge is None else f" The judge reads {reference.judge:.0%} of the unaccelerated pictures."
    away = reference.measures.get("psnr_converged")
    distance = "" if away is None else f" They are {away.mean:.1f} dB from the converged ones."
    return f"{count} rows of {reference.pictures} pictures each. {legend(rows)}.{judge}{distance}"


def chosen(section: Sequence[Row]) -> list[Row]:
    """The rows of one budget that the page shows, in their order: best mean first."""
    forecasts = [row for row in section if row.kind == "forecast"][:_FORECASTS]
    samplers = [row for row in section if row.kind == "sampler"]
    kept = {row.key for row in (*forecasts, *samplers[:_SAMPLERS])}
    kept |= {row.key for row in section if row.kind == "plan" or row.name == "euler"}
    return [row for row in section if row.key in kept]


def _verdicts(rows: Sequence[Row], stand: Mapping[tuple[int, str], Versus]) -> str:
    head = "| evaluations | wins / undecided / loses | in its time | best forecast | plan |"
    return "\n".join([head, "| ---: | ---: | ---: | --- | --- |", *_lines_of_verdicts(rows, stand)])


def _lines_of_verdicts(rows: Sequence[Row], stand: Mapping[tuple[int, str], Versus]) -> Iterator[str]:
    for section in sections(rows):
        if section[0].kind == "reference":
            continue
        told = [stand[row.key] for row in section if published(row) and row.key in stand]
        best = next((row for row in section if published(row)), None)
        plan = next((row for row in section if row.kind == "plan" and row.planned_for != "converged"), None)
        yield (
            f"| {section[0].budget} | {Tally.of(each.evaluations for each in told)} | "
            f"{Tally.of(each.latency for each in told)} | {_gain(best, stand)} | {_gain(plan, stand)} |"
        )


def _gain(row: Row | None, stand: Mapping[tuple[int, str], Versus]) -> str:
    """A row and what it gains over the best sampler of its evaluations, in dB."""
    if row is None:
        return "-"
    told = stand.get(row.key)
    name = f"`{row.method}`"
    return f"{name} {gain(told.evaluations.gain)} dB" if told and told.evaluations else name


def _provenance(results: Results, command: str) -> str:
    listed = [f"- this page: `{command}`"]
    listed += [
        f"- {source.path.name}: {source.lines} records, sha256 {source.sha256[:16]}" for source in results.sources
    ]
    listed += [f"- {name}: {text}" for name in _FACTS if (text := distinct(results.records, name))]
    seeds = sorted({record["seed"] for record in results.records if record.get("seed") is not None})
    listed.append(f"- seeds: {ranges(seeds)}, each from the run's seed, its prompt and its number")
    prompts = dict.fromkeys(str(record["prompt"]) for record in results.records if record.get("prompt"))
    items = "\n".join(f"{i}. {prompt}" for i, prompt in enumerate(prompts, start=1))
    return "\n".join(listed) + f"\n\nPrompts:\n\n{items}"


def _file(svg: str) -> str:
    """An SVG to be shown as a picture on any background."""
    opening, _, rest = svg.partition(">")
    return f'{opening} style="background:#fff;color:#1c1c1e">{rest}\n'


def pictures(records: Sequence[Record], labels: Sequence[str], prompts: Sequence[str]) -> Image.Image | None:
    """The grid of these rows on these prompts; None where a picture is not there."""
    found: dict[tuple[str, str], Path] = {}
    for record in records:
        if record.get("picture") and record.get("budget") in (_SHOWN_BUDGET, record.get("steps")):
            found[record["method"], record["prompt"]] = Path(record["folder"]) / record["picture"]
    wanted = {label: [found.get((label, prompt)) for prompt in prompts] for label in ("reference", *labels)}
    if not all(path is not None and path.is_file() for paths in wanted.values() for path in paths):
        return None
    tensors = {label: torch.stack([_tensor(path) for path in paths if path]) for label, paths in wanted.items()}
    return grid([tensors[label] for label in labels], labels, prompts, reference=tensors["reference"])


def _tensor(path: Path) -> Tensor:
    with Image.open(path) as opened:
        return torch.from_numpy(np.asarray(opened.convert("RGB")).copy()).permute(2, 0, 1).float() / 255


def grid_rows(rows: Sequence[Row]) -> list[str]:
    """The rows of the README's grid: the plan, the best forecast, the best sampler, and the published ResilPhase."""
    section = [row for row in rows if row.budget == _SHOWN_BUDGET and row.psnr is not None and not math.isnan(row.psnr)]
    firsts = [
        next((row.method for row in section if row.kind == kind), None) for kind in ("plan", "forecast", "sampler")
    ]
    known = next((row.method for row in section if row.name == "resilphase" and published(row)), None)
    return list(dict.fromkeys(label for label in (*firsts, known) if label is not None))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page, its plots and its grid."""
    parser = argparse.ArgumentParser(prog="python -m research.pages.record", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="results of skipcast bench")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="the folder of the page")
    parser.add_argument("--made-by", default="make benchmark", help="the command that makes the results")
    given = parser.parse_args(arguments)
    command = shlex.join([*parser.prog.split(), *map(str, given.results), "--out", str(given.out)])
    try:
        results = load(given.results)
        text, plots = page(results, command, given.made_by)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    given.out.mkdir(parents=True, exist_ok=True)
    state, records = max(by_state(results.records).items(), key=lambda pair: int(pair[0].steps or 0))
    write_whole(given.out / f"{state.model}.md", text.encode())
    for name, plot in plots.items():
        write_whole(given.out / name, plot.encode())
    drawn = pictures(records, grid_rows(summarise(records)), SHAPES_PROMPTS)
    if drawn is None:
        print("the pictures do not lie beside the results: grid.png stays as it is")
        return
    buffer = BytesIO()
    drawn.save(buffer, "PNG", optimize=True)
    write_whole(given.out / "grid.png", buffer.getvalue())


if __name__ == "__main__":
    main()
