"""What the two seams inside a denoiser have in common: hooks on its parts, and one call at a time under a method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from diffusers.hooks import ModelHook
from torch import nn

from skipcast.backends.session import Call


class Inside(ABC):
    """Hooks on parts of one denoiser, and what they share during a call."""

    def __init__(self) -> None:
        self.transparent = False

    @abstractmethod
    def hooks(self) -> Iterator[tuple[nn.Module, ModelHook]]:
        """Every hooked part with its hook."""

    @abstractmethod
    def governed_by(self, call: Call) -> AbstractContextManager[None]:
        """One denoiser call: parts are evaluated or skipped as its run decides."""

    @abstractmethod
    def check_call(self, given: dict[str, Any]) -> None:
        """Refuse arguments of the denoiser under which this seam would be wrong."""

    @contextmanager
    def left_alone(self) -> Iterator[None]:
        """Calls that are nobody's business: every part runs as if there were no hook."""
        self.transparent = True
        try:
            yield
        finally:
            self.transparent = False

    def check_transparent(self) -> None:
        """Refuse a part that is called without a governed call around it."""
        if not self.transparent:
            raise RuntimeError("a block was called outside its accelerated transformer; leave accelerate() first.")
