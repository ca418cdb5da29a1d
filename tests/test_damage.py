"""What is read from disk or typed is as it was written, or is refused by a `ValueError`, wherever it was damaged."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import skipcast as sc
from skipcast import names
from skipcast.checkpoint import Partial
from skipcast.plans.plan import Plan

few = settings(max_examples=100, deadline=None, derandomize=True, database=None)
PLAN = sc.compile_plan(sc.method("lagrange:order=2"), sc.TimeGrid.shifted(8, 3.0)).as_dict()
JOB = {"pairs": 2, "seed": 7}
WORDS = st.text("abcz_019", min_size=1, max_size=6)
VALUES = st.text("abz019.+-", min_size=1, max_size=6)

Damage = Callable[[bytes], bytes]


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """A flipped bit, a cut end or a byte too many."""
    place, bit = draw(st.integers(0, 10**6)), draw(st.integers(0, 7))

    def flipped(content: bytes) -> bytes:
        at = place % len(content)
        return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]

    kinds: list[Damage] = [flipped, lambda content: content[: place % len(content)], lambda content: content + b"x"]
    return draw(st.sampled_from(kinds))


def tried(call: Callable[[], Any]) -> tuple[Any, str]:
    """What a call returns and "", or None and the refusal."""
    try:
        return call(), ""
    except ValueError as error:
        return None, str(error)


def leaves(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every part of a document is, as keys and indices."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return [path, *(found for key, value in items for found in leaves(value, (*path, key)))] if path or items else []


@few
@given(damages())
def test_a_damaged_plan_is_read_or_refused(damage: Damage) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.plan.json"
        path.write_bytes(damage(json.dumps(PLAN).encode()))
        plan, refusal = tried(lambda: Plan.load(path))
        assert path.name in refusal if plan is None else Plan.from_dict(plan.as_dict()).as_dict() == plan.as_dict()


@few
@given(st.sampled_from(leaves(PLAN)[1:]), st.sampled_from([None, True, -1, 1e400, "red", [], [None], {}, {"a": [1]}]))
def test_a_plan_with_another_value_somewhere_is_read_or_refused(path: tuple[Any, ...], value: Any) -> None:
    values = json.loads(json.dumps(PLAN))
    place = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    plan, refusal = tried(lambda: Plan.from_dict(values))
    assert plan is None or len(plan) == len(PLAN["steps"])
    assert plan is not None or refusal


@few
@given(WORDS, st.dictionaries(WORDS, VALUES, max_size=4))
def test_a_specification_is_split_into_what_it_was_made_of(name: str, options: dict[str, str]) -> None:
    text = ",".join(f"{key}={value}" for key, value in options.items())
    assert names.split(f"{name}:{text}") == (name, options)
    assert names.split(f" {name}:{text} ") == (name, options)


@few
@given(st.text("ab:=, ", max_size=12))
def test_any_text_is_split_or_refused(text: str) -> None:
    found, refusal = tried(lambda: names.split(text))
    if found is None:
        assert repr(text) in refusal
        return
    name, options = found
    assert names.split(name + ":" + ",".join(f"{key}={value}" for key, value in options.items())) == found


@few
@given(damages(), st.sampled_from(["arguments.json", "part-00000.safetensors", "part-00001.safetensors"]))
def test_a_damaged_folder_of_parts_is_read_or_refused(damage: Damage, name: str) -> None:
    parts = [{"x": torch.arange(3.0) + n, "y": torch.ones(2, 2)} for n in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        begun = Partial(Path(folder), JOB)
        for number, part in enumerate(parts):
            begun[number] = part
        file = Path(folder) / name
        file.write_bytes(damage(file.read_bytes()))
        again, refusal = tried(lambda: Partial(Path(folder), JOB))
        for number, part in enumerate(parts if again else []):
            found, why = tried(lambda number=number: again[number])
            refusal += why
            assert name == f"part-{number:05d}.safetensors" or all(torch.equal(found[key], part[key]) for key in part)
        assert not refusal or folder in refusal


def test_a_folder_of_another_job_is_refused(tmp_path: Path) -> None:
    Partial(tmp_path, JOB)
    with pytest.raises(ValueError, match="seed was 7, is 8"):
        Partial(tmp_path, {**JOB, "seed": 8})
