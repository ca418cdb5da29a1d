"""Bad arguments and combinations of parts are refused at once, by the part, the argument, the value and a cure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from skipcast import IncompatibleParts, Method, Run, Sampler, TimeGrid, tableau
from skipcast.controllers import (
    AccumulatedChange,
    ConfidenceGate,
    Controller,
    DynamicHorizon,
    EasyRatio,
    ErrorBound,
    Even,
    FirstBlockChange,
    FixedSteps,
    Growing,
    MagnitudeError,
    Multiples,
    Periodic,
    Probe,
    SensitivityBound,
    ShallowChange,
    Stability,
    Verified,
)
from skipcast.coordinates import Angle, Balanced, Sigma
from skipcast.forecasters import (
    ABCache,
    AdamsBashforth,
    Aligned,
    Blend,
    ChebyshevRidge,
    FoCa,
    HiCache,
    HighBand,
    Lagrange,
    MeanVelocity,
    PadeCode,
    PadeLiteral,
    PadePaper,
    Principal,
    Reuse,
    Shrunk,
    Smoothed,
    TaylorSeer,
    Within,
)
from skipcast.samplers import SAMPLERS
from skipcast.targets import GlobalDrift, SpanDrift, StagedSpans


@dataclass(frozen=True)
class InSigma(Reuse):
    @property
    def coordinates(self) -> tuple[type, ...]:
        return (Sigma,)


@dataclass(frozen=True)
class Forgetful(Reuse):
    @property
    def window(self) -> int:
        return 0


@dataclass(frozen=True)
class Looking(Controller):
    @property
    def probe(self) -> Probe:
        return "block"

    def check(self, steps: int) -> None: ...

    def evaluate(self, run: Run) -> bool:
        return True


NAN = math.nan
UNSORTED = [(), (1, 2), (0, 2, 2), (0, 3, 1)]
GOOD = {"timestep": [900.0, 100.0], "alpha": [0.1, 0.9], "sigma": [0.9, 0.1]}
LEVELS, NO_LEVELS = ["alpha", "sigma"], [[0.1, 0.9], [0.5, 0.5]]
NO_SIZES = [0.0, -0.5, NAN]
FEWEST = SAMPLERS.items()
NO_VECTORS: list[Any] = [[], 0.5, [[0.9, 0.1]], [0.9, NAN], [math.inf, 0.1]]
LINE = {"base": Lagrange(1)}


def grid_of(name: str, value: Any) -> dict[str, Any]:
    return {key: given for key, given in GOOD.items() if key != name} | {name: value}


TABLE = {"timesteps": (900.0,), "by_sample": (1.0,), "by_time": (1.0,), "early": 1.0, "threshold": 1.0}
#: The part, its arguments, of which the last one is wrong, and what else the message says.
REFUSED: list[tuple[Any, dict[str, Any], list[str]]] = [
    (Lagrange, {"order": -1}, ["must be >= 0, got -1"]),
    (TaylorSeer, {"order": -1}, ["must be >= 0, got -1"]),
    (Smoothed, {"decay": -0.1}, ["must lie in [0, 1], got -0.1", "0.9"]),
    (Smoothed, {"decay": 1.1}, ["must lie in [0, 1], got 1.1", "0.9"]),
    (Smoothed, {"decay": NAN}, ["must lie in [0, 1], got nan", "0.9"]),
    (FoCa, {"slope": "euler"}, ["must be 'difference' or 'bdf2', got 'euler'"]),
    (HiCache, {"order": -1}, ["must be >= 0, got -1; the paper takes 2"]),
    (HiCache, {"scale": 0}, ["must be positive, got 0; the paper takes 0.5"]),
    (Blend, {"first": Reuse(), "second": Lagrange(1), "share": 1.5}, ["lie in [0, 1], got 1.5; 0 is `first` alone"]),
    (Blend, {"first": Reuse(), "second": Lagrange(1), "share": NAN}, ["must lie in [0, 1], got nan"]),
    (Blend, {"first": Reuse(), "second": TaylorSeer(1, start=1)}, ["start at one step, got Reuse() from step 0"]),
    (Blend, {"first": InSigma(), "second": HiCache()}, ["must share a coordinate, got", "InSigma() and HiCache"]),
    (ChebyshevRidge, {"degree": -1}, ["must be >= 0, got -1; the paper takes 4"]),
    (ChebyshevRidge, {"ridge": 0}, ["must be positive, got 0; without a penalty"]),
    (ChebyshevRidge, {"ridge": NAN}, ["must be positive, got nan"]),
    (ChebyshevRidge, {"horizon": 0}, ["must be positive, got 0"]),
    (AdamsBashforth, {"order": 0}, ["must be at least 1, got 0; order 0 is Reuse()"]),
    (AdamsBashforth, {"order": 2, "corrector": 1}, ["must be 0 or 2 to order + 1 = 3, got 1; 0"]),
    (AdamsBashforth, {"order": 1, "corrector": 3}, ["= 2, got 3; 0 leaves evaluations", "higher order"]),
    (ABCache, {"terms": 0}, ["must be at least 1, got 0; the code takes 2 or 5"]),
    (MeanVelocity, {"span": 0}, ["must be at least 1 everywhere, got 0; 1 is reuse"]),
    (MeanVelocity, {"span": ((0, 2), (4, 0))}, ["must be at least 1 everywhere, got ((0, 2), (4, 0))"]),
    (MeanVelocity, {"span": ((1, 2),)}, ["must be pairs whose steps ascend from 0, got ((1, 2),)"]),
    (MeanVelocity, {"span": ((0, 2), (4, 1), (4, 2))}, ["must be pairs whose steps ascend from 0"]),
    (MeanVelocity, {"span": ()}, ["must be pairs whose steps ascend from 0, got ()"]),
    (PadeCode, {"order": 1}, ["1", "2, 3 or 4"]),
    (PadeCode, {"order": 5}, ["5", "2, 3 or 4"]),
    (PadeCode, {"threshold": -0.1}, ["-0.1", "above 1 all pass"]),
    (PadeCode, {"threshold": NAN}, ["nan", "above 1 all pass"]),
    (PadeCode, {"horizon": 0}, ["0", "None stands for the steps of the run"]),
    (PadePaper, {"alpha": 1.1}, ["1.1", "newest residual's share"]),
    (PadePaper, {"beta": -1}, ["-1", "0 adds no slope"]),
    (PadePaper, {"early": 0.1}, ["0.1", "late <= early"]),
    (PadeLiteral, {"late": 0.8}, ["0.8", "late <= early"]),
    (PadeLiteral, {"rate": 0}, ["0", "lambda is 10"]),
    (PadePaper, {"scale": "two"}, ["two", "'projection' or 'one'"]),
    (Shrunk, {"base": Shrunk(Lagrange(1))}, ["Shrunk(base=Lagrange", "such as"]),
    (Shrunk, {**LINE, "local": None}, ["None", "such as"]),
    (Shrunk, {**LINE, "threshold": -0.1}, ["-0.1", "0.25"]),
    (Shrunk, {**LINE, "threshold": math.inf}, ["inf", "0.25"]),
    (HighBand, {"share": -0.1}, ["-0.1", "1 reuses all"]),
    (HighBand, {"transform": "wavelet"}, ["'wavelet'", "'dct' or 'fft'"]),
    (HighBand, {"grid": (0, 4)}, ["(0, 4)", "(height, width)"]),
    (HighBand, {"grid": (4,)}, ["(4,)", "(height, width)"]),
    (Principal, {"energy": 1.5}, ["1.5", "0 is reuse"]),
    (Principal, {"rank": -1}, ["-1", "0 is reuse"]),
    (Within, {"subspace": HighBand(), "inner": None}, ["None", "such as"]),
    (Within, {"inner": Lagrange(1), "subspace": 0.1}, ["0.1", "such as"]),
    (Stability, {"fixed": DynamicHorizon(1.0)}, ["must be a controller of fixed steps (such"]),
    (Stability, {"threshold": -1.0}, ["must be >= 0, got -1.0; in the released"]),
    (Stability, {"reading": "book"}, ["must be 'code' or 'paper', got 'book'"]),
    (DynamicHorizon, {"tolerance": 0.0}, ["must be positive, got 0.0; try 0.5"]),
    (DynamicHorizon, {"tolerance": 1.0, "order": -1}, ["must be at least 0, got -1; 0 is reuse"]),
    (DynamicHorizon, {"tolerance": 1.0, "max_forecasts": 0}, ["must be at least 1, got 0"]),
    (DynamicHorizon, {"tolerance": 1.0, "warmup": 1}, ["must be at least 2, got 1; the change"]),
    (ErrorBound, {"tolerance": -0.1}, ["must be >= 0, got -0.1"]),
    (ErrorBound, {"tolerance": 0.1, "order": -1}, ["must be at least 0, got -1"]),
    (ErrorBound, {"tolerance": 0.1, "warmup": 1}, ["must be at least 2, got 1"]),
    (Verified, {"base": 0.0}, ["must be positive, got 0.0"]),
    (Verified, {"decay": 1.5}, ["must lie in (0, 1], got 1.5; 1 keeps"]),
    (Verified, {"floor": -1.0}, ["must be >= 0, got -1.0"]),
    (Verified, {"min_forecasts": 0}, ["must be at least 1, got 0; the step after an evaluation"]),
    (Verified, {"max_forecasts": 1}, ["must be at least 2, got 1; it may not be less than min_forecasts"]),
    (Verified, {"first": 0}, ["must be at least 1, got 0"]),
    (AccumulatedChange, {"threshold": -1.0}, ["must be >= 0, got -1.0; 0 eval"]),
    (AccumulatedChange, {"threshold": 1.0, "probe": "none"}, ["'time' or 'block time', got 'none'"]),
    (AccumulatedChange, {"threshold": 1.0, "share": 1.5}, ["must be a share of the run in [0, 1], got 1.5"]),
    (AccumulatedChange, {"threshold": 1.0, "polynomial": ()}, ["is empty; (1.0, 0.0) is"]),
    (AccumulatedChange, {"threshold": 1.0, "first": 0}, ["must be at least 1, got 0; step 0"]),
    (FirstBlockChange, {"threshold": NAN}, ["must be >= 0, got nan"]),
    (FirstBlockChange, {"threshold": 1.0, "max_forecasts": 0}, ["must be at least 1, got 0; leave it out"]),
    (FirstBlockChange, {"threshold": 1.0, "warmup": 0}, ["must be at least 1, got 0"]),
    (EasyRatio, {"threshold": -0.1}, ["must be >= 0, got -0.1"]),
    (EasyRatio, {"threshold": 0.1, "first": 1}, ["must be at least 2, got 1; the ratio"]),
    (Aligned, {"limit": 0.9}, ["must be at least 1, which is reuse, got 0.9; 1.5 is published"]),
    (Aligned, {"limit": NAN}, ["must be at least 1, which is reuse, got nan"]),
    (ShallowChange, {"threshold": -0.1}, ["must be >= 0, got -0.1; 0 evaluates"]),
    (ShallowChange, {"threshold": 1.0, "measure": "input"}, ["must be 'output' or 'difference', got 'input'"]),
    (ShallowChange, {"threshold": 1.0, "retention": 1.1}, ["must be a share of the run in [0, 1], got 1.1"]),
    (ShallowChange, {"threshold": 1.0, "retention": NAN}, ["must be a share of the run in [0, 1], got nan"]),
    (ShallowChange, {"threshold": 1.0, "beyond": -1}, ["must be at least 0, got -1"]),
    (ConfidenceGate, {"threshold": NAN}, ["must be >= 0, got nan"]),
    (ConfidenceGate, {"threshold": 1.0, "order": -1}, ["must be at least 0, got -1"]),
    (ConfidenceGate, {"threshold": 1.0, "first": 0}, ["must be at least 1, got 0"]),
    (ConfidenceGate, {"threshold": 1.0, "since": -1}, ["must be at least 0, got -1"]),
    (MagnitudeError, {"curve": "flux-schnell"}, ["must be ratios or one of flux, flux-kontext,", "got 'flux-schnell'"]),
    (MagnitudeError, {"curve": (1.1, 1.0)}, ["must be positive ratios of which the first is 1, got (1.1, 1.0)"]),
    (MagnitudeError, {"curve": (1.0, NAN)}, ["must be positive ratios of which the first is 1, got (1.0, nan)"]),
    (MagnitudeError, {"curve": ()}, ["must be positive ratios of which the first is 1, got ()"]),
    (MagnitudeError, {"threshold": -0.1}, ["must be >= 0, got -0.1"]),
    (MagnitudeError, {"evaluations": 9, "threshold": 0.1}, ["takes threshold=... or evaluations=..., not both"]),
    (MagnitudeError, {"max_forecasts": 0}, ["must be at least 1, got 0; leave the method out"]),
    (MagnitudeError, {"retention": 1.5}, ["must be a share of the run in [0, 1], got 1.5"]),
    (MagnitudeError, {"evaluations": 0}, ["must be at least 1, got 0"]),
    (SensitivityBound, {**TABLE, "threshold": -1.0}, ["must be >= 0, got -1.0"]),
    (SensitivityBound, {**TABLE, "max_forecasts": 0}, ["must be at least 1, got 0"]),
    (SensitivityBound, {**TABLE, "edge": -1}, ["must be at least 0, got -1"]),
    (Growing, {"warmup": 0}, ["must be at least 1, got 0; step 0"]),
    (Growing, {"window": 0}, ["must be at least 1, got 0"]),
    (Growing, {"growth": -0.5}, ["must be >= 0, got -0.5; 0 keeps"]),
    (Growing, {"growth": NAN}, ["must be >= 0, got nan"]),
    (Growing, {"reading": "paper", "growth": 0.0}, ["must be positive in the paper's reading, got 0"]),
    (Growing, {"growth": 1.0, "evaluations": 9}, ["takes growth=... or evaluations=..., not both"]),
    (Growing, {"evaluations": 4}, ["must be at least 5, got 4; lower warmup"]),
    (Growing, {"reading": "book"}, ["must be 'code' or 'paper', got 'book'"]),
    *((FixedSteps, {"steps": steps}, ["must ascend from 0", "to forecast from"]) for steps in UNSORTED),
    (Periodic, {"warmup": 0}, ["must be at least 1, got 0; step 0 is always evaluated"]),
    (Periodic, {"interval": 0}, ["must be at least 1, got 0; 1 evaluates every step"]),
    (Periodic, {"evaluations": 2}, ["must be at least 3 ", ", got 2; lower warmup"]),
    (Periodic, {"last": True, "evaluations": 3}, ["at least 4 (warm-up of 3 and the last step), got 3"]),
    (Multiples, {"first": 0}, ["must be at least 1, got 0; step 0 is always evaluated"]),
    (Multiples, {"interval": 0}, ["must be at least 1, got 0; 1 evaluates every step"]),
    (Multiples, {"interval": 4, "evaluations": 9}, ["takes interval=... or", ", not both; got 4 and 9"]),
    (Multiples, {"evaluations": 5}, ["at least 6 (warm-up of 5 and the last step), got 5; lower first"]),
    (Even, {"evaluations": 0}, ["must be at least 1, got 0"]),
    (Even, {"last": True, "evaluations": 1}, ["must be at least 2, got 1"]),
    *((Balanced, {"alpha": alpha}, ["must be positive, got ", "; towards 0 it is no map"]) for alpha in NO_SIZES),
    *((Sampler, {"name": n, "evaluations": m - 1}, [f"at least {m} for {n}, got {m - 1}"]) for n, m in FEWEST),
    (Sampler, {"name": "euler2"}, ["must be one of euler, heun, ", "got 'euler2'"]),
    (SpanDrift, {"skip_first": -1}, ['number of blocks or "double", got -1']),
    (SpanDrift, {"skip_first": "single"}, ["got 'single'"]),
    (SpanDrift, {"skip_last": -2}, ["got -2"]),
    (StagedSpans, {"share": 0.0}, ["got 0.0"]),
    (StagedSpans, {"boundary": 1.5}, ["got 1.5"]),
    *((TimeGrid, grid_of(name, v), [f"TimeGrid({name}=...) must be"]) for name in GOOD for v in NO_VECTORS),
    *((TimeGrid, grid_of(name, [3, 2, 1]), [" has 3 entries, ", " has 2; give one per step"]) for name in LEVELS),
    *((TimeGrid, grid_of("sigma", levels), ["must fall strictly ", ", noisy to clean"]) for levels in NO_LEVELS),
    (TimeGrid.shifted, {"steps": 0}, ["must be at least 1, got 0"]),
    *(
        (TimeGrid.shifted, {"steps": 4, "shift": shift}, ["TimeGrid.shifted(shift=...) must be ", ", got"])
        for shift in NO_SIZES
    ),
]


@pytest.mark.parametrize("kind, arguments, words", REFUSED, ids=str)
def test_bad_arguments_are_refused(kind: Any, arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        kind(**arguments)
    for word in (kind.__qualname__, f"{list(arguments)[-1]}=...", *words):
        assert word in str(caught.value)


ORDER = r"Lagrange\(order=3\) needs 4 evaluations, .* makes 3; lower its order"
VERIFIES = r"Verified\(.*needs forecasts that the target verifies.*got Output\(\)"
NO_PARTS: list[tuple[Callable[[], object], str]] = [
    (lambda: Method(Forgetful()), r"Forgetful\(\) remembers no evaluation; its window must be"),
    (lambda: Method(Lagrange(3), FixedSteps((0, 1, 5))), ORDER),
    (lambda: Method(Lagrange(3), Periodic(evaluations=3)), ORDER),
    (lambda: Method(Lagrange(3), Periodic(3, 6)).check(8), ORDER),
    (lambda: Method(InSigma()), r"InSigma\(\) is a rule in Sigma\(\), not in StepIndex\(\)"),
    (lambda: Method(HiCache(), coordinate=Angle()), r"HiCache.* is a rule in StepIndex\(\), not in Angle\(\)"),
    (lambda: Method(ChebyshevRidge(), coordinate=Sigma()), r"ChebyshevRidge.* rule in StepIndex\(\), not in Sigma\(\)"),
    (lambda: Method(Lagrange(1), Looking()), r"Looking\(\) looks at the first block.*Output\(\)"),
    (lambda: Method(Lagrange(1), Stability()), r"Stability\(.*\) looks at 3 remembered values, Lagrange\(.*keeps 2"),
    (lambda: Method(Reuse(), Verified()), VERIFIES),
    (
        lambda: tableau(Method(Lagrange(2), Periodic(1, 6)), TimeGrid.shifted(8)),
        r"Lagrange\(order=2\) needs 3 evaluations, .* makes 2",
    ),
]


@pytest.mark.parametrize("build, message", NO_PARTS)
def test_parts_that_do_not_fit_together_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(IncompatibleParts, match=message):
        build()


def test_parts_that_just_fit() -> None:
    Method(Lagrange(3), Periodic(3, 6)).check(9)
    Method(Lagrange(3), Periodic(3, 1)).check(3)  # every step evaluated: nothing is forecast
    Method(InSigma(), coordinate=Sigma())
    Method(Lagrange(1), Looking(), target=GlobalDrift())
    assert issubclass(IncompatibleParts, ValueError)
    assert all(Sampler(name, fewest).evaluations == fewest for name, fewest in FEWEST)


OF_FIVE: list[Controller] = [
    *(Stability(), DynamicHorizon(1.0, warmup=5), ErrorBound(1.0, warmup=5), Verified(first=5), Growing()),
    *(AccumulatedChange(1.0, "input", first=5), FirstBlockChange(1.0, warmup=5), EasyRatio(1.0, first=5)),
    ConfidenceGate(1.0, first=5),
]
WARMUP = "num_inference_steps={} is fewer than the warm-up of {}"
MORE = "evaluations={} is more than num_inference_steps={}"
SHORT: list[tuple[Controller, int, str]] = [
    (Periodic(), 3, WARMUP.format(2, 3) + ".*lower warmup"),
    (Multiples(), 5, WARMUP.format(4, 5) + ".*lower first"),
    *((controller, 5, WARMUP.format(4, 5)) for controller in OF_FIVE),
    (Periodic(3, evaluations=10), 10, MORE.format(10, 9) + "; ask for at most 9"),
    (Even(10), 10, MORE.format(10, 9)),
    (Growing(evaluations=30), 30, MORE.format(30, 29)),
    (FixedSteps((0, 4, 12)), 13, "step 12, but the run has only steps 0 to 11; run at least 13 steps or leave"),
]


@pytest.mark.parametrize("controller, fewest, message", SHORT, ids=str)
def test_runs_that_are_too_short_are_refused(controller: Controller, fewest: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        controller.check(fewest - 1)
    target = SpanDrift(skip_last=1, verify=True) if controller.verifies else GlobalDrift()
    with pytest.raises(ValueError, match=message):  # before anything is evaluated
        Run(Method(Lagrange(2), controller, target=target), TimeGrid.shifted(fewest - 1))
    controller.check(fewest)
