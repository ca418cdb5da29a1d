"""How far accelerated images, latents and videos are from those of another run, and how well they follow a prompt.

Images are float tensors (B, 3, H, W) in [0, 1], videos (B, F, 3, H, W). Metrics are computed in float64, return (B,)
float64 and raise ValueError for anything else. PSNR and MS-SSIM are those of torchmetrics and raise ImportError without
it. SSIM is computed here: that of torchmetrics also counts windows that leave the image, which changes it by 0.02 at 64
pixels, and its map cut to whole windows agrees but takes 40 times as long. Metrics with weights from a path are in
`skipcast.bench.metrics.learned`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from skipcast.models.judge import frechet_distance

if TYPE_CHECKING:
    from skipcast.models.judge import ClipJudge, Judge

_RADIUS, _SIGMA = 5, 1.5  # the 11x11 window of Wang et al. (2004)
_C1, _C2 = 0.01**2, 0.03**2  # their stabilising constants for values in [0, 1]
_SMALLEST_MULTISCALE = 176  # 11 pixels a side are left after four halvings
_BATCH = 256  # images per call of an extractor


def check_images(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two batches of images of one shape, converted to float64."""
    return _checked(a, b, 4, "(B, 3, H, W)")


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio -10 log10(mean((a - b)^2)) in dB per image, inf where the two are identical."""
    a, b = check_images(a, b)
    found: Tensor = _torchmetrics("psnr").peak_signal_noise_ratio(a, b, data_range=1.0, reduction="none", dim=(1, 2, 3))
    return found


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of Wang et al. (2004) per image, at most 1: the mean over channels and whole windows.

    Windows that would leave the image are not counted, as in scikit-image, so that images must have at least 11 pixels
    a side. Source: doi:10.1109/TIP.2003.819861.
    """
    a, b = check_images(a, b)
    if min(a.shape[-2:]) < 2 * _RADIUS + 1:
        raise ValueError(f"a and b must be at least 11x11 for ssim, got {tuple(a.shape)}; enlarge both the same way.")
    mean_a, mean_b = _blur(a), _blur(b)
    covariance = _blur(a * b) - mean_a * mean_b
    variances = _blur(a * a) - mean_a.square() + _blur(b * b) - mean_b.square()
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a.square() + mean_b.square() + _C1)
    return (luminance * (2 * covariance + _C2) / (variances + _C2)).mean(dim=(1, 2, 3))


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity over five scales, of Wang et al. (2003), of images of at least 176 pixels a side.

    A negative factor counts as 0, because its power is not defined. Source: doi:10.1109/ACSSC.2003.1292216.
    """
    a, b = check_images(a, b)
    if min(a.shape[-2:]) < _SMALLEST_MULTISCALE:
        raise ValueError(f"a and b must be at least 176x176 for ms_ssim, got {tuple(a.shape)}; use ssim instead.")
    found: Tensor = _torchmetrics("ms_ssim").multiscale_structural_similarity_index_measure(
        a, b, data_range=1.0, reduction="none", normalize="relu"
    )
    return found


def relative_l2(a: Tensor, b: Tensor) -> Tensor:
    """||a - b|| / ||b|| per item of two float tensors (B, ...), such as latents; 0 where both are zero."""
    a, b = _floats(a, b)
    if a.ndim == 0:
        raise ValueError("a and b must have a batch dimension first, got scalars; pass a[None] and b[None].")
    error, size = (torch.linalg.vector_norm(x.unsqueeze(-1).flatten(1), dim=1) for x in (a - b, b))
    return torch.where(error == 0, error, error / size)


def per_frame(function: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """A metric of images on every frame of videos, as (B, F) float64."""
    a, b = _checked(a, b, 5, "(B, F, 3, H, W), frames before channels")
    return function(a.flatten(0, 1), b.flatten(0, 1)).view(a.shape[:2])


def flicker(a: Tensor, b: Tensor) -> Tensor:
    """Temporal flicker: how far the frame-to-frame changes of `a` are from those of `b`, relative to the latter.

    With D(x)_f = x_(f+1) - x_f it is ||D(a) - D(b)|| / ||D(b)||, the 2-norm over all frames, pixels and channels. It is
    0 for an error that is the same in every frame, and inf where `b` stands still and `a` does not.
    """
    a, b = _checked(a, b, 5, "(B, F, 3, H, W), frames before channels")
    if a.shape[1] < 2:
        raise ValueError(f"a and b must have at least two frames for flicker, got {tuple(a.shape)}; use psnr instead.")
    return relative_l2(a.diff(dim=1), b.diff(dim=1))


def error_flicker(a: Tensor, b: Tensor) -> Tensor:
    """How much of an error changes from frame to frame: 0 if it is the same in all, about 1 if each has its own.

    With e = a - b over F frames and D(e)_f = e_(f+1) - e_f it is F ||D(e)||^2 / (2 (F - 1) ||e||^2), 0 where a = b. It
    is 2 for an error that changes its sign with every frame.
    """
    a, b = _checked(a, b, 5, "(B, F, 3, H, W), frames before channels")
    if (frames := a.shape[1]) < 2:
        raise ValueError(f"a and b must have at least two frames for error_flicker, got {tuple(a.shape)}; use psnr.")
    error = a - b
    whole = error.square().flatten(1).sum(1)
    changes = error.diff(dim=1).square().flatten(1).sum(1)
    return torch.where(whole > 0, frames * changes / (2 * (frames - 1) * whole), 0.0)


def worst_frame(a: Tensor, b: Tensor) -> Tensor:
    """PSNR of the worst frame of a video, in dB, inf where all frames are identical."""
    return per_frame(psnr, a, b).amin(dim=1)


def verdicts(judge: Judge | ClipJudge, images: Tensor, prompts: Sequence[str]) -> list[dict[str, bool] | None]:
    """Whether the judge of a reference model reads on each image what its prompt names, by attribute.

    Args:
        judge: `Model.judge`.
        images: float (B, 3, H, W) in [0, 1], or clips (B, F, 3, H, W).
        prompts: one per image.

    Returns:
        For each image the attributes that its prompt names; None where it names none.

    Raises:
        ValueError: another number of prompts.
    """
    if len(prompts) != len(images):
        raise ValueError(f"prompts must be one per image, {len(images)}, got {len(prompts)}.")
    seen = judge.read(images)
    found: list[dict[str, bool] | None] = []
    for i, prompt in enumerate(prompts):
        named = judge.requested(prompt)
        found.append({name: int(seen[name][i]) == index for name, index in named.items()} if named else None)
    return found


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance between two sets of features (n, d) and (m, d), taken as Gaussians.

    |m - m'|^2 + tr(S + S' - 2 (S S')^1/2) with means m and covariances S. It shrinks with the number of images, so
    compare only distances of equally many images, and quote the distance between two sets of seeds of one method with
    them.

    Raises:
        ValueError: not matrices of as many columns, fewer than two rows, or features that are not finite.
    """
    for name, features in (("a", a), ("b", b)):
        if features.ndim != 2 or not features.shape[1]:
            raise ValueError(f"{name} must be features (n, d), got {tuple(features.shape)}; flatten them.")
        if len(features) < 2:
            raise ValueError(f"{name} must have at least two rows, got {len(features)}: one has no covariance.")
        if not features.isfinite().all():
            raise ValueError(f"{name} holds features that are not finite; look for a broken image.")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a and b must have as many columns, got {a.shape[1]} and {b.shape[1]}; use one extractor.")
    return frechet_distance(a, b)


def paired_frechet(a: Tensor, b: Tensor, extractor: Callable[[Tensor], Tensor]) -> float:
    """Frechet distance between the images of a method and those of the unaccelerated run of the same prompts and seeds.

    The two share their noise, so an exact method gives 0 and no set of real images is needed.

    Args:
        a: float (B, 3, H, W) in [0, 1], of the method.
        b: of the unaccelerated run, in the same order.
        extractor: images (n, 3, H, W) to features (n, d), such as `judge.features`; called on up to 256 images at a
            time, without gradients.

    Raises:
        ValueError: other images, or features that `frechet` refuses.
    """
    check_images(a, b)
    return frechet(_features(extractor, a), _features(extractor, b))


def _features(extractor: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with torch.no_grad():
        found = torch.cat([extractor(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)])
    if len(found) != len(images):
        raise ValueError(f"extractor must give a row per image, {len(images)}, got {len(found)}.")
    return found


def _blur(images: Tensor) -> Tensor:
    """Gaussian means over whole windows: (B, C, H, W) to (B, C, H - 10, W - 10)."""
    offsets = torch.arange(-_RADIUS, _RADIUS + 1, dtype=images.dtype, device=images.device)
    kernel = torch.softmax(-offsets.square() / (2 * _SIGMA**2), dim=0)
    planes = images.flatten(0, 1).unsqueeze(1)
    planes = conv2d(conv2d(planes, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return planes.view(*images.shape[:2], *planes.shape[-2:])


def _checked(a: Tensor, b: Tensor, dimensions: int, shape: str) -> tuple[Tensor, Tensor]:
    a, b = _floats(a, b)
    for name, tensor in (("a", a), ("b", b)):
        if tensor.ndim != dimensions or tensor.shape[-3] != 3:
            raise ValueError(f"{name} must be {shape}, got {tuple(tensor.shape)}; permute or unsqueeze it.")
        if tensor.numel() and (tensor.min() < 0 or tensor.max() > 1):  # false for NaN, which then shows in the result
            raise ValueError(f"{name} must lie in [0, 1]; rescale values of [-1, 1] by {name} / 2 + 0.5 and clamp.")
    return a, b


def _floats(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    for name, tensor in (("a", a), ("b", b)):
        if not tensor.is_floating_point():  # the difference of two uint8 images wraps around and flatters
            raise ValueError(f"{name} must be floating point, got {tensor.dtype}; pass {name} / 255 for uint8.")
    if a.shape != b.shape:
        raise ValueError(f"a must have the shape of b, {tuple(b.shape)}, got {tuple(a.shape)}; make it at that size.")
    return a.double(), b.double()


def _torchmetrics(metric: str) -> Any:
    try:
        from torchmetrics.functional import image
    except ImportError as error:
        raise ImportError(f'{metric} needs torchmetrics ({error}); run: pip install "skipcast[bench]"') from error
    return image


class Metric(NamedTuple):
    """A function of two batches (a, b) to (B,) float64, the direction in which it improves, and what a and b are."""

    function: Callable[[Tensor, Tensor], Tensor]
    higher_is_better: bool
    takes: Literal["images", "videos", "anything"]


METRICS = {
    "psnr": Metric(psnr, True, "images"),
    "ssim": Metric(ssim, True, "images"),
    "ms_ssim": Metric(ms_ssim, True, "images"),  # of 176 pixels a side or more
    "relative_l2": Metric(relative_l2, False, "anything"),
    "worst_frame": Metric(worst_frame, True, "videos"),
    "flicker": Metric(flicker, False, "videos"),
    "error_flicker": Metric(error_flicker, False, "videos"),
}
