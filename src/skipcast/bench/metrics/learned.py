"""Metrics that need weights: LPIPS, CLIP score, FID, HPS v2.1, ImageReward. Nothing is imported or loaded before use.

Nothing is downloaded either: weights come from a path, or from where other programs keep them on this machine.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate, pad

from skipcast.bench.metrics.checks import images
from skipcast.bench.metrics.judged import paired_frechet

Other: TypeAlias = "Tensor | Sequence[str]"
Scorer: TypeAlias = "Callable[[Tensor, Any], Tensor]"

_CLIP = "openai/clip-vit-large-patch14"
_CLIP_MEAN, _CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Learned:
    """A metric that is built when it is first called.

    Args:
        name: key in `LEARNED`.
        package: that is imported.
        install: the command that brings it.
        higher_is_better: direction.
        against: what the second argument is: the "pictures" of the reference, one by one; the "prompts"; or a "set"
            of pictures, for which there is one figure.
        build: from (weights, device) to the metric of one part of a batch; for "set", to an extractor of features.
        weights: file or folder; None looks in the caches of this machine.
        device: where it runs.
        batch: pictures at a time.
    """

    name: str
    package: str
    install: str
    higher_is_better: bool
    against: Literal["pictures", "prompts", "set"]
    build: Callable[[Path | None, str], Callable[..., Tensor]]
    weights: Path | None = None
    device: str = "cpu"
    batch: int = 16

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
        except ImportError as error:
            # One that is there may lack something itself, or be broken.
            state = "is missing" if error.name == self.package else "does not import"
            raise RuntimeError(
                f"{self.name} needs the package {self.package!r}, which {state} ({error}); {self.install}."
            ) from error

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Other) -> Tensor:
        """The metric of pictures (B, 3, H, W) in [0, 1], as float64: (B,), or () against a set.

        Args:
            a: the pictures.
            b: as `against` says: pictures in the same order, or a prompt for each picture.

        Raises:
            RuntimeError: as `function`.
            ValueError: other pictures, or another number of prompts.
        """
        if self.against == "prompts":
            if isinstance(b, Tensor | str):
                raise ValueError(f"{self.name} takes (pictures, prompts); pass a list of prompts as b.")
            images(a, a)
            if len(b) != len(a):
                raise ValueError(f"b must be one prompt per picture, {len(a)}, got {len(b)}.")
        elif isinstance(b, Tensor):
            images(a, b)
        else:
            raise ValueError(f"{self.name} takes (pictures, pictures); pass those of the reference as b.")
        function = self.function
        if isinstance(b, Tensor) and self.against == "set":
            return torch.tensor(paired_frechet(a, b, lambda part: self._in_parts(function, part)), dtype=torch.float64)
        return self._in_parts(function, a, b).double()

    def _in_parts(self, function: Callable[..., Tensor], a: Tensor, *more: Other) -> Tensor:
        found = []
        for start in range(0, len(a), self.batch):
            part, *others = (each[start : start + self.batch] for each in (a, *more))
            given = [each.float().to(self.device) if isinstance(each, Tensor) else list(each) for each in others]
            found.append(function(part.float().to(self.device), *given).cpu())  # type: ignore[union-attr]
        return torch.cat(found) if found else torch.zeros(0)


def _no_weights(name: str, what: str, looked: str, option: str) -> RuntimeError:
    return RuntimeError(
        f"weights of {name} ({what}) are not on this machine: looked in {looked}. Nothing is downloaded here; fetch "
        f"them once on a machine with a network, then put them there or pass {option}."
    )


def _hub_checkpoint(name: str, what: str, file: str) -> Path:
    """A file where torch.hub keeps checkpoints."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.is_file():
        raise _no_weights(name, what, str(path), "weights=FILE")
    return path


def _hub_cache() -> str:
    constants = importlib.import_module("huggingface_hub.constants")
    return str(constants.HF_HUB_CACHE)


def _in_hub_cache(repository: str, file: str) -> Path | None:
    """A file of a repository in the cache of huggingface_hub, without asking the network."""
    found = importlib.import_module("huggingface_hub").try_to_load_from_cache(repository, file)
    return Path(found) if isinstance(found, str) else None


def _state(path: Path) -> Mapping[str, Tensor]:
    """Tensors of a checkpoint; code in it is never run."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler fails in many ways on what is no checkpoint
        raise RuntimeError(f"{path} is no checkpoint of tensors ({type(error).__name__}); fetch it again.") from error
    found: Mapping[str, Tensor] = loaded.get("state_dict", loaded)
    return found


def _lpips(weights: Path | None, device: str) -> Scorer:
    path = weights or _hub_checkpoint("lpips", "AlexNet of torchvision", "alexnet-owt-7be5be79.pth")
    # A random backbone, for otherwise it is downloaded; the trained heads come with the package.
    model = importlib.import_module("lpips").LPIPS(net="alex", pnet_rand=True, verbose=False)
    given = _state(path)
    # "slice2.3.weight" here is "features.3.weight" there.
    there = {key: f"features.{key.split('.', 1)[1]}" for key in model.net.state_dict()}
    if missing := sorted(set(there.values()) - set(given)):
        raise RuntimeError(f"{path} is not the AlexNet of torchvision, for it lacks {missing[0]}; give that file.")
    model.net.load_state_dict({key: given[name] for key, name in there.items()})
    model = model.to(device).eval()
    return lambda a, b: model(a * 2 - 1, b * 2 - 1).flatten()


def _clip_score(weights: Path | None, device: str) -> Scorer:
    transformers = importlib.import_module("transformers")
    source = str(weights or _CLIP)
    try:
        model = transformers.CLIPModel.from_pretrained(source, local_files_only=True)
        tokenizer = transformers.CLIPTokenizer.from_pretrained(source, local_files_only=True)
    except OSError as error:
        looked = str(weights) if weights else _hub_cache()
        raise _no_weights("clip_score", _CLIP, looked, "weights=FOLDER of a CLIPModel and its tokenizer") from error
    model = model.to(device).eval()
    side, longest = model.config.vision_config.image_size, model.config.text_config.max_position_embeddings

    def score(pictures: Tensor, prompts: list[str]) -> Tensor:
        words = tokenizer(prompts, padding=True, truncation=True, max_length=longest, return_tensors="pt").to(device)
        seen = model.vision_model(pixel_values=_cut(pictures, side)).pooler_output
        read = model.text_model(input_ids=words["input_ids"], attention_mask=words["attention_mask"]).pooler_output
        return 100 * cosine_similarity(model.visual_projection(seen), model.text_projection(read)).clamp(min=0)

    return score


def _hps(weights: Path | None, device: str) -> Scorer:
    file = weights or _in_hub_cache("xswu/HPSv2", "HPS_v2.1_compressed.pt")
    if file is None:
        raise _no_weights("hps", "HPS_v2.1_compressed.pt of xswu/HPSv2", _hub_cache(), "weights=FILE")
    clip = importlib.import_module("open_clip")
    model = clip.create_model("ViT-H-14", pretrained=None)
    model.load_state_dict(_state(file))
    model, tokenizer = model.to(device).eval(), clip.get_tokenizer("ViT-H-14")

    def score(pictures: Tensor, prompts: list[str]) -> Tensor:
        seen = model.encode_image(_padded(pictures, 224))
        return cosine_similarity(seen, model.encode_text(tokenizer(prompts).to(device)))

    return score


def _image_reward(weights: Path | None, device: str) -> Scorer:
    folder = weights or Path.home() / ".cache" / "ImageReward"
    files = [folder / name for name in ("ImageReward.pt", "med_config.json")]
    if not all(map(Path.is_file, files)):
        raise _no_weights("image_reward", "ImageReward.pt and med_config.json", str(folder), "weights=FOLDER")
    if _in_hub_cache("bert-base-uncased", "vocab.txt") is None:  # it would ask the network for it
        raise _no_weights("image_reward", "the tokenizer bert-base-uncased", _hub_cache(), "HF_HUB_CACHE=FOLDER")
    package, pil = importlib.import_module("ImageReward"), importlib.import_module("PIL.Image")
    model = package.load(str(files[0]), device=device, med_config=str(files[1]))

    def score(pictures: Tensor, prompts: list[str]) -> Tensor:
        arrays = (pictures.permute(0, 2, 3, 1) * 255).round().byte().cpu().numpy()
        pairs = zip(prompts, map(pil.fromarray, arrays), strict=True)
        return torch.tensor([model.score(prompt, picture) for prompt, picture in pairs], dtype=torch.float64)

    return score


def _fid(weights: Path | None, device: str) -> Callable[[Tensor], Tensor]:
    file = "weights-inception-2015-12-05-6726825d.pth"
    path = weights or _hub_checkpoint("fid", "Inception v3 of torch-fidelity", file)
    module = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    model = module.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))
    model = model.to(device).eval()
    return lambda pictures: model((pictures * 255).round().byte())[0]


def _cut(pictures: Tensor, side: int) -> Tensor:
    """Pictures as CLIP takes them: the shorter side resized to `side`, the middle cut out, normalised."""
    scale = side / min(pictures.shape[-2:])
    height, width = (max(side, int(length * scale)) for length in pictures.shape[-2:])
    top, left = (height - side) // 2, (width - side) // 2
    return _normalised(_resized(pictures, (height, width))[..., top : top + side, left : left + side])


def _padded(pictures: Tensor, side: int) -> Tensor:
    """Pictures as HPS takes them: the longer side resized to `side`, black beside the shorter one, normalised."""
    scale = side / max(pictures.shape[-2:])
    height, width = (max(1, round(length * scale)) for length in pictures.shape[-2:])
    top, left = (side - height) // 2, (side - width) // 2
    margins = (left, side - width - left, top, side - height - top)
    return _normalised(pad(_resized(pictures, (height, width)), margins))


def _resized(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(pictures.shape[-2:]) == size:
        return pictures
    return interpolate(pictures, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)


def _normalised(pictures: Tensor) -> Tensor:
    mean, deviation = (pictures.new_tensor(each).view(3, 1, 1) for each in (_CLIP_MEAN, _CLIP_DEVIATION))
    return (pictures - mean) / deviation


_EXTRA = 'pip install "skipcast[metrics]"'
#: By name; `.at(weights=..., device=...)` says where the weights are and where to run.
LEARNED = {
    metric.name: metric
    for metric in (
        Learned("lpips", "lpips", _EXTRA, False, "pictures", _lpips),
        Learned("clip_score", "transformers", _EXTRA, True, "prompts", _clip_score),
        Learned("fid", "torch_fidelity", _EXTRA, False, "set", _fid),
        Learned("hps", "open_clip", _EXTRA, True, "prompts", _hps),
        Learned(
            "image_reward",
            "ImageReward",
            "pip install image-reward, in an environment of its own with transformers below 5, which it needs",
            True,
            "prompts",
            _image_reward,
        ),
    )
}
