"""Files written whole or not at all, and folders of finished pieces from which interrupted work goes on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FORMAT = "skipcast-piece-1"  # of a finished piece
AGAIN = "remove the file to have its work done again; all other files stay good."


def check_file(path: Path, *, new: bool = False) -> None:
    """Refuse, before any work is done for it, a path at which no file can be written.

    Args:
        path: of the file; folders that are missing would be made.
        new: refuse a file that is there already too, for it would be lost.

    Raises:
        ValueError: names the path, what is in the way, and a cure.
    """
    mode = _mode(path)
    if mode is not None:
        if stat.S_ISDIR(mode):
            raise ValueError(f"{path} is a folder; give a file.")
        if not stat.S_ISREG(mode):
            raise ValueError(f"{path} is a device or a pipe; give a file.")
        if new:
            raise ValueError(f"{path} is there already; remove it, or give another path.")
        if not os.access(path, os.W_OK):
            raise ValueError(f"{path} is write-protected; give another path.")
    check_folder(path.parent)


def check_folder(path: Path) -> None:
    """Refuse, before any work is done for it, a path at which nothing can be written into a folder.

    Raises:
        ValueError: as `check_file`.
    """
    for place in (path, *path.absolute().parents):
        if (mode := _mode(place)) is None:
            continue
        if not stat.S_ISDIR(mode):
            below = "" if place == path else f", and {path.name} would lie below it"
            raise ValueError(f"{place} is no folder{below}; give another path.")
        try:
            with tempfile.TemporaryFile(dir=place):
                return
        except OSError as error:
            raise ValueError(f"nothing can be written into {place} ({error.strerror}); give another path.") from error


def _mode(path: Path) -> int | None:
    """Of what is at a path, None where nothing is."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # a name that is too long, links in a circle, a NUL
        raise ValueError(f"{str(path)!r:.200} is no path ({error}); give another one.") from error


def write_whole(path: Path, content: bytes) -> Path:
    """Put `content` at `path`, making its folder; whoever reads it finds the old file or all of the new one.

    Raises:
        ValueError: something else than a file is there.
        OSError: the file cannot be written; nothing is left behind then.
    """
    target = Path(os.path.realpath(path))  # what a link leads to, which stays one
    if (mode := _mode(target)) is not None and not stat.S_ISREG(mode):
        check_file(path)
    draft = target.with_name(f".{target.name}.{secrets.randbits(64)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(draft, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # before the name, which some file systems keep first
            os.replace(draft, target)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    return path


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    """Make a folder of these files, by their paths in it; it appears with all of them or not at all.

    Raises:
        ValueError: something is there already, or nothing can be written there.
        OSError: a file cannot be written; nothing is left behind then.
    """
    if _mode(path) is not None:
        raise ValueError(f"{path} is there already; remove it, or give another path.")
    check_folder(path.parent)
    draft = path.with_name(f".{path.name}.{secrets.randbits(64)}")
    try:
        for name, content in files.items():
            write_whole(draft / name, content)
        os.rename(draft, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return path


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock a folder, made where it is missing, for this process; the system releases it however the process ends.

    Raises:
        ValueError: another process has locked it, or nothing can be written there.
    """
    from filelock import FileLock, Timeout  # torch needs it too, so it is always there

    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"{folder} is at work already in another process; wait for it, or give another path."
        ) from error
    try:
        yield
    finally:
        lock.release()


class Folder:
    """The finished pieces of one job in a folder, so that the job goes on from them after it was interrupted.

    A piece is a file `<kind>/<name>.piece` of two parts: a line that says what it is with a checksum, and its content.
    The folder may also hold plain files, such as images for people to look at. Every file is written whole, so that a
    kill loses one piece at most. The manifest says what the pieces follow from, one value a line.

    Args:
        path: the folder; made where it is missing.
        begun: what the pieces follow from, as plain JSON.
        work: what the job makes, in the plural, for errors.
        kinds: the kinds of files, each with the pattern of its file names; group 1 is the name of the piece.
        manifest: file name of the manifest.
        shared: whether other files may be in the folder before the job begins.
    """

    def __init__(
        self,
        path: Path,
        begun: Mapping[str, Any],
        work: str,
        kinds: Mapping[str, re.Pattern[str]],
        *,
        manifest: str,
        shared: bool = False,
    ) -> None:
        self.path, self.manifest = path, path / manifest
        self._begun, self._work, self._kinds, self._shared = json.loads(json.dumps(dict(begun))), work, kinds, shared
        self._files: dict[str, dict[str, str]] = {kind: {} for kind in kinds}

    @contextmanager
    def opened(self) -> Iterator[Folder]:
        """Open the folder for this process alone.

        Raises:
            ValueError: another process works on it, it holds something else, or pieces that were begun with other
                values; names the file, the line and both values. Or nothing can be written there.
        """
        check_folder(self.path)
        found = self.path.iterdir() if self.path.is_dir() and not self.manifest.exists() else ()
        if not self._shared and any(not path.name.startswith(".") for path in found):
            raise ValueError(f"{self.path} holds something else than {self._work}; remove it, or give another path.")
        with alone(self.path):
            self._files = {kind: dict(self._scan(kind)) for kind in self._kinds}
            begun = any(self._files.values())
            if begun or self.manifest.exists():
                self._check_manifest(begun)
            if not begun:  # a job that failed before its first piece binds nobody
                lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in self._begun.items())
                write_whole(self.manifest, f"{{\n{lines}\n}}\n".encode())
            yield self

    def files(self, kind: str) -> Mapping[str, str]:
        """File names by the names of the pieces, in order as found, then as written."""
        return self._files[kind]

    def has(self, kind: str, name: str) -> bool:
        """Whether the piece is finished."""
        return name in self._files[kind]

    def write(self, kind: str, name: str, content: bytes) -> None:
        """Write a piece with its checksum."""
        head = {"format": FORMAT, "piece": f"{kind}/{name}", "sha256": hashlib.sha256(content).hexdigest()}
        self.write_file(kind, name, f"{json.dumps(head)}\n".encode() + content, ".piece")

    def write_file(self, kind: str, name: str, content: bytes, suffix: str) -> None:
        """Write a plain file, without a checksum."""
        write_whole(self.path / kind / f"{name}{suffix}", content)
        self._files[kind][name] = f"{name}{suffix}"

    def read(self, kind: str, name: str) -> bytes:
        """The content of a finished piece.

        Raises:
            ValueError: its file is broken or of other work; names file and line.
        """
        path, piece = f"{self.path}{os.sep}{kind}{os.sep}{name}.piece", f"{kind}/{name}"  # strings: they are very many
        with open(path, "rb") as file:
            head_line, _, content = file.read().partition(b"\n")
        try:
            head = json.loads(head_line)
            known, checksum = (head["format"], head["piece"]), head["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line 1: half-written or foreign; {AGAIN}") from error
        if known != (FORMAT, piece):
            raise ValueError(f"{path}, line 1: belongs to other work, format {known[0]} of {known[1]}; {AGAIN}")
        if hashlib.sha256(content).hexdigest() != checksum:
            raise ValueError(f"{path}, line 2: half-written or changed; {AGAIN}")
        return content

    def path_of(self, kind: str, name: str) -> Path:
        """The file of a finished piece."""
        return self.path / kind / self._files[kind][name]

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.path)

    def _scan(self, kind: str) -> Iterator[tuple[str, str]]:
        folder, pattern = self.path / kind, self._kinds[kind]
        for name in sorted(os.listdir(folder) if folder.is_dir() else ()):
            draft = re.fullmatch(r"\.(.+)\.\d+", name)  # what a killed `write_whole` leaves
            if draft and pattern.fullmatch(draft[1]):
                os.unlink(folder / name)
            elif found := pattern.fullmatch(name):
                yield found[1], name
            elif not name.startswith("."):
                raise ValueError(f"{folder / name}, line 1: no file of {self._work}; move it out of the folder.")

    def _check_manifest(self, binding: bool) -> None:
        """Refuse a file that is no manifest, and other values where they are binding."""
        check_file(self.manifest)  # a pipe would be waited for
        try:
            text = self.manifest.read_text(encoding="utf-8")
            begun = dict(json.loads(text))
            if not binding and begun.keys() != self._begun.keys():
                raise ValueError("a file of somebody else's")
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"{self.manifest}, line {getattr(error, 'lineno', 1)}: does not say what the {self._work} were begun "
                "with; restore it, or give another path."
            ) from error
        for key in {**self._begun, **begun} if binding else ():
            if (before := begun.get(key)) != (now := self._begun.get(key)):
                lines = enumerate(text.splitlines(), start=1)
                line = next((number for number, word in lines if word.startswith(f' "{key}":')), 1)
                raise ValueError(
                    f"{self.manifest}, line {line}: the {self._work} were begun with {key} {_short(before)}, now it is "
                    f"{_short(now)}; go on as it was begun, remove the folder, or give another path."
                )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
