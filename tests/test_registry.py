"""The registry: what the names stand for, as published and on other steps."""

from __future__ import annotations

import re

import pytest

import skipcast as sc
from skipcast import Method, Sampler, evaluated_steps
from skipcast.controllers import Growing, Multiples, Periodic, Searched, Stability
from skipcast.forecasters import Blend, ChebyshevRidge, Lagrange, PadeCode, PadePaper
from skipcast.methods.published import EVERYTHING
from skipcast.targets import CarriedDrift, GlobalDrift, LastHidden
from support.cases import GRID


@pytest.mark.parametrize("spec", EVERYTHING)
def test_every_variant_builds_and_runs_on_equal_steps_where_it_can(spec: str) -> None:
    """Any forecaster runs on any fixed steps, so that schedule and forecaster can be distinguished."""
    made = sc.method(spec)
    if isinstance(made, Sampler):
        return
    golden = sc.method(re.sub(r",?schedule=\w+", "", spec) + (":" if ":" not in spec else ",") + "schedule=golden")
    assert isinstance(golden, Method)
    if not golden.controller.verifies:
        assert golden.controller == Searched("golden")
    assert golden.forecaster == made.forecaster
    assert golden.target == made.target


@pytest.mark.parametrize(
    "schedule, expected",
    [
        ("golden", (0, 1, 2, 4, 6, 13, 24, 41, 49)),
        ("dpcache", (0, 1, 2, 5, 11, 20, 29, 40, 49)),
        ("even,evaluations=5", (0, 10, 20, 30, 40)),
        ("growing", (0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 25, 31, 38, 46)),
        ("periodic,interval=16", (0, 1, 2, 18, 34)),
        ("0.3.7.30", (0, 3, 7, 30)),
    ],
)
def test_a_schedule_by_name_or_by_its_steps(schedule: str, expected: tuple[int, ...]) -> None:
    made = sc.method(f"lagrange:order=1,schedule={schedule}")
    assert isinstance(made, Method)
    assert evaluated_steps(made, GRID) == expected


def test_published_variants() -> None:
    assert sc.method("tc-pade:variant=code") == Method(PadeCode(), Multiples(5, 8), target=CarriedDrift(0.2))
    tested = sc.method("tc-pade:variant=code,threshold=0.6")
    assert tested == Method(PadeCode(threshold=0.6), Stability(Multiples(5, 8), 0.6), target=CarriedDrift(0.2))
    paper = sc.method("tc-pade:variant=paper")
    assert paper == Method(PadePaper(), Stability(Multiples(1, 4, last=False), 1.0, "paper"), target=GlobalDrift())
    assert sc.method("spectrum:growth=3") == Method(
        Blend(Lagrange(1), ChebyshevRidge(), 0.5), Growing(growth=3.0), target=LastHidden()
    )
    assert sc.method("taylorseer:order=3,exact=true") == Method(Lagrange(3), Periodic(3, 6))
