"""Records: the lines of `results.jsonl`, in and out.

One per picture and method; beside them those of kind "trace" (a method step by step) and "left out" (one that cannot
run, and why).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias, cast

from skipcast.report.checks import LEFT_OUT as LEFT_OUT
from skipcast.report.checks import TRACE as TRACE
from skipcast.report.checks import complaint

Record: TypeAlias = dict[str, Any]

#: An infinite PSNR is no JSON number: it is stored as null, and this flag beside it says why.
IDENTICAL = {"psnr": "identical", "psnr_converged": "identical_converged"}
_GZIP = b"\x1f\x8b"


class Line(NamedTuple):
    """A record and the number of its line."""

    number: int
    record: Record


def read(path: str | os.PathLike[str]) -> list[Record]:
    """The records of a `results.jsonl`, or of one packed by gzip.

    Raises:
        FileNotFoundError: no such file.
        ValueError: names the first line that is no record; or the file holds none.
    """
    found = [line.record for line in stream(path)]
    if not found:
        raise ValueError(f"{path} holds no record; give a results.jsonl of skipcast compare or skipcast bench.")
    return found


def stream(path: str | os.PathLike[str], sums: Any = None) -> Iterator[Line]:
    """The records of a file one by one, so that few of them need to be in memory.

    Args:
        path: a `results.jsonl`, or one packed by gzip.
        sums: a sum of `hashlib`, to be updated with the bytes of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: names the first line that is no record.
    """
    number = 0
    with Path(path).open("rb") as raw:
        packed = raw.read(2) == _GZIP
        raw.seek(0)
        counted = cast("IO[bytes]", _Summed(raw, sums or hashlib.sha256()))
        content = gzip.GzipFile(fileobj=counted) if packed or Path(path).suffix == ".gz" else counted
        try:
            for text in content:
                number += 1
                if text.strip():
                    yield Line(number, _record(text, f"{path}, line {number}"))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(
                f"{path}, line {number + 1} cannot be unpacked ({error}); the file is cut off or broken, make it again."
            ) from error


class _Summed:
    """A file whose bytes are summed as they are read."""

    def __init__(self, raw: IO[bytes], sums: Any) -> None:
        self._raw, self._sums = raw, sums

    def read(self, size: int = -1) -> bytes:
        found = self._raw.read(size)
        self._sums.update(found)
        return found

    def __iter__(self) -> Iterator[bytes]:
        for line in self._raw:
            self._sums.update(line)
            yield line


def _record(text: bytes, place: str) -> Record:
    try:
        record = json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{place} is not text; give a results.jsonl of skipcast compare or skipcast bench.") from error
    except json.JSONDecodeError as error:
        if not text.endswith(b"\n"):
            raise ValueError(
                f"{place} is not JSON: it was written in half, for it has no end; remove it or run again."
            ) from error
        raise ValueError(f"{place} is not JSON ({error}); remove the line or run again.") from error
    except RecursionError as error:
        raise ValueError(f"{place} is not a record: it is nested too deeply.") from error
    if wrong := complaint(record):
        raise ValueError(
            f"{place} is not a record: {wrong}. Remove the line, or give a results.jsonl of skipcast compare or "
            "skipcast bench."
        )
    return cast("Record", record)


def lines(records: Iterable[Record]) -> str:
    """The records as strict JSON, one a line: null for infinity and NaN, with a flag for identical pictures."""
    return "".join(json.dumps(_plain(record), allow_nan=False) + "\n" for record in records)


def pictures(records: Iterable[Record]) -> list[Record]:
    """Only the records of pictures."""
    return [record for record in records if record["kind"] not in (TRACE, LEFT_OUT)]


def values(records: Iterable[Record], key: str) -> list[Any]:
    """A value per record, None where it is missing, infinity where the flag of identical pictures is set."""
    flag = IDENTICAL.get(key)
    return [math.inf if flag and record.get(flag) else record.get(key) for record in records]


def _plain(record: Record) -> Record:
    flags = {flag: True for key, flag in IDENTICAL.items() if record.get(key) == math.inf}
    return {key: _finite(value) for key, value in record.items()} | flags


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
