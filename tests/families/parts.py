"""Parts of the tiny pipelines: every one is built from its configuration, with the same random weights every time."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from research.shapes_flux import text

#: What most networks have in common; a class takes of it what its configuration knows.
NETWORK = {"in_channels": 4, "out_channels": 4, "num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 8}
#: Every language model is a layer of this shape. Most prompts come encoded, but saved pipelines need their encoders.
LANGUAGE = {"vocab_size": 256, "hidden_size": 12, "intermediate_size": 12, "bos_token_id": 0, "eos_token_id": 1} | {
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 6,
}


def made(kind: Any, common: Mapping[str, Any] | None = None, **config: Any) -> Any:
    """A module of a class: `config`, and of `common` what the class takes and `config` does not say."""
    torch.manual_seed(0)
    known = inspect.signature(kind).parameters
    return kind(**{name: value for name, value in (common or {}).items() if name in known} | config).eval()


def redrawn(network: Any, gain: float = 1.0, std: float = 0.0, vectors: float = 0.0, seed: int = 0) -> Any:
    """The network with its weights drawn anew, for published designs begin with zeros that hide the time or the text.

    Args:
        network: changed in place.
        gain: a matrix keeps the variance of its input times gain^2; the less, the smoother the network.
        std: of the matrices, instead.
        vectors: standard deviation of biases around 0 and of norms' weights around 1; with 0 they stay as they are.
        seed: of the numbers.
    """
    numbers = torch.Generator("cpu").manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, std or gain * parameter[0].numel() ** -0.5, generator=numbers)
            elif vectors:
                parameter.normal_(float(name.endswith("weight")), vectors, generator=numbers)
    return network


def assembled(kind: Any, **parts: Any) -> Any:
    """A pipeline without a progress bar."""
    return quiet(kind(**parts))


def quiet(pipe: Any) -> Any:
    """The pipeline without a progress bar, its networks in evaluation mode."""
    pipe.set_progress_bar_config(disable=True)
    _silence(getattr(pipe, "_blocks", None))
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval()
    return pipe


def _silence(block: Any) -> None:
    """A modular pipeline passes the setting to its outer blocks alone, but a loop inside has the bar."""
    for inner in (getattr(block, "sub_blocks", None) or {}).values():
        if hasattr(inner, "set_progress_bar_config"):
            inner.set_progress_bar_config(disable=True)
        _silence(inner)


def reload(pipe: Any, folder: str) -> Any:
    """The pipeline that was saved to `folder`, as its class loads it."""
    if not isinstance(pipe, diffusers.ModularPipeline):
        return quiet(type(pipe).from_pretrained(folder))
    # from_pretrained would bring back the default blocks, and a modular pipeline loads its parts only on request.
    again = type(pipe)(blocks=pipe.blocks, pretrained_model_name_or_path=folder)
    again.load_components()
    return quiet(again)


def flow(**config: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**config)


def flow_unipc() -> Any:
    """The scheduler of Wan and HiDream."""
    return diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def kl_vae(levels: int = 4, kind: Any = diffusers.AutoencoderKL, **config: Any) -> Any:
    """Halves an image at every level but the first."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    small = {"block_out_channels": (4,) * levels, "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4}
    return made(kind, **blocks, **small, sample_size=64, **config)


def wan_vae(kind: Any = diffusers.AutoencoderKLWan, **config: Any) -> Any:
    """Compresses images by 8 and frames by 4, as the real one."""
    plain = {"dim_mult": [1, 1, 1, 1], "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
    return made(kind, base_dim=4, z_dim=4, num_res_blocks=1, **plain | config)


# Text encoders with tokenizers, as arguments of a pipeline; a suffix tells the second and third ones.


def clip(suffix: str = "", kind: Any = transformers.CLIPTextModel, **config: Any) -> dict[str, Any]:
    tokenizer = text.build_clip_tokenizer()
    torch.manual_seed(0)
    shape = text.build_clip(tokenizer).config
    shape.update(config)
    torch.manual_seed(0)
    return {f"tokenizer{suffix}": tokenizer, f"text_encoder{suffix}": kind(shape).eval()}


def t5(suffix: str = "") -> dict[str, Any]:
    tokenizer = text.build_t5_tokenizer()
    torch.manual_seed(0)
    return {f"tokenizer{suffix}": tokenizer, f"text_encoder{suffix}": text.build_t5(tokenizer).eval()}


def umt5() -> dict[str, Any]:
    config = {"vocab_size": 256, "d_model": 12, "d_kv": 6, "d_ff": 12, "num_layers": 1, "num_heads": 2}
    return language(transformers.UMT5EncoderModel, **config)


def language(kind: Any, suffix: str = "", tokenizer: Any = None, **config: Any) -> dict[str, Any]:
    """A language model: of `LANGUAGE` unless its configuration is given. Any tokenizer does for encoded prompts."""
    torch.manual_seed(0)
    encoder = kind(kind.config_class(**config or LANGUAGE)).eval()
    return {f"tokenizer{suffix}": tokenizer or text.build_t5_tokenizer(), f"text_encoder{suffix}": encoder}
