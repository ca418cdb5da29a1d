"""Learned metrics: nothing imported before use, clear errors, and the arithmetic on small random models; no network."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from skipcast.bench.metrics import frechet
from skipcast.bench.metrics.learned import LEARNED, Learned


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without weights and without a network."""

    def refuse(*given: Any, **named: Any) -> None:
        raise AssertionError("network")

    cache = tmp_path / "cache"
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(cache / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache / "huggingface"))
    return cache


def images_of(count: int = 3, side: tuple[int, int] = (24, 32)) -> torch.Tensor:
    return torch.rand(count, 3, *side, generator=torch.Generator().manual_seed(0))


def other(metric: Learned, count: int = 3) -> Any:
    return ["a red circle"] * count if metric.against == "prompts" else images_of(count).flip(0)


def saved(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)
    return path


def test_directions() -> None:
    assert [(name, metric.higher_is_better) for name, metric in LEARNED.items()] == [
        ("lpips", False), ("clip_score", True), ("fid", False)
    ]  # fmt: skip


def test_nothing_is_imported_before_use() -> None:
    packages = {"transformers", "torchvision", "torchmetrics"}
    code = (
        "import sys\nfrom skipcast.bench.metrics.learned import LEARNED\n"
        "[metric.at('/nowhere', 'cpu') for metric in LEARNED.values()]\n"
        f"sys.exit(bool({packages!r} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "name, lacks, words",
    [
        *((name, LEARNED[name].package, "which is missing.*pip install") for name in LEARNED),
        ("lpips", "lightning_utilities", r"does not import \(No module named 'lightning_util"),
    ],
)
def test_a_missing_package_names_the_install_command(
    name: str, lacks: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric, real = LEARNED[name].at(), importlib.import_module

    def missing(wanted: str, *given: Any) -> ModuleType:
        if wanted == metric.package:
            raise ModuleNotFoundError(f"No module named {lacks!r}", name=lacks)
        return real(wanted, *given)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(RuntimeError, match=f"{name} needs the package '{metric.package}', .*{words}"):
        metric(images_of(), other(metric))


@pytest.mark.parametrize(
    "name, place, option",
    [
        ("lpips", "hub/checkpoints/alexnet-owt-7be5be79.pth", "weights=FILE"),
        ("clip_score", "huggingface", "weights=FOLDER"),
        ("fid", "hub/checkpoints/inception-2015-12-05.pt", "weights=FILE"),
    ],
)
def test_missing_weights_name_the_cache_and_the_option(
    name: str, place: str, option: str, empty_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = LEARNED[name].at()
    if name == "clip_score":  # transformers keeps the places of its caches from when it was imported
        transformers = importlib.import_module("transformers")

        def absent(*given: Any, **named: Any) -> None:
            assert named == {"local_files_only": True}
            raise OSError("not cached")

        monkeypatch.setattr(transformers.CLIPModel, "from_pretrained", absent)
    with pytest.raises(RuntimeError, match="Nothing is downloaded") as raised:
        metric(images_of(), other(metric))
    assert str(empty_caches / place) in str(raised.value)
    assert option in str(raised.value)


@pytest.mark.parametrize("name", LEARNED)
def test_a_path_that_does_not_exist_is_named(name: str, tmp_path: Path) -> None:
    metric = LEARNED[name].at(tmp_path / "none")
    with pytest.raises(RuntimeError, match=f"weights of {name}: .*none does not exist"):
        metric(images_of(), other(metric))


@pytest.mark.parametrize(
    "name, a, b, words",
    [
        ("lpips", images_of(), ["a"] * 3, r"lpips takes \(images, images\)"),
        ("fid", images_of(), images_of(2), "the shape of b"),
        ("clip_score", images_of(1), "a", "pass a list of prompts"),
        ("clip_score", images_of(), ["a"] * 2, "one prompt per image, 3, got 2"),
        ("clip_score", images_of() * 2 - 1, ["a"] * 3, "rescale"),
    ],
)
def test_arguments_are_checked_before_anything_is_built(name: str, a: torch.Tensor, b: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LEARNED[name](a, b)


def test_metrics_are_built_once_and_called_in_parts() -> None:
    built, sizes = [], []

    def build(weights: Path | None, device: str) -> Any:
        built.append((weights, device))

        def function(a: torch.Tensor, prompts: list[str]) -> torch.Tensor:
            assert not torch.is_grad_enabled()
            sizes.append((len(a), len(prompts)))
            return a.mean(dim=(1, 2, 3))

        return function

    metric = Learned("mean", "math", "", True, "prompts", build, batch=2)
    found = metric(images_of(5), ["a"] * 5)
    assert torch.equal(found, metric(images_of(5), ["a"] * 5))
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(images_of(5).mean(dim=(1, 2, 3)).tolist(), rel=1e-6)
    assert built == [(None, "cpu")]
    assert sizes == [(2, 2), (2, 2), (1, 1)] * 2


def alexnet() -> dict[str, torch.Tensor]:
    """Random weights named and shaped as in torchvision's file."""
    torch.manual_seed(0)
    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    state = {f"features.{i}.weight": torch.randn(shape) / math.prod(shape[1:]) ** 0.5 for i, shape in shapes.items()}
    state |= {f"features.{i}.bias": 0.1 * torch.randn(shape[0]) for i, shape in shapes.items()}
    return {**state, "classifier.1.weight": torch.zeros(1)}


def test_lpips_is_that_of_torchmetrics(empty_caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = alexnet()
    saved(empty_caches / "hub/checkpoints/alexnet-owt-7be5be79.pth", state)

    def layers(name: str, pretrained: bool) -> Any:
        conv, pool, relu = torch.nn.Conv2d, torch.nn.MaxPool2d, torch.nn.ReLU()
        found = torch.nn.Sequential(
            conv(3, 64, 11, 4, 2), relu, pool(3, 2), conv(64, 192, 5, padding=2), relu, pool(3, 2),
            conv(192, 384, 3, padding=1), relu, conv(384, 256, 3, padding=1), relu, conv(256, 256, 3, padding=1), relu,
        )  # fmt: skip
        found.load_state_dict({k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")})
        return found

    lpips = importlib.import_module("torchmetrics.functional.image.lpips")
    monkeypatch.setattr(lpips, "_get_tv_model_features", layers)
    a, b = images_of(3, (64, 72)), images_of(3, (64, 72)).flip(0)
    expected = lpips._LPIPS(net="alex")(a, b, normalize=True).flatten()
    assert LEARNED["lpips"].at()(a, b).tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_lpips_refuses_other_files(tmp_path: Path) -> None:
    wrong = saved(tmp_path / "wrong.pth", {"conv.weight": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"wrong.pth is not the AlexNet.*lacks features.0.bias"):
        LEARNED["lpips"].at(wrong)(images_of(), images_of())
    wrong.write_bytes(b"half")
    with pytest.raises(RuntimeError, match=r"wrong.pth is not a checkpoint"):
        LEARNED["lpips"].at(wrong)(images_of(), images_of())


class Extractor(torch.nn.Module):
    """Called as the TorchScript Inception of FID implementations is."""

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert x.dtype == torch.uint8
        return x.float().mean(dim=(2, 3))


def test_fid_is_the_frechet_distance_of_the_extractor(tmp_path: Path) -> None:
    path = tmp_path / "inception.pt"
    torch.jit.script(Extractor()).save(str(path))  # type: ignore[no-untyped-call]
    a, b = images_of(20), images_of(20) * 0.5
    metric = LEARNED["fid"].at(path)
    expected = frechet(*((x * 255).round().byte().float().mean(dim=(2, 3)) for x in (a, b)))
    assert metric(a, b).shape == ()
    assert metric(a, b).item() == pytest.approx(expected, rel=1e-6)
    assert metric(b, b).item() == pytest.approx(0, abs=1e-6)
    path.write_bytes(b"half")
    with pytest.raises(RuntimeError, match="is not a TorchScript file"):
        LEARNED["fid"].at(path)(a, b)


def clip_folder(folder: Path, side: int = 32) -> Any:
    """A tiny random CLIP, saved; returns the model."""
    transformers = importlib.import_module("transformers")
    text = importlib.import_module("research.shapes_flux.text")
    tokenizer = text.build_clip_tokenizer()
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": text.CLIP_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={**small, **words}, vision_config={**small, "image_size": side, "patch_size": 16}, projection_dim=8
    )
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def test_clip_score_is_the_cosine_of_both_projections(tmp_path: Path) -> None:
    model, tokenizer = clip_folder(tmp_path / "clip")
    images, prompts = images_of(4, (32, 32)), ["a red circle", "a blue star on a red background", "a star", "a circle"]
    mean, deviation = (
        torch.tensor(each).view(3, 1, 1)
        for each in ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    )
    with torch.no_grad():
        # logits_per_image is the scaled cosine of every image with every prompt.
        logits = model(
            pixel_values=(images - mean) / deviation, **tokenizer(prompts, padding=True, return_tensors="pt")
        ).logits_per_image
    cosine = (logits / model.logit_scale.exp()).diagonal()
    assert (cosine > 0).any()
    found = LEARNED["clip_score"].at(tmp_path / "clip")(images, prompts)
    assert found.tolist() == pytest.approx((100 * cosine).clamp(min=0).tolist(), abs=1e-4)
    long = LEARNED["clip_score"].at(tmp_path / "clip")(images[:1], ["a red circle " * 50])
    assert long.isfinite().all()


def test_clip_score_cuts_the_middle_out(tmp_path: Path) -> None:
    """What lies beside the middle square of a wide image is not looked at."""
    clip_folder(tmp_path / "clip")
    metric, wide = LEARNED["clip_score"].at(tmp_path / "clip"), torch.rand(1, 3, 32, 80)
    blank = wide.clone()
    blank[..., :24] = blank[..., 56:] = 0
    square = metric(wide[..., 24:56], ["a star"])
    assert torch.equal(metric(wide, ["a star"]), square)
    assert torch.equal(metric(blank, ["a star"]), square)
