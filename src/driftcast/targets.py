"""Targets: which tensor is forecast, and at which seam of the network it is read and put back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Seam = Literal["output", "stack", "modules"]


class Target(ABC):
    """A pair of inverse maps between what flows through a seam and what is remembered.

    At the seam "output", x is the network's input sample and y its output. At the seam "stack", x is the image tokens
    that enter the first block and y the image tokens that leave the last one; embedders before and final layers after
    the stack run at every step, with the current time.
    """

    @property
    @abstractmethod
    def seam(self) -> Seam:
        """Where x and y are read."""

    @property
    def carries_input(self) -> bool:
        """Whether `decode` wants the x of the step before."""
        return False

    @abstractmethod
    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        """The value to remember."""

    @abstractmethod
    def decode(self, x: Tensor, value: Tensor, before: Tensor | None = None) -> Tensor:
        """The y that belongs to a value, given the x of now and of the step before."""


@dataclass(frozen=True)
class Output(Target):
    """The network's output itself (velocity, noise or sample): B x shape of the sample."""

    @property
    def seam(self) -> Seam:
        return "output"

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return y

    def decode(self, x: Tensor, value: Tensor, before: Tensor | None = None) -> Tensor:
        return value


@dataclass(frozen=True)
class OutputDrift(Target):
    """The network's output minus its input sample, y - x, where the two have one shape.

    Reference: EasyCache, arXiv:2507.02860.
    """

    @property
    def seam(self) -> Seam:
        return "output"

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x

    def decode(self, x: Tensor, value: Tensor, before: Tensor | None = None) -> Tensor:
        return x + value


@dataclass(frozen=True)
class GlobalDrift(Target):
    """The residual of the whole block stack, G(x) - x, of the image tokens: (B, tokens, width).

    The text tokens' drift never reaches the output, so leaving it out changes nothing but memory. Reference:
    ResilPhase, arXiv:2606.26769.
    """

    @property
    def seam(self) -> Seam:
        return "stack"

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x

    def decode(self, x: Tensor, value: Tensor, before: Tensor | None = None) -> Tensor:
        return x + value


@dataclass(frozen=True)
class CarriedDrift(Target):
    """The global drift, put back with a share of the input's own move: x + value + share (x - x of the step before).

    Reference: TC-Pade as released, arXiv:2603.02943; its text has no such term.
    """

    share: float = 0.2

    @property
    def seam(self) -> Seam:
        return "stack"

    @property
    def carries_input(self) -> bool:
        return True

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x

    def decode(self, x: Tensor, value: Tensor, before: Tensor | None = None) -> Tensor:
        return x + value if before is None else x + value + self.share * (x - before)


@dataclass(frozen=True)
class LastHidden(Target):
    """The image tokens after the last block, before the final norm and projection: (B, tokens, width).

    Reference: TaylorSeer's 'lite' form, arXiv:2503.06923; Spectrum, arXiv:2603.01623.
    """

    @property
    def seam(self) -> Seam:
        return "stack"

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return y

    def decode(self, x: Tensor, value: Tensor, before: Tensor | None = None) -> Tensor:
        return value
