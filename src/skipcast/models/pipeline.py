"""`shapes-flux` as a `FluxPipeline`: loaded from its folder."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file

from skipcast.models.judge import Judge
from skipcast.models.scenes import SIDE

#: The longest caption, 'a red star on a blue background, large and striped', has 11 tokens and an end mark.
TEXT_TOKENS = 12
#: Guidance at which the model card's figures and all comparisons are made.
CALL = {"true_cfg_scale": 2.0, "negative_prompt": ""}


def native_defaults(pipe: FluxPipeline) -> FluxPipeline:
    """Make 64x64 images and 12 text tokens the defaults of a call; `FluxPipeline`'s own are 1024x1024 and 512.

    FLUX pads every prompt to `max_sequence_length` and attends to the padding, so 500 more tokens are another model.
    """
    pipe.default_sample_size = SIDE // pipe.vae_scale_factor
    encode = pipe.encode_prompt

    @functools.wraps(encode)
    def encode_prompt(*args: Any, max_sequence_length: int = TEXT_TOKENS, **kwargs: Any) -> Any:
        return encode(*args, max_sequence_length=min(max_sequence_length, TEXT_TOKENS), **kwargs)

    pipe.encode_prompt = encode_prompt
    return pipe


def load_judge(folder: Path) -> Judge:
    """The judge that lies next to a reference pipeline.

    Raises:
        FileNotFoundError: the folder holds no judge.
    """
    path = folder / "judge.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"no judge in {folder}; only reference models have one.")
    judge = Judge()
    judge.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return judge.eval()


def load_folder(folder: Path, dtype: torch.dtype = torch.float32) -> FluxPipeline:
    """A reference pipeline from its folder, offline."""
    pipe = FluxPipeline.from_pretrained(folder, torch_dtype=dtype, local_files_only=True, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    return native_defaults(pipe)


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per image, so that its initial noise depends on its own seed alone."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
