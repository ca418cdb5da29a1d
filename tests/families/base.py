"""What a tiny pipeline of a family is: built from configurations, of random weights, answering in under a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import diffusers
import torch
from packaging.version import Version
from torch import Tensor

#: How a pipeline asks its network for guidance, once per step or once per branch.
Guidance = Literal["none", "distilled", "batched", "separate"]


@dataclass(frozen=True)
class Family:
    """One pipeline class, as small as its configuration allows.

    Args:
        name: what people call it, unique; a row of the support page.
        example: a model of this family on the hub.
        build: a fresh pipeline in float32 with the scheduler that the family ships with; the same weights every time.
        prompt: what distinguishes one image from another, for numbers 0, 1, 2 ...: arguments of the call for ONE image
            (strings, or tensors and lists with a leading dimension of 1).
        fixed: every other argument of the call but `num_inference_steps` and `generator`; asks for latents.
        guidance: "none", "distilled" (network input), "batched" (one call for both) or "separate" (two calls).
        since: the first version of diffusers that has it.
        denoisers: attributes of the pipeline that hold its networks.
    """

    name: str
    example: str
    build: Callable[[], Any]
    prompt: Callable[[int], dict[str, Any]]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    guidance: Guidance = "none"
    since: str = "0.36"
    denoisers: tuple[str, ...] = ("transformer",)

    def __str__(self) -> str:
        return self.name

    @property
    def missing(self) -> str:
        """Why the installed diffusers does not have it; empty where it does."""
        too_old = Version(diffusers.__version__) < Version(self.since)
        return f"{self.name} needs diffusers {self.since}, this is {diffusers.__version__}" if too_old else ""

    @property
    def unrecorded(self) -> str:
        """Why its calls cannot be recorded; a plan then comes from another family or from a method."""
        return "it begins in mid-grid: use a plan of text-to-image" if "strength" in self.fixed else ""

    def call(self) -> dict[str, Any]:
        """The fixed arguments that a recording passes on."""
        return {name: value for name, value in self.fixed.items() if name not in ("output_type", "output")}

    def run(self, pipe: Any, steps: int = 8, seed: int = 0, number: int = 0, **changes: Any) -> Tensor:
        """Final latents of one call."""
        noise = torch.Generator("cpu").manual_seed(seed)
        call = {**self.fixed, **self.prompt(number), "num_inference_steps": steps, "generator": noise, **changes}
        output = pipe(**call)
        return torch.as_tensor(output if isinstance(output, Tensor) else output[0])


def drawn(seed: int, *shape: int) -> Tensor:
    """Normal numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator("cpu").manual_seed(seed))


def encoded(number: int, tokens: int, width: int, pooled: int = 0) -> dict[str, Tensor]:
    """An encoded prompt and the encoded empty prompt: (1, tokens, width), and pooled (1, pooled)."""
    given = {"prompt_embeds": drawn(100 + number, 1, tokens, width)}
    empty = {"negative_prompt_embeds": drawn(99, 1, tokens, width)}
    if pooled:
        given["pooled_prompt_embeds"] = drawn(200 + number, 1, pooled)
        empty["negative_pooled_prompt_embeds"] = drawn(199, 1, pooled)
    return given | empty


def mask(tokens: int, count: int) -> Tensor:
    """Which tokens of a padded prompt are kept, the first `count`: (1, tokens)."""
    return (torch.arange(tokens) < count).long()[None]


def image(seed: int, size: int) -> Tensor:
    """An image with values in [0, 1], (1, 3, size, size)."""
    return drawn(seed, 1, 3, size, size).sigmoid()
