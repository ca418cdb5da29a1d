"""Files from elsewhere: what is no regular file, too large, or hostile JSON is told in a line."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from skipcast.plans.adaptive import AdaptivePlan
from skipcast.plans.plan import Plan
from skipcast.plans.profile import Profile
from skipcast.reading import digest_of, open_regular, parse_json, read_regular, sealed, shown, unsealed, why


def bomb(levels: int) -> list[Any]:
    """Nine to the power of `levels` values in a few hundred bytes."""
    found: list[Any] = [0]
    for _ in range(levels):
        found = [found] * 9
    return found


@pytest.mark.parametrize(
    "value",
    [bomb(30), {str(i): bomb(20) for i in range(99)}, "x" * 10**6, 10**6000, [["\n\u2028"]], b"y" * 10**6],
    ids=["bomb", "mapping", "text", "number", "lines", "bytes"],
)
def test_any_value_is_shown_in_a_line(value: Any) -> None:
    text = shown(value)
    assert len(text) <= 100
    assert len(text.splitlines()) == 1


def odd_files(folder: Path) -> dict[str, Path]:
    """What is there and is no file that can be read, by kind."""
    os.mkfifo(folder / "pipe")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(folder / "socket"))
    (folder / "link").symlink_to(folder / "pipe")
    names = {"pipe": folder / "pipe", "socket": folder / "socket", "link": folder / "link", "folder": folder}
    return {**names, "device": Path("/dev/zero"), "long": folder / ("x" * 300), "nul": folder / "a\0b"}


def readers() -> list[Any]:
    from skipcast.bench import records, results, spec
    from skipcast.bench.prompts import read_prompts

    return [
        Plan.load, Profile.load, AdaptivePlan.load, open_regular, lambda path: read_regular(path, 9), read_prompts,
        records.read, lambda path: results.load([path]), spec.read_spec,
    ]  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in a folder are of Unix")
def test_nothing_waits_for_a_pipe_and_all_readers_name_it(tmp_path: Path) -> None:
    for kind, path in odd_files(tmp_path).items():
        for read in readers():
            with pytest.raises(ValueError) as caught:
                read(path)
            assert len(str(caught.value).splitlines()) == 1, (kind, read)
            assert str(path)[:20] in str(caught.value)
    for missing in (tmp_path / "none", tmp_path / "none" / "deeper", __file__ + "/below"):
        for read in readers():
            with pytest.raises(FileNotFoundError):
                read(Path(missing))


def test_a_file_is_not_read_beyond_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert read_regular(path, 10) == b"0123456789"
    with pytest.raises(ValueError, match="has more than the 9 bytes"):
        read_regular(path, 9)
    with path.open("wb") as file:
        file.truncate(2**40)  # without taking room
    with pytest.raises(ValueError, match="has more than the 9 bytes"):
        read_regular(path, 9)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"a":\n1e400}', "line 2: '1e400' is no number that fits 64 bits"),
        (b"[NaN]", "'NaN' is no number"),
        (b"[-Infinity]", "is no number"),
        (b"9" * 5000, "line 1: '9999"),
        (b"[1" + b"0" * 20 + b"]", "is no number"),
        (b"[" * 10**6, "nested too deeply"),
        (b'{"a": 1, "a": 2}', "the key 'a' comes twice"),
        (b'["\n\\ud800"]', "Invalid control"),
        (b'[\n"\\ud800"]', "line 2: .* is half of a character"),
        (b"\n\xff", "line 2: not UTF-8 text"),
        (b"{", "line 1 column 2"),
    ],
)
def test_json_that_python_would_take_or_stumble_over_is_refused(text: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 200


def test_json_is_read_as_it_is_meant() -> None:
    values = {"a": [1, 2.5, -0.0, 18446744073709551615], "b": {"c": None, "d": "\U0001f600"}}
    for text in (json.dumps(values), "\ufeff" + json.dumps(values, ensure_ascii=False)):
        assert parse_json(text.encode()) == values


def test_a_digest_is_of_values_and_not_of_their_text() -> None:
    values: dict[str, Any] = {"format": "x", "a": [0.1, 1e-300], "b": {"c": 1, "d": "ä"}}
    again = json.loads(json.dumps(sealed(values), indent=3, sort_keys=True))
    assert unsealed(again, "x") == unsealed(values, "x") == {"a": [0.1, 1e-300], "b": {"c": 1, "d": "ä"}}
    for changed in ({"a": [0.1, 2e-300]}, {"b": {"d": 1, "c": "ä"}}, {"e": 0}, {"sha256": "0" * 64}, {"sha256": None}):
        with pytest.raises(ValueError, match="is not what was saved"):
            unsealed({**again, **changed}, "x")
    assert digest_of(0.0) != digest_of(-0.0)


def test_what_is_wrong_is_one_bounded_line() -> None:
    """The names that a class does not take are those of a file."""
    assert why(TypeError("unexpected keyword argument '\n\x1b[31m'.")) == r"unexpected keyword argument '\n\x1b[31m'"
    assert why(KeyError("a\nb")) == r"the key 'a\nb' is missing"
    assert len(why(ValueError("x" * 10**6))) == 300
