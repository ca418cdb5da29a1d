"""The folder of a bench run: one file per finished piece, written whole, so that a kill loses one at most."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from skipcast.bench.grid import FORMAT, Cell
from skipcast.bench.media import check_sample, suffix_of
from skipcast.bench.provenance import hardware, versions
from skipcast.bench.spec import Spec
from skipcast.bench.work import Result
from skipcast.checkpoint import alone, check_manifest, write_manifest, write_whole

PREPARED, CELLS, COUNTS, TIMINGS, CHECKS = "prepared", "cells", "counts", "timings", "checks"
SAMPLES, PICTURES = "samples", "images"
_NAMES = {
    PICTURES: re.compile(r"([0-9a-f]{32}-\d+)\.(?:png|webp)"),  # before the cells, which know how large they are
    SAMPLES: re.compile(r"([0-9a-f]{32})\.safetensors"),
    **dict.fromkeys((PREPARED, CELLS, COUNTS, TIMINGS, CHECKS), re.compile(r"([0-9a-f]{32})\.json")),
}
_DRAFT = re.compile(r"\.[0-9a-f]{32}(-\d+)?\.(json|safetensors|png|webp)\.\d+")  # what a killed `write_whole` leaves
_AGAIN = "remove the file to have its work done again; all other files stay good."


class Store:
    """Finished pieces of a bench run, by kind and digest.

    Args:
        folder: its folder; made where it is missing.
        spec: the grid; a copy is kept in the folder.
    """

    def __init__(self, folder: Path, spec: Spec) -> None:
        self.folder, self._spec = folder, spec
        self._done: dict[str, set[str]] = {}
        self._files: dict[str, tuple[str, int]] = {}  # of images: name and bytes
        self._left_out = set[str]()  # cells that came to no sample and no image
        self._sample = lru_cache(maxsize=4)(self._read_sample)  # the same few for all rows of a group

    @contextmanager
    def opened(self) -> Iterator[Store]:
        """The folder, for this process alone.

        Raises:
            ValueError: it is at work already, holds something else or work of another machine, or a broken file.
        """
        torch.set_num_threads(self._spec.threads)  # told among the hardware
        manifest, here = self.folder / "sweep.json", {"format": FORMAT, **environment()}
        if not manifest.exists() and self.folder.is_dir() and any(not _hidden(path) for path in self.folder.iterdir()):
            raise ValueError(f"{self.folder} holds something else than a sweep; give another --out.")
        self.folder.mkdir(parents=True, exist_ok=True)
        with alone(self.folder):
            if manifest.exists():
                check_manifest(manifest, here, "cells")
            else:
                write_manifest(manifest, here)
            write_whole(self.folder / "spec.yaml", self._spec.text.encode())
            for kind in _NAMES:
                self._done[kind] = set(self._scan(kind))
            yield self

    def has(self, kind: str, digest: str) -> bool:
        return digest in self._done[kind]

    def drawn(self, cell: Cell) -> bool:
        """Whether a cell is drawn, and its images are there where they are to be kept."""
        if not self.has(CELLS, cell.digest):
            return False
        if cell.stage == 0 or cell.digest in self._left_out or not self._spec.pictures:
            return True
        return all(self.has(PICTURES, _place(cell.digest, place)) for place in range(len(cell.pairs)))

    def finished(self, cell: Cell) -> bool:
        """Whether a cell is drawn, and kept where others are measured against it."""
        if not self.drawn(cell):
            return False
        needed = (cell.stage < 2 or self._spec.keep_samples) and cell.digest not in self._left_out
        return not needed or self.has(SAMPLES, cell.digest)

    def read(self, kind: str, digest: str) -> dict[str, Any]:
        """The values of a finished piece.

        Raises:
            ValueError: its file is broken; names file and line.
        """
        return _read(str(self._path(kind, digest)), digest)

    def keep(self, kind: str, digest: str, result: Result) -> None:
        """Keep a result, its images and its sample first: a piece counts as finished once its values are there."""
        for place, content in enumerate(result.pictures):
            name = _place(digest, place)
            path = write_whole(self.folder / PICTURES / f"{name}{suffix_of(content)}", content)
            self._files[name] = path.name, len(content)
            self._done[PICTURES].add(name)
        if result.sample is not None:
            write_whole(self._path(SAMPLES, digest), result.sample)
            self._done[SAMPLES].add(digest)
        write_whole(self._path(kind, digest), _lines(digest, result.values))
        self._done[kind].add(digest)

    def sample(self, digest: str) -> bytes:
        """The sample of a finished cell.

        Raises:
            ValueError: its file is broken.
        """
        return self._sample(digest)

    def picture(self, cell: Cell, place: int) -> str | None:
        """The file of an image of a drawn cell, as seen from the folder; None where none are kept."""
        return f"{PICTURES}/{self._files[_place(cell.digest, place)][0]}" if self._spec.pictures else None

    def _read_sample(self, digest: str) -> bytes:
        path = self._path(SAMPLES, digest)
        content = path.read_bytes()
        try:
            check_sample(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; {_AGAIN}") from error
        return content

    def _path(self, kind: str, digest: str) -> Path:
        return self.folder / kind / f"{digest}{'.safetensors' if kind == SAMPLES else '.json'}"

    def _scan(self, kind: str) -> Iterator[str]:
        folder = self.folder / kind
        for name in sorted(os.listdir(folder) if folder.is_dir() else ()):  # by name: there may be very many
            path = f"{folder}{os.sep}{name}"
            if name.startswith("."):
                if _DRAFT.fullmatch(name):
                    os.unlink(path)
                continue
            if (named := _NAMES[kind].fullmatch(name)) is None:
                raise ValueError(f"{path}, line 1: no file of a sweep; move it out of the folder.")
            if kind == PICTURES:
                self._files[named[1]] = name, os.stat(path).st_size
            elif kind != SAMPLES:
                values = _read(path, named[1])
                if kind == CELLS:
                    self._check_cell(named[1], values)
            yield named[1]

    def _check_cell(self, digest: str, values: dict[str, Any]) -> None:
        """Note a cell that came to nothing; refuse one whose images are not as they were written."""
        if "left_out" in values:
            self._left_out.add(digest)
            return
        for place, size in enumerate(values["picture_bytes"] or ()):
            name, found = self._files.get(_place(digest, place), ("", size))
            if found != size:
                path = self.folder / PICTURES / name
                raise ValueError(f"{path}, line 1: half-written or changed, {found} of {size} bytes; {_AGAIN}")


def _place(digest: str, place: int) -> str:
    """What an image of a cell is called."""
    return f"{digest}-{place}"


def environment() -> dict[str, Any]:
    """What results may depend on beside the spec: versions and the kind of machine."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {**versions(), "processor": hardware(torch.device("cpu")), "gpu": gpu}


def _lines(digest: str, values: dict[str, Any]) -> bytes:
    """Two lines: what the piece is with a checksum, and its values."""
    body = json.dumps(values, sort_keys=True)
    head = {"format": FORMAT, "digest": digest, "sha256": hashlib.sha256(body.encode()).hexdigest()}
    return f"{json.dumps(head)}\n{body}\n".encode()


def _read(path: str, digest: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            head_line, _, body = file.read().partition(b"\n")
        head = json.loads(head_line)
        known = head["format"], head["digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}, line 1: half-written or foreign; {_AGAIN}") from error
    if known != (FORMAT, digest):
        raise ValueError(f"{path}, line 1: belongs to other work, format {known[0]} of {known[1]}; {_AGAIN}")
    body = body.removesuffix(b"\n")
    if hashlib.sha256(body).hexdigest() != head.get("sha256"):
        raise ValueError(f"{path}, line 2: half-written or changed; {_AGAIN}")
    values: dict[str, Any] = json.loads(body)
    return values


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")
