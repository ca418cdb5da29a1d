"""Which pictures a page embeds: of the methods that matter most the worst ones, as far as there is room."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from skipcast.report.checks import ENDINGS
from skipcast.report.labels import without
from skipcast.report.records import Record, values
from skipcast.report.summary import Row

ROOM = 6_000_000  # bytes of embedded pictures of a whole page
EACH = 8  # pictures of a method, at most
LEAST = 3  # methods for which there should be room, if that costs each of them pictures
_VIDEO = "data:image/webp"
SIDE = 384  # pixels; larger pictures are made smaller


@dataclass(frozen=True)
class Cell:
    """A picture and the one that the unaccelerated run made of the same noise, by their places in `pictures`."""

    picture: int
    reference: int | None
    video: bool
    prompt: str
    seed: int
    psnr: float | None


@dataclass(frozen=True)
class Shown:
    """A method at one budget, its worst pictures first."""

    label: str
    kind: str
    evaluations: float
    measured: bool  # whether its PSNR was asked for at all
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Gallery:
    """Pictures as data, each once, and the methods that show them."""

    pictures: tuple[str, ...]
    methods: tuple[Shown, ...]
    named: int  # pictures of methods that records name
    missing: int  # of those that were looked for, files that are not there or hold no picture
    shrunk: bool


def gallery(records: Sequence[Record], rows: Sequence[Row], room: int = ROOM) -> Gallery | None:
    """The pictures of one state, None where records name none.

    Args:
        records: of the state; pictures lie in the folders of their files.
        rows: their summary.
        room: bytes of embedded pictures.
    """
    groups: dict[tuple[int, str], list[tuple[float, Record]]] = {}
    references: dict[tuple[str, int], Record] = {}
    for record, psnr in zip(records, values(records, "psnr"), strict=True):
        if not record.get("picture"):
            continue
        if record["kind"] == "reference":
            references[record["prompt"], record["seed"]] = record
        else:
            rank = -math.inf if psnr is None or math.isnan(psnr) else psnr  # a broken picture is the worst
            groups.setdefault((record["budget"], record["method"]), []).append((rank, record))
    if not groups:
        return None
    store = _Store(room)
    shown, each = list[Shown](), EACH
    for row in order([row for row in rows if row.key in groups]):
        worst = sorted(groups[row.key], key=lambda pair: (pair[0], pair[1]["prompt"], pair[1]["seed"]))
        cells = list[Cell]()
        for _, record in worst[:EACH]:
            if len(cells) >= each:
                break
            reference = references.get((record["prompt"], record["seed"]))
            if (cell := store.cell(record, reference)) is not None:
                cells.append(cell)
            if store.full:
                break
            # The first picture tells how large they are.
            each = min(each, max(1, room // (LEAST * 2 * max(1, store.mean))))
        if cells:
            shown.append(Shown(row.method, row.kind, row.evaluations, row.psnr is not None, tuple(cells)))
        if store.full:
            break
    named = sum(map(len, groups.values()))
    return Gallery(tuple(store.pictures), tuple(shown), named, store.missing, store.shrunk)


def order(rows: Sequence[Row]) -> list[Row]:
    """What matters most first: at the middle budget the plans, the best forecast and the best plain sampler; then the
    same at the other budgets; then the rest, the best first."""
    budgets = sorted({row.budget for row in rows if row.kind != "reference"})
    if not budgets:
        return []
    middle = budgets[len(budgets) // 2]
    found: list[Row] = []
    for budget in sorted(budgets, key=lambda budget: (budget != middle, budget)):
        of_budget = [row for row in rows if row.budget == budget and row.kind != "reference"]
        for kinds in (("plan",), ("forecast",), ("sampler",)):
            of_kind = sorted((row for row in of_budget if row.kind in kinds), key=_worth)
            found += of_kind if kinds == ("plan",) else of_kind[:1]
    rest = [row for row in rows if row not in found and row.kind != "reference"]
    return found + sorted(rest, key=lambda row: (row.budget != middle, _worth(row)))


def _worth(row: Row) -> float:
    return math.inf if row.psnr is None or math.isnan(row.psnr) else -row.psnr


class _Store:
    """Pictures as data URIs, each once, up to so many bytes."""

    def __init__(self, room: int) -> None:
        self.pictures: list[str] = []
        self.missing, self.full, self.shrunk = 0, False, False
        self._room, self._used = room, 0
        self._read, self._places = dict[Path, str | None](), dict[str, int]()

    @property
    def mean(self) -> int:
        return self._used // max(1, len(self.pictures))

    def cell(self, record: Record, reference: Record | None) -> Cell | None:
        """A picture beside its reference, None where its file is missing or there is no room for both."""
        uri, other = self._uri(record), self._uri(reference)
        if uri is None:
            return None
        wanted = [each for each in dict.fromkeys((uri, other)) if each is not None and each not in self._places]
        size = sum(map(len, wanted))
        if self._used + size > self._room:
            self.full = True
            return None
        for each in wanted:
            self._places[each] = len(self.pictures)
            self.pictures.append(each)
        self._used += size
        (psnr,) = values([record], "psnr")
        place = None if other is None else self._places[other]
        return Cell(self._places[uri], place, uri.startswith(_VIDEO), record["prompt"], record["seed"], psnr)

    def _uri(self, record: Record | None) -> str | None:
        if record is None or not record.get("picture"):
            return None
        path = Path(record["folder"]) / record["picture"]
        if path not in self._read:
            self._read[path] = self._data(path)
        return self._read[path]

    def _data(self, path: Path) -> str | None:
        try:
            content, shrunk = _fitted(path)
        except (OSError, ValueError, SyntaxError):  # no such file, or no picture
            self.missing += 1
            return None
        self.shrunk = self.shrunk or shrunk
        return f"data:{ENDINGS[path.suffix.lower()]};base64,{base64.b64encode(content).decode()}"


def _fitted(path: Path) -> tuple[bytes, bool]:
    """The file of a picture, and whether it was large and is made smaller; a video is left as it is."""
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


def labels(shown: Sequence[Shown]) -> Iterator[str]:
    """What a choice among methods calls each of them."""
    for each in shown:
        yield f"{without(each.label, 'evaluations')}, {each.evaluations:.3g} evaluations"
