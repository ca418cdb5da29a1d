"""The registry: what the names stand for, as published and on other steps."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import skipcast as sc
from skipcast import Method, Sampler, evaluated_steps
from skipcast.controllers import SEARCHED, Growing, Multiples, Periodic, Searched, Stability, Verified
from skipcast.forecasters import Blend, ChebyshevRidge, Lagrange, PadeCode, PadePaper, Smoothed, Within
from skipcast.methods.published import EVERYTHING, REGISTRY
from skipcast.pipelines.denoiser import unaccelerated
from skipcast.samplers import TIMETUNER, Told
from skipcast.targets import CarriedDrift, GlobalDrift, LastHidden, SpanDrift, VerifiedModules
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


def test_what_speca_verifies() -> None:
    made, other = sc.method("speca"), sc.method("speca:variant=span")
    assert isinstance(made, Method)
    assert isinstance(other, Method)
    assert (made.target, other.target) == (VerifiedModules(), SpanDrift(skip_last=1, verify=True))
    assert made.controller == other.controller == Verified()


@pytest.mark.parametrize(
    "schedule, expected",
    [
        ("golden", (0, 1, 2, 4, 6, 13, 24, 41, 49)),
        ("dpcache-golden", (0, 1, 2, 5, 11, 20, 29, 40, 49)),
        ("dpcache-flux-8", (0, 1, 2, 5, 11, 19, 28, 38)),
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


#: "OWNER/REPOSITORY FILE", as a rule "@COMMIT", or what else it can be; more is said behind a semicolon.
CHECKED = re.compile(r"([\w.-]+/[\w.-]+(@[0-9a-f]{7,40})? [\w./-]+|paper|text only|skipcast)(; .+)?")


@pytest.mark.parametrize("name", REGISTRY)
def test_every_method_says_what_it_was_checked_against(name: str) -> None:
    assert CHECKED.fullmatch(REGISTRY[name].checked_against), REGISTRY[name].checked_against


def steps_of(spec: str) -> tuple[int, ...]:
    made = sc.method(spec)
    assert isinstance(made, Method)
    return evaluated_steps(made, GRID)


def test_published_steps() -> None:
    """Of 50, as the authors' code evaluates them."""
    assert steps_of("ab-cache") == (0, 1, 2, 3, 4, 6, 12, 18, 24, 30, 36, 42, 48)
    assert steps_of("dpcache") == SEARCHED["dpcache-flux-13"]
    assert steps_of("dpcache:evaluations=10") == SEARCHED["dpcache-flux-10"]
    assert len(steps_of("dpcache:evaluations=20")) == 20
    assert steps_of("meancache:evaluations=17") == SEARCHED["meancache-qwen-17"]


def test_svd_cache_is_the_printed_average() -> None:
    made = sc.method("svd-cache")
    assert isinstance(made, Method)
    assert isinstance(made.forecaster, Within)
    assert made.forecaster.inner == Smoothed(0.9)


def test_steps_without_published_spans_are_refused() -> None:
    with pytest.raises(ValueError, match=r"steps=golden has no published spans; add span=2, or take one of meancache-"):
        sc.method("meancache:steps=golden")
    assert isinstance(sc.method("meancache:steps=golden,span=2"), Method)


def test_timetuner_takes_its_ratios_from_a_table_a_file_or_its_name(tmp_path: Path) -> None:
    (ten,) = TIMETUNER["shapes-flux"].values()
    assert sc.method("timetuner") == sc.method("timetuner:evaluations=10") == Told("euler", 10, ten)
    assert sc.method("timetuner:ratios=0.9/1.05/1") == Told("euler", 3, (0.9, 1.05, 1.0))
    plan, _ = unaccelerated(GRID, (1.0, 0.0), "velocity", None, "test")
    ratios = tuple(np.linspace(0.8, 1, len(GRID)).tolist())
    tuned = replace(plan, evaluation_timesteps=GRID.timestep * ratios, label="timetuner euler")
    tuned.save(tmp_path / "mine.plan.json")
    found = sc.method(f"timetuner:ratios={tmp_path}/mine.plan.json")
    assert isinstance(found, Told)
    np.testing.assert_allclose(found.ratios, ratios)
    plan.save(tmp_path / "other.plan.json")
    with pytest.raises(ValueError, match=r"no plan of Euler's steps that skipcast.tune made"):
        sc.method(f"timetuner:ratios={tmp_path}/other.plan.json")
    with pytest.raises(ValueError, match=r"known for 10 evaluations, not for 7"):
        sc.method("timetuner:evaluations=7")
    with pytest.raises(ValueError, match="must be the number of ratios, 2"):
        sc.method("timetuner:evaluations=7,ratios=0.9/1")
    with pytest.raises(ValueError, match="numbers joined by slashes"):
        sc.method("timetuner:ratios=mine")
    with pytest.raises(ValueError, match="positive numbers below 10"):
        sc.method("timetuner:ratios=0.9/-1")
