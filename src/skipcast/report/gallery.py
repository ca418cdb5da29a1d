"""Choosing the images that a page embeds: the worst ones of the most important methods, within a size limit."""

from __future__ import annotations

import base64
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from skipcast.bench.records import MEDIA
from skipcast.bench.results import Results, Row, State
from skipcast.reading import read_regular

ROOM = 6_000_000  # bytes of embedded images of a whole page
EACH = 8  # images of a method, at most
SIDE = 384  # pixels; larger images are made smaller
_MOST_BYTES, _MOST_PIXELS = 2**26, 2**25  # of a file; a larger one is counted as missing
_Image: TypeAlias = dict[str, Any]  # a line of the frame of results
_FEWEST = 3  # methods for which there should be room, if that costs each of them images


@dataclass
class Gallery:
    """The embedded images and the methods that show them; read by the script of the page.

    Attributes:
        named: images of methods that records name.
        images: data URIs, each once, with their places.
        methods: label, kind and cells: an image and that of the unaccelerated run, by their places.
        files: the data URI of every file that was looked for, None if it is not there or holds no image.
        shrunk: whether any was larger than SIDE.
        full: whether there was no room for some.
    """

    named: int
    images: dict[str, int] = field(default_factory=dict)
    methods: list[dict[str, Any]] = field(default_factory=list)
    files: dict[Path, str | None] = field(default_factory=dict)
    shrunk: bool = False
    full: bool = False

    @property
    def cells(self) -> list[dict[str, Any]]:
        """The images of all methods."""
        return [cell for method in self.methods for cell in method["cells"]]

    @property
    def missing(self) -> int:
        """The number of files that are not there or hold no image."""
        return list(self.files.values()).count(None)

    @property
    def document(self) -> str:
        """Return the gallery as JSON, escaped so that it cannot close the HTML element around it."""
        found = {"images": list(self.images), "methods": self.methods}
        return json.dumps(found, allow_nan=False).replace("<", "\\u003c")

    def add(self, image: _Image, reference: _Image | None, room: int) -> dict[str, Any] | None:
        """Embed an image and its reference; return its cell, or None if it is missing or both do not fit."""
        uri, other = self._uri(image), None if reference is None else self._uri(reference)
        if uri is None:
            return None
        uris = [each for each in (uri, other) if each is not None]
        self.full = sum(map(len, {*self.images, *uris})) > room
        if self.full:
            return None
        for each in uris:
            self.images.setdefault(each, len(self.images))
        return {
            "image": self.images[uri],
            "reference": None if other is None else self.images[other],
            "video": uri.startswith("data:image/webp"),
            "prompt": image["prompt"],
            "seed": image["seed"],
        }

    def _uri(self, image: _Image) -> str | None:
        folder, name = Path(image["folder"]), str(image["image"])
        path = folder / name
        if path not in self.files:
            try:
                content, shrunk = _fitted(_inside(folder, name))
                self.files[path] = f"data:{MEDIA[path.suffix.lower()]};base64,{base64.b64encode(content).decode()}"
                self.shrunk |= shrunk
            except Exception:  # no such file, or no image: decoders raise what they like, and one image is not all
                self.files[path] = None
        return self.files[path]


def _inside(folder: Path, name: str) -> Path:
    """The file of an image in the folder of its results; not one elsewhere that a link leads to."""
    inner = name.removeprefix("../../")
    images = (folder if inner == name else folder / "../..").resolve() / inner.partition("/")[0]
    found = (images.parent / inner).resolve()
    if not found.is_relative_to(images):
        raise ValueError(f"{name} is a link that leads out of the results")
    return found


def gallery(results: Results, state: State, rows: Sequence[Row], room: int = ROOM) -> Gallery | None:
    """Return the gallery of one state, or None if the records name no images.

    Args:
        results: images lie in the folders of their files.
        state: of a pipeline.
        rows: of the state.
        room: bytes of embedded images.
    """
    groups: dict[tuple[int, str], list[_Image]] = {}
    references: dict[tuple[str, int], _Image] = {}
    for image in results.images(state).drop_nulls("image").rows(named=True):
        head = results.heads[image["row"]]
        if head["kind"] == "reference":
            references[image["prompt"], image["seed"]] = image
        else:
            groups.setdefault((head["budget"], head["method"]), []).append(image)
    if not groups:
        return None
    made = Gallery(sum(map(len, groups.values())))
    for row in order([row for row in rows if (row.budget, row.method) in groups]):
        cells: list[dict[str, Any]] = []
        each = EACH
        for image in sorted(groups[row.budget, row.method], key=_badness)[:EACH]:
            if len(cells) < each and not made.full:
                if cell := made.add(image, references.get((image["prompt"], image["seed"])), room):
                    cells.append(cell | {"psnr": _decibels(image["psnr"], row)})
                # The images so far show how large they are.
                mean = sum(map(len, made.images)) // max(1, len(made.images))
                each = min(each, max(1, room // (_FEWEST * 2 * max(1, mean))))
        if cells:
            label = f"{row.without('evaluations')}, {row.evaluations:.3g} evaluations"
            made.methods.append({"label": label, "kind": row.kind, "cells": cells})
    return made


def _badness(image: _Image) -> tuple[float, str, int]:
    psnr = image["psnr"]
    broken = psnr is None or math.isnan(psnr)  # the worst
    return -math.inf if broken else psnr, image["prompt"], image["seed"]


def _decibels(psnr: float | None, row: Row) -> str:
    if row.psnr is None:
        return "PSNR not measured"
    if psnr is None or math.isnan(psnr):
        return "broken"
    return "identical" if math.isinf(psnr) else f"{psnr:.1f} dB"


def order(rows: Sequence[Row]) -> list[Row]:
    """Order rows by importance: at the middle budget the plans, the best forecast and the best plain sampler, then
    the same at the other budgets, then the other rows, the best first."""
    budgets = sorted({row.budget for row in rows if row.kind != "reference"})
    found: list[Row] = []
    for budget in sorted(budgets, key=lambda budget: (budget != budgets[len(budgets) // 2], budget)):
        for kind in ("plan", "forecast", "sampler"):
            of_kind = sorted((row for row in rows if row.budget == budget and row.kind == kind), key=_worth)
            found += of_kind if kind == "plan" else of_kind[:1]
    rest = [row for row in rows if row not in found and row.kind != "reference"]
    return found + sorted(rest, key=lambda row: (row.budget != budgets[len(budgets) // 2], _worth(row)))


def _worth(row: Row) -> float:
    return math.inf if row.psnr is None or math.isnan(row.psnr) else -row.psnr


def _fitted(path: Path) -> tuple[bytes, bool]:
    """Return the bytes of an image and whether it was scaled down; videos are never scaled down."""
    content = read_regular(path, _MOST_BYTES)
    with warnings.catch_warnings(action="ignore"), Image.open(BytesIO(content), formats=("PNG", "WEBP")) as image:
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError(f"{path} has {image.width} x {image.height} pixels.")
        image.load()
        if max(image.size) <= SIDE or image.format == "WEBP":
            return content, False
        small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue(), True
