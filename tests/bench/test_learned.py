"""Learned metrics: nothing imported before use, clear errors, and the arithmetic on small random models; no network."""

from __future__ import annotations

import importlib
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
    monkeypatch.setattr("pathlib.Path.home", lambda: cache / "home")
    return cache


def pictures(count: int = 3, side: tuple[int, int] = (24, 32)) -> torch.Tensor:
    return torch.rand(count, 3, *side, generator=torch.Generator().manual_seed(0))


def other(metric: Learned, count: int = 3) -> Any:
    return ["a red circle"] * count if metric.against == "prompts" else pictures(count).flip(0)


def lay_in(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> ModuleType:
    """An importable module of this content."""
    module = ModuleType(name)
    module.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def saved(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)
    return path


def test_directions() -> None:
    assert {name: metric.higher_is_better for name, metric in LEARNED.items()} == {
        "lpips": False,
        "clip_score": True,
        "fid": False,
        "hps": True,
        "image_reward": True,
    }


def test_nothing_is_imported_before_use() -> None:
    packages = {metric.package for metric in LEARNED.values()} | {"torchvision", "torchmetrics"}
    code = (
        "import sys\nfrom skipcast.bench.metrics.learned import LEARNED\n"
        "[metric.at('/nowhere', 'cpu') for metric in LEARNED.values()]\n"
        f"sys.exit(bool({packages!r} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", LEARNED)
def test_a_missing_package_names_the_install_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    metric, real = LEARNED[name].at(), importlib.import_module

    def missing(wanted: str, *given: Any) -> ModuleType:
        if wanted == metric.package:
            raise ModuleNotFoundError(f"No module named {wanted!r}", name=wanted)
        return real(wanted, *given)

    monkeypatch.setattr(importlib, "import_module", missing)
    command = "pip install image-reward" if name == "image_reward" else r'pip install "skipcast\[metrics\]"'
    with pytest.raises(RuntimeError, match=f"{name} needs the package '{metric.package}', which is missing.*{command}"):
        metric(pictures(), other(metric))


def test_a_package_that_does_not_import_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def broken(wanted: str, *given: Any) -> ModuleType:
        if wanted == "lpips":
            raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
        return real(wanted, *given)

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(RuntimeError, match=r"'lpips', which does not import \(No module named 'torchvision'\)"):
        LEARNED["lpips"].at()(pictures(), pictures())


@pytest.mark.parametrize(
    "name, place, option",
    [
        ("lpips", "hub/checkpoints/alexnet-owt-7be5be79.pth", "weights=FILE"),
        ("clip_score", "huggingface", "weights=FOLDER"),
        ("fid", "hub/checkpoints/weights-inception-2015-12-05-6726825d.pth", "weights=FILE"),
        ("hps", "huggingface", "weights=FILE"),
        ("image_reward", "home/.cache/ImageReward", "weights=FOLDER"),
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
    else:
        lay_in(monkeypatch, metric.package)
    with pytest.raises(RuntimeError, match="Nothing is downloaded") as raised:
        metric(pictures(), other(metric))
    assert str(empty_caches / place) in str(raised.value)
    assert option in str(raised.value)


@pytest.mark.parametrize("name", LEARNED)
def test_a_path_that_does_not_exist_is_named(name: str, tmp_path: Path) -> None:
    metric = LEARNED[name].at(tmp_path / "none")
    with pytest.raises(RuntimeError, match=f"weights of {name}: .*none does not exist"):
        metric(pictures(), other(metric))


def test_arguments_are_checked_before_anything_is_built() -> None:
    with pytest.raises(ValueError, match=r"lpips takes \(pictures, pictures\)"):
        LEARNED["lpips"](pictures(), ["a"] * 3)
    with pytest.raises(ValueError, match="the shape of b"):
        LEARNED["fid"](pictures(), pictures(2))
    with pytest.raises(ValueError, match="pass a list of prompts"):
        LEARNED["hps"](pictures(1), "a")
    with pytest.raises(ValueError, match="one prompt per picture, 3, got 2"):
        LEARNED["clip_score"](pictures(), ["a"] * 2)
    with pytest.raises(ValueError, match="rescale"):
        LEARNED["clip_score"](pictures() * 2 - 1, ["a"] * 3)


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
    found = metric(pictures(5), ["a"] * 5)
    assert torch.equal(found, metric(pictures(5), ["a"] * 5))
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(pictures(5).mean(dim=(1, 2, 3)).tolist(), rel=1e-6)
    assert built == [(None, "cpu")]
    assert sizes == [(2, 2), (2, 2), (1, 1)] * 2


class Backbone(torch.nn.Module):
    """Named as LPIPS names the layers of a backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.slice1 = torch.nn.Sequential()
        self.slice1.add_module("0", torch.nn.Conv2d(3, 2, 3))
        self.slice2 = torch.nn.Sequential()
        self.slice2.add_module("3", torch.nn.Conv2d(2, 2, 3))


class Distance(torch.nn.Module):
    def __init__(self, net: str, pnet_rand: bool, verbose: bool) -> None:
        super().__init__()
        assert (net, pnet_rand, verbose) == ("alex", True, False)
        self.net = Backbone()

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        features = [self.net.slice2(self.net.slice1(x)) for x in (a, b)]
        return (features[0] - features[1]).square().mean(dim=(1, 2, 3), keepdim=True)


def test_lpips_fills_the_backbone_and_takes_pictures_of_both_signs(
    empty_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_in(monkeypatch, "lpips", LPIPS=Distance)
    shapes = {"features.0": (2, 3), "features.3": (2, 2)}
    state = {f"{name}.weight": torch.randn(*shape, 3, 3) for name, shape in shapes.items()}
    state |= {f"{name}.bias": torch.randn(2) for name in shapes} | {"classifier.1.weight": torch.zeros(1)}
    saved(empty_caches / "hub/checkpoints/alexnet-owt-7be5be79.pth", state)
    metric, a, b = LEARNED["lpips"].at(), pictures(), pictures().flip(0)
    conv = torch.nn.functional.conv2d

    def features(images: torch.Tensor) -> torch.Tensor:
        inner = conv(images * 2 - 1, state["features.0.weight"], state["features.0.bias"])
        return conv(inner, state["features.3.weight"], state["features.3.bias"])

    expected = (features(a) - features(b)).square().mean(dim=(1, 2, 3))
    assert metric(a, b).tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    wrong = saved(empty_caches / "wrong.pth", {"conv.weight": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"wrong.pth is not the AlexNet.*lacks features.0.bias"):
        LEARNED["lpips"].at(wrong)(a, b)
    wrong.write_bytes(b"half")
    with pytest.raises(RuntimeError, match=r"wrong.pth is no checkpoint"):
        LEARNED["lpips"].at(wrong)(a, b)


def test_fid_is_the_frechet_distance_of_the_extractor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Extractor(torch.nn.Module):
        def __init__(self, name: str, features: list[str], feature_extractor_weights_path: str) -> None:
            super().__init__()
            assert (features, feature_extractor_weights_path) == (["2048"], str(path))

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
            assert images.dtype == torch.uint8
            return (images.float().mean(dim=(2, 3)),)

    path = saved(tmp_path / "inception.pth", {})
    lay_in(monkeypatch, "torch_fidelity")
    lay_in(monkeypatch, "torch_fidelity.feature_extractor_inceptionv3", FeatureExtractorInceptionV3=Extractor)
    a, b = pictures(20), pictures(20) * 0.5
    metric = LEARNED["fid"].at(path)
    expected = frechet(*((x * 255).round().byte().float().mean(dim=(2, 3)) for x in (a, b)))
    assert metric(a, b).shape == ()
    assert metric(a, b).item() == pytest.approx(expected, rel=1e-6)
    assert metric(b, b).item() == pytest.approx(0, abs=1e-6)


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
    images, prompts = pictures(4, (32, 32)), ["a red circle", "a blue star on a red background", "a star", "a circle"]
    mean, deviation = (
        torch.tensor(each).view(3, 1, 1)
        for each in ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    )
    with torch.no_grad():
        # logits_per_image is the scaled cosine of every picture with every prompt.
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
    """What lies beside the middle square of a wide picture is not looked at."""
    clip_folder(tmp_path / "clip")
    metric, wide = LEARNED["clip_score"].at(tmp_path / "clip"), torch.rand(1, 3, 32, 80)
    blank = wide.clone()
    blank[..., :24] = blank[..., 56:] = 0
    square = metric(wide[..., 24:56], ["a star"])
    assert torch.equal(metric(wide, ["a star"]), square)
    assert torch.equal(metric(blank, ["a star"]), square)


def test_hps_is_the_cosine_of_whole_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clip(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.zeros(1))

        def encode_image(self, images: torch.Tensor) -> torch.Tensor:
            assert images.shape[1:] == (3, 224, 224)
            black = images[:, :, 0, 0]  # beside the picture, which is wider than high
            assert black[0].tolist() == pytest.approx([-1.7922625, -1.7520971, -1.4802198], abs=1e-5)
            return self.scale * torch.tensor([[3.0, 4.0]]).expand(len(images), 2)

        def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
            return tokens

    def create(name: str, pretrained: str | None) -> Clip:
        assert (name, pretrained) == ("ViT-H-14", None)
        return Clip()

    lay_in(
        monkeypatch,
        "open_clip",
        create_model=create,
        get_tokenizer=lambda name: lambda prompts: torch.tensor([[1.0, 0.0], [0.0, 2.0]])[: len(prompts)],
    )
    path = saved(tmp_path / "hps.pt", {"state_dict": {"scale": torch.ones(1)}})
    assert LEARNED["hps"].at(path)(pictures(2, (20, 40)), ["a", "b"]).tolist() == pytest.approx([0.6, 0.8])


def test_image_reward_gets_a_picture_and_a_prompt_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reward:
        def score(self, prompt: str, picture: Any) -> float:
            return len(prompt) + picture.getpixel((0, 0))[0] / 255

    def load(path: str, device: str, med_config: str) -> Reward:
        assert (path, med_config) == (str(tmp_path / "ImageReward.pt"), str(tmp_path / "med_config.json"))
        return Reward()

    lay_in(monkeypatch, "ImageReward", load=load)
    for name in ("ImageReward.pt", "med_config.json"):
        (tmp_path / name).touch()
    metric, images = LEARNED["image_reward"].at(tmp_path), torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    with pytest.raises(RuntimeError, match="tokenizer bert-base-uncased"):
        metric(images, ["ab", "c"])
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, file: str(tmp_path / "vocab.txt"))
    assert LEARNED["image_reward"].at(tmp_path)(images, ["ab", "c"]).tolist() == [2.0, 2.0]
