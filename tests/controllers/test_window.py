"""A window outside which every step is evaluated, around every controller and on every name."""

from __future__ import annotations

import math

import pytest
import torch

import skipcast as sc
from skipcast import Method, Run, TimeGrid, evaluated_steps
from skipcast.controllers import (
    AccumulatedChange,
    Even,
    FixedSteps,
    Periodic,
    StaticController,
    Verified,
    Windowed,
    WindowedSteps,
    windowed,
)
from skipcast.forecasters import Lagrange, Reuse
from skipcast.methods.names import REGISTRY
from skipcast.targets import Output, SpanDrift

METHODS = [name for name, entry in REGISTRY.items() if entry.shared is not None]


def test_outside_the_window_every_step_is_evaluated() -> None:
    """Of 50, shares 0.2 and 0.95 are steps 10 and 47.5, so 0 to 9, 48 and 49 lie outside."""
    outside = {*range(10), 48, 49}
    found = WindowedSteps(FixedSteps((0, 20, 30)), 0.2, 0.95).evaluated(50)
    assert found == (*range(10), 20, 30, 48, 49)
    assert set(WindowedSteps(Periodic(3, 6), 0.2, 0.95).evaluated(50)) == outside | set(Periodic(3, 6).evaluated(50))


@pytest.mark.parametrize("steps", [20, 28, 50, 100])
@pytest.mark.parametrize("start, end", [(0.29, 0.57), (0.1, 1.0), (0.0, 0.9)])
def test_shares_that_are_whole_steps_are_exact(steps: int, start: float, end: float) -> None:
    found = WindowedSteps(FixedSteps((0,)), start, end).evaluated(steps)
    exact = [s for s in range(steps) if s * 100 < round(start * 100) * steps or s * 100 >= round(end * 100) * steps]
    assert list(found) == sorted({0, *exact})


def test_evaluations_count_those_outside() -> None:
    """Outside are 12 of 50; 16 in all, of which Even places as many as needed in between."""
    controller = WindowedSteps(Even(16), 0.2, 0.95)
    assert controller.planned == 16
    found = controller.evaluated(50)
    assert len(found) == 16
    assert {*range(10), 48, 49} <= set(found)
    with pytest.raises(ValueError, match=r"evaluations=11 is fewer than the 12 of 50 steps outside start=0.2 and end"):
        WindowedSteps(Even(11), 0.2, 0.95).evaluated(50)


def test_the_whole_run_is_no_window() -> None:
    assert windowed(Even(5)) == Even(5)
    assert windowed(Even(5), 0.1) == WindowedSteps(Even(5), 0.1)
    assert windowed(Verified(), 0.1, 0.9) == Windowed(Verified(), 0.1, 0.9)


def evaluated(controller: Windowed | AccumulatedChange, probes: list[float]) -> list[int]:
    run = Run(Method(Reuse(), controller), TimeGrid.shifted(len(probes)))
    for value in probes:
        shown = torch.tensor([value])
        run.advance(shown, lambda shown=shown: shown)
    return [record.step for record in run.trace if record.evaluated]


def test_a_controller_by_values_follows_the_run_outside() -> None:
    """Every doubling is a change of 1. What adds up begins anew with the newest step outside, step 4: 3 at step 7."""
    doubling = [2.0**step for step in range(12)]
    inner = AccumulatedChange(3.0, "input", last=False)
    assert evaluated(inner, doubling) == [0, 3, 6, 9]
    assert evaluated(Windowed(inner, 5 / 12, 1.0), doubling) == [0, 1, 2, 3, 4, 7, 10]
    assert evaluated(Windowed(inner, 0.0, 10 / 12), doubling) == [0, 3, 6, 9, 10, 11]


def test_what_a_controller_asks_of_the_run_is_asked_through_the_window() -> None:
    inner = AccumulatedChange(1.0, "input", (2.0, 0.0))
    for name in ("probe", "polynomial", "shared", "remembers", "verifies"):
        assert getattr(Windowed(inner, 0.1), name) == getattr(inner, name)
        assert getattr(Windowed(Verified(), 0.1), name) == getattr(Verified(), name)
    with pytest.raises(sc.IncompatibleParts, match=r"Windowed\(.*needs forecasts that the target verifies"):
        Method(Reuse(), Windowed(Verified(), 0.1), target=Output())
    Method(Reuse(), Windowed(Verified(), 0.1), target=SpanDrift(skip_last=1, verify=True))


@pytest.mark.parametrize("name", METHODS)
def test_every_name_takes_a_window(name: str) -> None:
    plain, made = sc.method(name), sc.method(f"{name}:start=0.2,end=0.95")
    assert isinstance(plain, Method)
    assert isinstance(made, Method)
    assert made.controller == windowed(plain.controller, 0.2, 0.95)
    assert (made.forecaster, made.target, made.coordinate) == (plain.forecaster, plain.target, plain.coordinate)
    assert isinstance(made.controller, StaticController) == isinstance(plain.controller, StaticController)
    made.check(50)
    assert sc.method(f"{name}:start=0,end=1") == plain
    if isinstance(made.controller, StaticController):
        assert {*range(10), 48, 49} <= set(evaluated_steps(made, TimeGrid.shifted(50)))


@pytest.mark.parametrize(
    "spec, message",
    [
        ("reuse:start=1", r"WindowedSteps\(start=\.\.\.\) must be a share of the run in \[0, 1\), got 1\.0"),
        ("reuse:start=-0.1", r"start=\.\.\.\) must be a share of the run in \[0, 1\), got -0\.1"),
        ("reuse:start=nan", r"start=\.\.\.\) must be a share of the run in \[0, 1\), got nan"),
        ("reuse:start=0.5,end=0.5", r"end=\.\.\.\) must be a share of the run above start=0\.5 up to 1, got 0\.5"),
        ("teacache:end=1.5", r"Windowed\(end=\.\.\.\) must be a share of the run above start=0\.0 up to 1, got 1\.5"),
        ("reuse:start=ten", r"start='ten' must be of type float"),
        ("euler:start=0.2", r"euler: start=0\.2 is for methods that skip steps; a plain sampler evaluates every"),
        ("reuse:begin=0.2", r"reuse: unknown option 'begin'"),
    ],
)
def test_a_window_that_makes_no_sense_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sc.method(spec)


@pytest.mark.parametrize("spec", ["reuse:start=0.5,end=0.51", "teacache:start=0.5,end=0.51"])
def test_a_window_without_a_step_is_refused_before_the_run(spec: str) -> None:
    made = sc.method(spec)
    assert isinstance(made, Method)
    with pytest.raises(ValueError, match=r"leave no step of num_inference_steps=25 that may be forecast; widen"):
        made.check(25)
    made.check(100)


def test_the_wrong_kind_of_controller_is_refused() -> None:
    with pytest.raises(ValueError, match=r"WindowedSteps\(fixed=\.\.\.\) must be a controller of fixed steps"):
        WindowedSteps(Verified(), 0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Windowed\(controller=\.\.\.\) must be a controller that decides by values"):
        Windowed(Even(5), 0.1)
    with pytest.raises(ValueError, match=r"start=\.\.\.\)"):
        WindowedSteps(Even(5), math.nan)


def test_a_windowed_method_is_its_repr_and_compiles() -> None:
    made = sc.method("lagrange:order=1,evaluations=16,start=0.2,end=0.9")
    again = eval(
        repr(made),
        {**vars(sc), **vars(sc.controllers), **vars(sc.coordinates), **vars(sc.forecasters), **vars(sc.targets)},
    )
    assert again == made
    plan = sc.compile_plan(made, TimeGrid.shifted(50))
    assert plan.steps == made.controller.evaluated(50)
    assert Method(Lagrange(1), WindowedSteps(Periodic(3, evaluations=16), 0.2, 0.9)) == made
