"""Metrics against hand-computed values, scikit-image and the mistakes they must not repeat."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch

from skipcast.bench.metrics import (
    METRICS,
    error_flicker,
    flicker,
    frechet,
    ms_ssim,
    paired_frechet,
    per_frame,
    psnr,
    relative_l2,
    ssim,
    verdicts,
    worst_frame,
)
from skipcast.models.judge import Judge
from skipcast.models.scenes import COLOURS, SHAPES


def images_of(count: int = 3, seed: int = 0, side: tuple[int, int] = (24, 33)) -> torch.Tensor:
    return torch.rand(count, 3, *side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def suited(name: str) -> torch.Tensor:
    """Two items that the metric takes."""
    if METRICS[name].takes == "videos":
        return videos(2)
    return images_of(2, side=(176, 180) if name == "ms_ssim" else (24, 33))


def videos(count: int = 2, frames: int = 4, seed: int = 0) -> torch.Tensor:
    return images_of(count * frames, seed, (12, 16)).view(count, frames, 3, 12, 16)


def waves(side: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Three smooth images, and the same under a fine pattern of rising strength; no random numbers."""
    y, x = torch.arange(side[0]).double()[:, None], torch.arange(side[1]).double()[None]
    smooth = [
        [
            0.5 + 0.2 * torch.cos(0.11 * (c + 1) * x + 0.07 * y * (i + 1)) + 0.2 * torch.sin(0.05 * (c + 2) * y - t)
            for c in range(3)
        ]
        for i in range(3)
        for t in [0.013 * x * y / (i + 3)]
    ]
    b = torch.stack([torch.stack(planes) for planes in smooth])
    fine = torch.stack([torch.cos(1.7 * x * (c + 1) + 2.3 * y + 0.31 * x * y) for c in range(3)])
    strength = torch.tensor([0.03, 0.1, 0.3]).double().view(3, 1, 1, 1)
    return (b + strength * fine).clamp(0, 1), b


def test_psnr_by_hand() -> None:
    black = torch.zeros(4, 3, 2, 2)
    other = black.clone()
    other[0] += 0.1  # mean square 0.01
    other[1] += 1.0  # mean square 1
    other[2, 0, 0, 0] = 0.5  # mean square 0.25 / 12
    expected = [20.0, 0.0, 10 * math.log10(48), math.inf]
    assert psnr(other, black).tolist() == pytest.approx(expected, abs=1e-5)
    assert psnr(other, black).dtype == torch.float64


def test_unrelated_images_are_far_apart() -> None:
    """The mean square of a difference of two uniforms is 1/6; subtracting uint8 images would report 27.9 dB."""
    values = psnr(images_of(4, 1, (64, 64)), images_of(4, 2, (64, 64)))
    assert values.tolist() == pytest.approx([7.78] * 4, abs=0.15)


def test_psnr_does_not_lose_small_errors_to_low_precision() -> None:
    a = images_of(1).bfloat16()
    assert psnr(a, a.float() + 0) == math.inf
    assert psnr(torch.full((1, 3, 2, 2), 1e-30), torch.zeros(1, 3, 2, 2)).item() == pytest.approx(600, abs=1e-3)


def test_ssim_equals_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    settings = {
        "channel_axis": 0,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 1.0,
    }
    b = images_of(3)
    a = (b + 0.2 * (images_of(3, 1) - 0.5)).clamp(0, 1)
    expected = [metrics.structural_similarity(x.numpy(), y.numpy(), **settings) for x, y in zip(a, b, strict=True)]
    assert ssim(a, b).tolist() == pytest.approx(expected, abs=1e-6)


def test_ssim_by_hand() -> None:
    """Of two flat images only the luminance term is left; identical images give exactly 1."""
    a, b = torch.full((1, 3, 11, 11), 0.25), torch.full((1, 3, 11, 11), 0.75)
    assert ssim(a, b).item() == pytest.approx((2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4), abs=1e-9)
    assert ssim(images_of(), images_of()).tolist() == pytest.approx([1.0] * 3, abs=1e-15)


@pytest.mark.parametrize(
    "metric, side, expected, tolerance",
    [
        (ms_ssim, (176, 176), [0.9965671242967462, 0.9699585006975691, 0.8464977220081784], 1e-6),
        (ms_ssim, (200, 181), [0.9968589665032602, 0.9717276597628568, 0.8514476658664325], 1e-6),
        (ssim, (64, 64), [0.882331071563268, 0.5765997743576398, 0.18731157689089084], 1e-6),
        (psnr, (200, 181), [33.473142965, 23.015568534, 13.777286757], 1e-5),
    ],
)
def test_values_stay(metric: Any, side: tuple[int, int], expected: list[float], tolerance: float) -> None:
    """Values of `waves` as the first release of this module computed them."""
    assert metric(*waves(side)).tolist() == pytest.approx(expected, abs=tolerance)


def test_ms_ssim_by_hand() -> None:
    """Identical images give 1. Flat ones differ in luminance alone, which only the coarsest scale counts."""
    images = images_of(2, side=(176, 176))
    assert ms_ssim(images, images).tolist() == pytest.approx([1.0] * 2, abs=1e-12)
    a, b = torch.full((1, 3, 176, 176), 0.25), torch.full((1, 3, 176, 176), 0.75)
    luminance = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert ms_ssim(a, b).item() == pytest.approx(luminance**0.1333, abs=1e-7)


def test_ms_ssim_of_opposite_images_is_zero_not_nan() -> None:
    images = images_of(1, side=(176, 176))
    assert ssim(images, 1 - images).item() < 0
    assert ms_ssim(images, 1 - images).item() == 0
    assert ms_ssim(torch.full_like(images, math.nan), images).isnan().all()


def test_missing_torchmetrics_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional", None)
    with pytest.raises(ImportError, match=r'psnr needs torchmetrics .*pip install "skipcast\[bench\]"'):
        psnr(images_of(), images_of())


def test_relative_l2_by_hand() -> None:
    b = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    a = torch.tensor([[3.0, 3.0], [0.0, 0.0], [1.0, 0.0]])
    assert relative_l2(a, b).tolist() == pytest.approx([0.2, 0.0, math.inf])
    assert relative_l2(a[:, 0], b[:, 0]).tolist() == pytest.approx([0.0, 0.0, math.inf])
    assert relative_l2(images_of(2)[:, :, None], images_of(2)[:, :, None]).shape == (2,)


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"error_flicker"}))  # which says how an error is, not how large
def test_items_are_independent_and_direction_is_as_declared(name: str) -> None:
    metric = METRICS[name]
    b = suited(name)
    a = torch.stack([b[0] * 0.9, b[1] * 0.5])
    near, far = metric.function(a, b).tolist()
    assert (near > far) == metric.higher_is_better
    assert metric.function(a[1:], b[1:]).item() == pytest.approx(far, rel=1e-12)
    assert metric.function(a, b).dtype == torch.float64


@pytest.mark.parametrize("name", METRICS)
def test_integers_and_shapes_are_refused_with_the_cure(name: str) -> None:
    function, images = METRICS[name].function, suited(name)
    with pytest.raises(ValueError, match=r"^b must be floating point.*b / 255"):
        function(images, (images * 255).byte())
    with pytest.raises(ValueError, match="the shape of b"):
        function(images, images[:1])


@pytest.mark.parametrize(
    "function, items, cure",
    [
        (psnr, images_of()[0], "unsqueeze"),
        (ssim, images_of().movedim(1, -1), "permute"),
        (ssim, images_of() * 2 - 1, "rescale"),
        (ssim, torch.zeros(1, 3, 10, 64), "11x11"),
        (ms_ssim, torch.zeros(1, 3, 175, 300), "at least 176x176 for ms_ssim.*use ssim"),
        (flicker, videos()[:, :1], "at least two frames"),
        (error_flicker, videos()[:, :1], "at least two frames"),
        (flicker, videos().movedim(1, 2), r"\(B, F, 3, H, W\)"),
        (flicker, videos() * 2 - 1, "rescale"),
    ],
)
def test_other_shapes_and_values_are_refused_with_the_cure(function: Any, items: torch.Tensor, cure: str) -> None:
    with pytest.raises(ValueError, match=cure):
        function(items, items)


def test_a_broken_image_shows() -> None:
    images = images_of()
    images[1, 0, 0, 0] = math.nan
    assert psnr(images, images_of()).isnan().tolist() == [False, True, False]


def test_an_error_that_stays_does_not_flicker() -> None:
    b = (videos() * 64).round() / 256  # whole 256ths, so that sums are exact
    pattern = (videos(2, 1, seed=1) * 64).round() / 256
    assert flicker(b + 0.25, b).tolist() == [0.0, 0.0]
    assert flicker(b + pattern, b).tolist() == [0.0, 0.0]
    assert psnr((b + 0.25)[:, 0], b[:, 0]).max() < 13


def test_flicker_by_hand() -> None:
    """A video that brightens by 1/16 a frame; errors that alternate count twice, a frozen one counts as 1."""
    b = (torch.arange(5) / 16).view(1, 5, 1, 1, 1).expand(1, 5, 3, 2, 4).clone()
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0]).view(1, 5, 1, 1, 1)
    assert flicker((b / 2 + 0.25) + signs / 64, b / 2 + 0.25).item() == pytest.approx(2 / 64 / (1 / 32))
    assert flicker(b[:, :1].expand_as(b).clone(), b).item() == 1.0
    assert flicker(b * 2, b).item() == 1.0
    still = torch.full_like(b, 0.5)
    assert flicker(still, still).item() == 0
    assert flicker(b, still).item() == math.inf


def test_error_flicker_by_hand() -> None:
    """0 for an error that stays, 2 for one that alternates, 1 in the mean for one that no frame shares with another."""
    b = torch.full((1, 4, 3, 8, 8), 0.5)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 4, 1, 1, 1)
    assert error_flicker(b + 0.25, b).item() == 0
    assert error_flicker(b + signs / 4, b).item() == 2
    assert error_flicker(b + 0.25 * torch.eye(4)[0].view(1, 4, 1, 1, 1), b).item() == 2 / 3  # a single wrong frame
    assert error_flicker(b, b).item() == 0
    noise = torch.randn(1, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0)).clamp(-4, 4) / 16
    still = torch.full((1, 4, 3, 64, 64), 0.5)
    assert error_flicker(still + noise, still).item() == pytest.approx(1, abs=0.02)


def test_the_worst_frame_is_one_of_the_frames() -> None:
    a, b = videos(2, 3, seed=1), videos(2, 3)
    assert torch.equal(worst_frame(a, b), per_frame(psnr, a, b).min(dim=1).values)


def test_per_frame_is_the_metric_of_each_frame() -> None:
    a, b = videos(2, 3, seed=1), videos(2, 3)
    found = per_frame(ssim, a, b)
    assert found.shape == (2, 3)
    assert torch.equal(found[1], ssim(a[1], b[1]))


class Fixed(Judge):
    """Reads a red circle on everything."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = super().forward(images)
        return {name: torch.zeros_like(value).index_fill(1, torch.tensor([0]), 1.0) for name, value in logits.items()}


def test_verdicts_are_of_everything_named_and_nothing_else() -> None:
    images, prompts = (
        torch.rand(4, 3, 64, 64),
        (
            f"a {COLOURS[0]} {SHAPES[0]}",
            f"a {COLOURS[1]} {SHAPES[0]}",
            f"a {SHAPES[0]} on a {COLOURS[0]} background",
            "a horse",
        ),
    )
    assert verdicts(Fixed(), images, prompts) == [
        {"colour": True, "shape": True},
        {"colour": False, "shape": True},
        {"background": True, "shape": True},
        None,
    ]
    with pytest.raises(ValueError, match="one per image, 4"):
        verdicts(Fixed(), images, prompts[:3])


def test_frechet_by_hand() -> None:
    """Sets that are each other's shift are as far apart as the shift; twice as wide adds the variance."""
    features = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    assert frechet(features, features + torch.tensor([3.0, 0.0, 4.0])) == pytest.approx(25, rel=1e-6)
    centred = features - features.mean(dim=0)
    assert frechet(centred, 2 * centred) == pytest.approx(centred.double().var(dim=0).sum().item(), rel=1e-5)
    single = features[:, :1]
    assert frechet(single, single + 2) == pytest.approx(4, rel=1e-6)


def test_frechet_equals_the_square_root_of_matrices() -> None:
    import numpy as np

    root = pytest.importorskip("scipy.linalg").sqrtm
    a, b = torch.rand(40, 6, dtype=torch.float64), torch.rand(30, 6, dtype=torch.float64) ** 2
    s, t = np.cov(a.T.numpy()), np.cov(b.T.numpy())
    mean = (a.mean(0) - b.mean(0)).numpy()
    assert frechet(a, b) == pytest.approx(mean @ mean + np.trace(s + t - 2 * root(s @ t).real), rel=1e-6)


@pytest.mark.parametrize(
    "a, b, message",
    [
        (torch.zeros(3), torch.zeros(3), "a must be features"),
        (torch.zeros(3, 2), torch.zeros(1, 2), "b must have at least two rows"),
        (torch.zeros(3, 2), torch.zeros(3, 4), "as many columns"),
        (torch.zeros(3, 2), torch.full((3, 2), math.nan), "b holds features that are not finite"),
    ],
)
def test_frechet_refuses_with_the_cure(a: torch.Tensor, b: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frechet(a, b)


def test_the_judge_has_an_extractor() -> None:
    judge, images = Judge().eval(), torch.rand(6, 3, 64, 64)
    with torch.no_grad():
        expected = frechet(judge.features(images), judge.features(images.flip(3) / 2))
    assert paired_frechet(images, images.flip(3) / 2, judge.features) == pytest.approx(expected, rel=1e-6)


def test_paired_frechet_of_the_reference_is_zero_and_grows_with_the_error() -> None:
    b = images_of(300, side=(4, 4))
    sizes = []

    def extractor(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        assert not torch.is_grad_enabled()
        return images.mean(dim=(2, 3))

    assert paired_frechet(b, b, extractor) == pytest.approx(0, abs=1e-12)
    assert sizes == [256, 44] * 2
    assert paired_frechet(b * 0.5, b, extractor) > paired_frechet(b * 0.9, b, extractor) > 1e-3
    with pytest.raises(ValueError, match="the shape of b"):
        paired_frechet(b[:2], b, extractor)
    with pytest.raises(ValueError, match="a row per image, 300"):
        paired_frechet(b, b, lambda images: images.mean(dim=(2, 3))[:1])
