"""The block-stack seam: spans of blocks that are evaluated or skipped whole."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from skipcast.controllers.adaptive import TEACACHE
from skipcast.methods.families import family_of
from skipcast.parts import IncompatibleParts, Method, follower
from skipcast.pipelines.hooks import Guest
from skipcast.pipelines.networks import averaged, check_shares, gathered, group_of, value_of
from skipcast.pipelines.seams.base import Inside, pass_over
from skipcast.pipelines.seams.layouts import Layout, Port, argument, find_layout, modulated
from skipcast.pipelines.session import Call, forecast, observe, wants_evaluation
from skipcast.run import Run
from skipcast.targets import LastHidden, Span

#: Probes of tokens, of which every process of a group that shares them sees its own.
_OF_TOKENS = ("modulated", "block", "around")


@dataclass
class _Passage:
    """One denoiser call on its way through the blocks."""

    runs: list[Run]  # one per span; the first one decides
    leaving: Run | None  # of what leaves the last block, where forecasts are verified
    entering: dict[int, Tensor] = field(default_factory=dict)  # by number of the span
    skipped: int | None = None  # number of the span that is skipped at this step
    skipped_span: Span = (0, 0)
    texts: int = 0  # text tokens next to the image tokens, where a later block joins the two


class BlockStack(Inside):
    """The blocks of one denoiser; while a call is governed, each span is evaluated whole or skipped whole."""

    def __init__(
        self,
        layout: Layout,
        blocks: list[nn.Module],
        ports: list[Port],
        spans: tuple[Span, ...],
        method: Method,
        group: Any,
        network: nn.Module,
    ) -> None:
        self.config = getattr(network, "config", {})
        self.layout, self.blocks, self.ports, self.spans = layout, blocks, ports, spans
        self.target, self.probe = method.target, method.probe
        self.wants_places = method.controller.wants_places
        self.positions: Tensor | None = None  # of the tokens, where the network is told them
        self.follower = follower(method)
        self.exit = follower(method, LastHidden()) if method.target.verifies else None
        self.time = argument(blocks[0], layout.time) if self.probe in ("modulated", "block time") else None
        self.modulated = modulated(blocks[0], layout) if self.probe == "modulated" else None
        self.clock = network.get_submodule(layout.clock) if self.probe == "time" else None
        self.joins = any("+" in port.returns for port in ports)
        self.group = group  # of the processes that share its tokens
        self.passage: _Passage | None = None

    def hooks(self) -> Iterator[tuple[nn.Module, Guest]]:
        """A hook for every block that may be skipped or is looked at."""
        noted = {place for start, stop in self.spans for place in (start, stop - 1)}
        if self.probe in (*_OF_TOKENS, "block time") or self.joins:
            noted.add(0)
        if self.exit is not None:
            noted.add(len(self.blocks) - 1)
        inside = {place for span in self.spans for place in range(*span)}
        for place in sorted(noted | inside):
            block, port = self.blocks[place], self.ports[place]
            yield block, _NotedHook(self, place, port) if place in noted else _BlockHook(self, place, port)
        if self.clock is not None:
            yield self.clock, _ClockHook(self)

    def check_call(self, given: dict[str, Any]) -> None:
        """Refuse a call whose blocks are more than a function of the tokens that enter the first."""
        self.positions = given.get("img_ids") if self.wants_places else None
        for name in self.layout.additions:
            if given.get(name) is not None:
                raise ValueError(
                    f"{name} changes what happens between the blocks, so a block-stack target cannot skip them; "
                    "call without it, or use a method with target=output, as for pipelines with a ControlNet."
                )

    @contextmanager
    def governed_by(self, call: Call) -> Iterator[None]:
        others = [call.stream(f"span {n}", self.follower) for n in range(1, len(self.spans))]
        leaving = None if self.exit is None else call.stream("leaving", self.exit, forecast_error=False)
        self.passage, self.thread = _Passage([call.run, *others], leaving), threading.get_ident()
        if self.wants_places:
            call.run.places = token_grid(self.config, call.sample, self.positions)
        try:
            if self.probe in ("none", "input"):
                self._decide(value_of(call.sample) if self.probe == "input" else None)
            yield
        finally:
            self.passage = self.positions = self.thread = None

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _decide(self, probe: Tensor | None) -> None:
        passage = self.passage
        assert passage is not None
        run = passage.runs[0]
        if probe is not None and self.probe in _OF_TOKENS:
            probe = gathered(probe, self.group)
        if wants_evaluation(run, probe):
            return
        passage.skipped = self.target.skipped(run.step, len(run.grid))
        passage.skipped_span = self.spans[passage.skipped]
        for number, other in enumerate(passage.runs):
            if number != passage.skipped:
                pass_over(other)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def arrive(self, place: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Tokens stand before a block; what a span is given is noted. Returns the image tokens."""
        passage, port = self.passage, self.ports[place]
        assert passage is not None
        image, text = port.given(args, kwargs, passage.texts)
        if place == 0:
            if text is not None:
                passage.texts = text.shape[-2]
            if self.time is not None:
                time = self.time(args, kwargs)
                self._decide(time if self.modulated is None else self.modulated(image, time))
        for number, (start, stop) in enumerate(self.spans):
            if place == start and passage.skipped in (None, number):
                passage.entering[number] = self._joined(stop, image, text)
        return image

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def leave(self, place: int, entered: Tensor, result: Any) -> Any:
        """Tokens stand behind a block, run or skipped; returns those that go on, in the form of the block."""
        passage, port = self.passage, self.ports[place]
        assert passage is not None
        image, text = port.read(result, passage.texts)
        if place == 0 and self.probe == "block":
            self._decide(image - entered)
        elif place == 0 and self.probe == "around":
            self._decide(torch.stack((entered, image)))
        for number, (_, stop) in enumerate(self.spans):
            if place != stop - 1 or passage.skipped not in (None, number):
                continue
            if number not in passage.entering:
                raise ValueError(
                    "the first block of a span was left out of this call, as skip-layer guidance does, so what enters "
                    "the span is not known; leave out other layers, or use a method with target=output."
                )
            run, x = passage.runs[number], passage.entering.pop(number)
            if passage.skipped is None:
                y = self._joined(stop, image, text)
                after = self._made(run, x, y)
                if after is y:
                    continue
            else:
                after = forecast(run, x)
                _check_shape(x, after)
            if text is None or stop == len(self.blocks):
                image = after
            else:
                count = image.shape[-2]
                image, text = after[..., :count, :], after[..., count:, : text.shape[-1]]
            result = port.pack(image, text)
        if passage.leaving is not None and place == len(self.blocks) - 1:
            self._verify(passage, image)
        return result

    def _made(self, run: Run, x: Tensor, y: Tensor) -> Tensor:
        """Take what the blocks of a span made; returns what goes on."""
        return observe(run, x, y)

    def _joined(self, stop: int, image: Tensor, text: Tensor | None) -> Tensor:
        """What a span that ends before block `stop` is about: text that leaves the last block is never used."""
        if text is None or stop == len(self.blocks):
            return image
        if (narrower := image.shape[-1] - text.shape[-1]) > 0:
            text = functional.pad(text, (0, narrower))  # zeros stay zeros under every forecast
        return torch.cat((image, text), dim=-2)

    def _verify(self, passage: _Passage, y: Tensor) -> None:
        assert passage.leaving is not None
        if passage.skipped is None:
            observe(passage.leaving, y, y)
            return
        true, guess = y.detach().float(), forecast(passage.leaving, y).float()
        passage.runs[0].verified = averaged(((true - guess).abs() / (true.abs() + 1e-10)).mean(), self.group)


class _BlockHook(Guest):
    """Lets tokens pass a skipped block untouched."""

    def __init__(self, stack: BlockStack, place: int, port: Port) -> None:
        super().__init__()
        self.stack, self.place, self.port = stack, place, port

    def acts(self, module: nn.Module) -> bool:
        return self.stack.passage is not None and self.stack.governs()

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        passage = self.stack.passage
        assert passage is not None
        start, stop = passage.skipped_span
        if start <= self.place < stop:
            return self.port.passed(args, kwargs)
        return self.fn_ref.original_forward(*args, **kwargs)


class _ClockHook(Guest):
    """Shows the embedding of the time, which is made before the first block."""

    def __init__(self, stack: BlockStack) -> None:
        super().__init__()
        self.stack = stack

    def acts(self, module: nn.Module) -> bool:
        return self.stack.passage is not None and self.stack.governs()

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        embedded = self.fn_ref.original_forward(*args, **kwargs)
        self.stack._decide(embedded)
        return embedded


class _NotedHook(_BlockHook):
    """At the ends of a span the stack looks on."""

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        stack = self.stack
        image = stack.arrive(self.place, args, kwargs)
        return stack.leave(self.place, image, super().new_forward(module, *args, **kwargs))


def find_stack(denoiser: nn.Module, method: Method, kind: type[BlockStack] = BlockStack) -> BlockStack:
    """The block stack of a known family, with the spans that the target remembers.

    Raises:
        ValueError: the family is not known, or its blocks do not suit the target or the controller.
    """
    target, controller = method.target, method.controller
    layout, inner = find_layout(denoiser, target)
    blocks: list[nn.Module] = []
    ports: list[Port] = []
    lists = [getattr(inner, known.name) for known in layout.lists]
    for known, members in zip(layout.lists, lists, strict=True):
        # Without pairs before them, nothing tells which of the joined tokens are text.
        whole = "+" in known.returns and not blocks
        ports += [Port(known, block, whole=whole) for block in members]
        blocks += members
    spans = target.spans(len(blocks), len(lists[0]) if len(lists) > 1 else 0)
    for start, stop in spans:
        if not 0 <= start < stop <= len(blocks):
            raise ValueError(f"{target!r} leaves no block to skip: {type(inner).__name__} has {len(blocks)} here.")
        if layout.linked and (start, stop) != (0, len(blocks)):
            raise ValueError(
                f"{target!r} skips some of the blocks, but those of {type(inner).__name__} read more than the tokens "
                "of the block before; use a target of all of them, such as GlobalDrift()."
            )
        if controller.probe == "block" and start == 0:
            raise IncompatibleParts(
                f"{controller!r} looks at what the first block adds, so that block runs at every step and {target!r} "
                "must begin after it; use SpanDrift(skip_first=1)."
            )
    family = family_of(inner)
    fitted = next((known.family for known in TEACACHE.values() if known.coefficients == controller.polynomial), None)
    if fitted is not None and family != fitted:
        own = [f"polynomial={name}" for name, known in TEACACHE.items() if known.family == family]
        raise IncompatibleParts(
            f"{controller!r} has the polynomial that was fitted on {fitted}; give {type(inner).__name__} its own, "
            f"AccumulatedChange(threshold, polynomial=...){''.join(f' or teacache:{name}' for name in own)}."
        )
    if controller.fitted_on is not None and not type(inner).__name__.startswith(controller.fitted_on):
        raise IncompatibleParts(
            f"{controller!r} has numbers that were measured on {controller.fitted_on}; give it those of "
            f"{type(inner).__name__}, published ones or what skipcast.magnitude_curve measures."
        )
    if controller.probe == "modulated" and modulated(blocks[0], layout) is None:
        raise IncompatibleParts(
            f"{controller!r} looks at the first block's modulated input, but {type(blocks[0]).__name__} has no "
            f"{repr(layout.modulation) if layout.modulation else 'norm'} that makes it of the tokens and the time "
            "alone; use a controller without that probe."
        )
    if controller.probe == "time" and not layout.clock:
        raise IncompatibleParts(
            f"{controller!r} looks at the embedding of the timestep alone, which {type(inner).__name__} is not known "
            "to make; use a controller without that probe."
        )
    if len(spans) > 1 and method.forecaster.recursive:
        raise IncompatibleParts(
            f"{method.forecaster!r} remembers its own forecasts of every step, but {target!r} forecasts only one of "
            "its spans at a time; use a forecaster that remembers evaluations alone, such as Reuse()."
        )
    group = group_of(inner)
    check_shares(method, group)
    return kind(layout, blocks, ports, spans, method, group, inner)


def token_grid(config: Any, sample: Any, positions: Tensor | None) -> tuple[int, ...] | None:
    """The sizes of the grid that a network's image tokens lie on; None where nothing tells them.

    Args:
        config: of the network, whose `patch_size` and `patch_size_t` divide the sample.
        sample: latents (B, C, H, W) or (B, C, T, H, W), or what else the network takes.
        positions: of every token on each axis, (tokens, axes) or (B, tokens, axes).
    """
    if positions is not None:
        rows = positions[0] if positions.ndim == 3 else positions
        sizes = (rows.amax(0) - rows.amin(0) + 1).long().tolist()
        return tuple(sizes) if math.prod(sizes) == len(rows) else None
    if not isinstance(sample, Tensor) or sample.ndim not in (4, 5):
        return None
    patch = config.get("patch_size") or 1
    patches = list(patch) if isinstance(patch, list | tuple) else [patch] * 2
    if sample.ndim == 5 and len(patches) == 2:
        patches = [config.get("patch_size_t") or 1, *patches]
    return tuple(size // part for size, part in zip(sample.shape[2:], patches, strict=False))


def _check_shape(x: Tensor, after: Tensor) -> None:
    """Refuse a forecast of other tokens than those that entered."""
    if after.shape != x.shape:
        raise ValueError(
            f"the forecast is of tokens of the shape {tuple(after.shape)}, but {tuple(x.shape)} entered at this step: "
            "the batch or the tokens changed during the run; set the pipeline so that they stay, or use target=output."
        )
