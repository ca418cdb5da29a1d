"""Results: records read into a frame, a row per method and budget, and what it gains over plain samplers."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from skipcast.bench.records import DIRECTIONS, LEFT_OUT, TRACE, Options, stream, value
from skipcast.bench.statistics import Statistics, statistics

try:
    import polars as pl
except ImportError as error:
    raise ImportError('results need polars; run: pip install "skipcast[bench]"') from error

#: Metrics of records that do not name their own, and whether more is better.
USUAL = {"psnr": True, "ssim": True, "latent_error": False}
CONVERGED = "_converged"  # ends the keys of metrics against the converged run
JUDGE = "judge"  # the column of its verdicts; those on single attributes are in "judge/" and the attribute
#: What says where records come from.
FACTS = ("model", "revision", "scheduler", "guidance", "settings", "versions", "commit", "hardware", "command", "steps")
#: A method that decides by values misses its budget by fractions; a sampler of so many more counts as equal.
SAME_EVALUATIONS = 0.5
#: Timings of equal work differ by so much from run to run; a sampler within it counts as as fast.
TIMING_NOISE = 0.05
_COSTS = ("seconds", "speedup", "cached_bytes", "flops")
#: In these two runs of one image may differ.
_OF_THE_RUN = {*_COSTS, "peak_bytes", "prompt_index", "image", "folder", "place"}
#: Settings that say how images were chosen and compared rather than how they are made.
_OF_THE_COMPARISON = ("steps", "converged_steps", "converged_agreement_db", "first_seed", "seeds", "seed", "batch",
                      "threads")  # fmt: skip


class State(NamedTuple):
    """State of a pipeline in words. Nothing is averaged over two."""

    model: str
    revision: str
    steps: str
    parts: tuple[tuple[str, str], ...]  # of it: revision, scheduler and its settings, guidance, arguments of the calls

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> State:
        """The state that a record belongs to."""
        scheduler = dict(record.get("scheduler") or {})
        label, guidance, settings = scheduler.pop("label", None), record.get("guidance"), record.get("settings") or {}
        revision = record.get("revision") or "unknown"
        parts = [
            ("revision", revision),
            ("scheduler", words(label or scheduler.get("class") or "of the model")),
            ("scheduler settings", words(scheduler)),
            ("guidance", "as usual" if guidance is None else f"{guidance:g}"),
            *((name, words(item)) for name, item in settings.items() if name not in _OF_THE_COMPARISON),
        ]
        model, steps = record.get("model") or "unknown model", record.get("steps") or "unknown"
        return cls(model, revision, str(steps), tuple(parts))

    def title(self, among: Iterable[State]) -> str:
        """The model, the steps, and what differs from the other states, in words."""
        shared = set(self.parts).intersection(*(other.parts for other in among))
        own = [(name, text) for name, text in self.parts if (name, text) not in shared]
        if "scheduler" in dict(own):  # its name is enough then
            own = [(name, text) for name, text in own if name != "scheduler settings"]
        return ", ".join([self.model, f"{self.steps} steps", *(f"{name} {text}" for name, text in own)])


def words(item: object) -> str:
    """A value of a record in words."""
    if isinstance(item, Mapping):
        return ", ".join(f"{key} {words(each)}" for key, each in item.items())
    return str(item) if item != "" else '""'


@dataclass(frozen=True)
class Row:
    """One method at one budget over its images; None where nothing was measured, NaN where an image is broken."""

    method: str  # the specification, for people
    name: str
    options: Options
    kind: str
    repr: str
    paper: str | None
    budget: int  # evaluations that were requested; steps of the unaccelerated run
    evaluations: float  # mean of those made
    images: int
    measures: Mapping[str, Statistics]  # by metric
    judge: float | None  # share of images with every attribute right
    attributes: Mapping[str, float]  # share of the images judged by this attribute that have it right
    seconds: float | None  # median per image
    speedup: float | None  # median over interleaved rounds
    cached_bytes: int | None  # largest
    peak_bytes: int | None
    flops: float | None
    data_driven: bool  # evaluates where the values ask for it
    calibrated_on: Mapping[str, Any] | None  # how its threshold was found
    parts: Mapping[str, str]  # of a method that forecasts, by name
    predicted: float | None  # mean PSNR that a plan predicts of itself
    planned_for: str | None  # target of a plan
    psnrs: Mapping[tuple[str, int], float | None] = field(repr=False, compare=False)  # by prompt and seed

    @property
    def key(self) -> tuple[int, str, str]:
        """What distinguishes it from the other rows of a state."""
        return self.budget, self.name, _canonical(self.options)

    @property
    def label(self) -> str:
        """The specification without its evaluations where these are the budget."""
        return self.without("evaluations") if self.options.get("evaluations") == self.budget else self.method

    @property
    def series(self) -> str:
        """The specification without what differs from budget to budget, such as a threshold that was calibrated."""
        return self.without("evaluations", "interval", (self.calibrated_on or {}).get("threshold"))

    def without(self, *names: str | None) -> str:
        """The specification without these options."""
        kept = {name: item for name, item in self.options.items() if name not in names}
        if len(kept) == len(self.options):
            return self.method
        listed = ",".join(f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in kept.items())
        return f"{self.name}:{listed}" if listed else self.name

    @property
    def identical(self) -> int:
        """Images that are those of the unaccelerated run to the bit."""
        return self.of("psnr", "identical") or 0

    @property
    def psnr(self) -> float | None:
        """Mean PSNR to the unaccelerated run, in dB."""
        mean: float | None = self.of("psnr", "mean")
        return mean

    def of(self, metric: str, statistic: str) -> Any:
        """A statistic of a metric, such as the mean of "ssim"; None where it was not measured."""
        return getattr(self.measures.get(metric), statistic, None)

    def plain(self) -> dict[str, Any]:
        """As plain values, for machines."""
        found = {name: item for name, item in vars(self).items() if name not in ("measures", "psnrs")}
        for name in ("psnr", "ssim", "latent_error", "psnr_converged"):
            found |= {name: self.of(name, "mean"), f"{name}_worst": self.of(name, "worst")}
        return found | {"statistics": {name: asdict(made) for name, made in self.measures.items()}}


class Source(NamedTuple):
    """A file that was read."""

    path: Path
    sha256: str
    lines: int  # that hold a record


@dataclass(frozen=True)
class Results:
    """The records of one report.

    Attributes:
        frame: a line per image with "state" and "row" (places in `states` and `heads`), prompt, seed, metrics, costs.
        heads: the first record of every row, for what all its images share.
        states: of pipelines.
        others: traces and methods left out, each with the place of its state.
        facts: the values of every one of `FACTS` in words.
        directions: of every metric, whether more is better.
        repeated: lines of images that were there already.
        sources: files.
    """

    frame: pl.DataFrame
    heads: list[Mapping[str, Any]]
    states: list[State]
    others: list[tuple[int, Mapping[str, Any]]]
    facts: dict[str, list[str]]
    directions: dict[str, bool]
    repeated: int
    sources: list[Source]

    @cached_property
    def rows(self) -> dict[State, list[Row]]:
        """The rows of every state with images: the unaccelerated run, then by budget, then by mean PSNR downwards."""
        found: dict[State, list[Row]] = {}
        for group in self.frame.partition_by("row", maintain_order=True) if len(self.frame) else ():
            found.setdefault(self.states[group["state"][0]], []).append(self._row(group))
        return {state: sorted(rows, key=_rank) for state, rows in found.items()}

    @property
    def prompts(self) -> list[str]:
        """All prompts, in the order in which they came."""
        return list(self.frame["prompt"].unique(maintain_order=True))

    @property
    def seeds(self) -> str:
        """All seeds, as '1-3, 7'; if there are many gaps, only the count, the first and the last."""
        runs: list[list[int]] = []
        seeds = sorted(self.frame["seed"].unique())
        for seed in seeds:
            if runs and seed == runs[-1][-1] + 1:
                runs[-1][1:] = [seed]
            else:
                runs.append([seed])
        if len(runs) > 12:
            return f"{len(seeds)} from {seeds[0]} to {seeds[-1]}"
        return ", ".join("-".join(map(str, run)) for run in runs)

    def images(self, state: State) -> pl.DataFrame:
        """The images of a state."""
        return self.frame.filter(pl.col("state") == self.states.index(state))

    def of_kind(self, kind: str, state: State) -> list[Mapping[str, Any]]:
        """The traces of a state, or the methods left out."""
        place = self.states.index(state)
        return [record for other, record in self.others if other == place and record["kind"] == kind]

    def _row(self, group: pl.DataFrame) -> Row:
        head = self.heads[group["row"][0]]
        prompts = group["prompt"].to_list()
        measures = {  # none where no image has the metric; NaN where some lack it, for leaving those out would flatter
            key: statistics(group[key].to_list(), prompts, higher_is_better=higher)
            for name, higher in self.directions.items()
            for key in (name, name + CONVERGED)
            if group[key].null_count() < len(group)
        }
        shares: dict[str, Any] = {name: group[name].mean() for name in group.columns if name.startswith(f"{JUDGE}/")}
        costs = group.select(
            pl.mean("evaluations", JUDGE),
            pl.median("seconds", "speedup", "flops"),
            pl.max("cached_bytes", "peak_bytes").cast(pl.Int64),
        )
        same = ("method", "name", "options", "kind", "budget", "paper", "calibrated_on", "planned_for")
        return Row(
            **{name: head.get(name) for name in same},
            **costs.row(0, named=True),
            repr=head.get("repr") or head["method"],
            images=len(group),
            measures=measures,
            attributes={name.partition("/")[2]: share for name, share in shares.items() if share is not None},
            data_driven=bool(head.get("data_driven")),
            parts=head.get("parts") or {},
            predicted=(head.get("predicted") or {}).get("psnr"),
            psnrs=dict(zip(zip(prompts, group["seed"], strict=True), group["psnr"], strict=True)),
        )


def _rank(row: Row) -> tuple[bool, int, float, str]:
    mean = -math.inf if row.psnr is None or math.isnan(row.psnr) else row.psnr
    return row.kind != "reference", row.budget, -mean, row.method


def load(paths: Sequence[str | os.PathLike[str]]) -> Results:
    """Read files of `skipcast compare` and `skipcast bench` together.

    An image (state, method, budget, prompt, seed) that stands in several lines is counted once, where they agree in all
    but times and the places where they were measured; the first stays.

    Raises:
        FileNotFoundError: no such file.
        ValueError: names the file and the line that is not a record, or the two that differ.
    """
    files = list(map(Path, paths))
    counts: Counter[int] = Counter()

    def lines() -> Iterator[_Line]:
        for place, path in enumerate(files):
            if os.path.isdir(path):
                raise ValueError(f"{path} is a folder; give the results.jsonl in it.")
            for number, record in stream(path):
                counts[place] += 1
                yield record, str(path.parent), (path, number)

    found = _collected(lines())
    for place, path in enumerate(files):
        with path.open("rb") as file:
            found.sources.append(Source(path, hashlib.file_digest(file, "sha256").hexdigest(), counts[place]))
    return found


def of(records: Iterable[Mapping[str, Any]], folder: str | os.PathLike[str] = "") -> Results:
    """The results of records in memory; `folder` is where the images that they name lie."""
    numbered = enumerate(records, start=1)
    return _collected((record, os.fspath(folder), (Path("records"), number)) for number, record in numbered)


def summarise(records: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The rows of records of one state.

    Raises:
        ValueError: records of several models or states of the pipeline, whose means would say nothing.
    """
    rows = of(records).rows
    if len(rows) > 1:
        titles = "; ".join(state.title(rows) for state in rows)
        raise ValueError(f"records must be of one state of the pipeline, got {titles:.300}; report each on its own.")
    return next(iter(rows.values()), [])


_Line = tuple[Mapping[str, Any], str, tuple[Path, int]]  # a record, the folder of its file, its file and line


def _collected(lines: Iterable[_Line]) -> Results:
    """The results of records that come one by one; a few values of each are kept."""
    heads: list[Mapping[str, Any]] = []
    states: dict[State, int] = {}
    others: dict[Hashable, tuple[int, Mapping[str, Any]]] = {}
    rows: dict[Hashable, int] = {}
    images: dict[Hashable, dict[str, Any]] = {}
    facts: dict[str, dict[str, None]] = {}
    attributes: dict[str, None] = {}  # that the judge looked at
    directions, repeated, state, origin = dict(USUAL), 0, 0, None
    for record, folder, place in lines:
        found = [record.get(name) for name in FACTS]
        if found != origin:  # mostly it is that of the record before
            origin, state = found, states.setdefault(State.of(record), len(states))
            for name, fact in zip(FACTS, found, strict=True):
                if fact is not None:
                    facts.setdefault(name, {})[words(fact)] = None
        identity = (state, record["kind"], record["name"], _canonical(record["options"]), record["budget"])
        if record["kind"] in (TRACE, LEFT_OUT):
            repeated += identity in others
            others.setdefault(identity, (state, record))
            continue
        for name, direction in (record.get("metrics") or {}).items():
            if name != JUDGE:
                directions.setdefault(name, DIRECTIONS[direction])
        attributes.update(dict.fromkeys(record.get("judge") or ()))
        row = rows.setdefault(identity, len(heads))
        if row == len(heads):
            heads.append(record)
        image = _image(record, directions) | {"state": state, "row": row, "folder": folder, "place": place}
        first = images.setdefault((row, image["prompt"], image["seed"]), image)
        if first is image:
            continue
        repeated += 1
        keys = (first.keys() | image.keys()) - _OF_THE_RUN
        if odd := sorted(key for key in keys if first.get(key) != image.get(key)):
            here, there = (f"{path}, line {number}" for path, number in (place, first["place"]))
            raise ValueError(
                f"{here} and {there} are both {record['method']:.100} at {record['budget']} evaluations of the same "
                f"prompt and seed, but differ in {', '.join(odd):.200}; give only one of them."
            )
    numbers = ["evaluations", "peak_bytes", *_COSTS, *(n + end for n in directions for end in ("", CONVERGED))]
    schema: dict[str, Any] = {
        **dict.fromkeys(("state", "row", "prompt_index", "seed"), pl.Int64),
        **dict.fromkeys(("prompt", "image", "folder"), pl.String),
        **dict.fromkeys(numbers, pl.Float64),
        **dict.fromkeys((JUDGE, *(f"{JUDGE}/{name}" for name in attributes)), pl.Boolean),
    }
    frame = pl.DataFrame(
        {key: pl.Series(key, [image.get(key) for image in images.values()], dtype) for key, dtype in schema.items()}
    )
    named = {name: list(facts[name]) for name in FACTS if name in facts}
    return Results(frame, heads, list(states), list(others.values()), named, directions, repeated, [])


def _image(record: Mapping[str, Any], directions: Mapping[str, bool]) -> dict[str, Any]:
    """The values of a record that are kept of every image."""
    found = {key: record.get(key) for key in ("prompt_index", "evaluations", "image", *_COSTS)}
    found |= {"prompt": record.get("prompt", ""), "seed": record.get("seed", 0)}
    found["peak_bytes"] = (record.get("timing") or {}).get("peak_bytes")
    for name in directions:
        for key in (name, name + CONVERGED):
            if (figure := value(record, key)) is not None:
                found[key] = figure
    if verdicts := record.get("judge"):
        found |= {JUDGE: all(verdicts.values())} | {f"{JUDGE}/{name}": right for name, right in verdicts.items()}
    return found


def _canonical(options: Options) -> str:
    return json.dumps(options, sort_keys=True) if options else ""


def baseline(row: Row, rows: Iterable[Row], price: Literal["evaluations", "seconds"]) -> Row | None:
    """The plain sampler with the best PSNR among those of at most the row's price, None if there is none.

    SAME_EVALUATIONS more counts as as many, or a method of 7.9 evaluations would stand against a sampler of five; and
    TIMING_NOISE more seconds, for a sampler of equal work that drops out by noise would flatter. Samplers without a
    PSNR, or with NaN, do not count; rows that were not timed have no equals. Of equally good ones the cheaper is taken.
    """
    if row.seconds is None and price == "seconds":
        return None
    limit = row.evaluations + SAME_EVALUATIONS if price == "evaluations" else (row.seconds or 0) * (1 + TIMING_NOISE)

    def spent(sampler: Row) -> float:
        found = getattr(sampler, price)
        return math.inf if found is None else found

    def rank(sampler: Row) -> tuple[float, float, float]:
        return -(sampler.psnr or 0.0), sampler.evaluations, math.inf if sampler.seconds is None else sampler.seconds

    samplers = (each for each in rows if each.kind == "sampler" and each.psnr is not None and not math.isnan(each.psnr))
    return min((each for each in samplers if spent(each) <= limit), key=rank, default=None)


class Duel(NamedTuple):
    """What a row gains over a plain sampler: differences of PSNR in dB on the same prompts and seeds."""

    sampler: Row
    gain: Statistics
    better: int  # images on which the row is nearer to the unaccelerated run
    images: int  # that both have, without those that are identical to it in either

    @classmethod
    def of(cls, row: Row, sampler: Row | None) -> Duel | None:
        """None where there is no sampler, or no image that both have."""
        if sampler is None:
            return None
        gains: dict[tuple[str, int], float] = {}
        for pair in row.psnrs:  # in their order, which the resamples follow
            if pair not in sampler.psnrs:
                continue
            own, other = (math.nan if psnr is None else psnr for psnr in (row.psnrs[pair], sampler.psnrs[pair]))
            if not math.isinf(own) and not math.isinf(other):
                gains[pair] = own - other  # NaN of a broken image, which must not be left out
        if not gains:
            return None
        gain = statistics(gains.values(), [prompt for prompt, _ in gains], higher_is_better=True)
        return cls(sampler, gain, sum(each > 0 for each in gains.values()), len(gains))

    @property
    def verdict(self) -> int:
        """1 where the interval of the gain lies above zero, -1 where it lies below, 0 where neither can be said."""
        interval = self.gain.interval
        return 0 if interval is None else (interval[0] > 0) - (interval[1] < 0)


class Versus(NamedTuple):
    """A row against the best plain samplers that make as many evaluations, and that take as many seconds."""

    evaluations: Duel | None
    seconds: Duel | None


def versus(rows: Sequence[Row], among: Sequence[Row] | None = None) -> dict[tuple[int, str, str], Versus]:
    """Forecasts and plans of one state against plain samplers, which are chosen by mean PSNR.

    Args:
        rows: of which the forecasts and plans are compared.
        among: all rows of the state, where plain samplers are looked for; `rows` if not given.

    Returns:
        By the key of the row.
    """
    known = rows if among is None else among
    return {
        row.key: Versus(*(Duel.of(row, baseline(row, known, price)) for price in ("evaluations", "seconds")))
        for row in rows
        if row.kind in ("forecast", "plan")
    }
