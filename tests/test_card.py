"""The card: everything that is known of a method before a network runs."""

from __future__ import annotations

import pytest

import skipcast as sc
from skipcast.card import card
from skipcast.parts import memory


def facts(spec: str, steps: int = 50) -> dict[str, str]:
    return dict(card(spec, steps).facts())


def test_a_method_of_fixed_weights_and_steps() -> None:
    found = facts("resilphase")
    assert found["evaluated"] == "10 of 50: 0, 1, 2, 8, 14, 20, 26, 32, 38, 44"
    assert found["degree of exactness"] == "0"
    assert found["remembers"] == "2 x image tokens x width per branch"
    assert float(found["largest sum of |w|"]) == pytest.approx(1 + 2 * 0.49893, abs=1e-3)


def test_a_method_that_decides_by_values() -> None:
    found = facts("teacache")
    assert found["evaluated"] == "decided step by step, by the values"
    assert "largest sum of |w|" not in found
    assert card("teacache").weights == {}
    assert facts("tc-pade:evaluations=10")["evaluated"].startswith("10 of 50: 0, 1, 2, 3, 4, 10, ")


@pytest.mark.parametrize(
    "spec, why",
    [
        ("teacache", "it looks at values"),
        ("tc-pade:evaluations=10", "it looks at values"),
        ("lagrange:interval=1", "every step is evaluated"),
    ],
)
def test_a_degree_that_is_not_defined(spec: str, why: str) -> None:
    assert facts(spec)["degree of exactness"] == f"not defined ({why})"


@pytest.mark.parametrize(
    "spec, tensors",
    [
        ("taylorseer:order=2", 3),
        ("spectrum", 10),  # all evaluations of the run
        ("foca:target=output", 4),  # two newest values and two evaluations
        ("tc-pade:variant=code", 7),  # six residuals and the input before
        ("delta-dit:variant=paper", 2),  # two spans
        ("speca", 3),  # of every module
        ("speca:variant=span", 6),  # three of the span, three of what leaves the stack
    ],
)
def test_what_is_remembered(spec: str, tensors: int) -> None:
    made = sc.method(spec)
    assert isinstance(made, sc.Method)
    assert memory(made, 10).tensors == tensors
    assert memory(made, 10).bytes((4, 16)) == 2 * 64 * tensors


def test_a_run_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer than the warm-up of 3"):
        card("lagrange", steps=2)
    with pytest.raises(ValueError, match=r"needs 5 evaluations, .* makes 4"):
        card("resilphase:order=4", steps=14)
