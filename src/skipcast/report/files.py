"""Writing the files of a report, each of them atomically."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from skipcast.bench.records import IMAGES, lines
from skipcast.bench.results import Results, load, of
from skipcast.checkpoint import write_whole
from skipcast.report.gallery import ROOM
from skipcast.report.page import html

if TYPE_CHECKING:
    from torch import Tensor

RESULTS, PAGE, GRID = "results.jsonl", "report.html", "grid.png"


def write(
    folder: str | os.PathLike[str], records: Sequence[Mapping[str, Any]], grid_image: Image.Image | None
) -> dict[str, Path]:
    """Write results.jsonl, report.html and, if given, grid.png, each atomically; return the paths by file name."""
    folder = Path(folder)
    paths = {RESULTS: write_whole(folder / RESULTS, lines(records).encode())}
    if grid_image is not None:
        buffer = BytesIO()
        grid_image.save(buffer, "PNG", optimize=True)
        paths[GRID] = write_whole(folder / GRID, buffer.getvalue())
    results = load([paths[RESULTS]]) if records else of([])
    return paths | {PAGE: write_page(folder / PAGE, results)}


def write_records(folder: str | os.PathLike[str], records: Sequence[Mapping[str, Any]]) -> None:
    """Write results.jsonl alone, atomically."""
    write_whole(Path(folder) / RESULTS, lines(records).encode())


def write_page(path: str | os.PathLike[str], results: Results, room: int = ROOM) -> Path:
    """Write only a page, atomically; if the records name no images, it shows the grid.png next to the first file.

    Args:
        path: of the page.
        results: that it shows.
        room: bytes of embedded images.
    """
    path = Path(path)
    grid = results.sources[0].path.parent / GRID if results.sources else None
    page = html(results, grid.read_bytes() if grid and grid.is_file() else None, path.parent, room)
    return write_whole(path, page.encode())


def write_image(folder: str | os.PathLike[str], name: str, image: Tensor, fps: int = 8) -> str:
    """Write one image or video atomically and return its path relative to the folder, for its record.

    Args:
        folder: of the results.
        name: of the image, of whatever characters.
        image: (3, H, W) in [0, 1]; a video (F, 3, H, W) becomes a WebP that plays in a loop.
        fps: frames a second of a video.
    """
    from skipcast.bench.media import encoded, suffix_of  # needs torch, which a report does without

    content = encoded(image, fps)
    path = Path(folder) / IMAGES / f"{_file_name(name)}{suffix_of(content)}"
    write_whole(path, content)
    return path.relative_to(folder).as_posix()


def _file_name(name: str) -> str:
    """Return a file name that is valid on every file system and different for different names."""
    plain = re.sub(r"[^A-Za-z0-9._=-]+", "-", name).strip("-.")
    if plain == name and len(plain) <= 100:
        return plain
    return f"{plain[:90]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
