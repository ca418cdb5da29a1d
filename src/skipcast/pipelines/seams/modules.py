"""The module seam: attention and MLP outputs of every block, forecast one by one under a common decision."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from skipcast.parts import Method, follower
from skipcast.pipelines.hooks import Guest
from skipcast.pipelines.networks import averaged, check_shares, group_of
from skipcast.pipelines.seams.base import Inside, weighed_once
from skipcast.pipelines.seams.layouts import find_layout
from skipcast.pipelines.session import Call, forecast, observe, wants_evaluation
from skipcast.run import Run


@dataclass(frozen=True)
class _Part:
    """A module, the place of its first stream among all of them, and its role where forecasts are verified."""

    module: nn.Module
    kind: Literal["pair", "single", "idle", "idle pair"]
    stream: int
    needed: bool = False  # what only the verified module reads
    verified: bool = False


class ModuleBank(Inside):
    """The gated modules of all blocks; while a call is governed, all are evaluated or all are skipped."""

    def __init__(self, parts: list[_Part], names: list[str], method: Method, group: Any = None) -> None:
        self.parts, self.names, self.method, self.group = parts, names, weighed_once(method), group
        self.follower = follower(self.method)
        self.runs: list[Run] | None = None
        self.skip = self.measure = False

    def hooks(self) -> Iterator[tuple[nn.Module, Guest]]:
        for part in self.parts:
            yield part.module, _ModuleHook(self, part)

    def check_call(self, given: dict[str, Any]) -> None:
        """Nothing is refused: what is added between the blocks is added at every step."""

    @contextmanager
    def governed_by(self, call: Call) -> Iterator[None]:
        self.skip = not wants_evaluation(call.run)
        self.measure = self.skip and self.method.target.verifies and self.method.controller.measures(call.run)
        self.runs, self.thread = [call.run, *call.streams(self.names[1:], self.follower)], threading.get_ident()
        try:
            yield
        finally:
            self.runs, self.thread, self.skip, self.measure = None, None, False, False

    @contextmanager
    def following(self, call: Call, *, skip: bool) -> Iterator[None]:
        """One denoiser call under the decision of another seam: no stream is the one that decides."""
        self.skip, self.runs = skip, call.streams(self.names, self.follower)
        self.thread = threading.get_ident()
        try:
            yield
        finally:
            self.runs, self.thread, self.skip = None, None, False

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forecast(self, part: _Part, x: Tensor, text: Tensor | None = None) -> Any:
        """What a skipped module returns."""
        assert self.runs is not None
        if part.kind == "idle":
            return x[..., :0]  # of no width, so that joining it is free
        if part.kind == "idle pair":
            assert text is not None
            return x[..., :0], text[..., :0]
        first = forecast(self.runs[part.stream], x)
        return (first, forecast(self.runs[part.stream + 1], x)) if part.kind == "pair" else first

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def verify(self, guess: Tensor, result: Tensor) -> None:
        """Note how wrong the forecast of the last module is."""
        assert self.runs is not None
        true = result.detach().float()
        error = ((true - guess.float()).abs() / (true.abs() + 1e-10)).mean()
        self.runs[0].verified = averaged(error, self.group)

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


class _ModuleHook(Guest):
    """Puts the forecast in the place of a module's output."""

    def __init__(self, bank: ModuleBank, part: _Part) -> None:
        super().__init__()
        self.bank, self.part = bank, part

    def acts(self, module: nn.Module) -> bool:
        return self.bank.runs is not None and self.bank.governs()

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        bank, part = self.bank, self.part
        x = args[0] if args else kwargs["hidden_states"]
        if bank.skip:
            if bank.measure and part.needed:
                return self.fn_ref.original_forward(*args, **kwargs)
            guess = bank.forecast(part, x, kwargs.get("encoder_hidden_states"))
            if bank.measure and part.verified:
                bank.verify(guess, self.fn_ref.original_forward(*args, **kwargs))
            return guess
        result = self.fn_ref.original_forward(*args, **kwargs)
        return result if part.kind.startswith("idle") else bank.observe(part, x, result)


def find_modules(denoiser: nn.Module, method: Method) -> ModuleBank:
    """The gated modules of a known family.

    Raises:
        ValueError: the family is not known.
    """
    layout, inner = find_layout(denoiser, method.target)
    parts: list[_Part] = []
    names: list[str] = []
    lists = [(blocks, getattr(inner, blocks.name)) for blocks in layout.lists]
    last = next(members[-1] for _, members in reversed(lists) if len(members)) if method.target.verifies else None
    for blocks, members in lists:
        modules = blocks.modules
        for place, block in enumerate(members):
            path = f"{blocks.name}.{place}"
            for name in modules.idle:
                parts.append(_Part(getattr(block, name), "idle", -1, needed=block is last))
            for name in modules.idle_pairs:
                parts.append(_Part(getattr(block, name), "idle pair", -1, needed=block is last))
            for name in modules.pairs:
                parts.append(_Part(getattr(block, name), "pair", len(names)))
                names += [f"{path}.{name}", f"{path}.{name}.text"]
            for name in modules.singles:
                if getattr(block, name, None) is None:
                    continue
                verified = block is last and name == modules.singles[0]
                parts.append(_Part(getattr(block, name), "single", len(names), verified=verified))
                names.append(f"{path}.{name}")
    group = group_of(denoiser)
    check_shares(method, group)
    return ModuleBank(parts, names, method, group)
