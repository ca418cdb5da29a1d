"""Records, the lines of `results.jsonl`: their schema, and how they are read and written."""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Any, Literal, Required, TypeAlias, cast

from typing_extensions import TypedDict

from skipcast.checks import shown
from skipcast.reading import open_regular

try:
    from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
    from pydantic_core import to_jsonable_python
except ImportError as error:
    raise ImportError('records need pydantic; run: pip install "skipcast[bench]"') from error

#: Options of a method as values, such as {"order": 1, "evaluations": 10}.
Options: TypeAlias = dict[str, str | int | float | bool]
TRACE, LEFT_OUT = "trace", "left out"
#: An infinite PSNR is not a JSON number: it is stored as null, and this flag says why.
IDENTICAL = {"psnr": "identical", "psnr_converged": "identical_converged"}
DIRECTIONS = {"higher is better": True, "lower is better": False}
#: Media types of the files that records may name.
MEDIA = {".png": "image/png", ".webp": "image/webp"}
IMAGES = "images"  # the folder next to results.jsonl that holds them
_MOST_OF_A_LINE, _MOST_OF_A_FILE = 2**24, 2**33  # bytes, unpacked
_GIVE = "give a results.jsonl of skipcast compare or skipcast bench."


def _inside(path: str) -> str:
    """Refuse what is not an image of the results, two folders up at most, but some other file of the machine."""
    parts = path.removeprefix("../../").split("/")
    safe = not any(part in ("", ".", "..") or set(part) & set("\\:\0") for part in parts)
    if not (safe and parts[0] == IMAGES and len(parts) > 1 and Path(path).suffix.lower() in MEDIA):
        raise ValueError(f"must be the path of a .png or .webp in the folder {IMAGES} of the results")
    return path


#: Numbers that a page can draw and add up; what else stands in a record has 64 bits, and fits float32.
_LARGEST = 1e38
_Count: TypeAlias = Annotated[int, Field(ge=0, le=10**6)]
_Cost: TypeAlias = Annotated[float, Field(ge=0, le=1e18)]
_Decibels: TypeAlias = Annotated[float, Field(ge=-1000, le=1000)]


@with_config(ConfigDict(strict=True, extra="allow"))
class Record(TypedDict, total=False):
    """One image of one method; or a method step by step (kind "trace"), or one that cannot run (kind "left out").

    Null stands for what was not measured. Further keys hold the metrics that `metrics` names; others are ignored.
    """

    kind: Required[str]  # "reference" (the unaccelerated run), "forecast", "plan", "sampler", "trace", "left out"
    method: Required[str]  # the specification for people to read and copy; code reads name and options
    name: Required[str]  # of the method in the registry, "plan" or "reference"
    options: Required[dict[str, str | int | float | bool]]  # of the specification
    budget: Required[_Count | None]  # evaluations that were requested; steps of the unaccelerated run
    evaluations: Required[Annotated[float, Field(ge=0, le=10**6)] | None]  # that were made
    repr: str | None  # the method in full
    parts: dict[str, str] | None  # forecaster, controller, coordinate and target of a method that forecasts
    paper: str | None
    data_driven: bool | None  # whether the evaluated steps follow from values
    decided_with: int | None  # images of the call that shared these decisions
    calibrated_on: dict[str, Any] | None  # the option found by calibration ("threshold"), and on how many images
    predicted: dict[str, _Decibels | bool | None] | None  # PSNR in dB that a plan predicts of itself
    planned_for: str | None  # target of a plan: "default" or "converged"
    plan_revision: str | None  # of the weights that a plan was made for
    model: str | None
    revision: str | None  # of the weights
    scheduler: dict[str, Any] | None  # label, class and config
    steps: _Count | None  # of the sampler
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
    image: Annotated[str, AfterValidator(_inside)] | None  # path from the folder of the results
    fps: float | None  # frames a second of a video
    metrics: dict[str, Literal["higher is better", "lower is better"]] | None  # that were measured
    psnr: _Decibels | None  # to the unaccelerated run, in dB
    ssim: float | None
    latent_error: float | None  # relative L2 norm
    psnr_converged: _Decibels | None  # to the converged run
    ssim_converged: float | None
    latent_error_converged: float | None
    identical: bool | None  # to the unaccelerated run, so that psnr is infinite
    identical_converged: bool | None
    judge: dict[str, bool] | None  # whether a classifier finds each attribute that the prompt names
    seconds: _Cost | None  # per image
    speedup: _Cost | None  # seconds of the unaccelerated run / seconds
    cached_bytes: _Cost | None  # that the method keeps between steps, per image
    flops: Annotated[float, Field(ge=0)] | None  # of a whole call
    timing: dict[str, Any] | None  # medians and ranges of the loop and the call; peak_bytes
    image_sha256: str | None
    latents_sha256: str | None
    evaluated_steps: list[int] | None
    errors: list[float | None] | None  # of a trace: relative error of the forecast at every step
    amplification: list[float | None] | None  # of a trace: sum of |weights| at every step
    reason: str | None  # why a method was left out


def options_of(given: Mapping[str, str]) -> Options:
    """The options of a specification as values: "2" becomes 2, "0.5" 0.5, "true" True."""
    return {name: _value(text) for name, text in given.items()}


def _value(text: str) -> str | int | float | bool:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with suppress(ValueError):
            if math.isfinite(found := kind(text)):
                return found
    return text


def read(path: str | os.PathLike[str]) -> list[Record]:
    """The records of a `results.jsonl`, or of one packed by gzip.

    Raises:
        FileNotFoundError: no such file.
        ValueError: names the first line that is not a record; or the file holds none.
    """
    return [record for _, record in stream(path)]


def stream(path: str | os.PathLike[str]) -> Iterator[tuple[int, Record]]:
    """The records of a file one by one with the numbers of their lines; blank lines are skipped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: names the first line that is not a record; or the file holds none.
    """
    number, empty, room = 0, True, _MOST_OF_A_FILE
    with open_regular(path) as file:
        packed = file.read(2) == b"\x1f\x8b" or Path(path).suffix == ".gz"
        file.seek(0)
        source = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if packed else file
        try:
            for text in iter(partial(source.readline, _MOST_OF_A_LINE + 1), b""):
                number, room = number + 1, room - len(text)
                if len(text) > _MOST_OF_A_LINE or room < 0:
                    raise ValueError(f"{path}, line {number} is too long to be one of results; {_GIVE}")
                if text.strip():
                    empty = False
                    yield number, _parsed(text, f"{path}, line {number}")
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(
                f"{path}, line {number + 1} cannot be unpacked ({error}); the file is cut off or broken, make it again."
            ) from error
    if empty:
        raise ValueError(f"{path} holds no record; {_GIVE}")


def _checked(record: Record) -> Record:
    """What the types of single keys do not say: what each kind needs, and what must be positive."""
    kind = record["kind"]
    if kind == LEFT_OUT:
        needed: tuple[str, ...] = ("reason",)
    else:
        needed = ("budget", "evaluations", *(("steps", "evaluated_steps") if kind == TRACE else ("prompt", "seed")))
    if missing := [key for key in needed if record.get(key) is None]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    if kind not in (LEFT_OUT, TRACE):
        if cast("int", record["budget"]) < 1 or cast("float", record["evaluations"]) <= 0:
            raise ValueError("budget and evaluations must be positive")
        for name in record.get("metrics") or ():
            if name != "judge" and type(record.get(name)) not in (int, float, type(None)):
                raise ValueError(f"{name:.60} must be a number")
    peak = (record.get("timing") or {}).get("peak_bytes")
    if type(peak) not in (int, float, type(None)) or not 0 <= (peak or 0) <= 1e18:
        raise ValueError(f"timing.peak_bytes must be a number of bytes, got {shown(peak)}")
    for key, item in record.items():
        if _is_odd(item):
            raise ValueError(f"{key:.60} is out of range, got {shown(item)}")
    return record


def _is_odd(item: object) -> bool:
    """Whether there are numbers in it that the writer of records never writes."""
    kind = type(item)
    if kind is float:
        return not -_LARGEST < cast("float", item) < _LARGEST
    if kind is int:
        return not -(2**63) < cast("int", item) < 2**63
    if kind is dict:
        return any(map(_is_odd, cast("dict[str, object]", item).values()))
    return kind is list and any(map(_is_odd, cast("list[object]", item)))


_SCHEMA: TypeAdapter[Record] = TypeAdapter(Annotated[Record, AfterValidator(_checked)])


def _parsed(text: bytes, place: str) -> Record:
    try:
        return _SCHEMA.validate_json(text.strip())
    except ValidationError as error:
        errors = error.errors(include_url=False)
        missing = [str(each["loc"][0]) for each in errors if each["type"] == "missing"]
        what = f"it lacks {', '.join(missing)}" if missing else errors[0]["msg"].removeprefix("Value error, ")
        what = what.replace("at line 1 column", "at column")
        if errors[0]["loc"] and not missing:
            what = f"{'.'.join(f'{part:.40}' for part in map(str, errors[0]['loc'][:2]))}: {what}, "
            what += f"got {shown(errors[0]['input'])}"
        raise ValueError(f"{place} is not a record: {what}. Remove the line, or {_GIVE}") from None


def lines(records: Iterable[Mapping[str, Any]]) -> str:
    """The records as strict JSON, one per line: null for infinity and NaN, with a flag for identical images."""
    return "".join(json.dumps(_plain(record), allow_nan=False) + "\n" for record in records)


def _plain(record: Mapping[str, Any]) -> Any:
    flags = {flag: True for key, flag in IDENTICAL.items() if record.get(key) == math.inf}
    return to_jsonable_python({**record, **flags}, inf_nan_mode="null")


def images(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records of images alone."""
    return [record for record in records if record["kind"] not in (TRACE, LEFT_OUT)]


def value(record: Mapping[str, Any], key: str) -> Any:
    """The value of a key: None where it is missing, infinity where the flag of identical images is set."""
    flag = IDENTICAL.get(key)
    return math.inf if flag and record.get(flag) else record.get(key)
