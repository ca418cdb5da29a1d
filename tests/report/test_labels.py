"""Labels lose the options that stand elsewhere, and only those."""

from __future__ import annotations

import pytest

from skipcast.report.labels import evaluations, without


@pytest.mark.parametrize(
    "label, options, kept",
    [
        ("euler", ("evaluations",), "euler"),
        ("euler:evaluations=10", ("evaluations",), "euler"),
        ("euler:evaluations=10", ("evaluations=9",), "euler:evaluations=10"),
        ("taylorseer:evaluations=10,order=1", ("evaluations=10",), "taylorseer:order=1"),
        ("taylorseer:interval=10", ("evaluations=10",), "taylorseer:interval=10"),
        ("taylorseer:order=1,interval=6", ("evaluations", "interval"), "taylorseer:order=1"),
    ],
)
def test_without(label: str, options: tuple[str, ...], kept: str) -> None:
    assert without(label, *options) == kept


def test_evaluations() -> None:
    assert evaluations("taylorseer:order=1,evaluations=10") == "10"
    assert evaluations("taylorseer:interval=6") is None
    assert evaluations("reference") is None
