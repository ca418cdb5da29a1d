"""`shapes-flux` put together as a `FluxPipeline`, and exported in half precision."""

from __future__ import annotations

import copy
from pathlib import Path

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from skipcast.models.judge import Judge
from skipcast.models.pipeline import native_defaults


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


def export(pipe: FluxPipeline, judge: Judge, folder: Path) -> None:
    """Write the pipeline and its judge in half precision; the pipeline stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        copy.deepcopy(getattr(pipe, name)).half().save_pretrained(folder / name)
    for name in ("tokenizer", "tokenizer_2", "scheduler"):
        getattr(pipe, name).save_pretrained(folder / name)
    pipe.save_config(folder)
    save_file({k: v.half().contiguous() for k, v in judge.state_dict().items()}, folder / "judge.safetensors")
