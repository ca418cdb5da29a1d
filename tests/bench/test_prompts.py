"""Prompts of a file, and what their pictures are called and seeded by."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipcast.bench.draw import Pair
from skipcast.bench.generate import Portion, Request, name_of, pairs
from skipcast.bench.grid import derived_seed
from skipcast.bench.prompts import read_prompts
from skipcast.bench.spec import Spec
from skipcast.cli.base import prompts_of
from skipcast.models.load import folder_of


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa red star\r\n\n  a ring \n\n\u00fcber\u2028all\n".encode())
    assert read_prompts(file) == [(1, "a red star"), (3, "a ring"), (5, "\u00fcber\u2028all")]


@pytest.mark.parametrize(
    "content, words",
    [
        (b"\n \n", "holds no prompt"),
        (b"a\n\xff\n", "prompts.txt, line 2: not UTF-8"),
        (b"a\nb\na\n", "prompts.txt, line 3: the prompt of line 1 again"),
    ],
)
def test_files_of_prompts_are_checked(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(words)):
        read_prompts(file)
    with pytest.raises(FileNotFoundError, match="one prompt per line"):
        read_prompts(tmp_path / "none.txt")


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_prompts_or_told_by_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    try:
        found = read_prompts(file)
    except ValueError as error:
        assert str(file) in str(error)  # noqa: PT017
        return
    lines = content.decode("utf-8-sig").split("\n")
    assert found == [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def test_all_commands_read_prompts_alike(tmp_path: Path) -> None:
    """A mark of the byte order is no part of a prompt, and a separator of lines inside a prompt ends none."""
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa red star\nover\u2028two\n".encode())
    assert prompts_of(file) == Spec.of(models="shapes-flux", prompts={"file": str(file)}).prompts
    assert prompts_of(file) == ("a red star", "over\u2028two")
    file.write_bytes("caf\xe9\n".encode("latin-1"))
    for read in (prompts_of, lambda file: Spec.of(models="shapes-flux", prompts={"file": str(file)})):
        with pytest.raises(ValueError, match=f"{file}, line 1: not UTF-8 text"):
            read(file)


def test_seeds_are_those_of_the_bench_whatever_the_order() -> None:
    found = pairs([(1, "a"), (7, "b")], 2, 5)
    assert [name_of(pair) for pair in found] == ["0001-1", "0001-2", "0007-1", "0007-2"]
    assert [pair.seed for pair in found] == [derived_seed(5, p, n) for p in "ab" for n in range(2)]
    assert pairs([(7, "b")], 3, 5)[:2] == found[2:]
    assert str(Portion(tuple(found[:3]))) == f"0001-1 ('a', seed {found[0].seed}) and 2 more"
    assert name_of(Pair("a", 0, 12345, 1)) == "12345-1"


def test_a_model_is_known_before_anything_is_done(tmp_path: Path) -> None:
    assert folder_of("owner/name") is None
    assert folder_of(str(tmp_path)) == tmp_path
    for model in ("no-such-model", "./no/model", "a/b/c"):
        with pytest.raises(ValueError, match="neither a reference model"):
            folder_of(model)


def test_the_manifest_tells_what_images_follow_from() -> None:
    told = Request("m").manifest()
    for changed in (Request("m", steps=9), Request("m", seed=1), Request("m", batch=2), Request("m", guidance=1.0),
                    Request("m", revision="x"), Request("m", dtype="float16"), Request("m", size=64)):  # fmt: skip
        assert changed.manifest() != told
    assert Request("m", offload=True).manifest() == told
