"""What a visitor may ask for: one table of limits, and the checks that every value from a browser passes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from skipcast.checks import shown

#: Least and most of every number, by its name in messages.
NUMBERS: dict[str, tuple[float, float]] = {
    "evaluations": (1, 500),
    "steps": (2, 500),
    "seed": (0, 2**53),  # browsers send no larger ones exactly
    "the first seed": (0, 2**53),
    "pairs": (1, 64),
    "the guidance scale": (0, 100),
    "the threshold": (0, 1e6),
}
#: The most characters of every text.
TEXTS = {"the model": 500, "the method": 500, "the prompt": 2000, "the evaluations": 100, "the prompts": 20_000}
BUDGETS, PLANS = 8, 16  # plans of one recording, and those that one page keeps
UPLOAD, BODY = 2_000_000, 3_000_000  # bytes of a file, and of any request
ROOM = 1_000_000_000  # bytes of the disk that uploads leave free
WAITING = 100  # draws and recordings in the queue
VISITORS, IDLE = 100, 7200  # pages whose plans and images are kept, and for how many seconds without new ones


def whole(name: str, value: Any) -> int:
    """Return the number of a field; a ValueError if it is not whole or out of range."""
    if not _within(name, value) or value != int(value):
        raise ValueError(f"{name} must be a whole number {_span(name)}, not {shown(value)}.")
    return int(value)


def number(name: str, value: Any) -> float | None:
    """Return the number of a field that may be empty; a ValueError if it is out of range."""
    if value is not None and not _within(name, value):
        raise ValueError(f"{name} must be a number {_span(name)}, not {shown(value)}.")
    return value  # type: ignore[no-any-return]


def text(name: str, value: Any) -> str:
    """Return the text of a field without space around it; a ValueError if it is too long or holds half characters."""
    value = "" if value is None else value
    if not isinstance(value, str) or any("\ud800" <= each <= "\udfff" for each in value):
        raise ValueError(f"{name} must be text, not {shown(value)}.")
    if len(value) > TEXTS[name]:
        raise ValueError(f"{name} must have at most {TEXTS[name]} characters, not {len(value)}.")
    return value.strip()


def one_of(name: str, value: Any, offered: Collection[str]) -> str:
    """Return a choice; a ValueError if it is not offered."""
    if not isinstance(value, str) or value not in offered:
        raise ValueError(f"{name} must be one of {', '.join(offered)}, not {shown(value)}.")
    return value


def _within(name: str, value: Any) -> bool:
    least, most = NUMBERS[name]
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _span(name: str) -> str:
    return "from {} to {}".format(*NUMBERS[name])
