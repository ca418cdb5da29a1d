"""What a judge says of pictures, and the distance between the features of two sets of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from skipcast.bench.metrics.checks import images
from skipcast.models.judge import frechet_distance
from skipcast.models.scenes import read_caption

if TYPE_CHECKING:
    from skipcast.models.judge import Judge

_BATCH = 256


def verdicts(judge: Judge, pictures: Tensor, prompts: Sequence[str]) -> list[dict[str, bool] | None]:
    """Whether the judge of a reference model reads on each picture what its prompt asks for, by attribute.

    Args:
        judge: `Model.judge`.
        pictures: float (B, 3, H, W) in [0, 1].
        prompts: one per picture.

    Returns:
        For each picture the attributes that its prompt names; None where it names none.

    Raises:
        ValueError: another number of prompts.
    """
    if len(prompts) != len(pictures):
        raise ValueError(f"prompts must be one per picture, {len(pictures)}, got {len(prompts)}.")
    seen = judge.read(pictures)
    found: list[dict[str, bool] | None] = []
    for i, prompt in enumerate(prompts):
        asked = read_caption(prompt)
        found.append({name: int(seen[name][i]) == index for name, index in asked.items()} if asked else None)
    return found


def adherence(judge: Judge, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
    """1 where the judge reads everything that the prompt asks for, 0 where it misses something: (B,) float64.

    NaN where the prompt asks for nothing that a judge reads; leave such pictures out. Arguments and errors as
    `verdicts`.
    """
    found = [float("nan") if one is None else float(all(one.values())) for one in verdicts(judge, pictures, prompts)]
    return torch.tensor(found, dtype=torch.float64)


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance between two sets of features (n, d) and (m, d), taken as Gaussians.

    |m - m'|^2 + tr(S + S' - 2 (S S')^1/2) with means m and covariances S. It shrinks with the number of pictures, so
    compare only figures of equally many, next to the distance between two sets of seeds of one method.

    Raises:
        ValueError: not matrices of as many columns, fewer than two rows, or features that are not finite.
    """
    for name, features in (("a", a), ("b", b)):
        if features.ndim != 2 or not features.shape[1]:
            raise ValueError(f"{name} must be features (n, d), got {tuple(features.shape)}; flatten them.")
        if len(features) < 2:
            raise ValueError(f"{name} must have at least two rows, got {len(features)}: one has no covariance.")
        if not features.isfinite().all():
            raise ValueError(f"{name} holds features that are not finite; look for a broken picture.")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a and b must have as many columns, got {a.shape[1]} and {b.shape[1]}; use one extractor.")
    # A constant column adds nothing to the distance, and keeps the covariance of single features a matrix.
    a, b = (torch.nn.functional.pad(x.detach().cpu().double(), (0, 1)) for x in (a, b))
    return frechet_distance(a, b)


def paired_frechet(a: Tensor, b: Tensor, extractor: Callable[[Tensor], Tensor]) -> float:
    """Frechet distance between the pictures of a method and those of the reference of the same prompts and seeds.

    The reference itself gives 0, for its noise is shared: the distance is the method's own doing, and needs no set of
    real pictures. The judge of a reference model has an extractor, `judge.features`.

    Args:
        a: float (B, 3, H, W) in [0, 1], of the method.
        b: of the reference, in the same order.
        extractor: pictures (n, 3, H, W) to features (n, d); called on up to 256 pictures at a time, without gradients.

    Raises:
        ValueError: other pictures, or features that `frechet` refuses.
    """
    images(a, b)  # refuses what is no pair
    return frechet(_features(extractor, a), _features(extractor, b))


def _features(extractor: Callable[[Tensor], Tensor], pictures: Tensor) -> Tensor:
    with torch.no_grad():
        found = torch.cat([extractor(pictures[i : i + _BATCH]) for i in range(0, len(pictures), _BATCH)])
    if len(found) != len(pictures):
        raise ValueError(f"extractor must give a row per picture, {len(pictures)}, got {len(found)}.")
    return found
