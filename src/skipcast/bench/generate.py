"""Images of a file of prompts, drawn by whoever there is: what is finished stays, the rest is drawn."""

from __future__ import annotations

import hashlib
import json
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from skipcast.bench.draw import How, Pair, Sample, draw
from skipcast.bench.grid import derived_seed, digest
from skipcast.bench.media import FRAMES_PER_SECOND, IMAGE, VIDEO, encoded, suffix_of
from skipcast.bench.provenance import versions
from skipcast.bench.workers import Executor
from skipcast.checkpoint import Folder, write_whole
from skipcast.models.load import REFERENCES, load_model, reference_folder, weights_hash
from skipcast.pipelines.calls import guided
from skipcast.plans.plan import Plan

FORMAT = 1  # of the manifest


@dataclass(frozen=True)
class Request:
    """How images are drawn, whatever they show.

    Args:
        model: a reference name, a folder or a hub id.
        label: the method as it was requested; None without one.
        method: what it means: a `Method`, a `Sampler` or a `Plan`; None without one.
        steps: of the sampler.
        retry: the plan for images that `method`, a plan too, is not trusted on.
        guidance: None for the model's own.
        dtype: of the weights, by name; None for the usual one.
        size: height and width in pixels; None for the model's own.
        offload: keep on the GPU only the part of the model that is at work.
        seed: of the run.
        batch: images of one call.
        threads: of every worker on a CPU.
        revision: of the weights; None for a hub id.
    """

    model: str
    label: str | None = None
    method: Any = None
    steps: int = 50
    retry: Plan | None = None
    guidance: float | None = None
    dtype: str | None = None
    size: int | None = None
    offload: bool = False
    seed: int = 0
    batch: int = 1
    threads: int = 1
    revision: str | None = None

    def manifest(self) -> dict[str, Any]:
        """What finished images must have been drawn with to stay."""
        return {
            "format": FORMAT,
            "model": self.model,
            "revision": self.revision,
            "dtype": self.dtype,
            "method": self.label,
            "repr": _identity(self.method),
            "retry": _identity(self.retry),
            "steps": self.steps,
            "guidance": self.guidance,
            "size": self.size,
            "seed": self.seed,
            "batch": self.batch,
            "threads": self.threads,
            **versions(),
        }


def name_of(pair: Pair) -> str:
    """What the file of an image is called, without the ending: the line of its prompt and its number, from 1 on."""
    return f"{pair.index:04d}-{pair.number}"


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


def portions(every: Sequence[Pair], batch: int) -> Iterator[Portion]:
    """All images, `batch` at a time."""
    for start in range(0, len(every), batch):
        yield Portion(tuple(every[start : start + batch]))


def revision_of(model: str) -> str | None:
    """What identifies the weights of a model of this machine; None for a hub id.

    Raises:
        ValueError: it is none of the three that a model can be.
    """
    folder = reference_folder(model) if model in REFERENCES else Path(model)
    if folder.exists():
        return weights_hash(folder)
    if model.count("/") != 1 or model.startswith((".", "/")):
        raise ValueError(
            f"no model {model!r}: it is neither a reference model ({', '.join(REFERENCES)}), nor a folder, "
            "nor a hub id of the form owner/name."
        )
    return None


def _identity(method: Any) -> str | None:
    if method is None:
        return None
    return f"plan {digest(method.as_dict())}" if isinstance(method, Plan) else repr(method)


@dataclass(frozen=True)
class Drawn:
    """An image as the content of its file."""

    pair: Pair
    content: bytes
    evaluations: int  # all that it took
    trusted: bool | None  # of the first drawing; None where nothing checks
    again: bool  # drawn again with the other plan

    @property
    def suffix(self) -> str:
        """What its file ends in."""
        return suffix_of(self.content)


class Painter:
    """Draws portions; the model is loaded when it is made.

    Args:
        request: how images are drawn.
    """

    def __init__(self, request: Request) -> None:
        torch.set_num_threads(request.threads)
        self._request = request
        dtype = getattr(torch, request.dtype) if request.dtype else None
        model = load_model(request.model, dtype, offload=request.offload)
        if request.revision not in (None, model.revision):
            raise ValueError(
                f"the weights of {request.model} are {model.revision} where this worker is, and "
                f"{request.revision} where it was started; put the same weights there."
            )
        self._pipe: Any = model.pipe
        self._call = dict(model.call)
        if request.size is not None:
            self._call.update(height=request.size, width=request.size)
        if request.guidance is not None:
            self._call.update(guided(self._pipe, request.guidance))

    def run(self, task: Portion) -> list[Drawn]:
        """Draw a portion.

        Raises:
            ValueError: the method does not suit the pipeline, or it returns something else than images.
        """
        request = self._request
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="this plan was made for")  # the records tell of every image
            return drawn(self._pipe, task.pairs, request.method, request.retry, request.steps, self._call)[0]


def drawn(
    pipe: Any, pairs: Sequence[Pair], method: How, retry: Plan | None, steps: int, call: Mapping[str, Any]
) -> tuple[list[Drawn], Sample]:
    """Pairs as files, and the first sample; what it is not trusted on is drawn again where there is a plan for that.

    Raises:
        ValueError: the method does not suit the pipeline, or it draws another number of images.
    """
    first = draw(pipe, pairs, method, steps=steps, call=call)
    if len(first.images) != len(pairs):
        raise ValueError(f"the pipeline drew {len(first.images)} images of {len(pairs)} prompts; use --batch 1.")
    evaluations = first.summary.evaluations if first.summary else steps
    trusted = first.trusted or (None,) * len(pairs)
    found = [
        Drawn(pair, encoded(image, FRAMES_PER_SECOND), evaluations, good, again=False)
        for pair, image, good in zip(pairs, first.images, trusted, strict=True)
    ]
    again = [place for place, good in enumerate(trusted) if good is False] if retry is not None else []
    if again:
        second = draw(pipe, [pairs[place] for place in again], retry, steps=steps, call=call)
        more = second.summary.evaluations if second.summary else steps
        for place, image in zip(again, second.images, strict=True):
            content = encoded(image, FRAMES_PER_SECOND)
            found[place] = Drawn(pairs[place], content, evaluations + more, trusted[place], again=True)
    return found, first


LISTING, RECORDS = "images.jsonl", "records"
_KINDS = {RECORDS: re.compile(r"(\d{4,}-\d+)\.piece")}


class Album:
    """Finished images of a folder; an image counts as finished once its record is there.

    Args:
        folder: their folder; made where it is missing.
        request: how they are drawn.
    """

    def __init__(self, folder: Path, request: Request) -> None:
        self.folder, self.listing = folder, folder / LISTING
        self._pieces = Folder(folder, request.manifest(), "images", _KINDS, manifest="generate.json", shared=True)
        self._records: dict[str, dict[str, Any]] = {}

    @contextmanager
    def opened(self, every: Sequence[Pair]) -> Iterator[Album]:
        """The folder for these images, and for this process alone.

        Raises:
            ValueError: another process works on it, it holds images of something else, or a broken file.
        """
        if not self._pieces.manifest.exists():
            self._check_foreign(every)
        with self._pieces.opened() as pieces:
            self._records = {name: json.loads(pieces.read(RECORDS, name)) for name in pieces.files(RECORDS)}
            self._check_prompts(every)
            yield self

    def has(self, pair: Pair) -> bool:
        """Whether it is finished."""
        record = self._records.get(name_of(pair))
        return record is not None and (self.folder / record["file"]).exists()

    def keep(self, drawn: Drawn) -> None:
        """Write an image, then the record that says it is finished."""
        name = name_of(drawn.pair)
        path = write_whole(self.folder / f"{name}{drawn.suffix}", drawn.content)
        self._records[name] = {
            "file": path.name,
            "line": drawn.pair.index,
            "number": drawn.pair.number,
            "prompt": drawn.pair.prompt,
            "seed": drawn.pair.seed,
            "evaluations": drawn.evaluations,
            "trusted": drawn.trusted,
            "drawn_again": drawn.again,
            "sha256": hashlib.sha256(drawn.content).hexdigest(),
        }
        self._pieces.write(RECORDS, name, json.dumps(self._records[name], ensure_ascii=False).encode())

    def finish(self) -> list[dict[str, Any]]:
        """All records, written in one file in the order of prompts and numbers."""
        ordered = sorted(self._records.values(), key=lambda record: (record["line"], record["number"]))
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in ordered)
        write_whole(self.listing, text.encode())
        return ordered

    def _check_foreign(self, every: Sequence[Pair]) -> None:
        for pair in every:
            for suffix in (IMAGE, VIDEO):
                if (path := self.folder / f"{name_of(pair)}{suffix}").exists():
                    raise ValueError(
                        f"{path} is there already, and no {self._pieces.manifest.name} says what it was drawn with; "
                        "give another --out."
                    )

    def _check_prompts(self, every: Sequence[Pair]) -> None:
        for pair in every:
            record = self._records.get(name_of(pair))
            if record is not None and (record["prompt"], record["seed"]) != (pair.prompt, pair.seed):
                raise ValueError(
                    f"{self._pieces.path_of(RECORDS, name_of(pair))}, line 2: {record['file']} shows "
                    f"{record['prompt']!r}, line {pair.index} of the prompts is now {pair.prompt!r}; remove that file "
                    "to have it drawn anew, or give another --out."
                )


@dataclass(frozen=True)
class Generated:
    """What was done."""

    folder: Path
    listing: Path
    records: list[dict[str, Any]]  # of all images of the folder
    drawn: int
    kept: int
    again: int  # of those drawn
    doubted: int  # of those drawn, by their plan's check
    seconds: float

    @property
    def per_second(self) -> float:
        return self.drawn / self.seconds if self.drawn else 0.0

    def __str__(self) -> str:
        if not self.drawn:
            return f"all {self.kept} pictures were finished already"
        kept = f", {self.kept} finished before" if self.kept else ""
        again = f", {self.again} of them twice" if self.again else ""
        doubted = f", {self.doubted} not to be trusted (see --retry)" if self.doubted > self.again else ""
        return f"{self.drawn} pictures in {self.seconds:.1f} s, {self.per_second:.2f} a second{again}{doubted}{kept}"


def generate(
    folder: Path,
    request: Request,
    every: Sequence[Pair],
    executor: Executor,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Generated:
    """Draw what is not finished yet.

    Args:
        folder: of the pictures.
        request: how they are drawn.
        every: all pictures.
        executor: who draws them; closed at the end.
        progress: called with how many images are drawn, and how many are to be.

    Raises:
        ValueError: the folder holds something else, or an image cannot be drawn; what is finished is kept.
        WorkerError: as of the executor.
    """
    try:
        with Album(folder, request).opened(every) as album:
            kept = {name_of(pair) for pair in every if album.has(pair)}
            # A portion is drawn whole even where part of it is there: its images may depend on each other.
            waiting = [
                one for one in portions(every, request.batch) if any(name_of(pair) not in kept for pair in one.pairs)
            ]
            drawn = again = doubted = 0
            total = len(every) - len(kept)
            progress(0, total)
            started = time.perf_counter()
            for _, found in executor.map(waiting):
                for one in found:
                    if name_of(one.pair) not in kept:
                        album.keep(one)
                        drawn += 1
                        again += one.again
                        doubted += one.trusted is False
                progress(drawn, total)
            seconds = time.perf_counter() - started
            return Generated(folder, album.listing, album.finish(), drawn, len(kept), again, doubted, seconds)
    finally:
        executor.close()
