"""Operators of deepinv as they are: images drawn from a known prior, measured, and sampled back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import skipcast as sc
from research.guidance.problems import SIDE, blobs, drawn, psnr, vp_levels

physics = pytest.importorskip("deepinv").physics

SIZE, NOISE, COUNT = (1, SIDE, SIDE), 0.02, 4
STEPS, EVALUATIONS = 30, 16
GRID, END = vp_levels(STEPS, whole=True)
METHOD = f"lagrange:order=1,evaluations={EVALUATIONS},end=0.9"
BLUR = physics.blur.gaussian_blur(sigma=(1.0, 1.0))

OPERATORS: dict[str, Callable[[], Any]] = {
    "inpainting": lambda: physics.Inpainting(img_size=SIZE, mask=(torch.rand(SIZE, generator=drawn(0)) < 0.4).float()),
    "downsampling": lambda: physics.Downsampling(img_size=SIZE, filter="bicubic", factor=3, padding="circular"),
    "blur": lambda: physics.Blur(filter=BLUR, padding="circular"),
    "blur without edges": lambda: physics.Blur(filter=BLUR, padding="valid"),
    "blur by FFT": lambda: physics.BlurFFT(img_size=SIZE, filter=BLUR),
    "compressed sensing": lambda: physics.CompressedSensing(m=48, img_size=SIZE, rng=drawn(1)),
    "tomography": lambda: physics.Tomography(angles=12, img_width=SIDE, normalize=True),
}
#: Of DPS, whose step is to be as large as the operator is.
SCALES = dict(zip(OPERATORS, (2.0, 4.0, 2.0, 4.0, 2.0, 1.0, 2.0), strict=True))
PRIOR = blobs()


class Counted:
    """E[x_0 | x] of the prior, in single precision as most networks; its calls."""

    calls = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return PRIOR(x.double(), t).to(x.dtype)


def truth() -> Tensor:
    which = torch.randint(len(PRIOR.centres), (COUNT,), generator=drawn(2))
    return PRIOR.centres[which].reshape(COUNT, *SIZE).float()


def restored(correction: sc.guidance.Correction | None) -> tuple[Tensor, int]:
    """Samples, and how many evaluations they took."""
    denoiser, start = Counted(), torch.randn(COUNT, *SIZE, generator=drawn(3))
    given: dict[str, Any] = {"grid": GRID, "end": END, "prediction": "sample", "method": METHOD}
    return sc.guidance.sample(denoiser, start, correction=correction, **given), denoiser.calls


@pytest.mark.parametrize("kind", ["DDS", "Proximal", "DPS"])
@pytest.mark.parametrize("name", OPERATORS)
def test_images_are_restored(name: str, kind: str) -> None:
    clean, operator = truth(), OPERATORS[name]()
    y = operator.A(clean)
    y = y + NOISE * torch.randn(y.shape, generator=drawn(4))
    correction: sc.guidance.Correction = {
        "DDS": sc.guidance.DDS(operator, y),
        "Proximal": sc.guidance.Proximal(operator, y, noise=NOISE, iterations=10),
        "DPS": sc.guidance.DPS(operator, y, scale=SCALES[name], on_forecast="forecast"),
    }[kind]
    found, calls = restored(correction)
    assert calls <= EVALUATIONS
    assert psnr(found, clean) > psnr(restored(None)[0], clean) + 5


def test_its_noise_is_left_to_the_measurement() -> None:
    """deepinv draws the noise in `physics(x)` and not in `A`, which is what a correction calls."""
    noisy = physics.Inpainting(img_size=SIZE, mask=0.5, rng=drawn(5), noise_model=physics.GaussianNoise(NOISE))
    found, _ = restored(sc.guidance.Proximal(noisy, noisy(truth()), noise=NOISE))
    assert psnr(found, truth()) > 25


def test_a_nonlinear_operator_is_differentiated() -> None:
    """Its phase retrieval has an `A_adjoint`, that of the linear map inside |B x|^2."""
    linear = physics.CompressedSensing(m=40, img_size=SIZE, rng=drawn(6))
    measured, clean = physics.PhaseRetrieval(linear), truth()
    y = measured.A(clean)
    leaf = (clean + 0.1).requires_grad_()
    torch.linalg.vector_norm(y - linear.A(leaf) ** 2, dim=1).sum().backward()
    assert torch.allclose(sc.guidance.DPS(measured, y).slope(clean + 0.1), leaf.grad, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="A_adjoint is not the adjoint of A"):
        restored(sc.guidance.DDS(measured, y))


def test_several_measurements_at_once_are_refused_by_name() -> None:
    stacked = physics.StackedLinearPhysics([physics.Denoising(), OPERATORS["inpainting"]()])
    with pytest.raises(ValueError, match=r"DDS\(y=\.\.\.\) must be a tensor, got TensorList"):
        sc.guidance.DDS(stacked, stacked.A(truth()))
