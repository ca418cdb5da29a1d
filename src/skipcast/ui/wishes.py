"""What a visitor asks to be drawn, and the events that tell how it goes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from skipcast.ui.choices import OWN

#: The panels, in the order in which they are drawn.
REFERENCE, ACCELERATED, FEWER = PANELS = ("reference", "accelerated", "fewer")


@dataclass(frozen=True)
class Wish:
    """What a visitor asks to be drawn.

    Args:
        model: its name.
        spec: of a method or a plan, as `choices.resolve` takes it.
        budget: evaluations, of the slider.
        dial: a threshold; None for the published one.
        steps: of the sampler.
        prompt: what to draw.
        seed: of the noise.
        guidance: its scale; None for the model's own.
        sampler: the plain sampler to compare with.

    Raises:
        ValueError: no prompt, or a number out of range.
    """

    model: str
    spec: str
    budget: int = 10
    dial: float | None = None
    steps: int = 50
    prompt: str = ""
    seed: int = 0
    guidance: float | None = None
    sampler: str = OWN

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("choose a model.")
        if not self.prompt.strip():
            raise ValueError("say in the prompt what to draw.")
        if not 2 <= self.steps <= 1000:
            raise ValueError(f"steps={self.steps} must lie between 2 and 1000.")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} must be a whole number from 0 on.")


@dataclass(frozen=True)
class Picture:
    """One drawn picture; `seconds` are those of the whole call, from the prompt to the picture.

    Args:
        image: (3, H, W) float32 in [0, 1].
        label: what drew it.
        seconds: of the call.
        evaluations: per branch.
        steps: of the sampler.
        evaluated: which steps were evaluated, where steps were left out.
        speedup: against the reference; None for the reference itself.
        psnr: to the reference, in dB.
        ssim: to the reference; None for pictures too small for it.
        kept: whether it is the reference of an earlier draw.
        trusted: whether the plan's check says that the run stayed where the plan was made; None without a check.
        notes: what else is to be known.
    """

    image: Tensor
    label: str
    seconds: float
    evaluations: float
    steps: int
    evaluated: tuple[int, ...] | None = None
    speedup: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    kept: bool = False
    trusted: bool | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Working:
    """A panel is under way: `done` of `of` network calls, or waits, for which there are words; 0 of 0."""

    panel: str
    done: int = 0
    of: int = 0
    words: str = ""


@dataclass(frozen=True)
class Shown:
    """A panel's picture is done."""

    panel: str
    picture: Picture
