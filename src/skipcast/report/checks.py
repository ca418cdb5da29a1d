"""What makes a line of `results.jsonl` a record: its keys and the types of what stands under them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

TRACE, LEFT_OUT = "trace", "left out"
DIRECTIONS = {"higher is better": True, "lower is better": False}
#: Kinds of pictures that records may name, by the ending of the file.
ENDINGS = {".png": "image/png", ".webp": "image/webp"}

#: In the folder of the pictures, which a file of a single state finds two folders up.
_PICTURE = re.compile(r"(\.\./){0,2}pictures/[^\\:\0]+\.(png|webp)", re.IGNORECASE)
_REQUIRED = ("method", "name", "kind", "budget", "evaluations")
_OF_PICTURES = ("prompt", "seed")


def _judged(value: Any) -> bool:
    return all(type(right) is bool for right in value.values())


def _directed(value: Any) -> bool:
    return all(isinstance(told, str) and told in DIRECTIONS for told in value.values())


def _numbers(value: Any) -> bool:
    return all(item is None or type(item) in (int, float) for item in value)


def _steps(value: Any) -> bool:
    return all(type(item) is int for item in value)


def _inside(value: Any) -> bool:
    """Whether it names a picture of the results, not some file elsewhere on the machine."""
    return _PICTURE.fullmatch(value) is not None and ".." not in value.lstrip("./").split("/")


def _anything(value: Any) -> bool:
    return True


# Exact types, because to ask for these takes a fraction of the time that isinstance takes, and true is no number.
_Check = tuple[tuple[type, ...], Callable[[Any], bool], str]
_TEXT: _Check = ((str,), _anything, "text")
_NUMBER: _Check = ((int, float), _anything, "a number")
_WHOLE: _Check = ((int,), _anything, "a whole number")
_OBJECT: _Check = ((dict,), _anything, "an object")
#: Under these keys may stand what the check lets pass, or null.
_TYPES: Mapping[str, _Check] = {
    **dict.fromkeys(
        (
            "method", "name", "kind", "repr", "paper", "prompt", "model", "revision", "commit", "hardware", "command",
            "reason", "planned_for",
        ),
        _TEXT,
    ),
    **dict.fromkeys(
        (
            "evaluations", "psnr", "ssim", "latent_error", "psnr_converged", "ssim_converged",
            "latent_error_converged", "seconds", "speedup", "cached_bytes", "flops", "guidance", "fps",
        ),
        _NUMBER,
    ),
    **dict.fromkeys(("budget", "steps", "prompt_index", "seed"), _WHOLE),
    **dict.fromkeys(
        ("settings", "versions", "scheduler", "parts", "predicted", "calibrated_on", "timing"), _OBJECT
    ),
    "judge": ((dict,), _judged, "an object of true and false"),
    "metrics": ((dict,), _directed, "an object of " + " and ".join(f'"{told}"' for told in DIRECTIONS)),
    "picture": ((str,), _inside, "the path of a .png or .webp in the folder pictures of the results"),
}  # fmt: skip
#: Of traces alone, for nothing else reads them.
_LISTS: Mapping[str, _Check] = {
    "evaluated_steps": ((list,), _steps, "a list of whole numbers"),
    "errors": ((list,), _numbers, "a list of numbers"),
    "amplification": ((list,), _numbers, "a list of numbers"),
}


def complaint(record: Any) -> str | None:
    """What is wrong with what a line holds, None if nothing is."""
    if not isinstance(record, dict):
        return "it lacks a JSON object"
    kind = record.get("kind")
    needed = _needed(kind)
    if missing := [key for key in needed if key not in record]:
        return f"it lacks {', '.join(missing)}"
    for checks in (_TYPES, _LISTS) if kind == TRACE else (_TYPES,):
        for key, (types, fine, words) in checks.items():
            value = record.get(key)
            if value is not None and (type(value) not in types or (fine is not _anything and not fine(value))):
                return f"{key} must be {words}, got {_short(value)}"
    for key in needed:
        if record[key] is None and not (kind == LEFT_OUT and key in ("evaluations", "budget")):
            return f"{key} must not be null"
    if kind not in (TRACE, LEFT_OUT):
        if record["budget"] < 1 or record["evaluations"] <= 0:
            return "budget and evaluations must be positive"
        for name in record.get("metrics") or ():
            if name != "judge" and type(record.get(name)) not in (int, float, type(None)):
                return f"{name} must be a number, got {_short(record[name])}"
    return None


def _needed(kind: Any) -> tuple[str, ...]:
    if kind == LEFT_OUT:
        return (*_REQUIRED, "reason")
    if kind == TRACE:
        return (*_REQUIRED, "steps", "evaluated_steps")
    return (*_REQUIRED, *_OF_PICTURES)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
