"""Forecast steps in turns: a span of blocks skipped whole, then every module of every block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from skipcast.forecasters import Reuse
from skipcast.parts import IncompatibleParts, Method
from skipcast.pipelines.hooks import Guest
from skipcast.pipelines.seams.base import Inside
from skipcast.pipelines.seams.modules import ModuleBank, find_modules
from skipcast.pipelines.seams.stack import BlockStack, find_stack
from skipcast.pipelines.session import Call
from skipcast.run import Run
from skipcast.targets import ModuleOutputs


class _Turns(BlockStack):
    """At every other forecast behind an evaluation no span is skipped: its blocks run, on modules that do not."""

    reuses_modules = False

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _decide(self, probe: Tensor | None) -> None:
        super()._decide(probe)
        passage = self.passage
        assert passage is not None
        self.reuses_modules = passage.skipped is not None and passage.runs[0].since_evaluation % 2 == 0
        if self.reuses_modules:
            passage.skipped, passage.skipped_span = None, (0, 0)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _made(self, run: Run, x: Tensor, y: Tensor) -> Tensor:
        made: Tensor = run.take(x, y) if self.reuses_modules else super()._made(run, x, y)
        return made


class Alternating(Inside):
    """The block stack and the modules inside it, under one decision."""

    def __init__(self, stack: _Turns, bank: ModuleBank) -> None:
        self.stack, self.bank = stack, bank

    def hooks(self) -> Iterator[tuple[nn.Module, Guest]]:
        yield from self.stack.hooks()
        yield from self.bank.hooks()

    def check_call(self, given: dict[str, Any]) -> None:
        self.stack.check_call(given)

    @contextmanager
    def governed_by(self, call: Call) -> Iterator[None]:
        with self.stack.governed_by(call), self.bank.following(call, skip=self.stack.reuses_modules):
            yield


def find_alternating(denoiser: nn.Module, method: Method) -> Alternating:
    """The stack and the modules of a known family.

    Raises:
        ValueError: the family is not known to either seam, or the method is not one of reuse decided before the blocks.
    """
    if not isinstance(method.forecaster, Reuse) or method.controller.probe not in ("none", "input"):
        raise IncompatibleParts(
            f"{method.target!r} reuses what was last made, decided before the first block runs; use it with Reuse() "
            f"and a controller such as Periodic(1, 3), not with {method.forecaster!r} and {method.controller!r}."
        )
    stack = find_stack(denoiser, method, _Turns)
    assert isinstance(stack, _Turns)
    return Alternating(stack, find_modules(denoiser, replace(method, target=ModuleOutputs())))
