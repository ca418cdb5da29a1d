"""Records, the lines of `results.jsonl`: their schema, and how they are read and written."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, Required, TypeAlias, cast

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from pydantic import TypeAdapter

#: Options of a method as values, such as {"order": 1, "evaluations": 10}.
Options: TypeAlias = dict[str, str | int | float | bool]
TRACE, LEFT_OUT = "trace", "left out"
#: An infinite PSNR is not a JSON number: it is stored as null, and this flag says why.
IDENTICAL = {"psnr": "identical", "psnr_converged": "identical_converged"}
DIRECTIONS = {"higher is better": True, "lower is better": False}
#: Media types of the files that records may name.
MEDIA = {".png": "image/png", ".webp": "image/webp"}
IMAGES = "images"  # the folder next to results.jsonl that holds them


class Record(TypedDict, total=False):
    """One image of one method; or a method step by step (kind "trace"), or one that cannot run (kind "left out").

    Null stands for what was not measured. Further keys hold the metrics that `metrics` names; others are ignored.
    """

    kind: Required[str]  # "reference" (the unaccelerated run), "forecast", "plan", "sampler", "trace", "left out"
    method: Required[str]  # the specification for people to read and copy; code reads name and options
    name: Required[str]  # of the method in the registry, "plan" or "reference"
    options: Required[dict[str, str | int | float | bool]]  # of the specification
    budget: Required[int | None]  # evaluations that were requested; steps of the unaccelerated run
    evaluations: Required[float | None]  # that were made
    repr: str | None  # the method in full
    parts: dict[str, str] | None  # forecaster, controller, coordinate and target of a method that forecasts
    paper: str | None
    data_driven: bool | None  # whether the evaluated steps follow from values
    decided_with: int | None  # images of the call that shared these decisions
    calibrated_on: dict[str, Any] | None  # the option found by calibration ("threshold"), and on how many images
    predicted: dict[str, Any] | None  # PSNR in dB that a plan predicts of itself
    planned_for: str | None  # target of a plan: "default" or "converged"
    plan_revision: str | None  # of the weights that a plan was made for
    model: str | None
    revision: str | None  # of the weights
    scheduler: dict[str, Any] | None  # label, class and config
    steps: int | None  # of the sampler
    guidance: float | None  # scale, where the spec varies it
    settings: dict[str, Any] | None  # arguments of the pipeline calls, and how the images were chosen
    versions: dict[str, Any] | None  # of packages
    commit: str | None
    hardware: str | None
    command: str | None  # that made the records
    prompt: str | None
    prompt_index: int | None  # its place in the list of prompts
    seed: int | None
    number: int | None  # place of the pair of prompt and seed in the bench run
    image: str | None  # path from the folder of the results
    fps: float | None  # frames a second of a video
    metrics: dict[str, Literal["higher is better", "lower is better"]] | None  # that were measured
    psnr: float | None  # to the unaccelerated run, in dB
    ssim: float | None
    latent_error: float | None  # relative L2 norm
    psnr_converged: float | None  # to the converged run
    ssim_converged: float | None
    latent_error_converged: float | None
    identical: bool | None  # to the unaccelerated run, so that psnr is infinite
    identical_converged: bool | None
    judge: dict[str, bool] | None  # whether a classifier finds each attribute that the prompt names
    seconds: float | None  # per image
    speedup: float | None  # seconds of the unaccelerated run / seconds
    cached_bytes: float | None  # that the method keeps between steps, per image
    flops: float | None  # of a whole call
    timing: dict[str, Any] | None  # medians and ranges of the loop and the call; peak_bytes
    image_sha256: str | None
    latents_sha256: str | None
    evaluated_steps: list[int] | None
    errors: list[float | None] | None  # of a trace: relative error of the forecast at every step
    amplification: list[float | None] | None  # of a trace: sum of |weights| at every step
    reason: str | None  # why a method was left out


class Line(NamedTuple):
    """A record and the number of its line."""

    number: int
    record: Record


def options_of(given: Mapping[str, str]) -> Options:
    """The options of a specification as values: "2" becomes 2, "0.5" 0.5, "true" True."""
    return {name: _value(text) for name, text in given.items()}


def _value(text: str) -> str | int | float | bool:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            found = kind(text)
        except ValueError:
            continue
        if math.isfinite(found):
            return found
    return text


def read(path: str | os.PathLike[str]) -> list[Record]:
    """The records of a `results.jsonl`, or of one packed by gzip.

    Raises:
        FileNotFoundError: no such file.
        ValueError: names the first line that is not a record; or the file holds none.
    """
    found = [line.record for line in stream(path)]
    if not found:
        raise ValueError(f"{path} holds no record; give a results.jsonl of skipcast compare or skipcast bench.")
    return found


def stream(path: str | os.PathLike[str], sums: Any = None) -> Iterator[Line]:
    """The records of a file one by one; blank lines are skipped. `sums`, a hash, is updated with the file's bytes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: names the first line that is not a record.
    """
    number = 0
    with Path(path).open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b" or Path(path).suffix == ".gz"
        raw.seek(0)
        counted = cast("IO[bytes]", _Summed(raw, sums or hashlib.sha256()))
        content = gzip.GzipFile(fileobj=counted) if packed else counted
        try:
            for text in content:
                number += 1
                if text.strip():
                    yield Line(number, _parsed(text, f"{path}, line {number}"))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(
                f"{path}, line {number + 1} cannot be unpacked ({error}); the file is cut off or broken, make it again."
            ) from error


class _Summed:
    """A file whose bytes are hashed as they are read."""

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


@cache
def _schema() -> TypeAdapter[Record]:
    try:
        from pydantic import ConfigDict, TypeAdapter, with_config
    except ImportError as error:
        raise ImportError('reading records needs pydantic; run: pip install "skipcast[bench]"') from error

    return TypeAdapter(with_config(ConfigDict(strict=True, extra="allow"))(Record))


def _parsed(text: bytes, place: str) -> Record:
    schema = _schema()
    from pydantic import ValidationError

    try:
        record = schema.validate_json(text)
        wrong = _wrong(record)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False)
        if errors[0]["type"] == "json_invalid":
            if text.startswith(b"{") and not text.endswith(b"\n"):
                cause = "it was written in half, for it has no end; remove it or run again"
            else:
                cause = f"{errors[0]['msg']}; give a results.jsonl of skipcast compare or skipcast bench"
            raise ValueError(f"{place} is not JSON: {cause}.") from None
        missing = [str(each["loc"][0]) for each in errors if each["type"] == "missing"]
        wrong = f"it lacks {', '.join(missing)}" if missing else _complaint(errors[0])
    if wrong:
        raise ValueError(
            f"{place} is not a record: {wrong}. Remove the line, or give a results.jsonl of skipcast compare or "
            "skipcast bench."
        )
    return record


_WORDS = {
    "string_type": "text", "float_type": "a number", "int_type": "a whole number", "int_from_float": "a whole number",
    "dict_type": "an object", "bool_type": "true or false", "list_type": "a list",
    "literal_error": '"higher is better" or "lower is better"',
}  # fmt: skip


def _complaint(error: Any) -> str:
    key = ".".join(map(str, error["loc"][:2])) or "the line"
    return f"{key} must be {_WORDS.get(error['type'], error['msg'])}, got {_short(error['input'])}"


def _wrong(record: Record) -> str | None:
    """What types alone do not say: what each kind needs, and what must be positive."""
    kind = record["kind"]
    if kind == LEFT_OUT:
        needed: tuple[str, ...] = ("reason",)
    else:
        own = ("steps", "evaluated_steps") if kind == TRACE else ("prompt", "seed")
        needed = ("budget", "evaluations", *own)
    if missing := [key for key in needed if record.get(key) is None]:
        return f"it lacks {', '.join(missing)}"
    if (path := record.get("image")) is not None and not _inside(path):
        return f"image must be the path of a .png or .webp in the folder {IMAGES} of the results, got {_short(path)}"
    if kind not in (LEFT_OUT, TRACE):
        if cast("int", record["budget"]) < 1 or cast("float", record["evaluations"]) <= 0:
            return "budget and evaluations must be positive"
        for name in record.get("metrics") or ():
            value = record.get(name)
            if name != "judge" and type(value) not in (int, float, type(None)):
                return f"{name} must be a number, got {_short(value)}"
    return None


def _inside(path: str) -> bool:
    """Whether this names an image of the results, two folders up at most, and not some other file of the machine."""
    parts = path.removeprefix("../../").split("/")
    safe = not any(part in ("", ".", "..") or set(part) & set("\\:\0") for part in parts)
    return safe and parts[0] == IMAGES and len(parts) > 1 and Path(path).suffix.lower() in MEDIA


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def lines(records: Iterable[Mapping[str, Any]]) -> str:
    """The records as strict JSON, one per line: null for infinity and NaN, with a flag for identical images."""
    return "".join(json.dumps(_plain(record), allow_nan=False) + "\n" for record in records)


def images(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records of images alone."""
    return [record for record in records if record["kind"] not in (TRACE, LEFT_OUT)]


def value(record: Mapping[str, Any], key: str) -> Any:
    """The value of a key: None where it is missing, infinity where the flag of identical images is set."""
    flag = IDENTICAL.get(key)
    return math.inf if flag and record.get(flag) else record.get(key)


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    flags = {flag: True for key, flag in IDENTICAL.items() if record.get(key) == math.inf}
    return {key: _finite(item) for key, item in record.items()} | flags


def _finite(item: Any) -> Any:
    if isinstance(item, float):
        return item if math.isfinite(item) else None
    if isinstance(item, dict):
        return {key: _finite(each) for key, each in item.items()}
    return [_finite(each) for each in item] if isinstance(item, list | tuple) else item
