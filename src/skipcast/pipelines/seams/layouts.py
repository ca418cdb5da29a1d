"""Which transformers are known from the inside, and how they pass tokens through their blocks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from skipcast.targets import Target

#: What a block returns: two tensors in this order, one alone, or one that joins both along the tokens in this order.
Returns = Literal["text, image", "image, text", "image", "text + image", "image + text"]


@dataclass(frozen=True)
class Modules:
    """The modules of one kind of block whose outputs a gate takes; some blocks lack some of them.

    Args:
        pairs: names of those that return (image, text).
        singles: names of those that return one tensor.
        idle: names of those whose output only a member of `singles` reads, joined along the width.
        idle_pairs: of these, names of those that return (image, text).
    """

    pairs: tuple[str, ...] = ()
    singles: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    idle_pairs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Blocks:
    """One list of blocks and what flows through it.

    Args:
        name: attribute that holds the list.
        returns: what a block returns; what it is given has the same form, as two parameters or as one. One tensor that
            joins text and image after a list of pairs is taken apart by the number of text tokens there; where no
            list of pairs comes first, the whole tensor is "image".
        image: parameter for the image tokens, or for the joined ones.
        text: parameter for the text tokens, of pairs alone: text that blocks only read does not flow.
        textless: attribute that is true of blocks which return None for the text.
        modules: what a gate takes, where that is known.
    """

    name: str
    returns: Returns = "image"
    image: str = "hidden_states"
    text: str = "encoder_hidden_states"
    textless: str = ""
    modules: Modules = Modules()


@dataclass(frozen=True)
class Layout:
    """How a family passes tokens through its blocks.

    Args:
        lists: the lists of blocks, in the order they run; with two of them, image and text meet in the second.
        modulation: name of the first block's norm that is modulated by the time and returns the modulated tokens
            first; empty where published methods look at something else.
        table: name of the first block's table to which the time is added; then rows 0 and 1 of the sum are what this
            norm, which takes the tokens alone, is shifted and scaled by.
        time: parameter of the first block for the time that this norm takes as `emb`, or the table is added to.
        clock: dotted name of the module that returns the embedding of the timestep alone; empty where nothing looks
            at it.
        additions: call arguments that change what happens between the blocks, so that the stack is not a function of
            the tokens that enter it.
        linked: blocks also read what others than the one before returned, so only all of them may be skipped.
    """

    lists: tuple[Blocks, ...]
    modulation: str = ""
    table: str = ""
    time: str = "temb"
    clock: str = ""
    additions: tuple[str, ...] = ()
    linked: bool = False


class Port:
    """How the tokens of one block are read from its call and put into its result.

    `count` is everywhere the number of text tokens in a joined tensor; other forms do not look at it.
    """

    def __init__(self, blocks: Blocks, block: nn.Module, *, whole: bool) -> None:
        self.returns: Returns = "image" if whole else blocks.returns
        self.paired = "," in self.returns
        self._text_first = self.returns.startswith("text")
        self._textless = bool(blocks.textless) and bool(getattr(block, blocks.textless))
        self._image = argument(block, blocks.image)
        self._text = argument(block, blocks.text) if self.paired else None

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any], count: int) -> tuple[Tensor, Tensor | None]:
        """Image and text tokens of a block's call."""
        image = self._image(args, kwargs)
        return (image, self._text(args, kwargs)) if self._text is not None else self._split(image, count)

    def passed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the block would return if it left its tokens as they are."""
        image = self._image(args, kwargs)
        if self._text is None:
            return image
        text = None if self._textless else self._text(args, kwargs)
        return (text, image) if self._text_first else (image, text)

    def read(self, result: Any, count: int) -> tuple[Tensor, Tensor | None]:
        """Image and text tokens of what a block returned."""
        if not self.paired:
            return self._split(result, count)
        first, second = result
        return (second, first) if self._text_first else (first, second)

    def pack(self, image: Tensor, text: Tensor | None) -> Any:
        """Tokens in the form in which the block returns them."""
        if self.returns == "image":
            return image
        ordered = (text, image) if self._text_first else (image, text)
        return ordered if self.paired else torch.cat(ordered, dim=-2)  # type: ignore[arg-type]

    def _split(self, tokens: Tensor, count: int) -> tuple[Tensor, Tensor | None]:
        if self.returns == "image":
            return tokens, None
        if self._text_first:
            return tokens[..., count:, :], tokens[..., :count, :]
        length = tokens.shape[-2] - count
        return tokens[..., :length, :], tokens[..., length:, :]


def modulated(block: nn.Module, layout: Layout) -> Callable[[Tensor, Any], Tensor] | None:
    """The modulated input of a first block, from its image tokens and the time; None where those two do not make it."""
    norm = getattr(block, layout.modulation, None) if layout.modulation else None
    if norm is None:
        return None
    needed = [p for p in inspect.signature(norm.forward).parameters.values() if p.default is p.empty or p.name == "emb"]
    others = [p.name for p in needed][1:]
    if not layout.table:
        return (lambda image, time: norm(image, emb=time)[0]) if others == ["emb"] else None
    if others or getattr(block, layout.table, None) is None:
        return None

    def shifted(image: Tensor, time: Tensor) -> Tensor:
        table = getattr(block, layout.table).to(time.device)
        shift, scale, *_ = (table + time.unflatten(-1, table.shape)).unbind(-2)
        modulated: Tensor = norm(image) * (1 + scale) + shift
        return modulated

    return shifted


def argument(block: nn.Module, name: str) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
    """Reads the argument of this name from a call of a block.

    Raises:
        ValueError: the block has no such parameter.
    """
    kind: Any = type(getattr(block, "_orig_mod", block))
    parameters = _parameters(kind.forward)
    if name not in parameters:
        raise ValueError(
            f"{kind.__name__} takes no {name!r} in this version of diffusers, so its blocks cannot be skipped; "
            "use a method with target=output."
        )
    place = parameters.index(name)

    def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return kwargs[name] if name in kwargs else args[place]

    return read


@functools.cache
def _parameters(forward: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(forward).parameters)[1:]  # without self


_CONTROLNET = ("controlnet_block_samples", "controlnet_single_block_samples")


def _double(returns: Returns, *lists: str, additions: tuple[str, ...] = (), modulation: str = "") -> Layout:
    """Image and text in separate tensors from the first block to the last."""
    return Layout(tuple(Blocks(name, returns) for name in lists), modulation, additions=additions)


def _meeting(first: Returns, joined: Returns, *lists: str, additions: tuple[str, ...] = ()) -> Layout:
    """Image and text in separate tensors at first, then in one."""
    return Layout((Blocks(lists[0], first), Blocks(lists[1], joined)), additions=additions)


def _single(name: str, image: str = "hidden_states", additions: tuple[str, ...] = (), modulation: str = "") -> Layout:
    """One tensor all the way."""
    return Layout((Blocks(name, image=image),), modulation, additions=additions)


_TWO = ("transformer_blocks", "single_transformer_blocks")

LAYOUTS = {
    # Image and text side by side.
    "FluxTransformer2DModel": Layout(
        (
            Blocks(_TWO[0], "text, image", modules=Modules(pairs=("attn",), singles=("ff", "ff_context"))),
            # act_mlp follows proj_mlp; on nothing it costs nothing.
            Blocks(_TWO[1], "text, image", modules=Modules(singles=("proj_out",), idle=("attn", "proj_mlp"))),
        ),
        modulation="norm1",
        additions=_CONTROLNET,
    ),
    "BriaTransformer2DModel": _double("text, image", *_TWO, additions=_CONTROLNET),
    "LongCatImageTransformer2DModel": _double("text, image", *_TWO),
    "OvisImageTransformer2DModel": _double("text, image", *_TWO),
    "QwenImageTransformer2DModel": Layout(
        (Blocks(_TWO[0], "text, image", modules=Modules(pairs=("attn",), singles=("img_mlp", "txt_mlp"))),),
        additions=_CONTROLNET[:1],
    ),
    "SD3Transformer2DModel": Layout(
        (
            Blocks(
                _TWO[0],
                "text, image",
                textless="context_pre_only",
                modules=Modules(pairs=("attn",), singles=("ff", "ff_context", "attn2")),
            ),
        ),
        additions=("block_controlnet_hidden_states", "skip_layers"),
    ),
    "CogVideoXTransformer3DModel": _double("image, text", _TWO[0]),
    "CogView3PlusTransformer2DModel": _double("image, text", _TWO[0]),
    "CogView4Transformer2DModel": _double("image, text", _TWO[0]),
    "ConsisIDTransformer3DModel": _double("image, text", _TWO[0]),
    "EasyAnimateTransformer3DModel": _double("image, text", _TWO[0]),
    "GlmImageTransformer2DModel": _double("image, text", _TWO[0]),
    "HunyuanImageTransformer2DModel": _double("image, text", *_TWO),
    "HunyuanVideoTransformer3DModel": Layout(
        (
            Blocks(_TWO[0], "image, text", modules=Modules(pairs=("attn",), singles=("ff", "ff_context"))),
            Blocks(
                _TWO[1],
                "image, text",
                modules=Modules(singles=("proj_out",), idle=("proj_mlp",), idle_pairs=("attn",)),
            ),
        ),
        modulation="norm1",
    ),
    "HunyuanVideoFramepackTransformer3DModel": _double("image, text", *_TWO),
    "HunyuanVideo15Transformer3DModel": _double("image, text", _TWO[0]),
    "JoyImageEditTransformer3DModel": _double("image, text", "double_blocks"),
    "MochiTransformer3DModel": _double("image, text", _TWO[0], modulation="norm1"),
    # Its last blocks work on the tokens that entered the first, and read those of the others in the place of text.
    "MotifVideoTransformer3DModel": Layout(tuple(Blocks(name, "image, text") for name in _TWO), linked=True),
    # Side by side, then in one tensor.
    "AuraFlowTransformer2DModel": _meeting("text, image", "text + image", "joint_transformer_blocks", _TWO[1]),
    "BriaFiboTransformer2DModel": _meeting("text, image", "text + image", *_TWO),
    "ChromaTransformer2DModel": _meeting("text, image", "text + image", *_TWO, additions=_CONTROLNET),
    "Flux2Transformer2DModel": _meeting("text, image", "text + image", *_TWO, additions=("kv_cache_mode",)),
    "HiDreamImageTransformer2DModel": Layout(
        (Blocks("double_stream_blocks", "image, text"), Blocks("single_stream_blocks", "image + text")),
        clock="t_embedder",
    ),
    # In one tensor from the start.
    "ErnieImageTransformer2DModel": _single("layers", "x"),
    "Ideogram4Transformer2DModel": _single("layers"),
    "Krea2Transformer2DModel": _single(_TWO[0]),
    "Lumina2Transformer2DModel": _single("layers", modulation="norm1"),
    "OmniGenTransformer2DModel": _single("layers"),
    "QwenImage21Transformer2DModel": _single(_TWO[0], additions=("kv_cache",)),
    "ZImageTransformer2DModel": _single("layers", "x", additions=_CONTROLNET[:1]),
    # Blocks that only read the text.
    "AceStepTransformer1DModel": _single("layers"),
    "AllegroTransformer3DModel": _single(_TWO[0]),
    "ChronoEditTransformer3DModel": _single("blocks"),
    "CosmosTransformer3DModel": _single(_TWO[0], additions=("block_controlnet_hidden_states",)),
    "DiTTransformer2DModel": Layout((Blocks(_TWO[0], modules=Modules(singles=("attn1", "ff"))),)),
    # Blocks of its second half also read what those of the first returned.
    "HunyuanDiT2DModel": Layout((Blocks("blocks"),), additions=_CONTROLNET[:1], linked=True),
    "Kandinsky5Transformer3DModel": _single("visual_transformer_blocks", "visual_embed"),
    "LTXVideoTransformer3DModel": Layout((Blocks(_TWO[0]),), modulation="norm1", table="scale_shift_table"),
    "LuminaNextDiT2DModel": _single("layers"),
    "NucleusMoEImageTransformer2DModel": _single(_TWO[0]),
    "PixArtTransformer2DModel": _single(_TWO[0]),
    "PRXTransformer2DModel": _single("blocks"),
    "SanaTransformer2DModel": _single(_TWO[0], additions=_CONTROLNET[:1]),
    "SanaVideoTransformer3DModel": _single(_TWO[0], additions=_CONTROLNET[:1]),
    "SkyReelsV2Transformer3DModel": _single("blocks"),
    "StableAudioDiTModel": _single(_TWO[0]),
    "StableAudio3DiTModel": _single(_TWO[0]),
    "WanTransformer3DModel": Layout(
        (Blocks("blocks", modules=Modules(singles=("attn1", "attn2", "ffn"))),),
        clock="condition_embedder.time_embedder",
    ),
    "WanVACETransformer3DModel": _single("blocks"),  # the blocks that make the hints run at every step
}


def find_layout(denoiser: nn.Module, target: Target) -> tuple[Layout, nn.Module]:
    """The layout of a known family, of its own class or of the nearest it derives from, and what has its attributes.

    Raises:
        ValueError: the family is not known to the target's seam, or it has no blocks.
    """
    # accelerate and torch.compile wrap modules; the class that matters is the innermost.
    inner = getattr(denoiser, "_orig_mod", denoiser)
    names = [kind.__name__ for kind in type(inner).__mro__]
    layout = next((LAYOUTS[name] for name in names if name in LAYOUTS), None)
    gated = target.seam == "modules"
    usable = layout is not None and not (gated and not _has_modules(layout))
    if layout is None or not usable or not any(len(getattr(inner, blocks.name)) for blocks in layout.lists):
        known = [name for name, other in LAYOUTS.items() if _has_modules(other) or not gated]
        wanted = "modules of every block" if gated else "block stack"
        raise ValueError(
            f"target {target!r} needs the {wanted}, which is not known for {type(inner).__name__} (known: "
            f"{', '.join(known)}); use a method with target=output, which works on any model."
        )
    return layout, inner


def _has_modules(layout: Layout) -> bool:
    return all(blocks.modules != Modules() for blocks in layout.lists)
