"""Hostile files, by Hypothesis: bits flipped, ends cut, entries of another kind, numbers without end."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

#: What a file may hold instead of what belongs there; json.dumps writes NaN and Infinity for some of it.
EXTREME: list[Any] = [
    None, True, -1, 0, 1e308, -1e308, 5e-324, float("inf"), float("nan"), 2**31, 2**63, -(2**63), 2**64, 10**400, "",
    "x", "1", "\0", "\ud800", "\u2028", "<b>", "x" * 5000, [], {}, [[]], [None], {"": None}, [1, [2, [3]]], [0] * 99,
]  # fmt: skip
JSON = st.sampled_from(EXTREME) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every entry of nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(*path, key) for key, _ in items] + [way for key, one in items for way in places(one, (*path, key))]


def replaced(values: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy with another entry at a place."""
    changed = inner = copy.deepcopy(values)
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


@st.composite
def damage(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with one bit flipped, or without its end."""
    at = draw(st.integers(0, len(content) - 1))
    if draw(st.integers(0, 3)) == 0:
        return content[:at]
    return content[:at] + bytes([content[at] ^ 1 << draw(st.integers(0, 7))]) + content[at + 1 :]
