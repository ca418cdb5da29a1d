"""The reference models as pipelines: loaded from their folders, with calls that default to their own sizes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from skipcast.models import clips, scenes
from skipcast.models.judge import ClipJudge, Judge
from skipcast.models.worlds import CLIPS, world_in

#: The longest caption, 'a red star on a blue background, large and striped', has 11 tokens and an end mark.
TEXT_TOKENS = 12
#: The longest caption of a clip, 'on a blue background, a red star slowly moves left', has as many.
CLIP_TEXT_TOKENS = 12


class WanPipeline(diffusers.WanPipeline):  # type: ignore[misc]
    """`diffusers.WanPipeline` whose calls default to nine frames of 48x48 pixels; its own are 81 of 832x480.

    It has the name of that class, which is the one that a saved pipeline is loaded as.
    """

    @functools.wraps(diffusers.WanPipeline.__call__)
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = _OF_WAN.bind_partial(self, *args, **kwargs).arguments
        sizes = {name: value for name, value in _SIZES.items() if name not in given}
        return super().__call__(*args, **kwargs, **sizes)

    def encode_prompt(self, *args: Any, max_sequence_length: int = CLIP_TEXT_TOKENS, **kwargs: Any) -> Any:
        return super().encode_prompt(*args, max_sequence_length=min(max_sequence_length, CLIP_TEXT_TOKENS), **kwargs)


_SIZES = {"height": clips.SIDE, "width": clips.SIDE, "num_frames": clips.FRAMES}
_OF_WAN = inspect.signature(diffusers.WanPipeline.__call__)
WanPipeline.__call__.__signature__ = _OF_WAN.replace(  # type: ignore[attr-defined]
    parameters=[p.replace(default=_SIZES.get(p.name, p.default)) for p in _OF_WAN.parameters.values()]
)


def native_defaults(pipe: Any) -> Any:
    """Make the sizes of a reference model the defaults of a call.

    These are 64x64 pixels for `FluxPipeline`, whose own are 1024x1024, and nine frames of 48x48 for `WanPipeline`; both
    take 12 text tokens, for both pad every prompt to `max_sequence_length` and attend to the padding, so that 500 more
    tokens are another model.
    """
    if isinstance(pipe, diffusers.WanPipeline):
        pipe.__class__ = WanPipeline
        return pipe
    pipe.default_sample_size = scenes.SIDE // pipe.vae_scale_factor
    encode = pipe.encode_prompt

    @functools.wraps(encode)
    def encode_prompt(*args: Any, max_sequence_length: int = TEXT_TOKENS, **kwargs: Any) -> Any:
        return encode(*args, max_sequence_length=min(max_sequence_length, TEXT_TOKENS), **kwargs)

    pipe.encode_prompt = encode_prompt
    return pipe


def load_judge(folder: Path) -> Judge | ClipJudge:
    """The judge that lies next to a reference pipeline.

    Raises:
        FileNotFoundError: the folder holds no judge.
    """
    path = folder / "judge.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"no judge in {folder}; only reference models have one.")
    judge = ClipJudge() if world_in(folder) is CLIPS else Judge()
    judge.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return judge.eval()


def load_folder(folder: Path, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """A reference pipeline from its folder, offline."""
    kind = diffusers.WanPipeline if world_in(folder) is CLIPS else diffusers.FluxPipeline
    pipe = kind.from_pretrained(folder, torch_dtype=dtype, local_files_only=True, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    return native_defaults(pipe)


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per image, so that its initial noise depends on its own seed alone."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
