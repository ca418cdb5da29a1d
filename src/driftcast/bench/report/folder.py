"""The files of a report in one folder, each written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from driftcast.bench.report.page import html
from driftcast.bench.report.records import Record, lines
from driftcast.files import write_whole


def write(folder: str | os.PathLike[str], records: Sequence[Record], grid_image: Image.Image | None) -> dict[str, Path]:
    """Write results.jsonl, report.html and, given its image, grid.png, each atomically; the paths by file name."""
    png = None if grid_image is None else _png(grid_image)
    contents = {"results.jsonl": lines(records).encode(), "report.html": html(records, png).encode()}
    if png is not None:
        contents["grid.png"] = png
    Path(folder).mkdir(parents=True, exist_ok=True)
    return {name: write_whole(Path(folder) / name, content) for name, content in contents.items()}


def write_records(folder: str | os.PathLike[str], records: Sequence[Record]) -> None:
    """Write results.jsonl alone, atomically."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_whole(Path(folder) / "results.jsonl", lines(records).encode())


def write_page(folder: str | os.PathLike[str], records: Sequence[Record]) -> Path:
    """Write report.html alone, atomically, with the grid.png that lies in the folder."""
    grid = Path(folder) / "grid.png"
    page = html(records, grid.read_bytes() if grid.exists() else None)
    return write_whole(Path(folder) / "report.html", page.encode())


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
