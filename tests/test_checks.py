"""What the fields of a dataclass may hold: their annotations, at the door."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from skipcast.checks import Checked, check, unique

if TYPE_CHECKING:
    from nowhere import Unknown

NAN = float("nan")


@dataclass(frozen=True)
class Base(Checked):
    count: int
    share: float | None = None


@dataclass(frozen=True)
class Part(Base):
    places: tuple[int, ...] = ()
    told: bool = False
    name: str = ""
    other: Unknown | None = None

    def __post_init__(self) -> None:
        if not self.count > 0:
            raise ValueError("its own words")


@pytest.mark.parametrize(
    "fields",
    [
        {"count": 3},
        {"count": np.int64(3), "share": np.float32(0.5)},
        {"count": 3, "share": 1},
        {"count": 3, "places": [1, 2], "other": object()},
    ],
)
def test_what_an_annotation_names_is_taken(fields: dict[str, Any]) -> None:
    Part(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"count": True}, r"Part\(count=...\) must be a whole number, got True"),
        ({"count": 3.0}, "a whole number, got 3.0"),
        ({"count": NAN}, "a whole number, got nan"),
        ({"count": None}, "a whole number, got None"),
        ({"count": 3, "share": "1"}, "share=...\\) must be a number or None, got '1'"),
        ({"count": 3, "share": False}, "a number or None, got False"),
        ({"count": 3, "places": (1, 2.5)}, r"a tuple, each a whole number, got \(1, 2.5\)"),
        ({"count": 3, "told": 1}, "True or False, got 1"),
        ({"count": 3, "name": b"x"}, "text, got b'x'"),
    ],
)
def test_another_kind_is_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        Part(**fields)


def test_nan_is_refused_and_a_class_may_say_more() -> None:
    with pytest.raises(ValueError, match=r"Part\(share=...\) must be a number, got nan"):
        Part(3, NAN)
    with pytest.raises(ValueError, match="its own words"):
        Part(0, NAN)
    with pytest.raises(ValueError, match=r"Base\(share=...\) must be a number"):
        Base(0, NAN)


def test_a_long_value_is_cut() -> None:
    with pytest.raises(TypeError) as caught:
        check("f(x=...)", "y" * 10_000, int)
    assert len(str(caught.value)) < 160


def test_a_key_that_comes_twice_is_refused() -> None:
    assert json.loads('{"a": {"b": 1}, "b": 2}', object_pairs_hook=unique) == {"a": {"b": 1}, "b": 2}
    with pytest.raises(ValueError, match="the key 'b' comes twice"):
        json.loads('{"a": {"b": 1, "b": 2}}', object_pairs_hook=unique)
