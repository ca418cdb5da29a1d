"""The block-stack seam: spans of blocks that are evaluated or skipped whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.hooks import ModelHook
from torch import Tensor, nn

from driftcast.backends import eager
from driftcast.backends.families import Layout, find_layout
from driftcast.backends.inside import Inside
from driftcast.backends.session import Call
from driftcast.backends.streams import follower, pass_over
from driftcast.method import IncompatibleParts, Method
from driftcast.run import Run
from driftcast.targets import LastHidden, Span


@dataclass
class _Passage:
    """One denoiser call on its way through the blocks."""

    runs: list[Run]  # one per span; the first one decides
    leaving: Run | None  # of what leaves the last block, where forecasts are verified
    entering: dict[int, Tensor] = field(default_factory=dict)  # by number of the span
    skipped: int | None = None  # number of the span that is skipped at this step
    skipped_span: Span = (0, 0)


class BlockStack(Inside):
    """The blocks of one denoiser; while a call is governed, each span is evaluated whole or skipped whole."""

    def __init__(self, layout: Layout, blocks: list[nn.Module], spans: tuple[Span, ...], method: Method) -> None:
        super().__init__()
        self.layout, self.blocks, self.spans = layout, blocks, spans
        self.target, self.probe = method.target, method.controller.probe
        self.follower = follower(method)
        self.exit = follower(method, LastHidden()) if method.target.verifies else None
        self.passage: _Passage | None = None

    def hooks(self) -> Iterator[tuple[nn.Module, ModelHook]]:
        """A hook for every block that may be skipped or is looked at."""
        noted = {place for start, stop in self.spans for place in (start, stop - 1)}
        if self.probe in ("modulated", "block"):
            noted.add(0)
        if self.exit is not None:
            noted.add(len(self.blocks) - 1)
        inside = {place for span in self.spans for place in range(*span)}
        for place in sorted(noted | inside):
            yield self.blocks[place], _BlockHook(self, place, noted=place in noted)

    def check_call(self, given: dict[str, Any]) -> None:
        """Refuse a call whose blocks get something added between them."""
        for name in self.layout.additions:
            if given.get(name) is not None:
                raise ValueError(
                    f"{name} is added between the blocks, so a block-stack target cannot skip them; "
                    "use a method with target=output for pipelines with a ControlNet."
                )

    @contextmanager
    def governed_by(self, call: Call) -> Iterator[None]:
        others = [call.stream(f"span {n}", self.follower) for n in range(1, len(self.spans))]
        leaving = None if self.exit is None else call.stream("leaving", self.exit, shadow=False)
        self.passage = _Passage([call.run, *others], leaving)
        try:
            if self.probe in ("none", "input"):
                self._decide(call.sample if self.probe == "input" else None)
            yield
        finally:
            self.passage = None

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _decide(self, probe: Tensor | None) -> None:
        passage = self.passage
        assert passage is not None
        run = passage.runs[0]
        if eager.wants_evaluation(run, probe):
            return
        passage.skipped = self.target.skipped(run.step, len(run.grid))
        passage.skipped_span = self.spans[passage.skipped]
        for number, other in enumerate(passage.runs):
            if number != passage.skipped:
                pass_over(other)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def arrive(self, place: int, image: Tensor, text: Tensor, time: Tensor) -> None:
        """Tokens stand before a block; what a span is given is noted."""
        passage = self.passage
        assert passage is not None
        if place == 0 and self.probe == "modulated":
            self._decide(getattr(self.blocks[0], self.layout.modulation)(image, emb=time)[0])
        for number, (start, stop) in enumerate(self.spans):
            if place == start and passage.skipped in (None, number):
                passage.entering[number] = self._joined(stop, image, text)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def leave(self, place: int, entered: Tensor, result: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Tokens stand behind a block, run or skipped; returns those that go on."""
        passage, layout = self.passage, self.layout
        assert passage is not None
        if place == 0 and self.probe == "block":
            self._decide(result[layout.image] - entered)
        for number, (_, stop) in enumerate(self.spans):
            if place != stop - 1 or passage.skipped not in (None, number):
                continue
            run, x = passage.runs[number], passage.entering.pop(number)
            image, text = result[layout.image], result[layout.text]
            y = self._joined(stop, image, text)
            after = eager.observe(run, x, y) if passage.skipped is None else eager.forecast(run, x)
            if after is not y:
                count = image.shape[-2]
                text = text if stop == len(self.blocks) else after[..., count:, :]
                result = layout.pack(after[..., :count, :], text)
        if passage.leaving is not None and place == len(self.blocks) - 1:
            self._verify(passage, result[layout.image])
        return result

    def _joined(self, stop: int, image: Tensor, text: Tensor) -> Tensor:
        """What a span that ends before block `stop` is about: text that leaves the last block is never used."""
        return image if stop == len(self.blocks) else torch.cat((image, text), dim=-2)

    def _verify(self, passage: _Passage, y: Tensor) -> None:
        assert passage.leaving is not None
        if passage.skipped is None:
            eager.observe(passage.leaving, y, y)
            return
        true, guess = y.detach().float(), eager.forecast(passage.leaving, y).float()
        passage.runs[0].verified = ((true - guess).abs() / (true.abs() + 1e-10)).mean()


class _BlockHook(ModelHook):  # type: ignore[misc]
    """Lets tokens pass a skipped block untouched; at noted blocks the stack looks on."""

    def __init__(self, stack: BlockStack, place: int, *, noted: bool) -> None:
        super().__init__()
        self.stack, self.place, self.noted = stack, place, noted

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        stack = self.stack
        passage = stack.passage
        if passage is None:
            stack.check_transparent()
            return self.fn_ref.original_forward(*args, **kwargs)
        image, text, time = stack.layout.given(args, kwargs)
        if self.noted:
            stack.arrive(self.place, image, text, time)
        start, stop = passage.skipped_span
        if start <= self.place < stop:
            result = stack.layout.pack(image, text)
        else:
            result = self.fn_ref.original_forward(*args, **kwargs)
        return stack.leave(self.place, image, result) if self.noted else result


def find_stack(denoiser: nn.Module, method: Method) -> BlockStack:
    """The block stack of a known family, with the spans that the target remembers.

    Raises:
        ValueError: the family is not known, or its blocks do not suit the target or the controller.
    """
    target, controller = method.target, method.controller
    layout, inner = find_layout(denoiser, target)
    lists = [getattr(inner, name) for name in layout.lists]
    blocks = [block for blocks in lists for block in blocks]
    spans = target.spans(len(blocks), len(lists[0]) if len(lists) > 1 else 0)
    for start, stop in spans:
        if not 0 <= start < stop <= len(blocks):
            raise ValueError(f"{target!r} leaves no block to skip: {type(inner).__name__} has {len(blocks)} here.")
        if controller.probe == "block" and start == 0:
            raise IncompatibleParts(
                f"{controller!r} looks at what the first block adds, so that block runs at every step and {target!r} "
                "must begin after it; use SpanDrift(skip_first=1)."
            )
    if controller.probe == "modulated" and not hasattr(blocks[0], layout.modulation):
        raise IncompatibleParts(
            f"{controller!r} looks at the first block's modulated input, but {type(blocks[0]).__name__} has no "
            f"{layout.modulation!r}; use a controller without that probe."
        )
    if len(spans) > 1 and method.forecaster.recursive:
        raise IncompatibleParts(
            f"{method.forecaster!r} remembers its own forecasts of every step, but {target!r} forecasts only one of "
            "its spans at a time; use a forecaster that remembers evaluations alone, such as Reuse()."
        )
    return BlockStack(layout, blocks, spans, method)
