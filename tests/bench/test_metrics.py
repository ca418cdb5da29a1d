"""Metrics against hand-computed values, scikit-image and the mistakes they must not repeat."""

from __future__ import annotations

import math

import pytest
import torch

from driftcast.bench.metrics import METRICS, psnr, relative_l2, ssim


def pictures(count: int = 3, seed: int = 0, side: tuple[int, int] = (24, 33)) -> torch.Tensor:
    return torch.rand(count, 3, *side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_psnr_by_hand() -> None:
    black = torch.zeros(4, 3, 2, 2)
    other = black.clone()
    other[0] += 0.1  # mean square 0.01
    other[1] += 1.0  # mean square 1
    other[2, 0, 0, 0] = 0.5  # mean square 0.25 / 12
    expected = [20.0, 0.0, 10 * math.log10(48), math.inf]
    assert psnr(other, black).tolist() == pytest.approx(expected, abs=1e-6)
    assert psnr(other, black).dtype == torch.float64


def test_unrelated_pictures_are_far_apart() -> None:
    """The mean square of a difference of two uniforms is 1/6; subtracting uint8 pictures would report 27.9 dB."""
    values = psnr(pictures(4, 1, (64, 64)), pictures(4, 2, (64, 64)))
    assert values.tolist() == pytest.approx([7.78] * 4, abs=0.15)


def test_psnr_does_not_lose_small_errors_to_low_precision() -> None:
    a = pictures(1).bfloat16()
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
    b = pictures(3)
    a = (b + 0.2 * (pictures(3, 1) - 0.5)).clamp(0, 1)
    expected = [metrics.structural_similarity(x.numpy(), y.numpy(), **settings) for x, y in zip(a, b, strict=True)]
    assert ssim(a, b).tolist() == pytest.approx(expected, abs=1e-6)


def test_ssim_by_hand() -> None:
    """Of two flat pictures only the luminance term is left; identical pictures give exactly 1."""
    a, b = torch.full((1, 3, 11, 11), 0.25), torch.full((1, 3, 11, 11), 0.75)
    assert ssim(a, b).item() == pytest.approx((2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4), abs=1e-9)
    assert ssim(pictures(), pictures()).tolist() == pytest.approx([1.0] * 3, abs=1e-15)


def test_relative_l2_by_hand() -> None:
    b = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    a = torch.tensor([[3.0, 3.0], [0.0, 0.0], [1.0, 0.0]])
    assert relative_l2(a, b).tolist() == pytest.approx([0.2, 0.0, math.inf])
    assert relative_l2(a[:, 0], b[:, 0]).tolist() == pytest.approx([0.0, 0.0, math.inf])
    assert relative_l2(pictures(2)[:, :, None], pictures(2)[:, :, None]).shape == (2,)


@pytest.mark.parametrize("name", METRICS)
def test_items_are_independent_and_direction_is_as_declared(name: str) -> None:
    function, higher_is_better = METRICS[name]
    b = pictures(2)
    a = torch.stack([b[0] * 0.9, b[1] * 0.5])
    near, far = function(a, b).tolist()
    assert (near > far) == higher_is_better
    assert function(a[1:], b[1:]).item() == pytest.approx(far, rel=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_integers_and_shapes_are_refused_with_the_cure(name: str) -> None:
    function, images = METRICS[name].function, pictures()
    with pytest.raises(ValueError, match=r"^b must be floating point.*b / 255"):
        function(images, (images * 255).byte())
    with pytest.raises(ValueError, match="the shape of b"):
        function(images, images[:1])


@pytest.mark.parametrize("function", [psnr, ssim])
@pytest.mark.parametrize(
    "image, cure",
    [(pictures()[0], "unsqueeze"), (pictures().movedim(1, -1), "permute"), (pictures() * 2 - 1, "rescale")],
)
def test_other_images_are_refused_with_the_cure(function: object, image: torch.Tensor, cure: str) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match=cure):
        function(image, image)


def test_ssim_refuses_pictures_below_its_window() -> None:
    with pytest.raises(ValueError, match="11x11"):
        ssim(torch.zeros(1, 3, 10, 64), torch.zeros(1, 3, 10, 64))


def test_a_broken_picture_shows() -> None:
    images = pictures()
    images[1, 0, 0, 0] = math.nan
    assert psnr(images, pictures()).isnan().tolist() == [False, True, False]
