"""The module seam: attention and MLP outputs of every block, forecast one by one under a common decision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.hooks import ModelHook
from torch import Tensor, nn

from skipcast.parts import Method
from skipcast.pipelines.networks import check_shares, group_of
from skipcast.pipelines.seams.base import Inside, weighed_once
from skipcast.pipelines.seams.layouts import find_layout
from skipcast.pipelines.session import Call, forecast, observe, wants_evaluation
from skipcast.run import Run


@dataclass(frozen=True)
class _Part:
    """A module, and the place of its first stream among all of them."""

    module: nn.Module
    kind: Literal["pair", "single", "idle"]
    stream: int


class ModuleBank(Inside):
    """The gated modules of all blocks; while a call is governed, all are evaluated or all are skipped."""

    def __init__(self, parts: list[_Part], names: list[str], method: Method) -> None:
        super().__init__()
        self.parts, self.names, self.method = parts, names, weighed_once(method)
        self.runs: list[Run] | None = None
        self.skip = False

    def hooks(self) -> Iterator[tuple[nn.Module, ModelHook]]:
        for part in self.parts:
            yield part.module, _ModuleHook(self, part)

    def check_call(self, given: dict[str, Any]) -> None:
        """Nothing is refused: what is added between the blocks is added at every step."""

    @contextmanager
    def governed_by(self, call: Call) -> Iterator[None]:
        self.skip = not wants_evaluation(call.run)
        self.runs = [call.run, *call.streams(self.names[1:], self.method)]
        try:
            yield
        finally:
            self.runs, self.skip = None, False

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forecast(self, part: _Part, x: Tensor) -> Any:
        """What a skipped module returns."""
        assert self.runs is not None
        if part.kind == "idle":
            return x[..., :0]  # of no width, so that joining it is free
        first = forecast(self.runs[part.stream], x)
        return (first, forecast(self.runs[part.stream + 1], x)) if part.kind == "pair" else first

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def observe(self, part: _Part, x: Tensor, result: Any) -> Any:
        """Take what a module returned; returns what goes on."""
        assert self.runs is not None
        if part.kind == "single":
            return observe(self.runs[part.stream], x, result)
        if len(result) != 2:
            raise ValueError(
                f"{self.names[part.stream]} returned {len(result)} tensors instead of image and text, as under an "
                "IP-Adapter; use a method with target=output."
            )
        return tuple(observe(self.runs[part.stream + n], x, y) for n, y in enumerate(result))


class _ModuleHook(ModelHook):  # type: ignore[misc]
    """Puts the forecast in the place of a module's output."""

    def __init__(self, bank: ModuleBank, part: _Part) -> None:
        super().__init__()
        self.bank, self.part = bank, part

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        bank, part = self.bank, self.part
        if bank.runs is None:
            bank.check_transparent()
            return self.fn_ref.original_forward(*args, **kwargs)
        x = args[0] if args else kwargs["hidden_states"]
        if bank.skip:
            return bank.forecast(part, x)
        result = self.fn_ref.original_forward(*args, **kwargs)
        return result if part.kind == "idle" else bank.observe(part, x, result)


def find_modules(denoiser: nn.Module, method: Method) -> ModuleBank:
    """The gated modules of a known family.

    Raises:
        ValueError: the family is not known.
    """
    layout, inner = find_layout(denoiser, method.target)
    parts: list[_Part] = []
    names: list[str] = []
    for blocks in layout.lists:
        modules = blocks.modules
        for place, block in enumerate(getattr(inner, blocks.name)):
            path = f"{blocks.name}.{place}"
            for name in modules.idle:
                parts.append(_Part(getattr(block, name), "idle", -1))
            for name in modules.pairs:
                parts.append(_Part(getattr(block, name), "pair", len(names)))
                names += [f"{path}.{name}", f"{path}.{name}.text"]
            for name in modules.singles:
                parts.append(_Part(getattr(block, name), "single", len(names)))
                names.append(f"{path}.{name}")
    check_shares(method, group_of(denoiser))
    return ModuleBank(parts, names, method)
