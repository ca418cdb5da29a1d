"""Files written whole or not at all, folders for one process at a time, and finished parts of long jobs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

# Files written whole or not at all, and folders for one process at a time.


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
        ImportError: filelock is not installed.
        ValueError: another process is at it.
    """
    try:
        from filelock import FileLock, Timeout
    except ImportError as error:
        raise ImportError('folders that are resumed need filelock; run: pip install "skipcast[bench]"') from error
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"{folder} is at work already in another process; wait for it, or give another --out."
        ) from error
    try:
        yield
    finally:
        lock.release()


def write_manifest(path: Path, begun: Mapping[str, Any]) -> None:
    """Say what the finished pieces of a folder follow from, one value a line."""
    write_whole(path, (json.dumps(dict(begun), indent=1) + "\n").encode())


def check_manifest(path: Path, now: Mapping[str, Any], what: str) -> None:
    """Refuse to go on with work that was begun with other values.

    Args:
        path: of the manifest.
        now: what finished pieces must follow from.
        what: the work, in the plural.

    Raises:
        ValueError: names file and line of the manifest, and both values.
    """
    try:
        text = path.read_text(encoding="utf-8")
        begun = dict(json.loads(text))
    except (OSError, ValueError, TypeError) as error:
        line = getattr(error, "lineno", 1)
        raise ValueError(
            f"{path}, line {line}: does not say what the {what} were begun with; restore it, or give another --out."
        ) from error
    for key, value in json.loads(json.dumps(dict(now))).items():
        if begun.get(key) != value:
            line = next((i for i, word in enumerate(text.splitlines(), 1) if f'"{key}":' in word), 1)
            raise ValueError(
                f"{path}, line {line}: the {what} were begun with {key} {begun.get(key)!r}, now it is {value!r}; go on "
                "as it was begun, or give another --out."
            )


# Finished parts of a long job, kept in a folder so that it can be taken up again after an interruption.

FORMAT = "skipcast-partial-1"
_ABOUT = "arguments.json"

Part = dict[str, Tensor]


class Partial:
    """Numbered parts of one job; without a folder they are only kept in memory.

    Args:
        folder: where they are written, each whole or not at all; None for nowhere.
        identity: the arguments of the job as plain JSON; a folder of other arguments is refused.

    Raises:
        ValueError: the folder belongs to something else, or to other arguments; names what differs.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self._memory: dict[int, Part] = {}
        if folder is None:
            return
        identity = json.loads(json.dumps(dict(identity)))
        # Killed while it began, a folder holds a hidden draft at most.
        if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
            self._check(folder, identity)
        else:
            text = json.dumps({"format": FORMAT, "arguments": identity}, indent=1) + "\n"
            write_whole(folder / _ABOUT, text.encode())

    @staticmethod
    def _check(folder: Path, identity: Mapping[str, Any]) -> None:
        try:
            about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{folder} is no interrupted recording: {error}; remove it or give another path."
            ) from error
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise ValueError(f"{folder} is no interrupted recording of this version; remove it or give another path.")
        before = about.get("arguments", {})
        names = [name for name in {**before, **identity} if before.get(name) != identity.get(name)]
        if names:
            changes = "; ".join(
                f"{name} was {_short(before.get(name))}, is {_short(identity.get(name))}" for name in names
            )
            raise ValueError(
                f"{folder} holds an interrupted recording with other arguments: {changes}. Repeat those to take it up "
                "again, give another path, or remove the folder to begin anew."
            )

    def _path(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"part-{number:05d}.safetensors"

    def __contains__(self, number: int) -> bool:
        return number in self._memory if self.folder is None else self._path(number).is_file()

    def __setitem__(self, number: int, part: Part) -> None:
        if self.folder is None:
            self._memory[number] = part
            return
        write_whole(self._path(number), save({name: tensor.contiguous() for name, tensor in part.items()}))

    def __getitem__(self, number: int) -> Part:
        if self.folder is None:
            return self._memory[number]
        try:
            return load_file(self._path(number))
        except SafetensorError as error:
            raise ValueError(f"{self._path(number)} is damaged: {error}; remove it to record it again.") from error

    def remove(self) -> None:
        """Forget everything, the folder too."""
        self._memory.clear()
        if self.folder is not None:
            shutil.rmtree(self.folder)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
