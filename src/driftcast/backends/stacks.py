"""The block-stack seam: where a family's blocks begin and end, and which tokens are the image's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from diffusers.hooks import ModelHook
from torch import Tensor, nn

from driftcast.backends import eager
from driftcast.run import Run
from driftcast.targets import Target


@dataclass(frozen=True)
class Layout:
    """How a family passes tokens through its blocks.

    Args:
        lists: attributes that hold the blocks, in the order they run.
        inputs: parameter names of a block for (image tokens, text tokens).
        image, text: positions of the two in the tuple that a block returns.
        additions: call arguments that add something between blocks, so that the stack is not a function of its input.
    """

    lists: tuple[str, ...]
    inputs: tuple[str, str] = ("hidden_states", "encoder_hidden_states")
    image: int = 1
    text: int = 0
    additions: tuple[str, ...] = ()


LAYOUTS = {
    "FluxTransformer2DModel": Layout(
        lists=("transformer_blocks", "single_transformer_blocks"),
        additions=("controlnet_block_samples", "controlnet_single_block_samples"),
    ),
}


class BlockStack:
    """The blocks of one denoiser; while a run governs it, the stack is evaluated whole or skipped whole."""

    def __init__(self, layout: Layout, blocks: list[nn.Module]) -> None:
        self.layout, self.blocks = layout, blocks
        self.run: Run | None = None
        self.skip = False
        self.entering: Tensor | None = None

    def hooks(self) -> Iterator[tuple[nn.Module, ModelHook]]:
        """A hook for every block."""
        for index, block in enumerate(self.blocks):
            yield block, _BlockHook(self, first=index == 0, last=index == len(self.blocks) - 1)

    def check_call(self, given: dict[str, Any]) -> None:
        """Refuse a call whose blocks get something added between them."""
        for name in self.layout.additions:
            if given.get(name) is not None:
                raise ValueError(
                    f"{name} is added between the blocks, so a block-stack target cannot skip them; "
                    "use a method with target=output for pipelines with a ControlNet."
                )

    @contextmanager
    def governed_by(self, run: Run) -> Iterator[None]:
        """One denoiser call under `run`."""
        self.run, self.skip = run, not eager.wants_evaluation(run)
        try:
            yield
        finally:
            self.run, self.skip, self.entering = None, False, None


class _BlockHook(ModelHook):  # type: ignore[misc]
    """Lets tokens pass a skipped block untouched; the last block hands in the stack's value or takes the forecast."""

    def __init__(self, stack: BlockStack, *, first: bool, last: bool) -> None:
        super().__init__()
        self.stack, self.first, self.last = stack, first, last

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        stack = self.stack
        image, text = (
            kwargs[name] if name in kwargs else args[place] for place, name in enumerate(stack.layout.inputs)
        )
        if self.first:
            stack.entering = image
        run, entering = stack.run, stack.entering
        if run is None or entering is None:
            raise RuntimeError("a block was called outside its accelerated transformer; leave accelerate() first.")
        if stack.skip:
            leaving = eager.forecast(run, entering) if self.last else image
            output: list[Any] = [None, None]
            output[stack.layout.image], output[stack.layout.text] = leaving, text
            return tuple(output)
        result = self.fn_ref.original_forward(*args, **kwargs)
        if self.last:
            eager.observe(run, entering, result[stack.layout.image])
        return result


def find_stack(denoiser: nn.Module, target: Target) -> BlockStack:
    """The block stack of a known family.

    Raises:
        ValueError: the family is not known, or it has no blocks.
    """
    # accelerate and torch.compile wrap modules; the class that matters is the innermost.
    inner = getattr(denoiser, "_orig_mod", denoiser)
    layout = LAYOUTS.get(type(inner).__name__)
    blocks = [block for name in layout.lists for block in getattr(inner, name)] if layout else []
    if layout is None or not blocks:
        raise ValueError(
            f"target {target!r} needs the block stack, which is not known for {type(inner).__name__} (known: "
            f"{', '.join(LAYOUTS)}); use a method with target=output, which works on any model."
        )
    return BlockStack(layout, blocks)
