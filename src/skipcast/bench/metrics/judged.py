"""What the judge of a reference model reads on images, and the Frechet distance between two sets of features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from skipcast.bench.metrics.images import check_images
from skipcast.models.judge import frechet_distance
from skipcast.models.scenes import read_caption

if TYPE_CHECKING:
    from skipcast.models.judge import Judge

_BATCH = 256  # images per call of an extractor


def verdicts(judge: Judge, images: Tensor, prompts: Sequence[str]) -> list[dict[str, bool] | None]:
    """Whether the judge of a reference model reads on each image what its prompt names, by attribute.

    Args:
        judge: `Model.judge`.
        images: float (B, 3, H, W) in [0, 1].
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
        named = read_caption(prompt)
        found.append({name: int(seen[name][i]) == index for name, index in named.items()} if named else None)
    return found


def adherence(judge: Judge, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """1 where the judge reads everything that the prompt names and 0 where it misses something, as (B,) float64.

    NaN where the prompt names nothing that a judge reads. Arguments and errors are those of `verdicts`.
    """
    found = [float("nan") if one is None else float(all(one.values())) for one in verdicts(judge, images, prompts)]
    return torch.tensor(found, dtype=torch.float64)


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
    # A constant column adds nothing to the distance, and keeps the covariance of single features a matrix.
    a, b = (torch.nn.functional.pad(x.detach().cpu().double(), (0, 1)) for x in (a, b))
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
