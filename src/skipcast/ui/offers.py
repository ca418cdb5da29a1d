"""Everything that the page's lists hold for one model."""

from __future__ import annotations

from dataclasses import dataclass

from skipcast.bench.spec import Settings, prompts_for
from skipcast.ui.choices import Choice, choices, samplers
from skipcast.ui.studio import Loaded


@dataclass(frozen=True)
class Offer:
    """What a model is offered with.

    Args:
        model: its name.
        choices: plans and methods, the one to begin with first.
        samplers: plain samplers to compare with, the best first.
        prompts: examples that suit it.
        guidance: the scale that its card gives; None leaves it to the pipeline.
    """

    model: str
    choices: tuple[Choice, ...]
    samplers: tuple[Choice, ...]
    prompts: tuple[str, ...]
    guidance: float | None


def offer(loaded: Loaded) -> Offer:
    """What the playground offers for a loaded model."""
    model = loaded.model
    return Offer(
        model.name,
        tuple(choices(model.name, model.pipe)),
        tuple(samplers(model.pipe)),
        prompts_for(model, Settings()),
        loaded.guidance,
    )
