"""The calibrators of cache-dit beside the library's methods: one stream, the same evaluated steps, no network."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import skipcast as sc
from research.fidelity.sequences import GRIDS, SEEDS, Array, driven, single
from skipcast.controllers import FixedSteps, Periodic
from skipcast.forecasters import DMD, TaylorSeer

#: Whether they can be compared: they are imported from cache-dit itself.
INSTALLED = importlib.util.find_spec("cache_dit") is not None


@dataclass(frozen=True)
class Calibrator:
    """A calibrator beside a method.

    Args:
        name: what the page calls it, with its settings.
        make: from cache-dit's module of calibrators, a fresh one.
        method: the library's.
        why: one sentence on every difference that is not zero; empty where there is none.
        told: how the page writes the method, where it has no name.
        first: whether the run is the first one of the calibrator, which makes its streams as it goes.
    """

    name: str
    make: Callable[[Any], Any]
    method: str | sc.Method
    why: str = ""
    told: str = ""
    first: bool = False


@dataclass(frozen=True)
class Calibrated:
    """The largest difference of any value that flows on, over all grids and seeds."""

    calibrator: Calibrator
    difference: float


def _taylor(order: int) -> Callable[[Any], Any]:
    return lambda module: module.TaylorSeerCalibrator(n_derivatives=order)


CALIBRATORS: tuple[Calibrator, ...] = (
    Calibrator("TaylorSeerCalibrator, order 1", _taylor(1), "taylorseer:order=1"),
    Calibrator("TaylorSeerCalibrator, order 2", _taylor(2), "taylorseer:order=2"),
    Calibrator(
        "TaylorSeerCalibrator, order 2, first run",
        _taylor(2),
        "taylorseer:order=2",
        "`update` makes a stream's counter, at -1, behind that step's `mark_step_begin`; so in the first run after it "
        "was enabled `current_step > 1` of `derivative` holds one step later, and derivatives are built from step 2 "
        "on. In every later run they are built from step 1 on, as the authors' are.",
        first=True,
    ),
    Calibrator(
        "TaylorSeerCalibrator, order 2, first run",
        _taylor(2),
        sc.Method(TaylorSeer(2, start=2), Periodic(3, 6)),
        told="TaylorSeer(2, start=2)",
        first=True,
    ),
    Calibrator(
        "DMDCalibrator",
        lambda module: module.DMDCalibrator(),
        "hicache-dmd",
        "Below four evaluations at one spacing `approximate` falls back to `_approximate_taylor`, and the author's own "
        "code to HiCache's Hermite polynomials, whose slope at scale 0.5 is half of Taylor's. `_update_taylor` also "
        "reads `dY_prev` before it is replaced, where `TaylorSeerState.update` replaces it first: the newest value "
        "less the last but one is divided by the newest gap alone.",
    ),
    Calibrator(
        "DMDCalibrator, at one spacing",
        lambda module: module.DMDCalibrator(),
        sc.Method(DMD(), FixedSteps(tuple(range(24)))),
        told="DMD() behind steps 0 to 23",
    ),
    Calibrator(
        "FoCaCalibrator",
        lambda module: module.FoCaCalibrator(),
        "foca",
        "`approximate` starts at the newest evaluation and moves by half of the elapsed steps, of which at most three "
        "count, times the sum of `deriv_full` and `deriv_curr`; the paper's equations, which `foca` follows, start at "
        "the newest value, evaluated or forecast, and move by one step. `deriv_full` is not divided by the gap between "
        "the two evaluations, the paper's derivative is.",
    ),
)


def calibrated(calibrator: Calibrator) -> Calibrated:
    """Both on the same random walks in float64.

    Raises:
        ImportError: cache-dit is not installed.
    """
    os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "error")
    from cache_dit.caching.cache_contexts import calibrators

    method = sc.method(calibrator.method) if isinstance(calibrator.method, str) else calibrator.method
    assert isinstance(method, sc.Method)
    differences = []
    for grid in GRIDS:
        for seed in SEEDS:
            given = single(grid, seed)
            steps, ours = driven(method, given)
            made = calibrator.make(calibrators)
            theirs = _run(made, given.leaving, steps)
            if not calibrator.first:
                made.reset_cache()
                theirs = _run(made, given.leaving, steps)
            differences.append(float(np.abs(ours - theirs).max()))
    return Calibrated(calibrator, max(differences))


def _run(made: Any, values: Array, steps: tuple[int, ...]) -> Array:
    """One inference, called as cache-dit's manager calls a calibrator."""
    found = []
    for step, value in enumerate(values):
        made.mark_step_begin()
        if step in steps:
            made.update(torch.from_numpy(value), name="residual")
        found.append(value if step in steps else made.approximate("residual").numpy())
    return np.array(found)
