"""Forecasts that move only inside a subspace: a band of frequencies, or the principal directions of the feature."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from skipcast.checks import Checked
from skipcast.forecasters.base import Around, LinearForecaster, move_weights
from skipcast.grid import Vector
from skipcast.history import History, Point


class Subspace(Checked, ABC):
    """An orthogonal projector on values of shape (B, L, D), tokens, or (B, C, H, W), latents; items never mix."""

    @abstractmethod
    def project(self, tensor: Tensor, history: History) -> Tensor:
        """The part of a float32 or float64 tensor inside the subspace, of its shape and dtype."""

    def prepare(self, history: History) -> None:
        """Derive what depends on the run's first value; `history` is certain to hold it still."""


@dataclass(frozen=True)
class Within(Around):
    """A linear forecast inside a subspace, reuse outside: F_hat = F_0 + P (sum_k w_k F_k - F_0).

    F_0 is the newest evaluation and w the weights of `inner`. The published methods forecast the two parts of F apart;
    as P is linear and the other part is reused, that is the same. Values are (B, L, D) or (B, C, H, W). References:
    FreqCa, arXiv:2510.08669, with `HighBand`; SVD-Cache, arXiv:2601.07396, with `Principal`.
    """

    inner: LinearForecaster
    subspace: Subspace

    def forecast(self, history: History, point: Point) -> Tensor:
        newest = history[-1].value
        wide = torch.promote_types(newest.dtype, torch.float32)
        move = history.combine(move_weights(self.inner, history, point)).to(wide)
        return (newest.to(wide) + self.subspace.project(move, history)).to(newest.dtype)

    def correct(self, history: History, point: Point, value: Tensor) -> Tensor:
        # From the second evaluation on, before a short window forgets the first one.
        self.subspace.prepare(history)
        return self.inner.correct(history, point, value)


def _tokens(tensor: Tensor) -> Tensor:
    """(B, L, D) as it is, (B, C, H, W) as its H W pixels: (B, H W, C)."""
    if tensor.ndim not in (3, 4):
        raise ValueError(
            f"a subspace needs tokens (B, L, D) or latents (B, C, H, W), got a value of shape {tuple(tensor.shape)}; "
            "use the inner forecaster by itself."
        )
    return tensor if tensor.ndim == 3 else tensor.flatten(2).mT


def _shaped(tokens: Tensor, like: Tensor) -> Tensor:
    return tokens if like.ndim == 3 else tokens.mT.reshape(like.shape)


def _sides(space: HighBand | HaarDetails, tensor: Tensor) -> tuple[int, int]:
    """Height and width of latents, or of the grid of tokens."""
    if tensor.ndim == 4:
        return tensor.shape[2], tensor.shape[3]
    count = tensor.shape[1]
    side = math.isqrt(count)
    height, width = space.grid or (side, side)
    if height * width != count:
        problem = f"is of {height * width} places" if space.grid else "is needed"
        raise ValueError(f"{type(space).__name__}(grid=...) {problem} for {count} tokens; give their (height, width).")
    return height, width


def _checked_grid(space: HighBand | HaarDetails) -> None:
    if space.grid is not None:
        object.__setattr__(space, "grid", tuple(space.grid))
        if len(space.grid) != 2 or min(space.grid) < 1:
            raise ValueError(
                f"{type(space).__name__}(grid=...) must be (height, width), both at least 1, got {space.grid}."
            )


@dataclass(frozen=True)
class HaarDetails(Subspace):
    """What one level of the orthonormal Haar transform has besides its means: of every 2x2 places, what departs from
    their mean.

    An alternative to the bands of FreqCa. A linear forecaster commutes with the transform, so bands change something
    only where they are forecast differently, as here, where the means are reused. On an odd side the last places have
    means of their own. Values are (B, L, D) or (B, C, H, W). Reference: the sub-bands of WaveDiff, arXiv:2211.16152.

    Args:
        grid: height and width of the token grid, where tokens form no square.
    """

    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _checked_grid(self)

    def project(self, tensor: Tensor, history: History) -> Tensor:
        height, width = _sides(self, tensor)
        tokens = _tokens(tensor)
        field = tokens.mT.reshape(len(tokens), -1, height, width)
        means = F.avg_pool2d(field, 2, ceil_mode=True, count_include_pad=False)
        spread = means.repeat_interleave(2, -2)[..., :height, :].repeat_interleave(2, -1)[..., :width]
        return _shaped((field - spread).flatten(2).mT, tensor)


@dataclass(frozen=True)
class HighBand(Subspace):
    """Frequencies above `share` of the highest: what FreqCa extrapolates; the low band is reused.

    "dct" is the orthonormal 2-D DCT over the grid of tokens or pixels, with radius sqrt(k^2 + l^2), as released for
    FLUX; "fft" the 1-D FFT along the flattened tokens, with radius |f|, as released for Qwen-Image. Low is radius <=
    share * largest radius; `share=0` leaves no low band (the released mask would keep the mean in it), 1 and more leave
    nothing else. The released code takes every grid for a square. Values are (B, L, D) or (B, C, H, W). Reference:
    FreqCa, arXiv:2510.08669.

    Args:
        share: where the low band ends.
        transform: "dct" or "fft".
        grid: height and width of the token grid, where tokens form no square.
    """

    share: float = 0.1
    transform: Literal["dct", "fft"] = "dct"
    grid: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.share >= 0:
            raise ValueError(f"HighBand(share=...) must be >= 0, got {self.share}; 0 forecasts all, 1 reuses all.")
        _checked_grid(self)

    def project(self, tensor: Tensor, history: History) -> Tensor:
        tokens = _tokens(tensor)
        if self.transform == "fft":
            found = self._by_fft(tokens, history)
        else:
            height, width = _sides(self, tensor)
            field = tokens.reshape(len(tokens), height, width, -1)
            found = self._by_dct(field, history).flatten(1, 2)
        return _shaped(found, tensor)

    def _by_fft(self, tokens: Tensor, history: History) -> Tensor:
        count = tokens.shape[1]
        high = self._kept("mask", history, tokens, lambda: self._high(np.fft.rfftfreq(count))[:, None])
        found: Tensor = torch.fft.irfft(torch.fft.rfft(tokens, dim=1) * high, n=count, dim=1)
        return found

    def _by_dct(self, field: Tensor, history: History) -> Tensor:
        height, width = field.shape[1:3]
        rows = self._kept("rows", history, field, lambda: _cosines(height))
        columns = self._kept("columns", history, field, lambda: _cosines(width))
        high = self._kept("mask", history, field, lambda: self._high(np.hypot(*np.ogrid[:height, :width]))[:, :, None])
        spectrum = torch.einsum("kh,bhwd,lw->bkld", rows, field, columns) * high
        return torch.einsum("kh,bkld,lw->bhwd", rows, spectrum, columns)

    def _high(self, radius: NDArray[np.floating[Any]]) -> Vector:
        high = radius > self.share * radius.max() if self.share else np.ones_like(radius)
        return high.astype(np.float64)

    def _kept(self, name: str, history: History, like: Tensor, make: Callable[[], Vector]) -> Tensor:
        """An array as a tensor on the device of `like`, made once per run."""
        key = f"{self!r} {name}"
        if key not in history.memo:
            history.memo[key] = torch.as_tensor(make(), dtype=like.dtype, device=like.device)
        kept: Tensor = history.memo[key]
        return kept


def _cosines(count: int) -> Vector:
    """The orthonormal DCT-II, C_ki = sqrt((2 - [k = 0]) / n) cos(pi k (2 i + 1) / 2n): (n, n)."""
    k, i = np.ogrid[:count, :count]
    rows: Vector = np.sqrt(2 / count) * np.cos(np.pi * k * (2 * i + 1) / (2 * count))
    rows[0] /= np.sqrt(2)
    return rows


@dataclass(frozen=True)
class Principal(Subspace):
    """The span of the leading right singular vectors of the run's first value: P F = F V V^T for F = U S V^T, (L, D).

    As many vectors as reach `energy` of sum_i S_i^2, and at most `rank`. SVD-Cache takes V offline from one reference
    prompt; here, as in its FLUX port, the run's first evaluation gives it, for each item of the batch by itself. Values
    are (B, L, D), or (B, C, H, W) as H W tokens of width C. Reference: SVD-Cache, arXiv:2601.07396.

    Args:
        energy: share of the squared singular values to reach, in [0, 1]; 0 is reuse.
        rank: most vectors, 32 in the port; 0 is reuse.
    """

    energy: float = 0.85
    rank: int = 32

    def __post_init__(self) -> None:
        if not 0 <= self.energy <= 1:
            raise ValueError(f"Principal(energy=...) must lie in [0, 1], got {self.energy}; 0 is reuse.")
        if self.rank < 0:
            raise ValueError(f"Principal(rank=...) must be >= 0, got {self.rank}; 0 is reuse.")

    def project(self, tensor: Tensor, history: History) -> Tensor:
        self.prepare(history)
        basis: Tensor = history.memo[repr(self)]
        return _shaped(_tokens(tensor) @ basis @ basis.mT, tensor)

    def prepare(self, history: History) -> None:
        if repr(self) not in history.memo:
            first = history[0].value
            history.memo[repr(self)] = self._basis(_tokens(first.to(torch.promote_types(first.dtype, torch.float32))))

    def _basis(self, tokens: Tensor) -> Tensor:
        """V of each item, (B, D, rank), its columns beyond the item's own rank zero."""
        # The right singular vectors alone, as eigenvectors of F^T F, and S^2 as its eigenvalues.
        squares, vectors = torch.linalg.eigh(tokens.mT @ tokens)
        squares, vectors = squares.clamp(min=0).flip(-1), vectors.flip(-1)[..., : self.rank]
        rest = squares.flip(-1).cumsum(-1).flip(-1)  # energy from each vector on: what is left before it is taken
        taken = rest > max(1 - self.energy, torch.finfo(rest.dtype).eps) * rest[..., :1]
        basis: Tensor = vectors * taken[:, None, : self.rank]
        return basis
