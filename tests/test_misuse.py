"""Whatever is wrong with an argument is refused at the door, in our words and by its name."""

from __future__ import annotations

import functools
import inspect
import math
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import skipcast as sc
from skipcast.card import card
from skipcast.checks import Checked
from skipcast.engines.cache_dit import TableauCalibrator, settings
from skipcast.forecasters import Lagrange, Reuse
from skipcast.models.load import load_model
from skipcast.models.shipped import shipped_budgets, shipped_profile
from skipcast.pipelines.recording.record import record as record_pipeline
from skipcast.plans.adaptive import Doubt
from skipcast.plans.learned import fit_l2p
from skipcast.plans.plan import Knot, Prediction
from skipcast.plans.propagation import first_order
from skipcast.plans.refine import Effort
from skipcast.targets import span_for_speedup
from support import toy

SOURCE = str(Path(sc.__file__).parent)
#: How Python itself complains of a wrong argument.
PYTHONS = re.compile(
    r"object (is|has|does|cannot)|unsupported operand|unhashable|can't convert|could not convert|\bNoneType' "
)
NAN, INF = math.nan, math.inf
GRID = sc.TimeGrid.shifted(8)
METHOD = sc.Method(Lagrange(1), sc.controllers.Even(4))
PROFILE = toy.profile()
PLAN = PROFILE.plan(evaluations=4)
OTHER = PROFILE.plan(evaluations=6)
ADAPTIVE = sc.AdaptivePlan([PLAN, OTHER])
NOISE = toy.noise(2)
DENOISER_PLAN = sc.compile_plan(METHOD, GRID)
PREDICTION = Prediction(30.0, 25.0, 20.0, 4, held_out=True, closed=True)


class Scheduler:
    config = SimpleNamespace()


class Pipe:
    """No pipeline, but like one at first sight."""

    scheduler = Scheduler()

    def __call__(
        self, prompt: Any = None, num_inference_steps: int = 50, generator: Any = None, output_type: str = "pil"
    ) -> Any:
        raise AssertionError("the pipeline must not run")


def broken(*_: Any, **__: Any) -> Any:
    raise AssertionError("the denoiser must not run")


def scheduler() -> Any:
    made = sc.PlanScheduler(DENOISER_PLAN)
    made.set_timesteps(8)
    return made


def refused(call: Callable[[], object], name: str) -> None:
    """The call is refused by code of skipcast with words of ours, which name the argument."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    words, place = str(caught.value), traceback.extract_tb(caught.value.__traceback__)[-1]
    assert place.filename.startswith(SOURCE), f"{place}: {words}"
    assert re.search(rf"\b{name}\b", words), words
    assert not PYTHONS.search(words), words
    assert len(words) < 700, words


# The table: one line each, as (call, the argument that it names).

X, Y = torch.zeros(1, 2), torch.zeros(1, 2)
RECORD: dict[str, Any] = {"prompts": ["a"], "seeds": 0, "progress": False}
GIVEN: list[tuple[Callable[[], object], str]] = [
    (lambda: sc.accelerate(None, "fora"), "pipe"),
    (lambda: sc.accelerate("shapes-flux", "fora"), "pipe"),
    (lambda: sc.accelerate(Pipe(), "fora"), "pipe"),
    (lambda: sc.accelerate(torch.nn.Linear(1, 1), "fora"), "pipe"),
    (lambda: sc.enable(None, "fora"), "pipe"),
    (lambda: sc.enable(7, METHOD), "pipe"),
    (lambda: sc.disable(None), "enabled"),
    (lambda: sc.disable("x"), "enabled"),
    (lambda: sc.disable(Pipe()), "enabled"),
    (lambda: sc.magnitude_curve(None), "pipe"),
    (lambda: sc.calibration_calls(None, None, ["a"]), "pipe"),
    (lambda: sc.calibration_calls(Pipe(), 7, ["a"]), "method"),
    (lambda: sc.calibration_calls(Pipe(), None, ["a"], batch=0), "batch"),
    (lambda: sc.replay(None, []), "network"),
    (lambda: sc.replay(torch.nn.Linear(1, 1), 7), "calls"),
    (lambda: sc.tune(None, NOISE, grid=GRID), "denoiser"),
    (lambda: sc.tune(broken, "x", grid=GRID), "data"),
    (lambda: sc.tune(broken, NOISE, grid=None), "grid"),
    (lambda: sc.tune(broken, NOISE, grid=GRID, loss="mine"), "loss"),
    (lambda: sc.tune(broken, NOISE, grid=GRID, rate=NAN), "rate"),
    (lambda: sc.method("nonsense"), "method"),
    (lambda: sc.method(""), "method"),
    (lambda: sc.method("lagrange:order"), "order"),
    (lambda: sc.method("lagrange:order=x"), "order"),
    (lambda: sc.method("lagrange:order=1.5"), "order"),
    (lambda: sc.method("lagrange:order=-1"), "order"),
    (lambda: sc.method("lagrange:order=1000000000000"), "order"),
    (lambda: sc.method("lagrange:ordr=1"), "option"),
    (lambda: sc.method("lagrange:order=1,order=2"), "order"),
    (lambda: sc.method("lagrange:evaluations=nan"), "evaluations"),
    (lambda: sc.method("teacache:threshold=nan"), "threshold"),
    (lambda: sc.method("teacache:threshold=inf"), "threshold"),
    (lambda: sc.method("ab2:evaluations=0"), "evaluations"),
    (lambda: sc.method("plan:evaluations=x"), "evaluations"),
    (lambda: sc.method("plan:nfe=10"), "option"),
    (lambda: sc.tableau("resilphase", GRID), "method"),
    (lambda: sc.tableau(METHOD, 10), "grid"),
    (lambda: sc.tableau(METHOD, [1.0, 0.5]), "grid"),
    (lambda: sc.evaluated_steps("resilphase", 10), "method"),
    (lambda: sc.evaluated_steps(METHOD, 10), "grid"),
    (lambda: sc.degree_of_exactness("resilphase", GRID), "method"),
    (lambda: sc.degree_of_exactness(METHOD, GRID, highest=-1), "highest"),
    (lambda: sc.amplification("x"), "table"),
    (lambda: sc.amplification([[1.0], [1.0, 2.0]]), "table"),
    (lambda: sc.compile_plan(METHOD, None), "grid"),
    (lambda: sc.compile_plan(METHOD, 50), "grid"),
    (lambda: sc.compile_plan(METHOD, "shapes-flux"), "grid"),
    (lambda: sc.compile_plan(PLAN, GRID), "method"),
    (lambda: sc.compile_plan(METHOD, GRID, prompt="a"), "prompt"),
    (lambda: sc.compile_plan(METHOD, GRID, states="x"), "states"),
    (lambda: sc.compile_plan(METHOD, GRID, states=[[1.0]]), "states"),
    (lambda: sc.wrap(None, METHOD, GRID), "denoiser"),
    (lambda: sc.wrap(broken, None, GRID), "method"),
    (lambda: sc.wrap(broken, "ab2", GRID), "method"),
    (lambda: sc.wrap(broken, METHOD, 8), "grid"),
    (lambda: sc.wrap(broken, METHOD, GRID)(X, "x"), "timestep"),
    (lambda: sc.wrap(broken, METHOD, GRID)(X, None), "timestep"),
    (lambda: sc.wrap(broken, METHOD, GRID)(X, NAN), "timestep"),
    (lambda: sc.wrap(broken, METHOD, GRID)(X, []), "timestep"),
    (lambda: sc.wrap(broken, METHOD, GRID)("x", 1000.0), "x"),
    (lambda: sc.Run(METHOD, GRID).observe(X, None), "y"),
    (lambda: sc.Run(METHOD, GRID).observe("x", Y), "x"),
    (lambda: sc.Run(METHOD, GRID).forecast(None), "x"),
    (lambda: sc.Run(METHOD, GRID).advance(X, None), "evaluate"),
    (lambda: sc.Run(METHOD, GRID).advance(X, lambda: None), "y"),
    (lambda: sc.Run(METHOD, GRID).take(X, 1.0), "y"),
    (lambda: sc.Run("fora", GRID), "method"),
    (lambda: sc.Run(METHOD, 8), "grid"),
    (lambda: sc.History(0), "window"),
    (lambda: sc.History(NAN), "window"),
    (lambda: sc.History(2).push(-1, 0.0, X), "step"),
    (lambda: sc.History(2).push(0, NAN, X), "node"),
    (lambda: sc.History(2).push(0, 0.0, None), "value"),
    (lambda: sc.History(2).combine("x"), "weights"),
    (lambda: sc.TimeGrid("x", [0.1], [0.9]), "timestep"),
    (lambda: sc.TimeGrid([900.0], None, [0.9]), "alpha"),
    (lambda: sc.TimeGrid([900.0], [0.1], [True]), "sigma"),
    (lambda: sc.TimeGrid.flow("x"), "sigma"),
    (lambda: sc.TimeGrid.flow([0.1, 0.9]), "sigma"),
    (lambda: sc.TimeGrid.flow([0.9], scale=NAN), "scale"),
    (lambda: sc.TimeGrid.shifted(0), "steps"),
    (lambda: sc.TimeGrid.shifted(10**12), "steps"),
    (lambda: sc.TimeGrid.shifted("8"), "steps"),
    (lambda: sc.TimeGrid.shifted(8, 0.0), "shift"),
    (lambda: sc.TimeGrid.shifted(8, INF), "shift"),
    (lambda: Lagrange(10**12), "order"),
    (lambda: Lagrange(NAN), "order"),
    (lambda: Lagrange(True), "order"),
    (lambda: Lagrange("2"), "order"),
    (lambda: sc.controllers.Periodic(warmup=NAN), "warmup"),
    (lambda: sc.controllers.Periodic(interval=0), "interval"),
    (lambda: sc.controllers.Even(0), "evaluations"),
    (lambda: sc.controllers.Even(None), "evaluations"),
    (lambda: sc.controllers.FixedSteps("012"), "steps"),
    (lambda: sc.controllers.FixedSteps((0, NAN)), "steps"),
    (lambda: sc.controllers.FixedSteps((1, 2)), "steps"),
    (lambda: sc.controllers.FixedSteps(5), "steps"),
    (lambda: sc.controllers.MagnitudeError("nowhere"), "curve"),
    (lambda: sc.controllers.MagnitudeError(("1", "2")), "curve"),
    (lambda: sc.controllers.MagnitudeError((1.0, INF)), "curve|ratios"),
    (lambda: sc.controllers.Windowed("fora"), "controller"),
    (lambda: sc.controllers.WindowedSteps(None), "fixed"),
    (lambda: sc.forecasters.Mapped(None, sc.coordinates.Balanced()), "inner"),
    (lambda: sc.forecasters.Mapped(Lagrange(1), None), "phase"),
    (lambda: sc.forecasters.Blend(Lagrange(1), "x"), "second"),
    (lambda: sc.forecasters.Within(Reuse(), 0.1), "subspace"),
    (lambda: sc.forecasters.HighBand(grid="x"), "grid"),
    (lambda: sc.coordinates.Balanced(NAN), "alpha"),
    (lambda: sc.coordinates.Balanced("x"), "alpha"),
    (lambda: sc.coordinates.Sigma()("x"), "grid"),
    (lambda: sc.targets.SpanDrift("x"), "skip_first"),
    (lambda: sc.targets.SpanDrift(True), "skip_first"),
    (lambda: sc.targets.SpanDrift(-1), "skip_first"),
    (lambda: sc.targets.StagedSpans(NAN), "share"),
    (lambda: span_for_speedup("x", 1, 2.0), "steps"),
    (lambda: span_for_speedup(8, 4, NAN), "speedup"),
    (lambda: sc.Method("lagrange"), "forecaster"),
    (lambda: sc.Method(Lagrange), "forecaster"),
    (lambda: sc.Method(Lagrange(1), 10), "controller"),
    (lambda: sc.Method(Lagrange(1), coordinate="sigma"), "coordinate"),
    (lambda: sc.Method(Lagrange(1), target=None), "target"),
    (lambda: METHOD.check("8"), "steps"),
    (lambda: METHOD.check(0), "steps"),
    (lambda: sc.Sampler("euler", NAN), "evaluations"),
    (lambda: sc.Sampler("euler", 0), "evaluations"),
    (lambda: sc.Sampler("rk4"), "name"),
    (lambda: sc.Sampler(None), "name"),
    (lambda: card("fora", 0), "steps"),
    (lambda: card("fora", shift=NAN), "shift"),
    (lambda: card(None), "spec"),
    (lambda: first_order(GRID, (1.0,)), "end"),
    (lambda: first_order(GRID, prediction="noise"), "prediction"),
    (lambda: first_order(8), "grid"),
    (lambda: sc.load_reference(None), "name"),
    (lambda: sc.load_reference("flux"), "name|model"),
    (lambda: sc.load_reference("shapes-flux", "float32"), "dtype"),
    (lambda: sc.load_reference(dtype=32), "dtype"),
    (lambda: load_model(None), "model"),
    (lambda: load_model("no such model"), "model"),
    (lambda: load_model("shapes-flux", offload="yes"), "offload"),
    (lambda: load_model("shapes-flux", revision=7), "revision"),
    (lambda: sc.shipped_plan("shapes-flux", "10"), "evaluations"),
    (lambda: sc.shipped_plan("shapes-flux", 0), "evaluations"),
    (lambda: sc.shipped_plan("shapes-flux", NAN), "evaluations"),
    (lambda: sc.shipped_plan("shapes-flux", 49), "evaluations"),
    (lambda: sc.shipped_plan(None, 10), "model"),
    (lambda: sc.shipped_plan("../x", 10), "model"),
    (lambda: sc.shipped_plan("shapes-flux", 10, "best"), "reference"),
    (lambda: shipped_profile("shapes-flux", "best"), "reference"),
    (lambda: shipped_budgets("shapes-flux", None), "reference"),
    (lambda: fit_l2p(None), "profile"),
    (lambda: fit_l2p(PROFILE, -1.0), "ridge"),
    (lambda: PROFILE.plan(), "evaluations"),
    (lambda: PROFILE.plan(evaluations="10"), "evaluations"),
    (lambda: PROFILE.plan(evaluations=True), "evaluations"),
    (lambda: PROFILE.plan(evaluations=4.0), "evaluations"),
    (lambda: PROFILE.plan(evaluations=0), "evaluations"),
    (lambda: PROFILE.plan(evaluations=21), "evaluations"),
    (lambda: PROFILE.plan(evaluations=10**12), "evaluations"),
    (lambda: PROFILE.plan(evaluations=4, nfe=4), "nfe"),
    (lambda: PROFILE.plan(nfe="10"), "nfe"),
    (lambda: PROFILE.plan(psnr=NAN), "psnr"),
    (lambda: PROFILE.plan(psnr=INF), "psnr"),
    (lambda: PROFILE.plan(psnr="30"), "psnr"),
    (lambda: PROFILE.plan(speedup=0.5), "speedup"),
    (lambda: PROFILE.plan(speedup=NAN), "speedup"),
    (lambda: PROFILE.plan(psnr=30.0, worst=NAN), "worst"),
    (lambda: PROFILE.plan(psnr=30.0, worst=20.0), "worst"),
    (lambda: PROFILE.plan(evaluations=4, effort=None), "effort"),
    (lambda: PROFILE.plan(evaluations=4, effort="most"), "effort"),
    (lambda: PROFILE.plan(evaluations=4, effort=2), "effort"),
    (lambda: PROFILE.plan(evaluations=4, batch=0), "batch"),
    (lambda: PROFILE.plan(evaluations=4, batch=NAN), "batch"),
    (lambda: PROFILE.plan(evaluations=4, knots="yes"), "knots"),
    (lambda: PROFILE.plan(evaluations=4, advance="x"), "advance"),
    (lambda: PROFILE.plan(evaluations=4, refine="shapes-flux"), "refine"),
    (lambda: PROFILE.plan(evaluations=4, refine=7), "refine"),
    (lambda: PROFILE.plan(steps=8), "steps"),
    (lambda: PROFILE.plan(steps="0123"), "steps"),
    (lambda: PROFILE.plan(steps=[0, 2.5]), "steps"),
    (lambda: PROFILE.plan(steps=[]), "steps|evaluations"),
    (lambda: PROFILE.plan(steps=[0, 99]), "steps"),
    (lambda: PROFILE.curve(8), "budgets"),
    (lambda: PROFILE.curve(["x"]), "budgets"),
    (lambda: PROFILE.adaptive([PLAN, OTHER], refine=None), "refine"),
    (lambda: PROFILE.adaptive([PLAN, OTHER], refine="x"), "refine"),
    (lambda: PROFILE.adaptive(None, refine=broken), "plans"),
    (lambda: PROFILE.adaptive([PLAN, OTHER], refine=broken, false_alarms=2.0), "false_alarms"),
    (lambda: PROFILE.adaptive([PLAN, OTHER], refine=broken, behind="x"), "behind"),
    (lambda: PROFILE.subset([99]), "pairs"),
    (lambda: PROFILE.subset([-1]), "pairs"),
    (lambda: PROFILE.subset([]), "pairs"),
    (lambda: PROFILE.subset("x"), "pairs"),
    (lambda: PROFILE.save(None), "path"),
    (lambda: PROFILE.save(SOURCE), "is a folder"),
    (lambda: sc.Profile.load(None), "path"),
    (lambda: sc.Profile.taped(None, timesteps=[1.0], states=None), "tapes"),
    (lambda: sc.Profile.taped([], timesteps="x", states=None), "timesteps"),
    (lambda: sc.Profile.taped([], timesteps=[1.0], states=None), "tapes"),
    (lambda: PLAN.save(SOURCE), "is a folder"),
    (lambda: PLAN.save(None), "path"),
    (lambda: sc.Plan.load(None), "path"),
    (lambda: sc.Plan.load(7), "path"),
    (lambda: sc.Plan.from_hub(None, 10), "repo"),
    (lambda: sc.Plan.from_hub("me/plans"), "evaluations"),
    (lambda: sc.Plan.from_hub("me/plans", 0), "evaluations"),
    (lambda: sc.Plan.from_hub("me/plans", "10"), "evaluations"),
    (lambda: sc.Plan.from_hub("me/plans", 10, reference="best"), "reference"),
    (lambda: sc.Plan.from_hub("me/plans", 10, revision=7), "revision"),
    (lambda: sc.Plan.from_hub("plans", 10), "hub id"),
    (lambda: settings(None, GRID), "method"),
    (lambda: settings(METHOD, 8), "grid"),
    (lambda: TableauCalibrator("x"), "table"),
    (lambda: sc.Plan.from_dict(None), "values"),
    (lambda: sc.Plan.from_dict([]), "values"),
    (lambda: PLAN.at("x"), "value"),
    (lambda: PLAN.at(True), "value"),
    (lambda: ADAPTIVE.at(None), "value"),
    (lambda: ADAPTIVE.save(SOURCE), "is a folder"),
    (lambda: sc.AdaptivePlan.load(None), "path"),
    (lambda: sc.AdaptivePlan.from_dict(7), "values"),
    (lambda: sc.AdaptivePlan(None), "plans"),
    (lambda: sc.AdaptivePlan([PLAN]), "plans"),
    (lambda: sc.AdaptivePlan([PLAN, "x"]), "plans"),
    (lambda: sc.AdaptivePlan([OTHER, PLAN]), "plans"),
    (lambda: sc.AdaptivePlan([PLAN, OTHER], factor=NAN), "factor"),
    (lambda: sc.AdaptivePlan([PLAN, OTHER], factor=0.0), "factor"),
    (lambda: sc.AdaptivePlan([PLAN, OTHER], doubts=(None,)), "doubts"),
    (lambda: Doubt(0, np.zeros(3), 0.0, 0.0), "evaluation"),
    (lambda: Doubt(1, "x", 0.0, 0.0), "weights"),
    (lambda: Effort(sweeps=-1), "sweeps"),
    (lambda: Effort(candidates=NAN), "candidates"),
    (lambda: Effort(generations=NAN), "generations"),
    (lambda: Knot("x", (), np.zeros(1)), "value"),
    (lambda: sc.sample(None, DENOISER_PLAN, NOISE), "denoiser"),
    (lambda: sc.sample(broken, None, NOISE), "plan"),
    (lambda: sc.sample(broken, PROFILE, NOISE), "plan"),
    (lambda: sc.sample(broken, "plan", NOISE), "plan"),
    (lambda: sc.sample(broken, DENOISER_PLAN, None), "noise"),
    (lambda: sc.sample(broken, DENOISER_PLAN, [1.0]), "noise"),
    (lambda: sc.sample(broken, DENOISER_PLAN, torch.zeros(2, 3, dtype=torch.int64)), "noise"),
    (lambda: sc.sample(broken, DENOISER_PLAN, NOISE, varied={"a": 7}), "varied"),
    (lambda: sc.sample(broken, DENOISER_PLAN, NOISE, varied={"a": [1]}), "varied"),
    (lambda: sc.sample(broken, DENOISER_PLAN, NOISE, varied=[1]), "varied"),
    (lambda: sc.record(), "pipeline|denoiser"),
    (lambda: sc.record(None, NOISE), "denoiser"),
    (lambda: sc.record("shapes-flux", ["a"], seeds=0), "denoiser|noise"),
    (lambda: sc.record(broken, NOISE), "grid"),
    (lambda: sc.record(broken, NOISE, grid=8), "grid"),
    (lambda: sc.record(broken, None, grid=GRID), "noise"),
    (lambda: sc.record(broken, ["a"], grid=GRID), "noise"),
    (lambda: sc.record(broken, NOISE, grid=GRID, end=0.0), "end"),
    (lambda: sc.record(broken, NOISE, grid=GRID, end=(1.0, NAN)), "end"),
    (lambda: sc.record(broken, NOISE, grid=GRID, prediction="noise"), "prediction"),
    (lambda: sc.record(broken, NOISE, grid=GRID, substeps=0), "substeps"),
    (lambda: sc.record(broken, NOISE, grid=GRID, substeps=3), "substeps"),
    (lambda: sc.record(broken, NOISE, grid=GRID, substeps=True), "substeps"),
    (lambda: sc.record(broken, NOISE, grid=GRID, batch=NAN), "batch"),
    (lambda: sc.record(broken, NOISE, grid=GRID, batch="8"), "batch"),
    (lambda: sc.record(broken, NOISE, grid=GRID, varied={"a": None}), "varied"),
    (lambda: sc.record(broken, NOISE, grid=GRID, data_range=0.0), "data_range"),
    (lambda: sc.record(broken, NOISE, grid=GRID, data_range=INF), "data_range"),
    (lambda: sc.record(broken, NOISE, grid=GRID, progress="no"), "progress"),
    (lambda: sc.record(broken, NOISE, grid=GRID, revision=7), "revision"),
    (lambda: sc.record(Pipe(), None, seeds=0), "prompts"),
    (lambda: sc.record(Pipe(), "a", seeds=0), "prompts"),
    (lambda: sc.record(Pipe(), [None], seeds=0), "prompts"),
    (lambda: sc.record(Pipe(), [], seeds=0), "prompts"),
    (lambda: sc.record(Pipe(), **RECORD, num_inference_steps="50"), "num_inference_steps"),
    (lambda: sc.record(Pipe(), **RECORD, num_inference_steps=None), "num_inference_steps"),
    (lambda: sc.record(Pipe(), **RECORD, num_inference_steps=True), "num_inference_steps"),
    (lambda: sc.record(Pipe(), **RECORD, num_inference_steps=0), "num_inference_steps"),
    (lambda: sc.record(Pipe(), **RECORD, num_inference_steps=10**12), "num_inference_steps"),
    (lambda: sc.record(Pipe(), **RECORD, batch=NAN), "batch"),
    (lambda: sc.record(Pipe(), **RECORD, batch=0), "batch"),
    (lambda: sc.record(Pipe(), **RECORD, in_memory="x"), "in_memory"),
    (lambda: sc.record(Pipe(), **RECORD, reference="best"), "reference"),
    (lambda: sc.record(Pipe(), **RECORD, substeps=0.5), "substeps"),
    (lambda: sc.record(Pipe(), **RECORD, path=7), "path"),
    (lambda: sc.record(Pipe(), **RECORD, varied=[1]), "varied"),
    (lambda: sc.record(Pipe(), **RECORD, guidance="x"), "guidance"),
    (lambda: sc.record(Pipe(), **RECORD, guidance=NAN), "guidance"),
    (lambda: sc.record(Pipe(), **RECORD, guidance=[]), "guidance"),
    (lambda: sc.record(Pipe(), **RECORD, guidance=True), "guidance"),
    (lambda: sc.record(Pipe(), **RECORD, zzz=1), "zzz"),
    (lambda: sc.record(Pipe(), **RECORD, generator=1), "generator"),
    (lambda: sc.record(Pipe(), ["a"], seeds="x"), "seeds"),
    (lambda: sc.record(Pipe(), ["a"], seeds=1.5), "seeds"),
    (lambda: sc.record(Pipe(), ["a"], seeds=[True]), "seeds"),
    (lambda: sc.record(Pipe(), ["a"], seeds=None), "seeds"),
    (lambda: sc.PlanScheduler(None), "plan"),
    (lambda: sc.PlanScheduler("x"), "plan"),
    (lambda: sc.PlanScheduler(ADAPTIVE), "plan"),
    (lambda: sc.PlanScheduler(DENOISER_PLAN, strict="x"), "strict"),
    (lambda: sc.PlanScheduler(DENOISER_PLAN, guidance="x"), "guidance"),
    (lambda: sc.PlanScheduler(DENOISER_PLAN, guidance=NAN), "guidance"),
    (lambda: scheduler().set_timesteps(True), "num_inference_steps"),
    (lambda: scheduler().set_timesteps("8"), "num_inference_steps"),
    (lambda: scheduler().set_timesteps(0), "num_inference_steps"),
    (lambda: scheduler().cut("x"), "begin"),
    (lambda: scheduler().cut(-1), "begin"),
    (lambda: scheduler().cut(0, NAN), "end"),
    (lambda: scheduler().set_begin_index(None), "begin_index"),
    (lambda: scheduler().trusted("x"), "factor"),
    (lambda: scheduler().trusted(NAN), "factor"),
    (lambda: scheduler().step(None, 1000.0, X), "model_output"),
    (lambda: scheduler().step(Y, 1000.0, "x"), "sample"),
    (lambda: scheduler().scale_model_input(None), "sample"),
    (lambda: scheduler().add_noise(X, None, X), "noise"),
]  # fmt: skip


@pytest.mark.parametrize("place", range(len(GIVEN)))
def test_a_misuse_is_refused_by_name(place: int) -> None:
    refused(*GIVEN[place])


# Every annotated argument of everything public, with values of other kinds.

_NEEDED: dict[str, Any] = {
    "int": 2, "float": 0.5, "bool": True, "str": "euler", "tuple[int, ...]": (0, 1), "tuple[float, ...]": (1.0, 0.9),
    "LinearForecaster": Lagrange(1),
    "Forecaster": Lagrange(1), "StaticController": sc.controllers.Periodic(), "Controller": sc.controllers.Verified(),
    "PhaseMap": sc.coordinates.Balanced(), "Subspace": sc.forecasters.HighBand(), "Prediction": PREDICTION,
}  # fmt: skip
_PLAN = ("steps", "rows", "timesteps", "evaluation_timesteps", "scale", "origin")
_PROFILE = ("grams", "states", "timesteps", "scale", "gain", "origin")
FUNCTIONS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (sc.TimeGrid.flow, {"sigma": [0.9, 0.1]}),
    (sc.TimeGrid.shifted, {"steps": 8}),
    (sc.tableau, {"method": METHOD, "grid": GRID}),
    (sc.evaluated_steps, {"method": METHOD, "grid": GRID}),
    (sc.degree_of_exactness, {"method": METHOD, "grid": GRID}),
    (sc.amplification, {"table": np.eye(2)}),
    (sc.method, {"spec": "fora"}),
    (sc.compile_plan, {"method": METHOD, "grid": GRID}),
    (sc.wrap, {"denoiser": broken, "method": METHOD, "grid": GRID}),
    (sc.Run, {"method": METHOD, "grid": GRID}),
    (sc.Run(METHOD, GRID).wants_evaluation, {}),
    (sc.Run(METHOD, GRID).observe, {"x": X, "y": Y}),
    (sc.Run(METHOD, GRID).forecast, {"x": X}),
    (sc.Run(METHOD, GRID).take, {"x": X, "y": Y}),
    (sc.Run(METHOD, GRID).advance, {"x": X, "evaluate": broken}),
    (sc.History, {"window": 2}),
    (sc.History(2).push, {"step": 0, "node": 0.0, "value": X}),
    (sc.History(2).nodes, {}),
    (sc.History(2).combine, {"weights": [1.0]}),
    (sc.Point, {"step": 0, "taus": [0.0]}),
    (METHOD.check, {"steps": 8}),
    (sc.accelerate, {"pipe": None, "method": METHOD}),
    (sc.enable, {"pipe": None, "method": METHOD}),
    (sc.load_reference, {}),
    (sc.shipped_plan, {"model": "shapes-flux", "evaluations": 10}),
    (load_model, {"model": "shapes-flux"}),
    (sc.sample, {"denoiser": broken, "plan": DENOISER_PLAN, "noise": NOISE}),
    (sc.calibration_calls, {"pipe": Pipe(), "method": None, "prompts": ["a"]}),
    (sc.replay, {"network": torch.nn.Linear(1, 1), "calls": []}),
    (sc.tune, {"denoiser": broken, "data": NOISE, "grid": GRID}),
    (record_pipeline, {"pipe": Pipe(), "prompts": ["a"], "seeds": 0}),
    (functools.partial(sc.record, broken, NOISE), {"grid": GRID}),
    (sc.Profile.taped, {"tapes": [], "timesteps": [1.0], "states": None}),
    (sc.Profile.load, {"path": "x"}),
    (PROFILE.save, {"path": "x"}),
    (PROFILE.plan, {"evaluations": 4}),
    (PROFILE.adaptive, {"plans": [PLAN, OTHER], "refine": broken}),
    (PROFILE.curve, {"budgets": [4]}),
    (PROFILE.subset, {"pairs": [0]}),
    (PLAN.at, {"value": 1.0}),
    (PLAN.save, {"path": "x"}),
    (sc.Plan.load, {"path": "x"}),
    (sc.Plan.from_hub, {"repo": "me/plans"}),
    (sc.Plan.from_dict, {"values": {}}),
    (ADAPTIVE.at, {"value": 1.0}),
    (ADAPTIVE.save, {"path": "x"}),
    (sc.AdaptivePlan.load, {"path": "x"}),
    (sc.AdaptivePlan.from_dict, {"values": {}}),
    (sc.PlanScheduler, {"plan": DENOISER_PLAN}),
    (scheduler().cut, {}),
    (scheduler().trusted, {}),
    (scheduler().set_begin_index, {}),
    (scheduler().step, {"model_output": Y, "timestep": 1000.0, "sample": X}),
    (first_order, {"grid": GRID}),
    (fit_l2p, {"profile": PROFILE}),
    (card, {"spec": "fora"}),
    (span_for_speedup, {"steps": 8, "blocks": 4, "speedup": 2.0}),
    (sc.Plan, {name: getattr(PLAN, name) for name in _PLAN}),
    (sc.Profile, {name: getattr(PROFILE, name) for name in _PROFILE}),
    (sc.AdaptivePlan, {"plans": [PLAN, OTHER]}),
    (Doubt, {"evaluation": 1, "weights": np.zeros(7), "offset": 0.0, "limit": 0.0}),
    (Prediction, vars(PREDICTION)),
    (Effort, {}),
]  # fmt: skip


def parts() -> Iterator[tuple[Callable[..., Any], dict[str, Any]]]:
    """Every part of a method, with what it cannot do without."""
    for place in (sc, sc.forecasters, sc.controllers, sc.coordinates, sc.targets):
        for kind in vars(place).values():
            if isinstance(kind, type) and issubclass(kind, Checked) and not inspect.isabstract(kind) and kind not in (
                sc.Plan, sc.Profile, sc.AdaptivePlan, sc.Point,
            ):  # fmt: skip
                needed = [each for each in inspect.signature(kind).parameters.values() if each.default is each.empty]
                found = {each.name: _NEEDED[each.annotation] for each in needed if each.annotation in _NEEDED}
                if kind is sc.controllers.Searched:
                    found["name"] = "golden"
                if kind is sc.controllers.GuidedRisk:
                    found["alignment"] = ((1.0, 1.0), (1.0, 1.0))
                yield kind, found


WRONG = [None, "x", True, NAN, INF, -INF, object(), b"x", -1, 10**12, {}, [object()], SimpleNamespace()]
NOT_LOOKED_AT = ("pipe", "refine", "noise", "timestep", "grid", "model", "self", "device", "origin")


def allowed(annotation: str, value: object) -> bool:
    """Whether an annotation takes a value of this kind, told by its words; or whether it is not clear."""
    words = set(re.findall(r"\w+", annotation))
    if annotation in ("", "Any") or ("Any" in words and not isinstance(value, int | float | str | bytes)):
        return True
    if value is None:
        return "None" in words
    if isinstance(value, bool):
        return "bool" in words
    if isinstance(value, str):
        return bool({"str", "Path"} & words)
    if isinstance(value, int):
        return bool({"float"} & words) or "tuple" in words or "Sequence" in words
    if value == {}:
        return bool({"Mapping", "dict"} & words)
    if isinstance(value, SimpleNamespace):
        return "Protocol" in words
    return False


EVERYTHING = [*FUNCTIONS, *dict(parts()).items()]


@pytest.mark.parametrize("place", range(len(EVERYTHING)))
def test_an_argument_of_another_kind_is_refused_by_name(place: int, tried: Callable[[int], None]) -> None:
    function, given = EVERYTHING[place]
    count = 0
    for name, parameter in inspect.signature(function).parameters.items():
        annotation = parameter.annotation if isinstance(parameter.annotation, str) else ""
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or annotation == "Any":
            continue
        for value in WRONG:
            infinite = "generations" in name or function is Prediction
            if allowed(annotation, value) or (infinite and value in (INF, -INF)) or value is parameter.default:
                continue
            if isinstance(value, int) and not isinstance(value, bool) and annotation not in ("int", "int | None"):
                continue
            try:
                refused(functools.partial(function, **{**given, name: value}), name)
            except BaseException as error:
                raise AssertionError(f"{function}({name}={value!r}): {error}") from error
            count += 1
    tried(count)
