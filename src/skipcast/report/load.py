"""Files of results to what a report needs of them: streamed, shared parts kept once, every cell counted once."""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skipcast.report.checks import LEFT_OUT, TRACE
from skipcast.report.records import IDENTICAL, Record, stream
from skipcast.report.states import States

#: What a report reads of a picture, beside the metrics that it names; the rest is not kept in memory.
_FIGURES = (
    "evaluations", "psnr", "ssim", "latent_error", "psnr_converged", "ssim_converged", "latent_error_converged",
    "seconds", "speedup", "cached_bytes", "flops", "budget", "steps", "prompt_index", "seed", "guidance", "fps",
    "data_driven", "picture", *IDENTICAL.values(),
)  # fmt: skip
#: What many records share.
_SHARED = (
    "method", "name", "kind", "repr", "parts", "paper", "calibrated_on", "predicted", "planned_for", "prompt", "judge",
    "model", "revision", "scheduler", "settings", "versions", "commit", "hardware", "command", "metrics",
)  # fmt: skip
#: What two runs of one cell may differ in without being at odds: how long it took, and where and when it was.
_OF_THE_RUN = ("seconds", "speedup", "cached_bytes", "flops", "commit", "hardware", "command", "versions", "settings",
               "number", "prompt_index", "picture", "paper", "folder", "metrics", "peak_bytes")  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A file that was read."""

    path: Path
    sha256: str
    lines: int  # that hold a record


@dataclass(frozen=True)
class Results:
    """The records of one report; every record of a picture knows the folder of its file."""

    records: list[Record]
    sources: list[Source] = field(default_factory=list)
    repeated: int = 0  # lines of cells that were there already


def load(paths: Sequence[str | os.PathLike[str]]) -> Results:
    """Read files of `skipcast compare` and `skipcast bench` together.

    A cell (state, method, budget, prompt, seed) that stands in several lines is counted once, where they agree in all
    but times and the places where they were measured; the first stays.

    Raises:
        FileNotFoundError: no such file.
        ValueError: names the file and the line that is no record, or the two that are at odds.
    """
    with _without_collection():
        return _load(paths)


def _load(paths: Sequence[str | os.PathLike[str]]) -> Results:
    kept, states, sources = _Kept(), States(), list[Source]()
    cells: dict[tuple[object, ...], tuple[Record, int, int]] = {}
    records: list[Record] = []
    repeated = 0
    for place, path in enumerate(map(Path, paths)):
        if path.is_dir():
            raise ValueError(f"{path} is a folder; give the results.jsonl in it.")
        sums, count, folder = hashlib.sha256(), 0, str(path.parent)
        for number, record in stream(path, sums):
            count += 1
            slim = kept.slim(record, folder)
            key = (states.of(slim), slim["kind"], slim["method"], slim["budget"], slim.get("prompt"), slim.get("seed"))
            known = cells.get(key)
            if known is None:
                cells[key] = (slim, place, number)
                records.append(slim)
                continue
            other, first, line = known
            if odd := _odds(other, slim):
                raise ValueError(
                    f"{path}, line {number} and {paths[first]}, line {line} are both {slim['method']} at "
                    f"{slim['budget']} evaluations of the same prompt and seed, but differ in {odd}; "
                    "give only one of them."
                )
            repeated += 1
        if not count:
            raise ValueError(
                f"{path}, line 1: the file holds no record; give a results.jsonl of skipcast compare or skipcast bench."
            )
        sources.append(Source(path, sums.hexdigest(), count))
    return Results(records, sources, repeated)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Nothing read here is part of a cycle, but to look for cycles among a million objects takes seconds."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _odds(one: Record, other: Record) -> str:
    """The keys in which two records of a cell differ."""
    names = dict.fromkeys((*one, *other))
    return ", ".join(name for name in names if name not in _OF_THE_RUN and one.get(name) != other.get(name))


class _Kept:
    """Parts that many records share, each in memory once."""

    def __init__(self) -> None:
        self._last: dict[str, Any] = {}
        self._known: dict[tuple[str, str], Any] = {}
        self._metrics: dict[int, list[str]] = {}

    def slim(self, record: Record, folder: str) -> Record:
        """What a report reads of a record."""
        if record["kind"] in (TRACE, LEFT_OUT):
            return {key: self._one(key, value) for key, value in record.items()} | {"folder": folder}
        found = {key: record[key] for key in _FIGURES if key in record}
        last = self._last
        for key in _SHARED:
            if (value := record.get(key)) is not None:
                # Mostly it is what the line before has; to look it up takes longer.
                found[key] = last[key] if last.get(key) == value else self._one(key, value)
        if metrics := found.get("metrics"):
            for key in self._names(metrics):
                if key in record:
                    found[key] = record[key]
        if timing := record.get("timing"):
            found["peak_bytes"] = timing.get("peak_bytes")
        found["folder"] = folder
        return found

    def _names(self, metrics: dict[str, str]) -> list[str]:
        """The keys of metrics that not every record has; `metrics` is one of the objects kept."""
        if id(metrics) not in self._metrics:
            keys = [key for name in metrics for key in (name, f"{name}_converged")]
            self._metrics[id(metrics)] = [key for key in keys if key not in _FIGURES and key not in _SHARED]
        return self._metrics[id(metrics)]

    def _one(self, key: str, value: Any) -> Any:
        """The first of equal values; numbers and lists stay as they are."""
        if not isinstance(value, str | dict):
            return value
        name = (key, value if isinstance(value, str) else repr(value))
        found = self._last[key] = self._known.setdefault(name, value)
        return found
