"""Records: the lines of `results.jsonl`, in and out.

One per picture and method; beside them those of kind "trace" (a method step by step) and "left out" (one that cannot
run, and why).
"""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

Record: TypeAlias = dict[str, Any]

_REQUIRED = ("method", "name", "kind", "budget", "evaluations")
TRACE, LEFT_OUT = "trace", "left out"
#: An infinite PSNR is no JSON number: it is stored as null, and this flag beside it says why.
_IDENTICAL = {"psnr": "identical", "psnr_converged": "identical_converged"}


def read(path: str | os.PathLike[str]) -> list[Record]:
    """The records of a `results.jsonl`, or of one packed as `.gz`; ValueError names the first line that is none."""
    raw = Path(path).read_bytes()
    text = (gzip.decompress(raw) if Path(path).suffix == ".gz" else raw).decode("utf-8")
    records: list[Record] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON ({error}); remove the line or run again.") from error
        missing = [key for key in _REQUIRED if key not in record] if isinstance(record, dict) else ["a JSON object"]
        if missing:
            raise ValueError(f"{path}, line {number} is not a record: it lacks {', '.join(missing)}; remove the line.")
        records.append(record)
    return records


def lines(records: Iterable[Record]) -> str:
    """The records as strict JSON, one a line: null for infinity and NaN, with a flag for identical pictures."""
    return "".join(json.dumps(_plain(record), allow_nan=False) + "\n" for record in records)


def pictures(records: Iterable[Record]) -> list[Record]:
    """Only the records of pictures."""
    return [record for record in records if record["kind"] not in (TRACE, LEFT_OUT)]


def values(records: Iterable[Record], key: str) -> list[Any]:
    """A value per record, None where it is missing, infinity where the flag of identical pictures is set."""
    flag = _IDENTICAL.get(key)
    return [math.inf if flag and record.get(flag) else record.get(key) for record in records]


def _plain(record: Record) -> Record:
    flags = {flag: True for key, flag in _IDENTICAL.items() if record.get(key) == math.inf}
    return {key: _finite(value) for key, value in record.items()} | flags


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
