"""Fidelity of pictures to those of another run: PSNR, SSIM, MS-SSIM, in float64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

from skipcast.bench.metrics.checks import images

_RADIUS, _SIGMA, _K1, _K2 = 5, 1.5, 0.01, 0.03  # Wang et al. (2004): an 11x11 window
_WINDOW = 2 * _RADIUS + 1
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. (2003), from the finest scale to the coarsest


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio -10 log10(mean((a - b)^2)) in dB per item, inf where the two are identical.

    Float images (B, 3, H, W) in [0, 1] to (B,) float64; ValueError for other images.
    """
    a, b = images(a, b)
    return -10 * (a - b).square().mean(dim=(1, 2, 3)).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of Wang et al. (2004) per item, at most 1: the mean over channels and whole windows.

    Float images (B, 3, H, W) in [0, 1], at least 11 pixels a side, to (B,) float64; ValueError for other images.
    Windows that would leave the picture are not counted, as in scikit-image. Reference: doi:10.1109/TIP.2003.819861.
    """
    a, b = images(a, b)
    if min(a.shape[-2:]) < _WINDOW:
        raise ValueError(f"a and b must be at least 11x11 for ssim, got {tuple(a.shape)}; enlarge both the same way.")
    luminance, structure = _luminance_and_structure(a, b)
    return (luminance * structure).mean(dim=(1, 2, 3))


def ms_ssim(a: Tensor, b: Tensor, *, scales: int = 5, whole_windows: bool = False) -> Tensor:
    """Structural similarity over several scales, of Wang et al. (2003), per item, at most 1.

    The product over the scales j of m_j^w_j: m_j is the mean over channels and whole windows of contrast and structure
    after j - 1 halvings, each a mean of 2x2 pixels; at the coarsest scale it is the mean of the whole similarity,
    luminance too, and the picture is continued there by reflection, so that windows around its border count. That is
    how torchmetrics computes it, for figures that can be compared. A negative m_j counts as 0, for its power is no
    number. Weights w_j: those of the paper; of fewer scales the first ones, divided by their sum. Reference:
    doi:10.1109/ACSSC.2003.1292216.

    Args:
        a: float images (B, 3, H, W) in [0, 1].
        b: the same of the other run.
        scales: 1 to 5, the standard.
        whole_windows: count whole windows at the coarsest scale too, as `ssim` does. Of small pictures few are left
            there, so figures differ by some hundredths.

    Returns:
        (B,) float64.

    Raises:
        ValueError: other images, or images below 11 * 2^(scales - 1) pixels a side.
    """
    if scales not in range(1, len(_WEIGHTS) + 1):
        raise ValueError(f"scales must be 1 to {len(_WEIGHTS)}, got {scales!r}.")
    a, b = images(a, b)
    least = _WINDOW * 2 ** (scales - 1)
    if min(a.shape[-2:]) < least:
        fitting = max((n for n in range(1, scales) if _WINDOW * 2 ** (n - 1) <= min(a.shape[-2:])), default=None)
        cure = f"pass scales={fitting}" if fitting else "enlarge both the same way"
        raise ValueError(
            f"a and b must be at least {least}x{least} for ms_ssim of {scales} scales, got {tuple(a.shape)}; {cure}."
        )
    total = sum(_WEIGHTS[:scales]) if scales < len(_WEIGHTS) else 1.0  # the paper's own sum to 1.0001
    found = torch.ones(len(a), dtype=a.dtype, device=a.device)
    for weight in _WEIGHTS[: scales - 1]:
        _, structure = _luminance_and_structure(a, b)
        found = found * structure.mean(dim=(1, 2, 3)).clamp(min=0) ** (weight / total)
        a, b = avg_pool2d(a, 2), avg_pool2d(b, 2)
    if not whole_windows:
        a, b = (pad(x, (_RADIUS,) * 4, mode="reflect") for x in (a, b))
    luminance, structure = _luminance_and_structure(a, b)
    return found * (luminance * structure).mean(dim=(1, 2, 3)).clamp(min=0) ** (_WEIGHTS[scales - 1] / total)


def _luminance_and_structure(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors of the similarity in every whole window: (B, 3, H - 10, W - 10) each."""
    mean_a, mean_b = _blur(a), _blur(b)
    covariance = _blur(a * b) - mean_a * mean_b
    variances = (_blur(a * a) - mean_a.square()) + (_blur(b * b) - mean_b.square())
    luminance = (2 * mean_a * mean_b + _K1**2) / (mean_a.square() + mean_b.square() + _K1**2)
    return luminance, (2 * covariance + _K2**2) / (variances + _K2**2)


def _blur(pictures: Tensor) -> Tensor:
    """Gaussian means over whole windows: (B, C, H, W) to (B, C, H - 10, W - 10)."""
    offsets = torch.arange(-_RADIUS, _RADIUS + 1, dtype=pictures.dtype, device=pictures.device)
    kernel = torch.softmax(-offsets.square() / (2 * _SIGMA**2), dim=0)
    planes = pictures.flatten(0, 1).unsqueeze(1)
    planes = conv2d(conv2d(planes, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return planes.view(*pictures.shape[:2], *planes.shape[-2:])
