"""A node pack for tests: the reference model as MODEL, CLIP and VAE, as a loader of checkpoints would give them."""

from __future__ import annotations

from typing import Any

import comfy
import torch
from comfy_api.latest import ComfyExtension, io
from torch import Tensor

import skipcast as sc
from support import comfyui


class Vae:
    """The reference model's decoder, for the latents of ComfyUI's FLUX."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    @torch.no_grad()
    def decode(self, samples: Tensor) -> Tensor:
        vae = self.pipe.vae
        latents = (samples - 0.1159) * 0.3611 / vae.config.scaling_factor + vae.config.shift_factor
        image = vae.decode(latents).sample
        return (image / 2 + 0.5).clamp(0, 1).movedim(1, -1)


class ShapesFlux(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="ShapesFlux",
            display_name="Load shapes-flux",
            category="loaders",
            inputs=[],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls) -> Any:
        pipe = sc.load_reference("shapes-flux")
        return io.NodeOutput(comfyui.shapes_flux(comfy, pipe), comfyui.Clip(pipe), Vae(pipe))


class Pack(ComfyExtension):
    async def get_node_list(self) -> list[type]:
        return [ShapesFlux]


def comfy_entrypoint() -> Any:
    return Pack()
