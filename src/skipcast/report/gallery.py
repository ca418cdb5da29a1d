"""Choosing the images that a page embeds: the worst ones of the most important methods, within a size limit."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from skipcast.bench.records import MEDIA
from skipcast.bench.results import Results, Row, State

ROOM = 6_000_000  # bytes of embedded images of a whole page
EACH = 8  # images of a method, at most
SIDE = 384  # pixels; larger images are made smaller
_Image: TypeAlias = dict[str, Any]  # a line of the frame of results
_FEWEST = 3  # methods for which there should be room, if that costs each of them images


@dataclass
class Gallery:
    """The embedded images as data URIs, each once, and the methods that show them; read by the script of the page.

    Attributes:
        images: data URIs.
        methods: label, kind and cells: an image and that of the unaccelerated run, by their places in `images`.
        named: images of methods that records name.
        missing: of those that were looked for, files that are not there or hold no image.
        shrunk: whether any was larger than SIDE.
        full: whether there was room for all.
    """

    room: int
    images: list[str] = field(default_factory=list)
    methods: list[dict[str, Any]] = field(default_factory=list)
    named: int = 0
    missing: int = 0
    shrunk: bool = False
    full: bool = False
    _places: dict[str, int] = field(default_factory=dict)
    _read: dict[Path, str | None] = field(default_factory=dict)

    @property
    def embedded(self) -> int:
        """The number of images of methods that the gallery shows."""
        return sum(len(method["cells"]) for method in self.methods)

    @property
    def videos(self) -> bool:
        """Whether any of the images is a video."""
        return any(cell["video"] for method in self.methods for cell in method["cells"])

    @property
    def document(self) -> str:
        """Return the gallery as JSON, escaped so that it cannot close the HTML element around it."""
        found = {"images": self.images, "methods": self.methods}
        return json.dumps(found, allow_nan=False).replace("<", "\\u003c")

    @property
    def _used(self) -> int:
        return sum(map(len, self.images))

    def show(self, row: Row, images: Sequence[dict[str, Any]], references: dict[tuple[str, int], _Image]) -> None:
        """Add the images of a row, the worst first, until the size limit is reached."""
        cells: list[dict[str, Any]] = []
        each = EACH
        for image in images[:EACH]:
            if len(cells) >= each or self.full:
                break
            cell = self._cell(image, references.get((image["prompt"], image["seed"])))
            if cell is not None:
                cells.append(cell)
            # The images so far show how large they are.
            mean = self._used // max(1, len(self.images))
            each = min(each, max(1, self.room // (_FEWEST * 2 * max(1, mean))))
        if cells:
            for cell in cells if row.psnr is None else ():
                cell["psnr"] = ""  # was not measured at all
            label = f"{row.without('evaluations')}, {row.evaluations:.3g} evaluations"
            self.methods.append({"label": label, "kind": row.kind, "cells": cells})

    def _cell(self, image: _Image, reference: _Image | None) -> dict[str, Any] | None:
        """Return an image and its reference, or None if a file is missing or both do not fit into the limit."""
        uri, other = self._uri(image), self._uri(reference)
        if uri is None:
            return None
        new = [each for each in dict.fromkeys((uri, other)) if each is not None and each not in self._places]
        if self._used + sum(map(len, new)) > self.room:
            self.full = True
            return None
        for each in new:
            self._places[each] = len(self.images)
            self.images.append(each)
        psnr = image["psnr"]
        if psnr is not None and not math.isfinite(psnr):
            psnr = "inf" if psnr > 0 else None
        return {
            "image": self._places[uri],
            "reference": None if other is None else self._places[other],
            "video": uri.startswith("data:image/webp"),
            "prompt": image["prompt"],
            "seed": image["seed"],
            "psnr": psnr,
        }

    def _uri(self, image: _Image | None) -> str | None:
        if image is None:
            return None
        path = Path(image["folder"]) / image["image"]
        if path not in self._read:
            try:
                content, shrunk = _fitted(path)
                self._read[path] = f"data:{MEDIA[path.suffix.lower()]};base64,{base64.b64encode(content).decode()}"
                self.shrunk = self.shrunk or shrunk
            except (OSError, ValueError, SyntaxError):  # no such file, or no image
                self.missing += 1
                self._read[path] = None
        return self._read[path]


def gallery(results: Results, state: State, rows: Sequence[Row], room: int = ROOM) -> Gallery | None:
    """Return the gallery of one state, or None if the records name no images.

    Args:
        results: images lie in the folders of their files.
        state: of a pipeline.
        rows: of the state.
        room: bytes of embedded images.
    """
    groups: dict[tuple[int, str, str], list[_Image]] = {}
    references: dict[tuple[str, int], _Image] = {}
    keys = {(row.budget, row.method): row.key for row in rows}
    for image in results.images(state).drop_nulls("image").rows(named=True):
        head = results.heads[image["row"]]
        if head["kind"] == "reference":
            references[image["prompt"], image["seed"]] = image
        else:
            groups.setdefault(keys[head["budget"], head["method"]], []).append(image)
    if not groups:
        return None
    made = Gallery(room, named=sum(map(len, groups.values())))
    for row in order([row for row in rows if row.key in groups]):
        made.show(row, sorted(groups[row.key], key=_badness), references)
        if made.full:
            break
    return made


def _badness(image: _Image) -> tuple[float, str, int]:
    psnr = image["psnr"]
    broken = psnr is None or math.isnan(psnr)  # the worst
    return -math.inf if broken else psnr, image["prompt"], image["seed"]


def order(rows: Sequence[Row]) -> list[Row]:
    """Order rows by importance: at the middle budget the plans, the best forecast and the best plain sampler, then
    the same at the other budgets, then the other rows, the best first."""
    budgets = sorted({row.budget for row in rows if row.kind != "reference"})
    if not budgets:
        return []
    middle = budgets[len(budgets) // 2]
    found: list[Row] = []
    for budget in sorted(budgets, key=lambda budget: (budget != middle, budget)):
        for kind in ("plan", "forecast", "sampler"):
            of_kind = sorted((row for row in rows if row.budget == budget and row.kind == kind), key=_worth)
            found += of_kind if kind == "plan" else of_kind[:1]
    rest = [row for row in rows if row not in found and row.kind != "reference"]
    return found + sorted(rest, key=lambda row: (row.budget != middle, _worth(row)))


def _worth(row: Row) -> float:
    return math.inf if row.psnr is None or math.isnan(row.psnr) else -row.psnr


def _fitted(path: Path) -> tuple[bytes, bool]:
    """Return the bytes of an image and whether it was scaled down; videos are never scaled down."""
    content = path.read_bytes()
    with Image.open(BytesIO(content)) as image:
        if image.format not in ("PNG", "WEBP"):
            raise ValueError(f"{path} is neither a PNG nor a WebP.")
        image.load()
        if max(image.size) <= SIDE or image.format == "WEBP":
            return content, False
        small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue(), True
