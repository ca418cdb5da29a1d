"""`shapes-wan` put together as a `WanPipeline`, and exported in half precision."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from diffusers import WanPipeline as Wan
from safetensors.torch import save_file
from transformers import T5TokenizerFast, UMT5EncoderModel

from skipcast.models.judge import ClipJudge
from skipcast.models.pipeline import native_defaults

#: Wan 2.1's own at 480 lines.
SHIFT = 3.0


def build_scheduler() -> UniPCMultistepScheduler:
    """Wan 2.1's scheduler."""
    return UniPCMultistepScheduler(
        num_train_timesteps=1000, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
    )


def assemble(
    transformer: WanTransformer3DModel,
    vae: AutoencoderKLWan,
    tokenizer: T5TokenizerFast,
    text_encoder: UMT5EncoderModel,
) -> Any:
    """The pipeline of these parts, in evaluation mode."""
    pipe = Wan(
        tokenizer=tokenizer,
        text_encoder=text_encoder.eval(),
        vae=vae.eval(),
        scheduler=build_scheduler(),
        transformer=transformer.eval(),
    )
    return native_defaults(pipe)


def export(pipe: Any, judge: ClipJudge, folder: Path) -> None:
    """Write the pipeline and its judge in half precision; the pipeline stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("transformer", "vae", "text_encoder"):
        copy.deepcopy(getattr(pipe, name)).half().save_pretrained(folder / name)
    for name in ("tokenizer", "scheduler"):
        getattr(pipe, name).save_pretrained(folder / name)
    pipe.save_config(folder)
    save_file({k: v.half().contiguous() for k, v in judge.state_dict().items()}, folder / "judge.safetensors")
