"""Networks of published shapes with random weights: they cost what the trained ones cost, their images mean nothing.

Every entry holds the configuration that its model is published with, the size it is usually run at, and how its
pipeline calls it. `tiny` keeps the structure and shrinks everything else, for tests without a GPU.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

#: Height, width, frames.
Size = tuple[int, int, int]
Draw = Callable[..., Tensor]


@dataclass(frozen=True)
class Architecture:
    """A network class, its published configuration and how it is called.

    Args:
        name: what the command line calls it.
        network: class in diffusers.
        config: its arguments.
        size: height, width and frames of the image or video.
        sample: shape of the latents of a size.
        given: everything else of a call, for a configuration, a size and a source of normal numbers.
        blocks: lists of blocks, in the order they run.
        attention: name of the first attention in a block.
        scaled: what timesteps are multiplied by before the network sees them.
        shift: of the scheduler's noise levels, as published for this size.
        branches: denoiser calls of a step, by the names that the pipeline gives them.
        small: what `tiny` changes in the configuration.
        small_size: the size that goes with it.
    """

    name: str
    network: str
    config: dict[str, Any]
    size: Size
    sample: Callable[[dict[str, Any], Size], tuple[int, ...]]
    given: Callable[[dict[str, Any], Size, Draw], dict[str, Any]]
    blocks: tuple[str, ...]
    attention: str
    scaled: float = 1.0
    shift: float = 3.0
    branches: tuple[str, ...] = ("cond",)
    small: dict[str, Any] = field(default_factory=dict)
    small_size: Size = (64, 64, 1)

    def tiny(self) -> Architecture:
        """The same structure with two blocks of every kind, two heads and a few tokens."""
        return replace(self, config={**self.config, **self.small}, size=self.small_size)

    def tokens(self) -> int:
        """Image tokens that pass through the blocks."""
        shape = self.sample(self.config, self.size)
        if len(shape) == 3:
            return shape[1]
        _, _, frames, height, width = shape
        time, *space = _patches(self.config)
        return frames // time * (height // space[0]) * (width // space[1])

    def width(self) -> int:
        """Channels of a token inside the blocks."""
        return int(self.config["num_attention_heads"] * self.config["attention_head_dim"])


def _patches(config: dict[str, Any]) -> tuple[int, int, int]:
    patch = config["patch_size"]
    return tuple(patch) if isinstance(patch, tuple) else (config.get("patch_size_t", 1), patch, patch)


def _flux_sample(config: dict[str, Any], size: Size) -> tuple[int, ...]:
    return 1, (size[0] // 16) * (size[1] // 16), config["in_channels"]


def _flux_given(config: dict[str, Any], size: Size, draw: Draw) -> dict[str, Any]:
    rows, columns, text = size[0] // 16, size[1] // 16, config.get("text_tokens", 512)
    where = torch.zeros(rows, columns, 3)
    where[..., 1] += torch.arange(rows)[:, None]
    where[..., 2] += torch.arange(columns)[None]
    given = {
        "encoder_hidden_states": draw(1, text, config["joint_attention_dim"]),
        "pooled_projections": draw(1, config["pooled_projection_dim"]),
        "txt_ids": torch.zeros(text, 3),
        "img_ids": where.flatten(0, 1),
    }
    return given | ({"guidance": torch.full((1,), 3.5)} if config["guidance_embeds"] else {})


def _video_sample(config: dict[str, Any], size: Size) -> tuple[int, ...]:
    height, width, frames = size
    return 1, config["in_channels"], (frames - 1) // 4 + 1, height // 8, width // 8


def _wan_given(config: dict[str, Any], size: Size, draw: Draw) -> dict[str, Any]:
    return {"encoder_hidden_states": draw(1, config.get("text_tokens", 512), config["text_dim"])}


def _hunyuan_given(config: dict[str, Any], size: Size, draw: Draw) -> dict[str, Any]:
    text = config.get("text_tokens", 256)
    return {
        "encoder_hidden_states": draw(1, text, config["text_embed_dim"]),
        "encoder_attention_mask": torch.ones(1, text),
        "pooled_projections": draw(1, config["pooled_projection_dim"]),
        "guidance": torch.full((1,), 6000.0),
    }


_FLUX: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}
_SMALL_FLUX = {
    "num_layers": 2,
    "num_single_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "axes_dims_rope": (4, 6, 6),
    "joint_attention_dim": 16,
    "pooled_projection_dim": 16,
    "text_tokens": 4,
}
_WAN: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
}
_SMALL_WAN = {
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "ffn_dim": 64,
    "text_dim": 16,
    "text_tokens": 4,
}


def _flux(name: str, config: dict[str, Any], size: Size, **more: Any) -> Architecture:
    return Architecture(
        name=name,
        network="FluxTransformer2DModel",
        config=config,
        size=size,
        sample=_flux_sample,
        given=_flux_given,
        blocks=("transformer_blocks", "single_transformer_blocks"),
        attention="attn",
        scaled=1e-3,
        small=_SMALL_FLUX,
        **more,
    )


def _wan(name: str, size: Size, layers: int, heads: int, inner: int, shift: float) -> Architecture:
    return Architecture(
        name=name,
        network="WanTransformer3DModel",
        config={**_WAN, "num_layers": layers, "num_attention_heads": heads, "ffn_dim": inner},
        size=size,
        sample=_video_sample,
        given=_wan_given,
        blocks=("blocks",),
        attention="attn1",
        shift=shift,
        branches=("cond", "uncond"),
        small=_SMALL_WAN,
        small_size=(32, 32, 5),
    )


ARCHITECTURES = {
    found.name: found
    for found in (
        _flux(
            "flux-depth",
            {
                **_FLUX,
                "attention_head_dim": 64,
                "num_attention_heads": 4,
                "axes_dims_rope": (16, 24, 24),
                "joint_attention_dim": 64,
                "pooled_projection_dim": 32,
                "text_tokens": 32,
            },
            (256, 256, 1),
        ),
        _flux("flux-dev", _FLUX, (1024, 1024, 1)),
        _wan("wan-1.3b", (480, 832, 81), layers=30, heads=12, inner=8960, shift=3.0),
        _wan("wan-14b", (720, 1280, 81), layers=40, heads=40, inner=13824, shift=5.0),
        Architecture(
            name="hunyuan-video",
            network="HunyuanVideoTransformer3DModel",
            config={
                "in_channels": 16,
                "out_channels": 16,
                "num_attention_heads": 24,
                "attention_head_dim": 128,
                "num_layers": 20,
                "num_single_layers": 40,
                "num_refiner_layers": 2,
                "mlp_ratio": 4.0,
                "patch_size": 2,
                "patch_size_t": 1,
                "qk_norm": "rms_norm",
                "guidance_embeds": True,
                "text_embed_dim": 4096,
                "pooled_projection_dim": 768,
                "rope_theta": 256.0,
                "rope_axes_dim": (16, 56, 56),
            },
            size=(720, 1280, 129),
            sample=_video_sample,
            given=_hunyuan_given,
            blocks=("transformer_blocks", "single_transformer_blocks"),
            attention="attn",
            shift=7.0,
            small={
                "num_attention_heads": 2,
                "attention_head_dim": 16,
                "num_layers": 2,
                "num_single_layers": 2,
                "num_refiner_layers": 1,
                "text_embed_dim": 16,
                "pooled_projection_dim": 16,
                "rope_axes_dim": (4, 6, 6),
                "text_tokens": 4,
            },
            small_size=(32, 32, 5),
        ),
    )
}


class Pipe:
    """A network and a scheduler, as `skipcast.accelerate` needs them, and the inputs of a run."""

    def __init__(self, shape: Architecture, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.shape = shape
        torch.manual_seed(0)
        network = getattr(diffusers, shape.network)
        known = inspect.signature(network.__init__).parameters
        with torch.device(device):
            self.transformer: nn.Module = network(**{k: v for k, v in shape.config.items() if k in known}).eval()
        for parameter in self.transformer.parameters():  # buffers keep their precision, as in a loaded model
            parameter.data = parameter.data.to(dtype)
            parameter.requires_grad_(False)
        self.scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=shape.shift)
        source = torch.Generator("cpu").manual_seed(1)

        def draw(*size: int) -> Tensor:
            return torch.randn(*size, generator=source)

        def placed(value: Tensor) -> Tensor:
            return value.to(device, dtype)

        self.noise = placed(draw(*shape.sample(shape.config, shape.size)))
        self.branches = {
            name: {key: placed(value) for key, value in shape.given(shape.config, shape.size, draw).items()}
            for name in shape.branches
        }
        accepted = inspect.signature(network.cache_context).parameters.values()
        # Since diffusers 0.41 a context receives the step as well as the branch.
        self._context_has_step = any(value.kind is inspect.Parameter.VAR_KEYWORD for value in accepted)

    def fresh(self) -> Pipe:
        """Another pipeline on the same weights and inputs, untouched by whatever was done to this one.

        Hooks that were removed leave empty registries behind, which every call would walk through, and `forward`
        functions on the modules; both go.
        """
        module: Any
        for module in self.transformer.modules():
            if "_diffusers_hook" in vars(module):
                if module._diffusers_hook.hooks:
                    raise RuntimeError(f"{type(module).__name__} is still hooked; leave the row before the next one.")
                del module._diffusers_hook
                vars(module).pop("forward", None)
        other = object.__new__(Pipe)
        vars(other).update(vars(self))
        other.scheduler = FlowMatchEulerDiscreteScheduler.from_config(self.scheduler.config)
        return other

    def call(self, name: str, x: Tensor, t: Tensor, step: int, steps: int) -> Tensor:
        """The denoiser's output for one branch, in the context that the library's newest pipelines give."""
        where = {}
        sigmas = getattr(self.scheduler, "sigmas", None)
        if self._context_has_step and sigmas is not None and step < len(sigmas):
            where = {"step_index": step, "num_inference_steps": steps, "sigma": sigmas[step]}
        transformer: Any = self.transformer
        with transformer.cache_context(name, **where):
            timestep = (t * self.shape.scaled).expand(1).to(x.dtype)
            given = self.branches[name]
            output: Tensor = self.transformer(hidden_states=x, timestep=timestep, return_dict=False, **given)[0]
        return output

    def layers(self) -> list[nn.Module]:
        """Every block, in the order they run."""
        return [block for name in self.shape.blocks for block in getattr(self.transformer, name)]

    def witness(self) -> nn.Module:
        """A projection in the middle of the network, which runs where a step is evaluated and nowhere else."""
        blocks = getattr(self.transformer, self.shape.blocks[0])
        attention: Any = getattr(blocks[len(blocks) - 1], self.shape.attention)
        return attention.to_q  # type: ignore[no-any-return]
