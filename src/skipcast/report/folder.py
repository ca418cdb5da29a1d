"""The files of a report, each written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from skipcast.checkpoint import write_whole
from skipcast.report.gallery import ROOM
from skipcast.report.load import Results, load
from skipcast.report.page import html
from skipcast.report.records import Record, lines
from skipcast.report.states import State
from skipcast.report.summary import Row

if TYPE_CHECKING:
    from torch import Tensor

RESULTS, PAGE, GRID, PICTURES = "results.jsonl", "report.html", "grid.png", "pictures"


def write(folder: str | os.PathLike[str], records: Sequence[Record], grid_image: Image.Image | None) -> dict[str, Path]:
    """Write results.jsonl, report.html and, given its image, grid.png, each atomically; the paths by file name."""
    folder = Path(folder)
    paths = {RESULTS: write_whole(folder / RESULTS, lines(records).encode())}
    if grid_image is not None:
        paths[GRID] = write_whole(folder / GRID, _png(grid_image))
    results = load([paths[RESULTS]]) if records else Results([])
    return paths | {PAGE: write_page(folder / PAGE, results)}


def write_records(folder: str | os.PathLike[str], records: Sequence[Record]) -> None:
    """Write results.jsonl alone, atomically."""
    write_whole(Path(folder) / RESULTS, lines(records).encode())


def write_page(
    path: str | os.PathLike[str],
    results: Results,
    summary: Mapping[State, list[Row]] | None = None,
    room: int = ROOM,
) -> Path:
    """Write a page alone, atomically; where records name no pictures, with the grid.png beside the first file.

    Args:
        path: of the page.
        results: what it is of.
        summary: the rows of each state, where they are known already.
        room: bytes of embedded pictures.
    """
    path = Path(path)
    grid = results.sources[0].path.parent / GRID if results.sources else None
    page = html(results, grid.read_bytes() if grid and grid.is_file() else None, path.parent, summary, room)
    return write_whole(path, page.encode())


def write_picture(folder: str | os.PathLike[str], name: str, image: Tensor, fps: int = 8) -> str:
    """Write one picture or video, atomically; its path from the folder, for its record.

    Args:
        folder: of the results.
        name: of the picture, of whatever characters.
        image: (3, H, W) in [0, 1]; a video (F, 3, H, W) becomes a WebP that plays in a loop.
        fps: frames a second of a video.
    """
    from skipcast.bench.media import encoded, suffix_of  # needs torch, which a report does without

    content = encoded(image, fps)
    path = Path(folder) / PICTURES / f"{_file_name(name)}{suffix_of(content)}"
    write_whole(path, content)
    return path.relative_to(folder).as_posix()


def _file_name(name: str) -> str:
    """A name for every file system; two names never share one."""
    plain = re.sub(r"[^A-Za-z0-9._=-]+", "-", name).strip("-.")
    if plain == name and len(plain) <= 100:
        return plain
    return f"{plain[:90]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
