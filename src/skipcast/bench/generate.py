"""Images of a file of prompts, drawn by whoever there is: what is finished stays, the rest is drawn."""

from __future__ import annotations

import hashlib
import json
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import torch

from skipcast.bench.draw import How, Pair, Sample, draw
from skipcast.bench.grid import derived_seed, digest
from skipcast.bench.media import FRAMES_PER_SECOND, IMAGE, VIDEO, encoded, suffix_of
from skipcast.bench.provenance import versions
from skipcast.bench.workers import Executor
from skipcast.checkpoint import Folder, check_folder, write_whole
from skipcast.models.load import load_model
from skipcast.pipelines.calls import guided
from skipcast.plans.adaptive import AdaptivePlan
from skipcast.plans.plan import Plan

FORMAT = 2  # of the manifest
LISTING, RECORDS = "images.jsonl", "records"
_KINDS = {RECORDS: re.compile(r"(\d{4,}-\d+)\.piece")}

Record: TypeAlias = dict[str, Any]  # of an image


@dataclass(frozen=True)
class Request:
    """How images are drawn, whatever they show.

    Args:
        model: a reference name, a folder or a hub id.
        method: as it was requested; None without one.
        how: what it means.
        steps: of the sampler.
        retry: the dearer plan that images begin again with where `how`, a plan too, is not trusted.
        guidance: None for the model's own.
        dtype: of the weights, by name; None for the usual one.
        size: height and width in pixels; None for the model's own.
        offload: keep on the GPU only the part of the model that is at work.
        seed: of the run.
        batch: images of one call.
        threads: of every worker on a CPU; None leaves them as they are.
        revision: of the weights; None for a hub id.
    """

    model: str
    method: str | None = None
    how: How = None
    steps: int = 50
    retry: Plan | None = None
    guidance: float | None = None
    dtype: str | None = None
    size: int | None = None
    offload: bool = False
    seed: int = 0
    batch: int = 1
    threads: int | None = 1
    revision: str | None = None

    def manifest(self) -> dict[str, Any]:
        """What finished images must have been drawn with to stay."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "offload"}
        own |= {name: _identity(own[name]) for name in ("how", "retry")}
        return {"format": FORMAT, **own, **versions()}


def _identity(how: How) -> str | None:
    if how is None:
        return None
    return f"plan {digest(how.as_dict())}" if isinstance(how, Plan | AdaptivePlan) else repr(how)


@dataclass(frozen=True)
class Portion:
    """Images that are drawn in one call; always the same ones, for an image's last bits may depend on the others."""

    pairs: tuple[Pair, ...]

    def __str__(self) -> str:
        first = self.pairs[0]
        more = f" and {len(self.pairs) - 1} more" if self.pairs[1:] else ""
        return f"{name_of(first)} ({first.prompt!r}, seed {first.seed}){more}"


def pairs(prompts: Sequence[tuple[int, str]], seeds: int, seed: int) -> list[Pair]:
    """Every prompt with every seed; the seeds are those of `skipcast bench`."""
    return [
        Pair(prompt, derived_seed(seed, prompt, number - 1), line, number)
        for line, prompt in prompts
        for number in range(1, seeds + 1)
    ]


def name_of(pair: Pair) -> str:
    """What the file of an image is called, without the ending: the line of its prompt and its number, from 1 on."""
    return f"{pair.index:04d}-{pair.number}"


class Painter:
    """Draws portions; the model is loaded when it is made.

    Raises:
        ValueError: the model cannot be loaded, or its weights are not those of the request.
    """

    def __init__(self, request: Request) -> None:
        self._method = request.how
        if request.retry is not None:
            if not isinstance(request.how, Plan):
                raise ValueError(f"retry=... begins again where a plan is doubted, and {request.how!r} is no plan.")
            self._method = AdaptivePlan([request.how, request.retry])
        if request.threads is not None:
            torch.set_num_threads(request.threads)
        dtype = getattr(torch, request.dtype) if request.dtype else None
        model = load_model(request.model, dtype, offload=request.offload)
        if request.revision not in (None, model.revision):
            raise ValueError(
                f"the weights of {request.model} are {model.revision} where this worker is, and "
                f"{request.revision} where it was started; put the same weights there."
            )
        self._request = request
        self._pipe: Any = model.pipe
        self._call = dict(model.call)
        if request.size is not None:
            self._call.update(height=request.size, width=request.size)
        if request.guidance is not None:
            self._call.update(guided(self._pipe, request.guidance))

    def run(self, task: Portion) -> list[tuple[bytes, Record]]:
        """The files of a portion, with their records; errors are those of `draw`."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="this plan was made for")  # the records tell of every image
            return self.draw(task.pairs)[0]

    def draw(self, pairs: Sequence[Pair]) -> tuple[list[tuple[bytes, Record]], Sample]:
        """Files with their records, and the sample; what is not trusted begins again with `retry`, where it is doubted.

        Raises:
            ValueError: the method does not suit the pipeline, or it draws another number of images.
        """
        request = self._request
        found = draw(self._pipe, pairs, self._method, steps=request.steps, call=self._call)
        if len(found.images) != len(pairs):
            raise ValueError(f"the pipeline drew {len(found.images)} images of {len(pairs)} prompts; use --batch 1.")
        each = found.summary.per_sample if found.summary else None
        evaluations, trusted = each or (found.evaluations,) * len(pairs), found.trusted or (None,) * len(pairs)
        made = []
        for place, (pair, image) in enumerate(zip(pairs, found.images, strict=True)):
            content = encoded(image, FRAMES_PER_SECOND)
            record = {
                "file": f"{name_of(pair)}{suffix_of(content)}",
                "line": pair.index,
                "number": pair.number,
                "prompt": pair.prompt,
                "seed": pair.seed,
                "evaluations": evaluations[place],
                "trusted": trusted[place],
                "drawn_again": isinstance(self._method, AdaptivePlan) and trusted[place] is False,
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            made.append((content, record))
        return made, found


@dataclass(frozen=True)
class Generated:
    """What was done.

    Args:
        listing: the file with the records of all images of the folder.
        kept: images that were finished before.
        drawn: records of the others.
        seconds: for these.
    """

    listing: Path
    kept: int
    drawn: Sequence[Record]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Counts of images, and their speed."""
        return {
            "folder": str(self.listing.parent),
            "listing": str(self.listing),
            "images": self.kept + len(self.drawn),
            "drawn": len(self.drawn),
            "kept": self.kept,
            "drawn_again": sum(record["drawn_again"] for record in self.drawn),
            "not_trusted": sum(record["trusted"] is False for record in self.drawn),
            "seconds": self.seconds,
            "images_per_second": len(self.drawn) / self.seconds if self.drawn else 0.0,
        }

    def __str__(self) -> str:
        found = self.as_dict()
        if not self.drawn:
            return f"all {self.kept} images were finished already"
        again, doubted = found["drawn_again"], found["not_trusted"]
        text = f"{len(self.drawn)} images in {self.seconds:.1f} s, {found['images_per_second']:.2f} a second"
        text += f", {again} of them begun again" if again else ""
        text += f", {doubted} not to be trusted (see --retry)" if doubted > again else ""
        return text + (f", {self.kept} finished before" if self.kept else "")


def generate(
    folder: Path,
    request: Request,
    every: Sequence[Pair],
    executor: Executor,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Generated:
    """Draw what is not finished yet: an image is once its record and its file are there.

    Args:
        folder: of the images; made where it is missing.
        request: how they are drawn.
        every: all images.
        executor: who draws them; closed at the end.
        progress: called with how many images are drawn, and how many are to be.

    Raises:
        ValueError: another process works on the folder, it holds something else or a broken file, or an image cannot
            be drawn; what is finished is kept.
        WorkerError: as of the executor.
    """
    pieces = Folder(folder, request.manifest(), "images", _KINDS, manifest="generate.json", shared=True)
    try:
        check_folder(folder)
        if not pieces.manifest.exists():
            _check_free(folder / LISTING, *_files(folder, every))
        with pieces.opened():
            records: dict[str, Record] = {
                name: json.loads(pieces.read(RECORDS, name)) for name in pieces.files(RECORDS)
            }
            _check_prompts(pieces, records, every)
            _check_free(*_files(folder, [pair for pair in every if name_of(pair) not in records]))
            kept = {
                name for name in map(name_of, every) if name in records and (folder / records[name]["file"]).exists()
            }
            portions = [Portion(tuple(every[i : i + request.batch])) for i in range(0, len(every), request.batch)]
            # A portion is drawn whole even where part of it is there: its images may depend on each other.
            waiting = [one for one in portions if not kept.issuperset(map(name_of, one.pairs))]
            drawn: list[Record] = []
            progress(0, len(every) - len(kept))
            started = time.perf_counter()
            for task, found in executor.map(waiting):
                for pair, (content, record) in zip(task.pairs, found, strict=True):
                    if (name := name_of(pair)) not in kept:
                        # The record first: an image without one is somebody else's.
                        pieces.write(RECORDS, name, json.dumps(record, ensure_ascii=False).encode())
                        write_whole(folder / record["file"], content)
                        records[name] = record
                        drawn.append(record)
                progress(len(drawn), len(every) - len(kept))
            seconds = time.perf_counter() - started
            ordered = sorted(records.values(), key=lambda record: (record["line"], record["number"]))
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in ordered)
            return Generated(write_whole(folder / LISTING, text.encode()), len(kept), drawn, seconds)
    finally:
        executor.close()


def _files(folder: Path, every: Sequence[Pair]) -> list[Path]:
    return [folder / f"{name_of(pair)}{suffix}" for pair in every for suffix in (IMAGE, VIDEO)]


def _check_free(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise ValueError(
                f"{path} is there already, and nothing says what it was made with; remove it, or give another --out."
            )


def _check_prompts(pieces: Folder, records: Mapping[str, Record], every: Sequence[Pair]) -> None:
    for pair in every:
        record = records.get(name := name_of(pair))
        if record is not None and (record["prompt"], record["seed"]) != (pair.prompt, pair.seed):
            raise ValueError(
                f"{pieces.path_of(RECORDS, name)}, line 2: {record['file']} shows {record['prompt']!r}, line "
                f"{pair.index} of the prompts is now {pair.prompt!r}; remove both files to have it drawn anew, or "
                "give another --out."
            )
