"""The results page from records alone: `python -m research.pages.methods RECORDS... --out PAGE.md`."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from skipcast.models.scenes import COLOURS, HELD_OUT, SHAPES, read_caption
from skipcast.report.columns import FEW, Column, columns, legend, number
from skipcast.report.columns import pictures as count_of
from skipcast.report.factors import Effect, effects, factors_of, option, weights
from skipcast.report.losses import BASELINE, Verdict, verdicts
from skipcast.report.origins import ranges
from skipcast.report.records import LEFT_OUT, Record, pictures, read
from skipcast.report.summary import Row, summarise
from skipcast.report.tables import lines

_SHOWN = ("NFE", "PSNR dB", "worst 5 %", "worst", "vs sampler", "in its time", "judge", "cached", "speedup")
_INTRODUCTION = """\
Every table holds methods that were asked for **equally many evaluations** of the network, on the same prompts and the
same seeds, next to plain samplers (□) that just take fewer steps. PSNR is to the unaccelerated run of the same steps,
with the 95 % interval of its mean, over prompts, in brackets; *worst 5 %* is the mean of the worst twentieth of the
pictures, *worst* the worst of them. *vs sampler* is what a method gains, on the same prompts and seeds, over the best
plain sampler with at most as many evaluations (behind @ its own, if others), *in its time* over the best one in as many
seconds, 5 % more at most. *judge* is the share of pictures on which a classifier reads all that was asked, *cached*
what a picture keeps in memory between steps, *speedup* the time of the unaccelerated run over that of the method."""


def page(records: Sequence[Record], command: str) -> str:
    """The page as Markdown.

    Args:
        records: of any number of comparisons of one model, on the same prompts and seeds for each step count.
        command: that makes this page.

    Raises:
        ValueError: no record of a picture, several models, or rows of one step count on different pictures.
    """
    records = _once(records)
    if not pictures(records):
        raise ValueError("the records hold no picture; run `skipcast compare` first.")
    models = dict.fromkeys(f"{r.get('model')} ({r.get('revision') or 'unknown revision'})" for r in records)
    if len(models) > 1:
        raise ValueError(f"records must be of one model and one revision, got {', '.join(models)}.")
    parts = [f"# Methods at equal evaluations: {next(iter(models))}", _INTRODUCTION]
    for steps in sorted({record["steps"] for record in pictures(records)}, reverse=True):
        parts += _of_steps(steps, [record for record in records if record.get("steps") == steps])
    parts += ["## Where the numbers come from", _provenance(records, command)]
    return "\n\n".join(parts) + "\n"


def _once(records: Sequence[Record]) -> list[Record]:
    """Without the repetitions of pictures that several files hold; the first one stays."""
    kept: dict[tuple[object, ...], Record] = {}
    for record in records:
        key = tuple(record.get(name) for name in ("kind", "steps", "budget", "method", "prompt", "seed"))
        kept.setdefault(key, record)
    return list(kept.values())


def _of_steps(steps: int, records: Sequence[Record]) -> list[str]:
    _check_pictures(steps, records)
    rows = summarise(records)
    parts = [f"## {steps} steps", _opening(rows)]
    for budget, group in groupby((row for row in rows if row.kind != "reference"), key=lambda row: row.budget):
        section = list(group)
        samplers = [row for row in section if row.kind == "sampler"]
        fixed = [row for row in section if factors_of(row)]
        published = [row for row in section if option(row.method, "schedule") is None]
        judged = verdicts(section, records)
        if any(row.kind != "sampler" for row in published) or not fixed:
            parts += [f"### {budget} evaluations of {steps}, as the authors run them", _table(published, rows)]
        if fixed:
            ordered = sorted(fixed, key=lambda row: option(row.method, "schedule") or "")
            parts += [
                f"### {budget} evaluations of {steps}, all on one set of evaluated steps",
                _factorial([*ordered, *samplers], rows),
                _reading(fixed),
            ]
        if any(row.kind != "sampler" for row in section):
            parts += [
                f"### Methods that lose to Adams-Bashforth ({BASELINE}) at {budget} evaluations of {steps}",
                _losers(judged),
            ]
    left = [record for record in records if record["kind"] == LEFT_OUT]
    if left:
        items = dict.fromkeys(f"- `{r['method']}` at {r['budget'] or '?'} evaluations: {r['reason']}" for r in left)
        parts += [f"### Left out at {steps} steps", "\n".join(items)]
    return parts


def _opening(rows: Sequence[Row]) -> str:
    """What the numbers of these steps are of."""
    judge = next((row.judge for row in rows if row.kind == "reference"), None)
    prompts = len({prompt for row in rows for prompt, _ in row.psnrs})
    return (
        f"{count_of(rows)} pictures of {prompts} prompts a row"
        f"{', which are so few that the intervals are too narrow' if prompts < FEW else ''}. "
        f"NFE: evaluations (those asked for, if others). {legend(rows)}."
        + ("" if judge is None else f" The judge on the unaccelerated run: {judge:.0%}.")
        + (
            " Pictures identical to the unaccelerated run are left out of the mean PSNR."
            if any(0 < row.identical < row.pictures for row in rows)
            else ""
        )
    )


def _check_pictures(steps: int, records: Sequence[Record]) -> None:
    """Means of different pictures must not stand in one table."""
    seen: dict[tuple[str, int], set[tuple[str, int]]] = {}
    for record in pictures(records):
        seen.setdefault((record["method"], record["budget"]), set()).add((record["prompt"], record["seed"]))
    first = next(iter(seen))
    for row, found in seen.items():
        if found != seen[first]:
            raise ValueError(
                f"{row[0]} and {first[0]} of {steps} steps were measured on different prompts or seeds "
                f"({len(found)} and {len(seen[first])} pictures); only rows of the same pictures can be compared."
            )


def _table(rows: Sequence[Row], beside: Sequence[Row]) -> str:
    return lines(rows, _columns(rows, beside))


def _columns(rows: Sequence[Row], beside: Sequence[Row]) -> list[Column]:
    """One column of each shown header; a header that stands twice means PSNR first."""
    found: dict[str, Column] = {}
    for column in columns(rows, beside):
        found.setdefault(column.header, column)
    return [found[header] for header in _SHOWN if header in found]


def _factorial(rows: Sequence[Row], beside: Sequence[Row]) -> str:
    """Forecaster, target, coordinate and schedule in columns of their own."""

    def part(place: int) -> Column:
        def cell(row: Row) -> str:
            factors = factors_of(row)
            return f"`{factors[place]}`" if factors else "-"

        return Column(("forecaster", "target", "coordinate", "schedule")[place], cell)

    return lines(rows, [part(3), part(0), part(1), part(2), *_columns(rows, beside)])


def _reading(rows: Sequence[Row]) -> str:
    """What the factorial table says, in words."""
    weighty = weights(rows)
    if not weighty:
        return "No two of these rows differ in one part alone, so nothing can be said of single parts."
    order = ", ".join(f"{w.factor} {w.mean:.1f} dB ({_pairs(w.pairs)})" for w in weighty)
    items = [f"Mean |difference| of PSNR between rows that differ in one part alone, by part: {order}."]
    items += [_in_words(effect) for effect in effects(rows)]
    return "\n".join(f"- {item}" for item in items)


def _in_words(effect: Effect) -> str:
    return (
        f"{effect.factor} `{effect.level}` instead of `{effect.base}`: {effect.mean:+.1f} dB of mean PSNR, "
        f"{effect.worst:+.1f} dB of the worst picture, on average over {_pairs(effect.pairs)}; "
        f"better in {effect.better} of {effect.pairs}."
    )


def _pairs(count: int) -> str:
    return f"{count} pair" + ("" if count == 1 else "s")


def _losers(judged: Sequence[Verdict]) -> str:
    if not judged:
        return f"`{BASELINE}` was not measured at this budget, so nothing can be said."
    fair = [verdict for verdict in judged if verdict.comparable]
    fewer = [verdict for verdict in judged if not verdict.comparable]
    sampler = judged[0].sampler
    means = [
        f"`{v.row.method}` ({number(v.row.psnr, '.1f')} dB, worse on {v.below} of {v.shared} pictures)"
        for v in fair
        if v.loses_mean
    ]
    worsts = [f"`{v.row.method}` ({number(v.row.psnr_worst, '.1f')} dB)" for v in fair if v.loses_worst]
    winners = [v for v in fair if not v.loses_mean and not v.loses_worst]
    items = [
        f"By mean PSNR ({BASELINE}: {number(sampler.psnr, '.1f')} dB), {len(means)} of {len(fair)}: {_listed(means)}.",
        f"By the worst picture ({BASELINE}: {number(sampler.psnr_worst, '.1f')} dB), {len(worsts)} of {len(fair)}: "
        f"{_listed(worsts)}.",
        f"Neither by mean nor by the worst picture: {_named(v for v in winners if not v.outspends)}.",
    ]
    if any(verdict.outspends for verdict in winners):
        items.append(
            f"Neither, but with more evaluations than {BASELINE}: {_named(v for v in winners if v.outspends)}."
        )
    if fewer:
        items.append(f"Made fewer evaluations than {BASELINE} and are not counted: {_named(fewer)}.")
    return "\n".join(f"- {item}" for item in items)


def _named(judged: Iterable[Verdict]) -> str:
    """Methods, with their evaluations where these are not those of the sampler."""
    return _listed(
        [
            f"`{v.row.method}`" + (f" ({v.row.evaluations:.3g})" if v.outspends or not v.comparable else "")
            for v in judged
        ]
    )


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items) if items else "none"


def _provenance(records: Sequence[Record], command: str) -> str:
    facts = {
        "this page": [f"`{command}`"],
        "commands": [f"`{text}`" for text in _distinct(records, "command")],
        "commit": _distinct(records, "commit"),
        "settings": _distinct(records, "settings"),
        "versions": _distinct(records, "versions"),
        "hardware": _distinct(records, "hardware"),
        "seeds": [ranges(sorted({r["seed"] for r in records if r.get("seed") is not None}))],
        "thresholds": _calibrations(records),
    }
    listed = "\n".join(f"- {key}: {'; '.join(values)}" for key, values in facts.items() if values)
    prompts = dict.fromkeys(str(r["prompt"]) for r in records if r.get("prompt"))
    items = "\n".join(
        f"{i}. {prompt}{' (never trained together)' if _never_trained(prompt) else ''}"
        for i, prompt in enumerate(prompts, start=1)
    )
    return f"{listed}\n\n{_heading(list(prompts))}\n\n{items}"


def _calibrations(records: Iterable[Record]) -> list[str]:
    """How the thresholds were found."""
    told = [r["calibrated_on"] for r in records if r.get("calibrated_on")]
    return list(
        dict.fromkeys(
            f"found on {t['pictures']} pictures ({t['prompts']} prompts, {t['seeds']} seeds) that are not among "
            "those compared"
            for t in told
        )
    )


def _heading(prompts: Sequence[str]) -> str:
    """Whether the prompts are held out, as far as the prompts themselves tell."""
    if not all({"shape", "colour"} <= read_caption(prompt).keys() for prompt in prompts):
        return "Prompts:"
    held_out = sum(map(_never_trained, prompts))
    return (
        "Prompts; training draws its captions at random from the same words, and "
        f"{held_out} of these {len(prompts)} ask for a shape and a colour that it never shows together:"
    )


def _never_trained(prompt: str) -> bool:
    asked = read_caption(prompt)
    return {"shape", "colour"} <= asked.keys() and (SHAPES[asked["shape"]], COLOURS[asked["colour"]]) in HELD_OUT


def _distinct(records: Iterable[Record], key: str) -> list[str]:
    found = (record[key] for record in records if record.get(key) is not None)
    return list(dict.fromkeys(_words(value) for value in found))


def _words(value: object) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m research.pages.methods", description=__doc__)
    parser.add_argument("records", nargs="+", type=Path, help="results.jsonl files of skipcast compare")
    parser.add_argument("--out", type=Path, default=Path("docs/results/methods.md"), help="the page to write")
    given = parser.parse_args(arguments)
    command = shlex.join([*parser.prog.split(), *map(str, given.records), "--out", str(given.out)])
    try:
        text = page([record for path in given.records for record in read(path)], command)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
