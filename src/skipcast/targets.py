"""Targets: which tensor is forecast, and at which seam of the network it is read and put back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from skipcast.checks import Checked, guarded

Seam = Literal["output", "stack", "modules"]
#: Blocks start .. stop - 1 of the stack.
Span = tuple[int, int]


class Target(Checked, ABC):
    """A pair of inverse maps between what flows through a seam and what is remembered.

    At the seam "output", x is the network's input sample and y its output. At the seam "stack", x is the tokens that
    enter a span of blocks and y those that leave it: the image tokens, and after them along the token axis the text
    tokens where later blocks still need them. Embedders, blocks outside the span and final layers run at every step,
    with the current time. At the seam "modules", y is what a module inside a block returns and x its first argument.
    """

    #: Where x and y are read.
    seam: ClassVar[Seam]
    #: One remembered tensor, in words.
    remembered: ClassVar[str] = "the target"
    #: Whether `decode` uses the x of the step before.
    carries_input: ClassVar[bool] = False
    #: Histories that hold as many values as the forecaster remembers.
    histories: ClassVar[int] = 1

    @property
    def verifies(self) -> bool:
        """Whether forecasts are checked by what still runs; `run.verified` then holds the relative error."""
        return False

    def spans(self, depth: int, double: int = 0) -> tuple[Span, ...]:
        """The spans of a stack whose values are remembered; each has a history of its own.

        Args:
            depth: blocks in all.
            double: how many of them, at the front, keep image and text in separate streams.
        """
        return ((0, depth),)

    def skipped(self, step: int, steps: int) -> int:
        """Which of the spans is skipped if `step` of `steps` is forecast."""
        return 0

    @abstractmethod
    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        """The value to remember."""

    @abstractmethod
    def decode(self, x: Tensor, value: Tensor, before: Tensor | None = None) -> Tensor:
        """The y that belongs to a value, given the x of now and of the step before."""


class _Itself(Target):
    """Remembers y."""

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return y

    def decode(self, x: Tensor, value: Tensor, before: Tensor | None = None) -> Tensor:
        return value


class _Drift(Target):
    """Remembers y - x, and puts it back on the x of now."""

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x

    def decode(self, x: Tensor, value: Tensor, before: Tensor | None = None) -> Tensor:
        return x + value


@dataclass(frozen=True)
class Output(_Itself):
    """The network's output itself (velocity, noise or sample): B x shape of the sample."""

    seam = "output"
    remembered = "the network's output"


@dataclass(frozen=True)
class OutputDrift(_Drift):
    """The network's output minus its input sample, y - x, where the two have one shape.

    Reference: EasyCache, arXiv:2507.02860.
    """

    seam = "output"
    remembered = "the network's output"

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        if x.shape != y.shape:
            raise ValueError(
                f"OutputDrift() needs an output of the shape of the input, this network makes {tuple(y.shape)} of "
                f"{tuple(x.shape)}, as models that are given an image or learn a variance do; use target=output."
            )
        return super().encode(x, y)


@dataclass(frozen=True)
class GlobalDrift(_Drift):
    """The residual of the whole block stack, G(x) - x, of the image tokens: (B, tokens, width).

    The text tokens' drift never reaches the output, so leaving it out changes nothing but memory. Reference:
    ResilPhase, arXiv:2606.26769.
    """

    seam = "stack"
    remembered = "image tokens x width"


@dataclass(frozen=True)
class CarriedDrift(_Drift):
    """The global drift, put back with a share of the input's own move: x + value + share (x - x of the step before).

    Reference: TC-Pade as released, arXiv:2603.02943; its text has no such term.
    """

    seam = "stack"
    carries_input = True
    remembered = "image tokens x width"

    share: float = 0.2

    def decode(self, x: Tensor, value: Tensor, before: Tensor | None = None) -> Tensor:
        return x + value if before is None else x + value + self.share * (x - before)


@dataclass(frozen=True)
class LastHidden(_Itself):
    """The image tokens after the last block, before the final norm and projection: (B, tokens, width).

    Reference: TaylorSeer's 'lite' form, arXiv:2503.06923; Spectrum, arXiv:2603.01623.
    """

    seam = "stack"
    remembered = "image tokens x width"


@dataclass(frozen=True)
class SpanDrift(_Drift):
    """The residual of the blocks between the first few and the last few, which run at every step.

    Reference: FBCache and DBCache (github.com/chengzeyi/ParaAttention, github.com/vipshop/cache-dit) with
    skip_first=1; Delta-DiT (arXiv:2406.01125) as others run it on FLUX with skip_first="double". verify=True is this
    library's own, after SpeCa (arXiv:2509.11628), which verifies at the seam of `ModuleOutputs`.

    Args:
        skip_first: blocks before the span, or "double" for all that keep image and text in separate streams.
        skip_last: blocks after the span.
        verify: at forecast steps also forecast what leaves the last block, and compare it with what the blocks after
            the span made of the forecast tokens: run.verified = mean |y - forecast| / (|y| + 1e-10). Flows on: y.
    """

    seam = "stack"
    remembered = "image tokens x width (and text tokens where later blocks need them)"

    skip_first: int | Literal["double"] = 0
    skip_last: int = 0
    verify: bool = False

    def __post_init__(self) -> None:
        if self.skip_first != "double" and self.skip_first < 0:
            raise ValueError(
                f'SpanDrift(skip_first=...) must be a number of blocks or "double", got {self.skip_first!r}.'
            )
        if self.skip_last < 0:
            raise ValueError(f"SpanDrift(skip_last=...) must be a number of blocks, got {self.skip_last!r}.")
        if self.verify and not self.skip_last:
            raise ValueError("SpanDrift(verify=True) needs a block that runs after the span; set skip_last=1.")

    @property
    def verifies(self) -> bool:
        return self.verify

    def spans(self, depth: int, double: int = 0) -> tuple[Span, ...]:
        if self.skip_first == "double" and not double:
            raise ValueError(f"{self!r} needs a stack with double-stream blocks; give a number of blocks instead.")
        first = double if self.skip_first == "double" else self.skip_first
        return ((first, depth - self.skip_last),)


@dataclass(frozen=True)
class StagedSpans(_Drift):
    """The residuals of a front and a rear span: up to the boundary forecasts skip the rear one, afterwards the front.

    Reference: Delta-DiT, arXiv:2406.01125; its text leaves open to which stage the step at the boundary belongs, here
    it is the first. `span_for_speedup` gives the share for a wanted cost.

    Args:
        share: of the blocks, in each span; rounded to whole blocks, at least one.
        boundary: share of the steps at which the first stage, of outlines, gives way to that of details.
    """

    seam = "stack"
    remembered = "all tokens x width, of two spans"
    histories = 2

    share: float = 0.75
    boundary: float = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"StagedSpans(share=...) must lie in (0, 1], got {self.share}.")
        if not 0 <= self.boundary <= 1:
            raise ValueError(f"StagedSpans(boundary=...) must lie in [0, 1], got {self.boundary}.")

    def spans(self, depth: int, double: int = 0) -> tuple[Span, ...]:
        count = max(1, round(self.share * depth))
        return (0, count), (depth - count, depth)

    def skipped(self, step: int, steps: int) -> int:
        return int(step <= self.boundary * steps + 1e-9)  # the margin: 0.29 * 100 is below 29 in floating point


@dataclass(frozen=True)
class AlternatingReuse(_Drift):
    """The residual of all single-stream blocks, and between them every module's output.

    At the first, third ... forecast behind an evaluation the single-stream blocks are skipped for their residual, while
    the double-stream blocks run. At the second, fourth ... every attention and MLP returns what it last did, under the
    gates of now, and what the blocks make of that is the residual from then on. Reference: Delta-DiT's baseline for
    FLUX.1 in Shenyi-Z/TaylorSeer, whose steps between are those of ToCa without a fresh token.
    """

    seam = "stack"
    remembered = "image tokens x width (and tokens x width, of every module)"

    def spans(self, depth: int, double: int = 0) -> tuple[Span, ...]:
        if not double:
            raise ValueError(f"{self!r} needs a stack with double-stream blocks; use SpanDrift() with its own span.")
        return ((double, depth),)


@guarded()
def span_for_speedup(steps: int, blocks: int, speedup: float) -> tuple[int, float]:
    """Interval of evaluations and number of skipped blocks that make a run `speedup` times cheaper, by blocks run.

    N = ceil(speedup) and N_c = (T B - T B / speedup) / (T - ceil(T / N)), at most B. Delta-DiT (arXiv:2406.01125)
    prints its formula as an image; this one is rebuilt from its text and meets its setting (20 steps, 28 blocks, 1.6
    times: every 2nd step, 21 blocks).
    """
    if speedup <= 1 or steps < 2 or blocks < 1:
        raise ValueError(
            f"span_for_speedup needs speedup > 1, at least 2 steps and a block, got {speedup}, {steps} and {blocks}."
        )
    interval = math.ceil(speedup)
    saved = steps * blocks * (1 - 1 / speedup)
    return interval, min(float(blocks), saved / (steps - math.ceil(steps / interval)))


@dataclass(frozen=True)
class ModuleOutputs(_Itself):
    """What every attention and MLP returns before its gate, one history per module; a single-stream block counts once.

    At a forecast step norms, modulation and gates run with the current time and the modules are skipped. Memory is
    that of all modules together: 114 tensors per remembered evaluation on FLUX.1. Reference: TaylorSeer as published,
    arXiv:2503.06923.
    """

    seam = "modules"
    remembered = "tokens x width, of every module"


@dataclass(frozen=True)
class VerifiedModules(ModuleOutputs):
    """`ModuleOutputs` whose forecasts the last block verifies, at the steps that the controller wants measured.

    There the last block's last module runs on the forecast tokens that reach it, and run.verified = mean |y - forecast|
    / (|y| + 1e-10) over what it returns before its gate, image and text tokens. Flows on: the forecast. Reference:
    SpeCa, arXiv:2509.11628.
    """

    @property
    def verifies(self) -> bool:
        return True
