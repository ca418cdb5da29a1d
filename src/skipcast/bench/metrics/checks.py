"""What the metrics take, and the cure where something else is given."""

from __future__ import annotations

from torch import Tensor


def floats(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two float tensors of one shape, in float64.

    Raises:
        ValueError: integers, or shapes that differ.
    """
    for name, tensor in (("a", a), ("b", b)):
        if not tensor.is_floating_point():  # the difference of two uint8 pictures wraps around and flatters
            raise ValueError(f"{name} must be floating point, got {tensor.dtype}; pass {name} / 255 for uint8.")
    if a.shape != b.shape:
        raise ValueError(f"a must have the shape of b, {tuple(b.shape)}, got {tuple(a.shape)}; make it at that size.")
    return a.double(), b.double()


def images(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two batches of pictures (B, 3, H, W) in [0, 1], in float64.

    Raises:
        ValueError: anything else.
    """
    a, b = floats(a, b)
    for name, tensor in (("a", a), ("b", b)):
        if tensor.ndim != 4 or tensor.shape[1] != 3:
            raise ValueError(f"{name} must be (B, 3, H, W), got {tuple(tensor.shape)}; permute or unsqueeze it.")
        _in_range(name, tensor)
    return a, b


def videos(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two batches of videos (B, F, 3, H, W) in [0, 1], in float64.

    Raises:
        ValueError: anything else.
    """
    a, b = floats(a, b)
    for name, tensor in (("a", a), ("b", b)):
        if tensor.ndim != 5 or tensor.shape[2] != 3:
            raise ValueError(
                f"{name} must be (B, F, 3, H, W), frames before channels, got {tuple(tensor.shape)}; "
                f"permute or unsqueeze it."
            )
        _in_range(name, tensor)
    return a, b


def _in_range(name: str, tensor: Tensor) -> None:
    if tensor.numel() and (tensor.min() < 0 or tensor.max() > 1):  # false for NaN, which then shows in the result
        raise ValueError(f"{name} must lie in [0, 1]; rescale pictures of [-1, 1] by {name} / 2 + 0.5 and clamp.")
