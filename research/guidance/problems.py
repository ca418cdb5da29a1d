"""The problems: a mixture whose posterior is a mixture, a moving blob filmed badly, and a spiral under constraints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import skipcast as sc

Denoiser = Callable[[Tensor, Any], Tensor]


def vp_levels(steps: int, *, whole: bool = False) -> tuple[sc.TimeGrid, tuple[float, float]]:
    """Steps of the variance-preserving process with beta from 0.1 to 20, even in t from 1, and alpha and sigma behind.

    They end at t = 0.002; a whole run makes its last step from there to the clean sample.
    """
    t = np.linspace(1.0, 0.002, steps if whole else steps + 1)
    alpha = np.exp(-0.25 * t**2 * 19.9 - 0.05 * t)
    sigma = np.sqrt(1 - alpha**2)
    end = (1.0, 0.0) if whole else (float(alpha[-1]), float(sigma[-1]))
    return sc.TimeGrid(timestep=t[:steps], alpha=alpha[:steps], sigma=sigma[:steps]), end


def level_of(t: Any) -> tuple[Any, Any]:
    """alpha and sigma at t: numbers, or tensors where t carries a gradient."""
    if isinstance(t, Tensor) and t.requires_grad:
        share = torch.exp(-0.25 * t.double() ** 2 * 19.9 - 0.05 * t.double())
        return share, (1 - share**2).sqrt()
    alpha = float(np.exp(-0.25 * float(t) ** 2 * 19.9 - 0.05 * float(t)))
    return alpha, float(np.sqrt(1 - alpha**2))


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Matrix:
    """An operator: its rows on vectors, (m, d)."""

    rows: Tensor

    def A(self, x: Tensor) -> Tensor:  # noqa: N802
        return x @ self.rows.mT

    def A_adjoint(self, y: Tensor) -> Tensor:  # noqa: N802
        return y @ self.rows


@dataclass(frozen=True)
class Mixture:
    """sum_k w_k N(mu_k, S_k) in float64: weights (K,), means (K, d), covariances (K, d, d)."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    @classmethod
    def made(cls, seed: int, d: int = 16, components: int = 8) -> Mixture:
        g = drawn(seed)
        means = torch.randn(components, d, generator=g, dtype=torch.float64) * 4 / d**0.5
        factors = 0.2 * torch.randn(components, d, 4, generator=g, dtype=torch.float64)
        covariances = factors @ factors.mT + 0.02**2 * torch.eye(d, dtype=torch.float64)
        return cls(torch.full((components,), 1 / components, dtype=torch.float64), means, covariances)

    def draw(self, count: int, seed: int) -> Tensor:
        g = drawn(seed)
        which = torch.multinomial(self.weights, count, replacement=True, generator=g)
        root = torch.linalg.cholesky(self.covariances + 1e-12 * torch.eye(self.means.shape[1], dtype=torch.float64))
        z = torch.randn(count, self.means.shape[1], 1, generator=g, dtype=torch.float64)
        return self.means[which] + (root[which] @ z)[..., 0]

    def posterior(self, A: Tensor, y: Tensor, noise: float) -> Mixture:  # noqa: N803
        """Of y = A x + noise n, again a mixture."""
        spread = A @ self.covariances @ A.mT + noise**2 * torch.eye(len(A), dtype=torch.float64)
        gain = self.covariances @ A.mT @ torch.linalg.inv(spread)
        off = y - self.means @ A.mT
        density = torch.distributions.MultivariateNormal(torch.zeros(len(A), dtype=torch.float64), spread)
        weights = torch.softmax(self.weights.log() + density.log_prob(off), 0)
        means = self.means + (gain @ off[..., None])[..., 0]
        covariances = self.covariances - gain @ A @ self.covariances
        return Mixture(weights, means, (covariances + covariances.mT) / 2)

    def denoiser(self, prediction: str = "sample") -> Denoiser:
        """E[x_0 | x] at t, or the noise that belongs to it."""
        values, basis = torch.linalg.eigh(self.covariances)
        values = values[:, None]  # (K, 1, d)
        centres = self.means[:, None] @ basis

        def found(x: Tensor, t: Any) -> Tensor:
            alpha, sigma = level_of(t)
            spread = alpha**2 * values + sigma**2
            off = x @ basis - alpha * centres  # (K, B, d)
            weight = torch.softmax(self.weights[:, None].log() - 0.5 * (off**2 / spread + spread.log()).sum(2), 0)
            moved = (weight[..., None] * (centres + alpha * values / spread * off)) @ basis.mT
            clean = moved.sum(0)
            return clean if prediction == "sample" else (x - alpha * clean) / sigma

        return found


def sliced(a: Tensor, b: Tensor, projections: int = 256) -> float:
    """Sliced Wasserstein-2 distance of two sets of as many samples."""
    directions = torch.randn(a.shape[1], projections, generator=drawn(99), dtype=torch.float64)
    directions = directions / directions.norm(dim=0)
    return float(((a @ directions).sort(0)[0] - (b @ directions).sort(0)[0]).square().mean().sqrt())


def posterior_problem(seed: int) -> tuple[Mixture, Matrix, Tensor, Mixture]:
    """Prior, operator of 6 orthonormal rows, measurement with noise 0.05, exact posterior."""
    prior, g = Mixture.made(seed), drawn(1000 + seed)
    rows = torch.linalg.qr(torch.randn(16, 6, generator=g, dtype=torch.float64))[0].mT.contiguous()
    truth = prior.draw(1, 2000 + seed)
    y = truth @ rows.mT + 0.05 * torch.randn(1, 6, generator=g, dtype=torch.float64)
    return prior, Matrix(rows), y, prior.posterior(rows, y, 0.05)


@dataclass(frozen=True)
class Isotropic:
    """A mixture of equal weights around centres (K, d), with one standard deviation: images, or points of a curve."""

    centres: Tensor
    spread: float

    def __call__(self, x: Tensor, t: Any) -> Tensor:
        """E[x_0 | x] at t."""
        alpha, sigma = level_of(float(t))
        total = (alpha * self.spread) ** 2 + sigma**2
        flat = x.flatten(1)
        weight = torch.softmax(-(torch.cdist(flat, alpha * self.centres) ** 2) / (2 * total), 1)
        mean = weight @ self.centres
        return (mean + alpha * self.spread**2 / total * (flat - alpha * mean)).view_as(x)


# A moving blob, filmed badly.

SIDE, FRAMES, SHUTTER = 12, 16, 7


def blobs() -> Isotropic:
    """Images of a blob of width 1.1 at 17 x 17 places, in [-1, 1]."""
    places, axis = torch.linspace(2, SIDE - 3, 17, dtype=torch.float64), torch.arange(SIDE, dtype=torch.float64)
    bump = torch.exp(-((axis - places[:, None]) ** 2) / (2 * 1.1**2))
    return Isotropic((2 * bump[:, None, :, None] * bump[None, :, None, :] - 1).reshape(17 * 17, -1), 0.04)


def video(prior: Isotropic, seed: int) -> Tensor:
    """Frames drawn from the prior along a Lissajous curve, (16, 1, 12, 12)."""
    g = drawn(seed)
    phase = 2 * np.pi * torch.rand(2, generator=g, dtype=torch.float64)
    t = 2 * np.pi * torch.arange(FRAMES, dtype=torch.float64) / FRAMES
    rows, columns = (((torch.sin(k * t + p) + 1) / 2 * 16).round().long() for k, p in zip((1, 2), phase, strict=True))
    clean = prior.centres[rows * 17 + columns]
    return (clean + prior.spread * torch.randn(clean.shape, generator=g, dtype=torch.float64)).view(-1, 1, SIDE, SIDE)


@dataclass(frozen=True)
class Filmed:
    """The circular mean of 7 frames, then half of the pixels, or the means of 3 x 3 pixels."""

    kind: str

    def _blurred(self, x: Tensor) -> Tensor:
        return torch.stack([x.roll(k, 0) for k in range(-(SHUTTER // 2), SHUTTER // 2 + 1)]).mean(0)

    def _mask(self) -> Tensor:
        return (torch.rand(SIDE, SIDE, generator=drawn(3), dtype=torch.float64) < 0.5).double()

    def A(self, x: Tensor) -> Tensor:  # noqa: N802
        blurred = self._blurred(x)
        return blurred * self._mask() if self.kind == "mask" else torch.nn.functional.avg_pool2d(blurred, 3)

    def A_adjoint(self, y: Tensor) -> Tensor:  # noqa: N802
        if self.kind == "mask":
            return self._blurred(y * self._mask())
        return self._blurred(y.repeat_interleave(3, -1).repeat_interleave(3, -2) / 9)


def psnr(found: Tensor, truth: Tensor) -> float:
    """In dB, over the range of 2."""
    return float(-10 * ((found - truth).square().mean() / 4).log10())


# Points on a spiral under a constraint.


def spiral() -> Isotropic:
    theta = torch.linspace(0.5, 3 * np.pi, 120, dtype=torch.float64)
    return Isotropic(1.8 / (3 * np.pi) * theta[:, None] * torch.stack([theta.cos(), theta.sin()], 1), 0.03)


def off_spiral(x: Tensor) -> Tensor:
    """The distance of every point from the line through the centres of the spiral."""
    a, b = spiral().centres[:-1], spiral().centres[1:]
    along = b - a
    share = (((x[:, None] - a) * along).sum(2) / (along * along).sum(1)).clamp(0, 1)
    return (x[:, None] - a - share[..., None] * along).norm(dim=2).amin(1)


@dataclass(frozen=True)
class Constraint:
    """A nonlinear operator that is zero where the constraint holds, (B, 2) -> (B, 1)."""

    kind: str

    def A(self, x: Tensor) -> Tensor:  # noqa: N802
        a, b = x[:, :1], x[:, 1:]
        return (2 * a + b - 1) / 5**0.5 if self.kind == "line" else a**3 - a - b
