"""Bad arguments of forecasters and controllers are refused at once, by the part, the argument, the value and a cure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest

from skipcast.controllers import (
    AccumulatedChange,
    Controller,
    DynamicHorizon,
    EasyRatio,
    ErrorBound,
    FirstBlockChange,
    Growing,
    Stability,
    Verified,
)
from skipcast.coordinates import Sigma
from skipcast.forecasters import (
    ABCache,
    AdamsBashforth,
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


@dataclass(frozen=True)
class InSigma(Reuse):
    @property
    def coordinates(self) -> tuple[type, ...]:
        return (Sigma,)


NAN = math.nan
LINE = {"base": Lagrange(1)}
#: The part, its arguments, of which the last one is wrong, and what else the message says.
REFUSED: list[tuple[Any, dict[str, Any], list[str]]] = [
    (Lagrange, {"order": -1}, ["must be >= 0, got -1"]),
    (TaylorSeer, {"order": -1}, ["must be >= 0, got -1"]),
    (Smoothed, {"decay": -0.1}, ["must lie in [0, 1], got -0.1", "0.9"]),
    (Smoothed, {"decay": 1.1}, ["must lie in [0, 1], got 1.1", "0.9"]),
    (Smoothed, {"decay": NAN}, ["must lie in [0, 1], got nan", "0.9"]),
    (FoCa, {"slope": "euler"}, ["must be one of difference, bdf2, got 'euler'"]),
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
    (Stability, {"fixed": DynamicHorizon(1.0)}, ["must be a controller of fixed steps such"]),
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
    (AccumulatedChange, {"threshold": 1.0, "probe": "none"}, ["must be 'modulated', 'block' or 'input', got 'none'"]),
    (AccumulatedChange, {"threshold": 1.0, "polynomial": ()}, ["is empty; (1.0, 0.0) is"]),
    (AccumulatedChange, {"threshold": 1.0, "first": 0}, ["must be at least 1, got 0; step 0"]),
    (FirstBlockChange, {"threshold": NAN}, ["must be >= 0, got nan"]),
    (FirstBlockChange, {"threshold": 1.0, "max_forecasts": 0}, ["must be at least 1, got 0; leave it out"]),
    (FirstBlockChange, {"threshold": 1.0, "warmup": 0}, ["must be at least 1, got 0"]),
    (EasyRatio, {"threshold": -0.1}, ["must be >= 0, got -0.1"]),
    (EasyRatio, {"threshold": 0.1, "first": 1}, ["must be at least 2, got 1; the ratio"]),
    (Growing, {"warmup": 0}, ["must be at least 1, got 0; step 0"]),
    (Growing, {"window": 0}, ["must be at least 1, got 0"]),
    (Growing, {"growth": -0.5}, ["must be >= 0, got -0.5; 0 keeps"]),
    (Growing, {"growth": NAN}, ["must be >= 0, got nan"]),
    (Growing, {"reading": "paper", "growth": 0.0}, ["must be positive in the paper's reading, got 0"]),
    (Growing, {"growth": 1.0, "evaluations": 9}, ["takes growth=... or evaluations=..., not both"]),
    (Growing, {"evaluations": 4}, ["must be at least 5, got 4; lower warmup"]),
    (Growing, {"reading": "book"}, ["must be 'code' or 'paper', got 'book'"]),
]


@pytest.mark.parametrize("kind, arguments, words", REFUSED, ids=str)
def test_bad_arguments_are_refused(kind: Any, arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        kind(**arguments)
    for word in (kind.__name__, f"{list(arguments)[-1]}=...", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "controller",
    [
        *(Stability(), DynamicHorizon(1.0, warmup=5), ErrorBound(1.0, warmup=5), Verified(first=5), Growing()),
        *(AccumulatedChange(1.0, "input", first=5), FirstBlockChange(1.0, warmup=5), EasyRatio(1.0, first=5)),
    ],
    ids=str,
)
def test_runs_shorter_than_the_warm_up_are_refused(controller: Controller) -> None:
    with pytest.raises(ValueError, match=r"num_inference_steps=4 is fewer than the warm-up of 5"):
        controller.check(4)
    controller.check(5)
