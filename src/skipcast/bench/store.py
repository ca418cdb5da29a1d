"""The folder of a bench run: one file per finished piece, written whole, so that a kill loses one at most."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from skipcast.bench.grid import AGREEMENTS, CELLS, COUNTS, FORMAT, PREPARED, TIMINGS, TRACES, Piece
from skipcast.bench.media import check_sample, suffix_of
from skipcast.bench.provenance import hardware, versions
from skipcast.bench.spec import Spec
from skipcast.bench.work import Result
from skipcast.checkpoint import AGAIN, Folder, write_whole

SAMPLES, IMAGES = "samples", "images"
_VALUES = (PREPARED, CELLS, COUNTS, AGREEMENTS, TRACES, TIMINGS)
_KINDS = {
    IMAGES: re.compile(r"([0-9a-f]{32}-\d+)\.(?:png|webp)"),
    SAMPLES: re.compile(r"([0-9a-f]{32})\.safetensors"),
    **dict.fromkeys(_VALUES, re.compile(r"([0-9a-f]{32})\.piece")),
}


class Store:
    """Finished pieces of a bench run, by kind and digest.

    Args:
        folder: its folder; made where it is missing.
        spec: the grid; a copy is kept in the folder.
    """

    def __init__(self, folder: Path, spec: Spec) -> None:
        torch.set_num_threads(spec.threads)  # part of the hardware in the manifest
        gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
        # What results may depend on besides the spec: versions and the kind of machine.
        begun = {"format": FORMAT, **versions(), "processor": hardware(torch.device("cpu")), "gpu": gpu}
        self.folder, self._spec = folder, spec
        self._pieces = Folder(folder, begun, "cells of a bench run", _KINDS, manifest="bench.json")
        self._left_out = set[str]()  # cells that came to no sample and no image
        self._sample = lru_cache(maxsize=4)(self._read_sample)  # the same few for all rows of a group

    @contextmanager
    def opened(self) -> Iterator[Store]:
        """The folder, for this process alone.

        Raises:
            ValueError: another process works on it, it holds something else, work of another machine, or a broken
                file.
        """
        with self._pieces.opened() as pieces:
            write_whole(self.folder / "spec.yaml", self._spec.text.encode())
            for kind in _VALUES:
                for digest in pieces.files(kind):
                    values = self.read(kind, digest)
                    if kind == CELLS:
                        self._check_cell(digest, values)
            yield self

    def has(self, kind: str, digest: str) -> bool:
        """Whether a piece is finished."""
        return self._pieces.has(kind, digest)

    def drawn(self, cell: Piece) -> bool:
        """Whether a cell is drawn, and its images are there where they are to be kept."""
        if not self.has(CELLS, cell.digest):
            return False
        if cell.stage == 0 or cell.digest in self._left_out or not self._spec.images:
            return True
        return all(self.has(IMAGES, _place(cell.digest, place)) for place in range(len(cell.pairs)))

    def finished(self, piece: Piece) -> bool:
        """Whether a piece is done; of a cell that others are measured against, whether its sample is there too."""
        if piece.kind != CELLS:
            return self.has(piece.kind, piece.digest)
        if not self.drawn(piece):
            return False
        needed = (piece.stage < 2 or self._spec.samples == "all") and piece.digest not in self._left_out
        return not needed or self.has(SAMPLES, piece.digest)

    def read(self, kind: str, digest: str) -> dict[str, Any]:
        """The values of a finished piece.

        Raises:
            ValueError: its file is broken; names file and line.
        """
        return dict(json.loads(self._pieces.read(kind, digest)))

    def keep(self, piece: Piece, result: Result) -> None:
        """Keep a result, its images and its sample first: a piece counts as finished once its values are there."""
        for place, content in enumerate(result.images):
            self._pieces.write_file(IMAGES, _place(piece.digest, place), content, suffix_of(content))
        if result.sample is not None:
            self._pieces.write_file(SAMPLES, piece.digest, result.sample, ".safetensors")
        if "left_out" in result.values:
            self._left_out.add(piece.digest)
        self._pieces.write(piece.kind, piece.digest, json.dumps(result.values, sort_keys=True).encode())

    def sample(self, digest: str) -> bytes:
        """The sample of a finished cell.

        Raises:
            ValueError: its file is broken.
        """
        return self._sample(digest)

    def image(self, cell: Piece, place: int) -> str | None:
        """The file of an image of a drawn cell, as seen from the folder; None where none are kept."""
        return f"{IMAGES}/{self._pieces.files(IMAGES)[_place(cell.digest, place)]}" if self._spec.images else None

    def _read_sample(self, digest: str) -> bytes:
        path = self.folder / SAMPLES / f"{digest}.safetensors"
        content = path.read_bytes()
        try:
            check_sample(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; {AGAIN}") from error
        return content

    def _check_cell(self, digest: str, values: dict[str, Any]) -> None:
        """Remember a cell that came to nothing; refuse one whose images are not as they were written."""
        if "left_out" in values:
            self._left_out.add(digest)
            return
        for place, size in enumerate(values["image_bytes"] or ()):
            if self._pieces.has(IMAGES, name := _place(digest, place)):
                path = self._pieces.path_of(IMAGES, name)
                if (found := os.stat(path).st_size) != size:
                    raise ValueError(f"{path}, line 1: half-written or changed, {found} of {size} bytes; {AGAIN}")


def _place(digest: str, place: int) -> str:
    """What an image of a cell is called."""
    return f"{digest}-{place}"
