"""What the seams inside a denoiser have in common: hooks on its parts, and further histories of one branch."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from skipcast.forecasters.base import Around, LinearForecaster
from skipcast.grid import Vector
from skipcast.history import StepRecord
from skipcast.parts import Method
from skipcast.pipelines.hooks import Guest
from skipcast.pipelines.session import Call
from skipcast.run import Run


class Inside(ABC):
    """Hooks on parts of one denoiser, and what they share during a call; in no governed call they do not act."""

    #: The thread of the governed call: those that others make of the same network meanwhile pass the parts as well.
    thread: int | None = None

    def governs(self) -> bool:
        """Whether the call being made, while one is governed, is that one; compilers cannot ask for the thread."""
        return torch.compiler.is_compiling() or self.thread == threading.get_ident()

    @abstractmethod
    def hooks(self) -> Iterator[tuple[nn.Module, Guest]]:
        """Every hooked part with its hook."""

    @abstractmethod
    def governed_by(self, call: Call) -> AbstractContextManager[None]:
        """One denoiser call: parts are evaluated or skipped as its run decides."""

    @abstractmethod
    def check_call(self, given: dict[str, Any]) -> None:
        """Refuse arguments of the denoiser under which this seam would be wrong."""


# Further histories of one branch: a target may remember more than one value per step, all under one decision.


def pass_over(run: Run) -> None:
    """A forecast step at which this stream is not used; noted, so that every trace tells of every step."""
    run.trace.append(StepRecord(run.step, float(run.taus[run.step]), evaluated=False))
    run.step += 1


class WeighedOnce(Around, LinearForecaster):
    """A linear rule for many streams that all evaluate at the same steps: weights are computed for the first alone."""

    def __init__(self, inner: LinearForecaster) -> None:
        self.inner = inner
        self._known: tuple[list[float], Vector] = ([], np.empty(0))

    def weights(self, nodes: Vector, tau: float) -> Vector:
        key = [*nodes.tolist(), tau]
        if key != self._known[0]:
            self._known = key, self.inner.weights(nodes, tau)
        return self._known[1]


def weighed_once(method: Method) -> Method:
    """The method with `WeighedOnce`, where its forecaster is nothing but its weights."""
    rule = method.forecaster
    if isinstance(rule, LinearForecaster) and type(rule).forecast is LinearForecaster.forecast:
        return replace(method, forecaster=WeighedOnce(rule))
    return method
