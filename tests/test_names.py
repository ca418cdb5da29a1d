"""Names of methods: what they build, and the message for a misspelt one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import skipcast as sc
from skipcast import Method, Sampler, tableau
from skipcast.controllers import Periodic
from skipcast.coordinates import Balanced, Chebyshev, HalfLogSNR, Sigma
from skipcast.forecasters import Forecaster, Lagrange, Mapped, Reuse, TaylorSeer
from skipcast.methods.names import REGISTRY, split, with_evaluations
from skipcast.samplers import SAMPLERS
from skipcast.targets import GlobalDrift, LastHidden
from support.cases import GRID


def drift(forecaster: Forecaster, *fixed: int, **steps: int) -> Method:
    return Method(forecaster, Periodic(*fixed, **steps), target=GlobalDrift())


@pytest.mark.parametrize(
    "spec, expected",
    [
        ("reuse", Method(Reuse(), Periodic(1, 6))),
        ("reuse:interval=3,warmup=2,last=true", Method(Reuse(), Periodic(2, 3, last=True))),
        ("lagrange", Method(Lagrange(2), Periodic(3, 6))),
        ("lagrange:order=3,coordinate=sigma,target=hidden", Method(Lagrange(3), Periodic(3, 6), Sigma(), LastHidden())),
        ("lagrange:coordinate=half-log-snr", Method(Lagrange(2), Periodic(3, 6), HalfLogSNR())),
        ("taylorseer", Method(TaylorSeer(1, start=1), Periodic(3, 6))),
        ("taylorseer:order=4,interval=4,warmup=2", Method(TaylorSeer(4), Periodic(2, 4))),
        ("taylorseer:warmup=1,interval=5", Method(TaylorSeer(1), Periodic(1, 5))),
        ("resilphase", drift(Mapped(Lagrange(1), Balanced(0.55)), 3, 6)),
        ("resilphase:order=4,phase=chebyshev,warmup=2,interval=4", drift(Mapped(Lagrange(4), Chebyshev()), 2, 4)),
        ("resilphase:phase=none,target=output", Method(Lagrange(1), Periodic(3, 6))),
        ("resilphase:alpha=0.3,evaluations=10", drift(Mapped(Lagrange(1), Balanced(0.3)), evaluations=10)),
        ("ab2:evaluations=10", Sampler("ab2", 10)),
        ("euler", Sampler("euler")),
        ("  lagrange : order = 1 , last = no ", Method(Lagrange(1), Periodic(3, 6))),
        ("reuse:", Method(Reuse(), Periodic(1, 6))),
    ],
)
def test_a_name_builds_its_parts(spec: str, expected: Method | Sampler) -> None:
    assert sc.method(spec) == expected


@pytest.mark.parametrize("name", ["resilphase", "taylorseer"])
def test_evaluations_meet_the_published_intervals(name: str) -> None:
    """10 evaluations of 50 are interval 6 of FLUX."""
    found, published = (tableau(sc.method(spec), GRID) for spec in (f"{name}:evaluations=10", name))  # type: ignore[arg-type]
    assert (found == published).all()


@pytest.mark.parametrize("name", REGISTRY)
def test_every_entry_builds_with_defaults_and_cites(name: str) -> None:
    entry = REGISTRY[name]
    assert isinstance(sc.method(name), Sampler if name in {*SAMPLERS, "timetuner"} else Method)
    assert entry.paper.startswith(("arXiv:", "doi:", "https://")) or entry.paper == "skipcast"
    assert entry.summary
    assert next(iter(entry.options())) == "evaluations"


def test_every_sampler_has_a_name_and_parts_pass_through() -> None:
    assert set(SAMPLERS) <= set(REGISTRY)
    for part in (Method(Reuse()), Sampler("euler", 4)):
        assert sc.method(part) is part


def test_split_and_with_evaluations() -> None:
    assert split("taylorseer:order=1,target=hidden") == ("taylorseer", {"order": "1", "target": "hidden"})
    assert split("reuse") == ("reuse", {})
    assert sc.method(with_evaluations("lagrange:order=1", 12)) == Method(Lagrange(1), Periodic(3, evaluations=12))
    assert with_evaluations("ab2", 10) == "ab2:evaluations=10"
    assert split(with_evaluations("ab2:evaluations=7", 10)) == ("ab2", {"evaluations": "7"})


WORD = st.text(st.characters(codec="utf-8", exclude_characters=":,="), min_size=1).map(str.strip).filter(bool)
VALUE = st.text(st.characters(codec="utf-8", exclude_characters=","), min_size=1).map(str.strip).filter(bool)


@settings(max_examples=40, deadline=None)
@given(WORD, st.dictionaries(WORD, VALUE, max_size=4), st.sampled_from(["", " "]))
def test_split_takes_apart_what_was_joined(name: str, options: dict[str, str], space: str) -> None:
    joined = f"{space},{space}".join(f"{key}{space}={space}{value}" for key, value in options.items())
    assert split(f"{space}{name}{space}:{joined}") == (name, options)


@pytest.mark.parametrize(
    "spec, message",
    [
        (
            "tailorseer",
            r"unknown method 'tailorseer'\. Did you mean 'taylorseer' or 'timetuner' or 'cg-taylor'\? Known: reuse, ",
        ),
        ("resilfase:order=1", r"unknown method 'resilfase'\. Did you mean 'resilphase'"),
        ("quantum", r"unknown method 'quantum'\. Known: "),
        ("lagrange:ordre=1", r"lagrange: unknown option 'ordre'\. Did you mean 'order' or .*Known: evaluations, order"),
        (
            "reuse:order=1",
            r"reuse: unknown option 'order'.*Known: evaluations, interval, warmup, last, schedule, coordinate, target",
        ),
        ("euler:order=1", r"euler: unknown option 'order'.*Known: evaluations"),
        ("lagrange:coordinate=sigmas", r"coordinate='sigmas'.*Did you mean 'sigma'\? Known: step, sigma, half-log-snr"),
        ("resilphase:phase=chebychev", r"phase='chebychev'.*Did you mean 'chebyshev'\? Known: none, balanced"),
        ("lagrange:order=two", r"order='two' must be of type int"),
        ("lagrange:order=1.5", r"order='1\.5' must be of type int"),
        ("resilphase:alpha=big", r"alpha='big' must be of type float"),
        ("reuse:last=maybe", r"last='maybe' must be of type bool"),
        ("reuse:evaluations=few", r"evaluations='few' must be of type int"),
        ("lagrange:order", r"option 'order' in 'lagrange:order' must have the form name=value"),
        ("lagrange:order=", r"option 'order=' in 'lagrange:order=' must have the form name=value"),
        ("lagrange:order=-1", r"Lagrange\(order=\.\.\.\) must be >= 0, got -1"),
        ("spectrum:interval=4", r"interval=4 changes nothing with Growing\(.*leave it out or choose schedule=periodic"),
        ("delta-dit:target=hidden", r"target=hidden changes nothing: this method's is StagedSpans\("),
        ("lagrange:alpha=0.3", r"alpha=0\.3 changes nothing with phase=none; choose phase=balanced"),
        ("freqca:phase=balanced", r"phase='balanced' is a map of nodes, which Within\(.* has none of"),
        ("teacache:evaluations=10", r"evaluations=10: this method decides by values; set its threshold"),
        ("lagrange:schedule=golde", r"unknown schedule 'golde'\. Known: published, periodic, even, growing, golden"),
        ("lagrange:schedule=0.1.2,evaluations=3", r"schedule=0\.1\.2 holds its own evaluations"),
        ("lagrange:schedule=even", r"schedule=even needs evaluations=n"),
        ("reuse:interval=0", r"Periodic\(interval=\.\.\.\) must be at least 1, got 0"),
        ("taylorseer:evaluations=2", r"Periodic\(evaluations=\.\.\.\) must be at least 3 .*lower warmup"),
        ("resilphase:alpha=0", r"Balanced\(alpha=\.\.\.\) must be positive, got 0"),
        ("plan", "name its evaluations"),
        ("plan:evaluations=ten", "evaluations='ten' must be of type int"),
        ("plan:evaluations=3", "no default plan of 3 evaluations ships for model 'shapes-flux', only of"),
        ("plan:evaluation=10", "unknown option 'evaluation'. Did you mean 'evaluations'"),
        ("plan:evaluations=10,model=nothing", "no default plan ships for model 'nothing'"),
        ("plan:evaluations=10,reference=exact", "must be .default. or .converged."),
        ("plann:evaluations=10", "Did you mean 'plan'"),
        ("ab3:evaluations=2", r"Sampler\(evaluations=\.\.\.\) must be at least 3 for ab3, got 2"),
    ],
)
def test_a_slip_is_told_what_is_known(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sc.method(spec)


def test_a_plan_is_named_like_a_method(tmp_path: Path) -> None:
    plan = sc.method("plan:evaluations=10")
    assert isinstance(plan, sc.Plan)
    assert (plan.evaluations, plan.origin.reference) == (10, "default")
    assert sc.method(plan) is plan
    of_clips = sc.method("plan:evaluations=10", family="wan")  # as `accelerate` asks for Wan's network
    assert isinstance(of_clips, sc.Plan)
    assert (plan.origin.pipeline, of_clips.origin.pipeline) == ("FluxPipeline", "WanPipeline")
    exact = sc.method("plan:evaluations=10,reference=converged,model=shapes-flux")
    assert isinstance(exact, sc.Plan)
    assert exact.origin.reference == "converged"
    path = tmp_path / "a, b.plan.json"
    plan.save(path)
    for spec in (str(path), f"plan:file={path}"):
        found = sc.method(spec)
        assert isinstance(found, sc.Plan)
        assert found.as_dict() == plan.as_dict()
