"""Files written whole or not at all, and folders for one process at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, content: bytes) -> Path:
    """Put `content` at `path`, making its folder; whoever reads it finds the old file or all of the new one.

    Raises:
        OSError: the file cannot be written; nothing is left behind then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """A folder for this process alone; the system lets go of it however the process ends.

    Raises:
        ValueError: another process is at it.
    """
    with (folder / ".lock").open("a") as handle:
        try:
            import fcntl
        except ImportError:  # not on this system: two processes at one folder do work twice, and spoil nothing
            yield
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"{folder} is at work already in another process; wait for it, or give another --out."
            ) from error
        yield
