"""`shapes-flux` as a `FluxPipeline`: put together, exported in half precision, loaded again."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from skipcast.models.judge import Judge
from skipcast.models.scenes import SIDE
from skipcast.models.text import TEXT_TOKENS

#: Guidance at which the model card's figures and all comparisons are made.
CALL = {"true_cfg_scale": 2.0, "negative_prompt": ""}


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """FLUX.1-dev's scheduler, its dynamic shift scaled to 16 image tokens: mu = 1.15 at 64x64."""
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        use_dynamic_shifting=True,
        base_image_seq_len=1,
        max_image_seq_len=16,
        base_shift=0.5,
        max_shift=1.15,
    )


def assemble(
    transformer: FluxTransformer2DModel,
    vae: AutoencoderKL,
    clip: tuple[CLIPTokenizer, CLIPTextModel],
    t5: tuple[T5TokenizerFast, T5EncoderModel],
) -> FluxPipeline:
    """The pipeline of these parts, in evaluation mode."""
    pipe = FluxPipeline(
        scheduler=build_scheduler(),
        vae=vae.eval(),
        text_encoder=clip[1].eval(),
        tokenizer=clip[0],
        text_encoder_2=t5[1].eval(),
        tokenizer_2=t5[0],
        transformer=transformer.eval(),
    )
    return native_defaults(pipe)


def native_defaults(pipe: FluxPipeline) -> FluxPipeline:
    """Make 64x64 pictures and 12 text tokens the defaults of a call; `FluxPipeline`'s own are 1024x1024 and 512.

    FLUX pads every prompt to `max_sequence_length` and attends to the padding, so 500 more tokens are another model.
    """
    pipe.default_sample_size = SIDE // pipe.vae_scale_factor
    encode = pipe.encode_prompt

    @functools.wraps(encode)
    def encode_prompt(*args: Any, max_sequence_length: int = TEXT_TOKENS, **kwargs: Any) -> Any:
        return encode(*args, max_sequence_length=min(max_sequence_length, TEXT_TOKENS), **kwargs)

    pipe.encode_prompt = encode_prompt
    return pipe


def export(pipe: FluxPipeline, judge: Judge, folder: Path) -> None:
    """Write the pipeline and its judge in half precision; the pipeline stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        copy.deepcopy(getattr(pipe, name)).half().save_pretrained(folder / name)
    for name in ("tokenizer", "tokenizer_2", "scheduler"):
        getattr(pipe, name).save_pretrained(folder / name)
    pipe.save_config(folder)
    save_file({k: v.half().contiguous() for k, v in judge.state_dict().items()}, folder / "judge.safetensors")


def load_judge(folder: Path) -> Judge:
    """The judge that lies beside a reference pipeline.

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
    pipe = FluxPipeline.from_pretrained(folder, torch_dtype=dtype, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return native_defaults(pipe)


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per picture, so that its initial noise depends on its own seed alone."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
