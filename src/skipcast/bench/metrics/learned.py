"""Metrics that need weights: LPIPS, CLIP score and FID.

Nothing is imported or loaded before use, and nothing is downloaded: weights come from a path or from the cache of
torch.hub or huggingface_hub. None of them needs torchvision.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import conv2d, cosine_similarity, interpolate, max_pool2d, normalize, relu

from skipcast.bench.metrics import check_images, paired_frechet

Other: TypeAlias = "Tensor | Sequence[str]"

_CLIP = "openai/clip-vit-large-patch14"
_CLIP_PIXELS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # mean and deviation
_LPIPS_PIXELS = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_ALEXNET = ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1))  # place in `features`, stride, padding


@dataclass(frozen=True)
class Learned:
    """A metric that is built when it is first called."""

    name: str  # key in `LEARNED`
    package: str  # the package that it imports
    install: str  # the command that installs the package
    higher_is_better: bool  # direction
    # What the second argument is: "images" of the other run one by one, "prompts", or a "set" with one figure in all.
    against: Literal["images", "prompts", "set"]
    # From (weights, device) to the metric of a part of a batch; for "set" to an extractor of features.
    build: Callable[[Path | None, str], Callable[..., Tensor]]
    weights: Path | None = None  # file or folder; None looks in the caches of this machine
    device: str = "cpu"  # where it runs
    batch: int = 16  # images at a time

    def at(self, weights: str | os.PathLike[str] | None = None, device: str = "cpu") -> Learned:
        """The same metric with the weights of a path, on a device."""
        return replace(self, weights=None if weights is None else Path(weights), device=device)

    @cached_property
    def function(self) -> Callable[..., Tensor]:
        """The built metric.

        Raises:
            RuntimeError: the package is missing or broken, or the weights are not on this machine.
        """
        if self.weights is not None and not self.weights.exists():
            raise RuntimeError(f"weights of {self.name}: {self.weights} does not exist; give the path of the weights.")
        try:
            importlib.import_module(self.package)
            return self.build(self.weights, self.device)
        except ImportError as error:  # a package that is installed may itself lack something
            state = "is missing" if error.name == self.package else "does not import"
            raise RuntimeError(
                f"{self.name} needs the package {self.package!r}, which {state} ({error}); {self.install}."
            ) from error

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Other) -> Tensor:
        """The metric of images (B, 3, H, W) in [0, 1] as float64: (B,), or () against a set.

        Args:
            a: the images.
            b: as `against` says: images in the same order, or one prompt per image.

        Raises:
            RuntimeError: as `function`.
            ValueError: other images, or another number of prompts.
        """
        words = self.against == "prompts"
        if isinstance(b, Tensor) == words or isinstance(b, str):
            cure = "pass a list of prompts" if words else "pass those of the unaccelerated run"
            raise ValueError(f"{self.name} takes (images, {'prompts' if words else 'images'}); {cure} as b.")
        check_images(a, b if isinstance(b, Tensor) else a)
        if len(b) != len(a):
            raise ValueError(f"b must be one prompt per image, {len(a)}, got {len(b)}.")
        if isinstance(b, Tensor) and self.against == "set":
            return torch.tensor(paired_frechet(a, b, self._in_parts), dtype=torch.float64)
        return self._in_parts(a, b).double()

    def _in_parts(self, *given: Other) -> Tensor:
        found = []
        for start in range(0, len(given[0]), self.batch):
            parts = (each[start : start + self.batch] for each in given)
            moved = (part.float().to(self.device) if isinstance(part, Tensor) else list(part) for part in parts)
            found.append(self.function(*moved).cpu())
        return torch.cat(found) if found else torch.zeros(0)


def _no_weights(name: str, what: str, place: Path | str, option: str) -> RuntimeError:
    return RuntimeError(
        f"weights of {name} ({what}) are not on this machine: looked in {place}. Nothing is downloaded here; fetch "
        f"them once on a machine with a network, then put them there or pass {option}."
    )


def _checkpoint(weights: Path | None, name: str, what: str, file: str) -> Path:
    """The given file, or the one in the place where torch.hub keeps checkpoints."""
    path = weights or Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.is_file():
        raise _no_weights(name, what, path, "weights=FILE")
    return path


def _tensors(path: Path) -> Mapping[str, Tensor]:
    """Tensors of a checkpoint; code in it is never run."""
    try:
        found: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RuntimeError(f"{path} is not a checkpoint of tensors ({error}); give the file of the weights.") from error
    return found


def _lpips(weights: Path | None, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS of Zhang et al. (2018), arXiv:1801.03924: AlexNet of torchvision's file, linear weights of torchmetrics."""
    path = _checkpoint(weights, "lpips", "AlexNet of torchvision", "alexnet-owt-7be5be79.pth")
    backbone = _tensors(path)
    needed = [f"features.{place}.{part}" for place, _, _ in _ALEXNET for part in ("bias", "weight")]
    if missing := [name for name in needed if name not in backbone]:
        raise RuntimeError(f"{path} is not the AlexNet of torchvision: it lacks {missing[0]}; give that file.")
    state = {name: backbone[name].to(device) for name in needed}
    package = Path(str(importlib.import_module("torchmetrics.functional.image.lpips").__file__)).parent
    linear = [_tensors(package / "lpips_models/alex.pth")[f"lin{i}.model.1.weight"].to(device) for i in range(5)]

    def features(images: Tensor) -> Iterator[Tensor]:
        x = _normalised(images * 2 - 1, *_LPIPS_PIXELS)
        for i, (place, stride, padding) in enumerate(_ALEXNET):
            x = max_pool2d(x, 3, 2) if i in (1, 2) else x
            x = relu(conv2d(x, state[f"features.{place}.weight"], state[f"features.{place}.bias"], stride, padding))
            yield normalize(x, dim=1, eps=1e-10)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        pairs = zip(linear, features(a), features(b), strict=True)
        layers = [conv2d((x - y).square(), weight).mean(dim=(1, 2, 3)) for weight, x, y in pairs]
        return torch.stack(layers).sum(dim=0)

    return distance


def _clip_score(weights: Path | None, device: str) -> Callable[[Tensor, list[str]], Tensor]:
    """CLIPScore of Hessel et al. (2021), arXiv:2104.08718, as torchmetrics scales it: 100 max(cos(image, prompt), 0).

    torchmetrics reports the mean of a batch alone and prepares images by way of torchvision.
    """
    transformers = importlib.import_module("transformers")
    source = str(weights or _CLIP)
    try:
        model = transformers.CLIPModel.from_pretrained(source, local_files_only=True)
        tokenizer = transformers.CLIPTokenizer.from_pretrained(source, local_files_only=True)
    except OSError as error:
        looked = weights or importlib.import_module("huggingface_hub.constants").HF_HUB_CACHE
        raise _no_weights("clip_score", _CLIP, looked, "weights=FOLDER of a CLIPModel and its tokenizer") from error
    model = model.to(device).eval()
    side, longest = model.config.vision_config.image_size, model.config.text_config.max_position_embeddings

    def score(images: Tensor, prompts: list[str]) -> Tensor:
        words = tokenizer(prompts, padding=True, truncation=True, max_length=longest, return_tensors="pt").to(device)
        found = model(
            pixel_values=_centre(images, side), input_ids=words["input_ids"], attention_mask=words["attention_mask"]
        )
        return 100 * cosine_similarity(found.image_embeds, found.text_embeds).clamp(min=0)

    return score


def _fid(weights: Path | None, device: str) -> Callable[[Tensor], Tensor]:
    """Features of the TorchScript Inception v3 that FID implementations share, for uint8 images."""
    path = _checkpoint(weights, "fid", "Inception v3 as TorchScript", "inception-2015-12-05.pt")
    try:
        model = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise RuntimeError(f"{path} is not a TorchScript file; give {path.name} of StyleGAN2-ADA.") from error

    def features(images: Tensor) -> Tensor:
        found: Tensor = model((images * 255).round().byte(), return_features=True)
        return found

    return features


def _centre(images: Tensor, side: int) -> Tensor:
    """Images as CLIP takes them: the shorter side resized to `side`, the middle cut out, normalised."""
    scale = side / min(images.shape[-2:])
    height, width = (max(side, int(length * scale)) for length in images.shape[-2:])
    if images.shape[-2:] != (height, width):
        images = interpolate(images, (height, width), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
    top, left = (height - side) // 2, (width - side) // 2
    return _normalised(images[..., top : top + side, left : left + side], *_CLIP_PIXELS)


def _normalised(images: Tensor, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    shift, scale = (images.new_tensor(each).view(3, 1, 1) for each in (mean, deviation))
    return (images - shift) / scale


#: By name; `.at(weights=..., device=...)` says where the weights are and where to run.
LEARNED = {
    metric.name: metric
    for metric in (
        Learned("lpips", "torchmetrics", 'pip install "skipcast[bench]"', False, "images", _lpips),
        Learned("clip_score", "transformers", 'pip install "skipcast[models]"', True, "prompts", _clip_score),
        Learned("fid", "torch", "pip install torch", False, "set", _fid),
    )
}
