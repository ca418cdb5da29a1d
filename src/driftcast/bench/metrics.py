"""Fidelity of accelerated pictures to those of another run: PSNR, SSIM and the relative L2 error, all in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d

_RADIUS, _SIGMA, _K1, _K2 = 5, 1.5, 0.01, 0.03  # Wang et al. (2004): an 11x11 window


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio -10 log10(mean((a - b)^2)) in dB per item, inf where the two are identical.

    Float images (B, 3, H, W) in [0, 1] to (B,) float64; ValueError for other images.
    """
    a, b = _images(a, b)
    return -10 * (a - b).square().mean(dim=(1, 2, 3)).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of Wang et al. (2004) per item, at most 1: the mean over channels and whole windows.

    Float images (B, 3, H, W) in [0, 1], at least 11 pixels a side, to (B,) float64; ValueError for other images.
    Windows that would leave the picture are not counted, as in scikit-image. Reference: doi:10.1109/TIP.2003.819861.
    """
    a, b = _images(a, b)
    if min(a.shape[-2:]) < 2 * _RADIUS + 1:
        raise ValueError(f"a and b must be at least 11x11 for ssim, got {tuple(a.shape)}; enlarge both the same way.")
    mean_a, mean_b = _blur(a), _blur(b)
    covariance = _blur(a * b) - mean_a * mean_b
    variances = (_blur(a * a) - mean_a.square()) + (_blur(b * b) - mean_b.square())
    luminance = (2 * mean_a * mean_b + _K1**2) / (mean_a.square() + mean_b.square() + _K1**2)
    structure = (2 * covariance + _K2**2) / (variances + _K2**2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def relative_l2(a: Tensor, b: Tensor) -> Tensor:
    """||a - b|| / ||b|| per item (0 where both are zero), for float tensors (B, ...) of any shape, to (B,) float64.

    ValueError for integers, shapes that differ or no batch dimension.
    """
    a, b = _floats(a, b)
    if a.ndim == 0:
        raise ValueError("a and b must have a batch dimension first, got scalars; pass a[None] and b[None].")
    error, size = (torch.linalg.vector_norm(x.unsqueeze(-1).flatten(1), dim=1) for x in (a - b, b))
    return torch.where(error == 0, error, error / size)


class Metric(NamedTuple):
    """A function (a, b) of two batches, (B,) float64, and the direction in which it improves."""

    function: Callable[[Tensor, Tensor], Tensor]
    higher_is_better: bool


METRICS = {"psnr": Metric(psnr, True), "ssim": Metric(ssim, True), "relative_l2": Metric(relative_l2, False)}


def _floats(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    for name, tensor in (("a", a), ("b", b)):
        if not tensor.is_floating_point():  # the difference of two uint8 pictures wraps around and flatters
            raise ValueError(f"{name} must be floating point, got {tensor.dtype}; pass {name} / 255 for uint8.")
    if a.shape != b.shape:
        raise ValueError(f"a must have the shape of b, {tuple(b.shape)}, got {tuple(a.shape)}; make it at that size.")
    return a.double(), b.double()


def _images(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    a, b = _floats(a, b)
    for name, tensor in (("a", a), ("b", b)):
        if tensor.ndim != 4 or tensor.shape[1] != 3:
            raise ValueError(f"{name} must be (B, 3, H, W), got {tuple(tensor.shape)}; permute or unsqueeze it.")
        if tensor.numel() and (tensor.min() < 0 or tensor.max() > 1):  # false for NaN, which then shows in the result
            raise ValueError(f"{name} must lie in [0, 1]; rescale pictures of [-1, 1] by {name} / 2 + 0.5 and clamp.")
    return a, b


def _blur(images: Tensor) -> Tensor:
    """Gaussian means over whole windows: (B, C, H, W) to (B, C, H - 10, W - 10)."""
    offsets = torch.arange(-_RADIUS, _RADIUS + 1, dtype=images.dtype, device=images.device)
    kernel = torch.softmax(-offsets.square() / (2 * _SIGMA**2), dim=0)
    planes = images.flatten(0, 1).unsqueeze(1)
    planes = conv2d(conv2d(planes, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return planes.view(*images.shape[:2], *planes.shape[-2:])
