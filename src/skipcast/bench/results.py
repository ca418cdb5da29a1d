"""Results: records read into a frame, a row per method and budget, and what it gains over plain samplers."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from skipcast.bench.records import DIRECTIONS, LEFT_OUT, TRACE, Options, stream, value
from skipcast.bench.statistics import equal_evaluations, equal_latency, statistics

try:
    import polars as pl
except ImportError as error:
    raise ImportError('results need polars; run: pip install "skipcast[bench]"') from error

#: Metrics of records that do not name their own, and whether more is better.
USUAL = {"psnr": True, "ssim": True, "latent_error": False}
CONVERGED = "_converged"  # ends the keys of metrics against the converged run
JUDGE = "judge/"  # begins the columns of the judge, one per attribute
#: What says where records come from.
FACTS = ("model", "revision", "scheduler", "guidance", "settings", "versions", "commit", "hardware", "command", "steps")
_COSTS = ("seconds", "speedup", "cached_bytes", "flops")
#: In these two runs of one image may differ.
_OF_THE_RUN = {*_COSTS, "peak_bytes", "prompt_index", "image", "folder"}
#: Settings that say how images were chosen and compared rather than how they are made.
_OF_THE_COMPARISON = ("steps", "converged_steps", "converged_agreement_db", "first_seed", "seeds", "seed", "batch",
                      "threads")  # fmt: skip


@dataclass(frozen=True)
class State:
    """State of a pipeline: model, scheduler, steps, guidance, arguments of the calls. Nothing is averaged over two."""

    model: str
    revision: str
    scheduler: str  # its label
    config: str  # its class and settings
    steps: str
    guidance: str
    calls: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> State:
        """The state that a record belongs to."""
        scheduler, settings = record.get("scheduler") or {}, record.get("settings") or {}
        return cls(
            model=_text(record.get("model")),
            revision=_text(record.get("revision")),
            scheduler=_text(scheduler.get("label") or scheduler.get("class")),
            config=words({name: item for name, item in scheduler.items() if name != "label"}),
            steps=_text(record.get("steps")),
            guidance=_text(record.get("guidance")),
            calls=tuple((name, words(item)) for name, item in settings.items() if name not in _OF_THE_COMPARISON),
        )

    def title(self, among: Iterable[State]) -> str:
        """The model, the steps, and what differs from the other states, in words."""
        others = list(among)

        def differs(name: str) -> bool:
            return len({getattr(other, name) for other in others}) > 1

        found = [self.model or "unknown model"]
        if differs("revision"):
            found.append(f"revision {self.revision or 'unknown'}")
        if differs("scheduler"):
            found.append(f"scheduler {self.scheduler or 'of the model'}")
        elif differs("config"):
            found.append(f"scheduler {self.config or 'of the model'}")
        found.append(f"{self.steps or 'unknown'} steps")
        if differs("guidance"):
            found.append(f"guidance {self.guidance or 'as usual'}")
        shared = set(self.calls).intersection(*(other.calls for other in others))
        return ", ".join([*found, *(f"{name} {item}" for name, item in self.calls if (name, item) not in shared)])


def _text(item: object) -> str:
    return "" if item is None else f"{item:g}" if isinstance(item, float) else str(item)


def words(item: object) -> str:
    """A value of a record in words."""
    if isinstance(item, Mapping):
        return ", ".join(f"{key} {words(each)}" for key, each in item.items())
    return str(item) if item != "" else '""'


@dataclass(frozen=True)
class Measure:
    """A metric over the images of a row; NaN throughout where an image is broken."""

    mean: float  # identical images, whose PSNR is infinite, are left out
    median: float
    worst5: float  # mean of the worst 5 %
    worst: float
    lower: float  # of the 95 % interval of the mean over prompts; NaN for a single prompt
    upper: float
    higher_is_better: bool
    identical: int  # images

    @classmethod
    def of(cls, found: Sequence[float | None], prompts: Sequence[Hashable], higher_is_better: bool) -> Measure | None:
        """None if no image has the metric; NaN if some lack it, for leaving those out would flatter."""
        present = [each for each in found if each is not None]
        if not present:
            return None
        made = statistics(found, prompts, higher_is_better=higher_is_better)
        worst = math.nan if math.isnan(made.mean) else min(present) if higher_is_better else max(present)
        return cls(made.mean, made.median, made.worst5, worst, made.lower, made.upper, higher_is_better, made.identical)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of the mean, None where there is none."""
        return (self.lower, self.upper) if math.isfinite(self.lower) and math.isfinite(self.upper) else None


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
    measures: Mapping[str, Measure]  # by metric
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
        return self.measures["psnr"].identical if "psnr" in self.measures else 0

    @property
    def psnr(self) -> float | None:
        """Mean PSNR to the unaccelerated run, in dB."""
        return self.of("psnr", "mean")

    def of(self, metric: str, statistic: str) -> float | None:
        """A statistic of a metric, such as the mean of "ssim"; None where it was not measured."""
        made = self.measures.get(metric)
        return None if made is None else getattr(made, statistic)

    def plain(self) -> dict[str, Any]:
        """As plain values, for machines."""
        found = {name: item for name, item in vars(self).items() if name not in ("measures", "psnrs")}
        for name in ("psnr", "ssim", "latent_error", "psnr_converged"):
            found |= {name: self.of(name, "mean"), f"{name}_worst": self.of(name, "worst")}
        return found | {"statistics": {name: asdict(made) for name, made in self.measures.items()}}


@dataclass(frozen=True)
class Source:
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
        sources: files.
        repeated: lines of images that were there already.
    """

    frame: pl.DataFrame
    heads: list[Mapping[str, Any]]
    states: list[State]
    others: list[tuple[int, Mapping[str, Any]]]
    facts: dict[str, list[str]]
    directions: dict[str, bool]
    sources: list[Source]
    repeated: int

    @cached_property
    def rows(self) -> dict[State, list[Row]]:
        """The rows of every state with images: the unaccelerated run, then by budget, then by mean PSNR downwards."""
        found: dict[State, list[Row]] = {}
        for group in self.frame.partition_by("row", maintain_order=True) if len(self.frame) else ():
            found.setdefault(self.states[group["state"][0]], []).append(self._row(group))
        return {state: sorted(rows, key=_rank) for state, rows in found.items()}

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
        measures = {}
        for name, higher in self.directions.items():
            for key in (name, name + CONVERGED):
                if key in group.columns and (made := Measure.of(group[key].to_list(), prompts, higher)) is not None:
                    measures[key] = made
        verdicts = group.select(pl.col(f"^{JUDGE}.*$"))
        judged = verdicts.filter(pl.any_horizontal(pl.all().is_not_null())) if verdicts.width else verdicts
        right = judged.select(pl.all_horizontal(pl.all().fill_null(True))).to_series().mean() if len(judged) else None
        costs = group.select(pl.median("seconds", "speedup", "flops"), pl.max("cached_bytes", "peak_bytes")).row(
            0, named=True
        )
        return Row(
            method=head["method"],
            name=head["name"],
            options=head["options"],
            kind=head["kind"],
            repr=head.get("repr") or head["method"],
            paper=head.get("paper"),
            budget=head["budget"],
            evaluations=cast("float", group["evaluations"].mean()),
            images=len(group),
            measures=measures,
            judge=cast("float | None", right),
            attributes={
                column.name.removeprefix(JUDGE): cast("float", column.mean())
                for column in judged
                if column.null_count() < len(column)
            },
            seconds=costs["seconds"],
            speedup=costs["speedup"],
            flops=costs["flops"],
            cached_bytes=None if costs["cached_bytes"] is None else int(costs["cached_bytes"]),
            peak_bytes=None if costs["peak_bytes"] is None else int(costs["peak_bytes"]),
            data_driven=bool(head.get("data_driven")),
            calibrated_on=head.get("calibrated_on"),
            parts=head.get("parts") or {},
            predicted=(head.get("predicted") or {}).get("psnr"),
            planned_for=head.get("planned_for"),
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
    reader, sources = _Reader(), list[Source]()
    for path in map(Path, paths):
        if path.is_dir():
            raise ValueError(f"{path} is a folder; give the results.jsonl in it.")
        sums, count, folder = hashlib.sha256(), 0, str(path.parent)
        for number, record in stream(path, sums):
            count += 1
            reader.add(record, folder, (path, number))
        if not count:
            raise ValueError(
                f"{path}, line 1: the file holds no record; give a results.jsonl of skipcast compare or skipcast bench."
            )
        sources.append(Source(path, sums.hexdigest(), count))
    return reader.results(sources)


def of(records: Iterable[Mapping[str, Any]], folder: str | os.PathLike[str] = "") -> Results:
    """The results of records in memory; `folder` is where the images that they name lie."""
    reader = _Reader()
    for number, record in enumerate(records, start=1):
        reader.add(record, os.fspath(folder), (Path("records"), number))
    return reader.results([])


def summarise(records: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The rows of records of one state.

    Raises:
        ValueError: records of several models, or of several states of one, whose means would say nothing.
    """
    rows = of(records).rows
    if len(models := {state.model for state in rows}) > 1:
        raise ValueError(f"records must be of one model, got {', '.join(sorted(models))}; report each on its own.")
    if len(rows) > 1:
        titles = "; ".join(state.title(rows) for state in rows)
        raise ValueError(f"records must be of one state of the pipeline, got {titles}; report each on its own.")
    return next(iter(rows.values()), [])


class _Reader:
    """Takes records one by one, and keeps a few values of each."""

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.heads: list[Mapping[str, Any]] = []
        self.states: dict[State, int] = {}
        self.others: dict[tuple[Hashable, ...], tuple[int, Mapping[str, Any]]] = {}
        self.facts: dict[str, dict[str, None]] = {name: {} for name in FACTS}
        self.directions, self.repeated = dict(USUAL), 0
        self._rows: dict[tuple[Hashable, ...], int] = {}
        self._places: dict[tuple[int, str, int], tuple[int, tuple[Path, int]]] = {}
        self._last: dict[str, Any] = {}
        self._state = -1

    def add(self, record: Mapping[str, Any], folder: str, place: tuple[Path, int]) -> None:
        """Take a record of a file in this folder, from this path and line."""
        state = self._state_of(record)
        identity = (state, record["kind"], record["name"], _canonical(record["options"]), record["budget"])
        if record["kind"] in (TRACE, LEFT_OUT):
            self.repeated += identity in self.others
            self.others.setdefault(identity, (state, record))
            return
        row = self._rows.setdefault(identity, len(self.heads))
        if row == len(self.heads):
            self.heads.append(record)
        image = self._image(record, folder) | {"state": state, "row": row}
        number, first = self._places.setdefault((row, image["prompt"], image["seed"]), (len(self.images), place))
        if number == len(self.images):
            self.images.append(image)
            return
        self.repeated += 1
        known = self.images[number]
        odd = [key for key in {**known, **image} if key not in _OF_THE_RUN and known.get(key) != image.get(key)]
        if odd:
            raise ValueError(
                f"{place[0]}, line {place[1]} and {first[0]}, line {first[1]} are both {record['method']} at "
                f"{record['budget']} evaluations of the same prompt and seed, but differ in {', '.join(odd)}; "
                "give only one of them."
            )

    def _state_of(self, record: Mapping[str, Any]) -> int:
        """The place of the record's state; notes its facts. Mostly they are those of the record before."""
        for key in FACTS:
            found = record.get(key)
            if self._state < 0 or found != self._last[key]:
                self._last = {name: record.get(name) for name in FACTS}
                self._state = self.states.setdefault(State.of(record), len(self.states))
                for name, each in self._last.items():
                    if each is not None:
                        self.facts[name][words(each)] = None
                break
        return self._state

    def _image(self, record: Mapping[str, Any], folder: str) -> dict[str, Any]:
        for name, direction in (record.get("metrics") or {}).items():
            if name != "judge":
                self.directions.setdefault(name, DIRECTIONS[direction])
        found = {key: record.get(key) for key in ("prompt_index", "evaluations", "image", *_COSTS)}
        for name in self.directions:
            for key in (name, name + CONVERGED):
                if (measured := value(record, key)) is not None:
                    found[key] = measured
        for name, right in (record.get("judge") or {}).items():
            found[JUDGE + name] = right
        peak = (record.get("timing") or {}).get("peak_bytes")
        return found | {"prompt": record.get("prompt", ""), "seed": record.get("seed", 0), "folder": folder,
                        "peak_bytes": peak}  # fmt: skip

    def results(self, sources: list[Source]) -> Results:
        """Everything that was taken."""
        numbers = ("evaluations", "peak_bytes", *_COSTS, *(n + end for n in self.directions for end in ("", CONVERGED)))
        attributes = dict.fromkeys(key for image in self.images for key in image if key.startswith(JUDGE))
        schema: dict[str, Any] = {
            **dict.fromkeys(("state", "row", "prompt_index", "seed"), pl.Int64),
            **dict.fromkeys(("prompt", "image", "folder"), pl.String),
            **dict.fromkeys(numbers, pl.Float64),
            **dict.fromkeys(attributes, pl.Boolean),
        }
        frame = pl.DataFrame(
            {key: pl.Series(key, [image.get(key) for image in self.images], dtype) for key, dtype in schema.items()}
        )
        facts = {name: list(found) for name, found in self.facts.items() if found}
        return Results(
            frame, self.heads, list(self.states), list(self.others.values()), facts, self.directions, sources,
            self.repeated,
        )  # fmt: skip


def _canonical(options: Options) -> str:
    return json.dumps(options, sort_keys=True) if options else ""


@dataclass(frozen=True)
class Duel:
    """What a row gains over a plain sampler: differences of PSNR in dB on the same prompts and seeds."""

    sampler: Row
    gain: Measure
    better: int  # images on which the row is nearer to the unaccelerated run
    images: int  # that both have, without those that are identical to it in either

    @classmethod
    def of(cls, row: Row, sampler: Row | None) -> Duel | None:
        """None where there is no sampler, or no image that both have."""
        if sampler is None:
            return None
        gains, prompts = [], []
        for pair in row.psnrs:
            if pair not in sampler.psnrs:
                continue
            own, other = row.psnrs[pair], sampler.psnrs[pair]
            gain = math.nan if own is None or other is None else own - other  # a broken image must not be left out
            if not math.isinf(own or 0.0) and not math.isinf(other or 0.0):
                gains.append(gain)
                prompts.append(pair[0])
        made = Measure.of(gains, prompts, True)
        return None if made is None else cls(sampler, made, sum(gain > 0 for gain in gains), len(gains))

    @property
    def verdict(self) -> int:
        """1 where the interval of the gain lies above zero, -1 where it lies below, 0 where neither can be said."""
        interval = self.gain.interval
        return 0 if interval is None else (interval[0] > 0) - (interval[1] < 0)


@dataclass(frozen=True)
class Versus:
    """A row against the best plain samplers that make as many evaluations, and that take as many seconds."""

    row: Row
    evaluations: Duel | None
    latency: Duel | None


def versus(rows: Sequence[Row]) -> dict[tuple[int, str, str], Versus]:
    """Every forecast and plan of one state, by the key of its row; samplers are chosen by mean PSNR."""
    return {
        row.key: Versus(row, Duel.of(row, equal_evaluations(row, rows)), Duel.of(row, equal_latency(row, rows)))
        for row in rows
        if row.kind in ("forecast", "plan")
    }
