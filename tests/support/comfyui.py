"""ComfyUI around the tests: its own modules from `COMFYUI_PATH`, and the reference model as its nodes would load it."""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
PATH = os.environ.get("COMFYUI_PATH", "")
WHY_NOT = "set COMFYUI_PATH to a checkout of ComfyUI whose requirements are installed"


def imported(path: str = PATH) -> Any:
    """ComfyUI's own `comfy` package, on the CPU. Its options are read once, from the command line of the process."""
    if path not in sys.path:
        sys.path.insert(0, path)
        given, sys.argv = sys.argv, ["comfyui", "--cpu"]
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args

        sys.argv = given
        if "torchvision" not in sys.modules:
            _without_torchvision()
    import comfy.model_detection
    import comfy.model_patcher
    import comfy.sample
    import comfy.samplers
    import comfy.supported_models
    import comfy_api.latest  # noqa: F401

    return comfy


def _without_torchvision() -> None:
    """Only one family's file asks for its transforms, and only that they exist."""
    import importlib.machinery
    import importlib.util
    import types

    if importlib.util.find_spec("torchvision") is not None:
        return
    for name in ("torchvision", "torchvision.transforms"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]  # type: ignore[attr-defined]


def shapes_flux(comfy: Any, pipe: Any) -> Any:
    """The reference model as ComfyUI's own FLUX, with the weights of its diffusers pipeline: a ModelPatcher."""
    network = pipe.transformer
    config = comfy.supported_models.FluxSchnell(
        {
            "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 64, "context_in_dim": 128,
            "hidden_size": 256, "mlp_ratio": 4.0, "num_heads": 4, "depth": 2, "depth_single_blocks": 4,
            "axes_dim": [16, 24, 24], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": False,
        }
    )  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    # FLUX itself is shifted by 1.15; the schnell of ComfyUI is not.
    config.sampling_settings = {"shift": 1.15}
    config.model_type = lambda *_: comfy.model_base.ModelType.FLUX
    weights = comfy.model_detection.convert_diffusers_mmdit(
        {name: value.clone() for name, value in network.state_dict().items()}, ""
    )
    model = comfy.supported_models.Flux.get_model(config, weights, "")
    model.load_model_weights(weights, "")
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


class Clip:
    """The reference model's text encoders, with what nodes call of a CLIP."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def tokenize(self, text: str) -> str:
        return text

    @torch.no_grad()
    def encode_from_tokens_scheduled(self, tokens: str) -> list[Any]:
        embeds, pooled, _ = self.pipe.encode_prompt(tokens, tokens)
        return [[embeds, {"pooled_output": pooled}]]


def unpacked(latents: Tensor) -> Tensor:
    """(B, L, 64) of the pipeline as (B, 16, H, W) of ComfyUI."""
    side = int(latents.shape[1] ** 0.5)
    return latents.reshape(-1, side, side, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, 16, 2 * side, 2 * side)


def packed(latents: Tensor) -> Tensor:
    """The other way round."""
    side = latents.shape[-1] // 2
    return latents.reshape(-1, 16, side, 2, side, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, side * side, 64)


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


class Server:
    """ComfyUI's server on a port of this machine, with the packs of nodes in a folder of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.address = folder, f"http://127.0.0.1:{port}"
        nodes = folder / "custom_nodes"
        for made in (nodes, folder / "models" / "skipcast"):
            made.mkdir(parents=True)
        (nodes / "skipcast").symlink_to(ROOT / "integrations" / "comfyui")
        (nodes / "shapes_flux").symlink_to(ROOT / "tests" / "support" / "comfy_pack")
        search = [str(ROOT / "tests"), str(ROOT / "src"), str(ROOT / "skipcast-models" / "src"), *sys.path]
        command = [
            sys.executable, "-m", "support.comfyui", "--cpu", "--listen", "127.0.0.1", "--port", str(port),
            "--disable-api-nodes", "--database-url", "sqlite:///:memory:", "--base-directory", str(folder),
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(search), "OMP_NUM_THREADS": "1"}
        self.log = (folder / "server.log").open("w+")
        self.process = subprocess.Popen(command, cwd=PATH, env=environment, stdout=self.log, stderr=subprocess.STDOUT)

    def said(self) -> str:
        """What the server has written so far."""
        return (self.folder / "server.log").read_text()

    def wait(self, seconds: float = 600.0) -> None:
        """Until it answers."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.get("/system_stats")
                return
            time.sleep(0.5)
        raise RuntimeError(f"the server did not begin:\n{self.said()[-3000:]}")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.address + path, timeout=30) as answer:
            return json.load(answer)

    def run(self, prompt: dict[str, Any], seconds: float = 300.0) -> dict[str, Any]:
        """Run a graph to its end; its entry in the history."""
        body = json.dumps({"prompt": prompt}).encode()
        request = urllib.request.Request(self.address + "/prompt", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                name = json.load(answer)["prompt_id"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from error
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.get(f"/history/{name}").get(name)
            if found:
                return dict(found)
            time.sleep(0.3)
        raise RuntimeError(f"the graph did not end:\n{self.said()[-3000:]}")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


def serve() -> None:
    """Run ComfyUI's server in this process, with this command line."""
    import skipcast.models.pipeline  # noqa: F401  (diffusers takes the stand-in below for the real torchvision)

    if "torchvision" not in sys.modules:
        _without_torchvision()
    sys.path.insert(0, PATH)
    runpy.run_path(str(Path(PATH) / "main.py"), run_name="__main__")


if __name__ == "__main__":
    serve()
