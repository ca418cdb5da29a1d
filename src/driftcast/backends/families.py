"""Which transformers are known from the inside, and how they pass tokens through their blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from driftcast.targets import Target


@dataclass(frozen=True)
class Modules:
    """The modules of one kind of block whose outputs a gate takes.

    Args:
        pairs: names of those that return (image, text).
        singles: names of those that return one tensor.
        idle: names of those whose output only a member of `singles` reads, joined along the width.
    """

    pairs: tuple[str, ...] = ()
    singles: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """How a family passes tokens through its blocks.

    Args:
        lists: attributes that hold the blocks, in the order they run, with their gated modules. Where there are two,
            the blocks of the first keep image and text in separate streams.
        inputs: parameter names of a block for image tokens, text tokens and the embedding of the time.
        image, text: positions of the two in the tuple that a block returns.
        modulation: name of a block's norm that is modulated by the time and returns the modulated tokens first.
        additions: call arguments that add something between blocks, so that the stack is not a function of its input.
    """

    lists: dict[str, Modules] = field(default_factory=dict)
    inputs: tuple[str, str, str] = ("hidden_states", "encoder_hidden_states", "temb")
    image: int = 1
    text: int = 0
    modulation: str = "norm1"
    additions: tuple[str, ...] = ()

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Image tokens, text tokens and time of a block's call."""
        return [kwargs[name] if name in kwargs else args[place] for place, name in enumerate(self.inputs)]

    def pack(self, image: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        """Tokens in the form in which a block returns them."""
        output = [image, text]
        output[self.image], output[self.text] = image, text
        return tuple(output)


LAYOUTS = {
    "FluxTransformer2DModel": Layout(
        lists={
            "transformer_blocks": Modules(pairs=("attn",), singles=("ff", "ff_context")),
            # act_mlp follows proj_mlp; on nothing it costs nothing.
            "single_transformer_blocks": Modules(singles=("proj_out",), idle=("attn", "proj_mlp")),
        },
        additions=("controlnet_block_samples", "controlnet_single_block_samples"),
    ),
}


def find_layout(denoiser: nn.Module, target: Target) -> tuple[Layout, nn.Module]:
    """The layout of a known family, and the module that has its attributes.

    Raises:
        ValueError: the family is not known, or it has no blocks.
    """
    # accelerate and torch.compile wrap modules; the class that matters is the innermost.
    inner = getattr(denoiser, "_orig_mod", denoiser)
    layout = LAYOUTS.get(type(inner).__name__)
    if layout is None or not any(len(getattr(inner, name)) for name in layout.lists):
        wanted = "block stack" if target.seam == "stack" else "modules of every block"
        raise ValueError(
            f"target {target!r} needs the {wanted}, which is not known for {type(inner).__name__} (known: "
            f"{', '.join(LAYOUTS)}); use a method with target=output, which works on any model."
        )
    return layout, inner
