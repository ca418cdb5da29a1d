"""Corrections: what guides a sampler towards a measurement, evaluated or forecast.

Every correction sees the uncorrected denoised estimate of a step, wherever that comes from. An operator is anything
with `A(x)`, and `A_adjoint(y)` where a correction needs it, on batches; those of deepinv are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from skipcast.checks import Checked

#: What stands for the gradient through the network at a forecast step: nothing, the newest one, the forecast of
#: it with the weights of the estimate, or the one with I / alpha as the Jacobian, as if the noise did not depend on x.
Policy = Literal["drop", "hold", "forecast", "identity"]
POLICIES: tuple[Policy, ...] = ("drop", "hold", "forecast", "identity")

#: Operators whose adjoint, or A A^T as a multiple of the identity, is off by more are not what they are taken for.
_TOLERANCE = 1e-3
#: A residual below so many units of rounding of what it is a difference of is nothing else.
_ROUNDING = 100.0


@dataclass(frozen=True)
class Call:
    """One step as a correction sees it; its tensors carry no gradient, which `vjp` alone gives.

    Args:
        step: its number.
        x: the sample, x = alpha clean + sigma noise, (B, *shape).
        clean: the uncorrected denoised estimate.
        alpha: share of the clean sample in x.
        sigma: noise level of x.
        alpha_next: the share behind the step.
        sigma_next: the noise level behind the step, of which `added` will be fresh noise.
        added: standard deviation of the noise that is added to the mean.
        evaluated: whether the estimate was evaluated; None where a pipeline does not tell.
        draw: fresh noise of the shape of a sample.
        pull: v -> J^T v with the Jacobian J of the estimate, or what stands for it; once a step.
        evaluate: the denoiser at another x of this level: x -> (clean, pull); None at forecast steps.
    """

    step: int
    x: Tensor
    clean: Tensor
    alpha: float
    sigma: float
    alpha_next: float
    sigma_next: float
    added: float = 0.0
    evaluated: bool | None = None
    draw: Callable[[Tensor], Tensor] = torch.randn_like
    pull: Callable[[Tensor], Tensor] | None = None
    evaluate: Callable[[Tensor], tuple[Tensor, Callable[[Tensor], Tensor] | None]] | None = None

    @property
    def noise(self) -> Tensor:
        """The noise that belongs to the uncorrected estimate: (x - alpha clean) / sigma."""
        return (self.x - self.alpha * self.clean) / self.sigma

    def vjp(self, v: Tensor) -> Tensor:
        """J^T v, J the Jacobian of the estimate in x; at a forecast step what the correction's policy makes of it.

        Raises:
            RuntimeError: a forecast without a policy, or a pipeline, through whose network no gradient flows.
        """
        if self.pull is None:
            raise RuntimeError(
                f"there is no gradient through the denoiser at step {self.step}: a forecast is a sum of remembered "
                "outputs, whose Jacobian is another one. Set needs_vjp = True and a policy, on_forecast=..., and "
                "sample with skipcast.guidance.sample."
            )
        return self.pull(v)

    def at(self, x: Tensor) -> Call:
        """The same step at another x, for one further evaluation.

        Raises:
            RuntimeError: a forecast step, which is evaluated nowhere.
        """
        if self.evaluate is None:
            raise RuntimeError(f"step {self.step} is forecast, so nothing is evaluated at it.")
        clean, pull = self.evaluate(x)
        return replace(self, x=x, clean=clean, pull=pull)


class Correction(Checked):
    """Moves the denoised estimate of a step (`denoised`), the mean of the next sample (`stepped`), or both.

        clean' = denoised(call),    mean = alpha' clean' + sqrt(sigma'^2 - added^2) noise,
        x' = stepped(call, mean) + added z

    with the noise of the *uncorrected* estimate. Called at every step, evaluated or forecast.
    """

    #: Whether it calls `call.vjp`; it then needs an attribute `on_forecast`, its policy for forecast steps.
    needs_vjp: ClassVar[bool] = False
    #: The policies that make sense for it, and why the others do not.
    policies: ClassVar[tuple[Policy, ...]] = POLICIES
    refused: ClassVar[str] = ""

    def check(self, x: Tensor, steps: int) -> None:
        """Refuse samples like x, or a run of so many steps; called before any evaluation."""

    def denoised(self, call: Call) -> Tensor:
        """The estimate that the sampler goes on with."""
        return call.clean

    def stepped(self, call: Call, mean: Tensor) -> Tensor:
        """The mean of the next sample that the sampler goes on with."""
        return mean


@dataclass(frozen=True, eq=False)
class Measured(Correction):
    """A correction towards y = A(x) + noise; what all of this module have in common.

    Args:
        operator: with `A(x)`, and for a linear one `A_adjoint(y)`.
        y: the measurement, as A makes it; one of a batch of 1 stands for all samples.
    """

    operator: Any
    y: Tensor = field(repr=False)

    #: Whether it is for linear operators alone.
    adjoint: ClassVar[bool] = True

    def check(self, x: Tensor, steps: int) -> None:
        name = type(self).__name__
        for method in ("A", "A_adjoint") if self.adjoint else ("A",):
            if not callable(getattr(self.operator, method, None)):
                raise ValueError(
                    f"{name}(operator=...) needs a method {method}, as the operators of deepinv have; got "
                    f"{type(self.operator).__name__}."
                )
        drawn = torch.Generator().manual_seed(0)
        u = torch.randn(x.shape, generator=drawn, dtype=torch.float64).to(x)
        made = self._applied("A", u)
        if not _expands(self.y, made):
            raise ValueError(
                f"{name}(y=...) has shape {tuple(self.y.shape)}, but operator.A makes {tuple(made.shape)} of samples "
                f"of {tuple(x.shape)}."
            )
        if not self.y.isfinite().all():
            raise ValueError(f"{name}(y=...) holds values that are not finite.")
        if not self.adjoint:
            return
        v = torch.randn(made.shape, generator=drawn, dtype=torch.float64).to(x)
        back = self._applied("A_adjoint", v)
        if back.shape != x.shape:
            raise ValueError(
                f"{name}(operator=...): A_adjoint makes {tuple(back.shape)} of {tuple(v.shape)}, the samples are "
                f"{tuple(x.shape)}."
            )
        if not abs(float((made * v).sum() - (u * back).sum())) <= _TOLERANCE * float(made.norm() * v.norm()):
            raise ValueError(
                f"{name}(operator=...): A_adjoint is not the adjoint of A; <A u, v> is not <u, A_adjoint v>."
            )

    def _applied(self, method: str, x: Tensor) -> Tensor:
        try:
            made = getattr(self.operator, method)(x)
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{type(self).__name__}(operator=...): {method} does not take {tuple(x.shape)}: {error}"
            ) from error
        if not isinstance(made, Tensor):
            raise ValueError(
                f"{type(self).__name__}(operator=...): {method} must return a tensor, got {type(made).__name__}."
            )
        return made

    def residual(self, clean: Tensor) -> Tensor:
        """y - A(clean)."""
        found: Tensor = self.y.to(clean) - self.operator.A(clean)
        return found

    def slope(self, clean: Tensor) -> Tensor:
        """The gradient of ||y - A(clean)|| of every sample, in its own clean estimate.

        Nonlinear operators may have an `A_adjoint` too, as of a part of them, so that A itself is differentiated.
        """
        with torch.enable_grad():
            leaf = clean.detach().requires_grad_()
            residual = self.residual(leaf)
            if residual.requires_grad:
                return torch.autograd.grad(_norm(residual).sum(), leaf)[0]
        found: Tensor = -self.operator.A_adjoint(residual / _norm(residual))
        return found

    @cached_property
    def _multiples(self) -> dict[torch.dtype, float | None]:
        return {}

    def multiple(self, like: Tensor) -> float | None:
        """c where A A^T = c I on what A makes, as of a mask or of orthonormal rows; None otherwise.

        Found once, in the precision of the samples, which that of y need not be.
        """
        if like.dtype not in self._multiples:
            drawn = torch.randn(self.y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like)
            A, back = self.operator.A, self.operator.A_adjoint  # noqa: N806
            made = A(back(drawn))
            again = A(back(made))
            c = float((again * made).sum() / (made * made).sum())
            holds = float((again - c * made).norm()) <= _TOLERANCE * float(again.norm())
            self._multiples[like.dtype] = c if holds else None
        return self._multiples[like.dtype]


@dataclass(frozen=True, eq=False)
class DPS(Measured):
    """Diffusion posterior sampling: the next sample less a gradient through the network.

        x' <- x' - scale J^T d||y - A(clean)|| / d clean

    A may be nonlinear: it is differentiated itself, and `A_adjoint` stands in where no gradient flows through it.
    Reference: arXiv:2209.14687.

    Args:
        scale: of the gradient of the norm.
        on_forecast: the policy at forecast steps; see `Policy`.
    """

    scale: float = 1.0
    on_forecast: Policy | None = None

    needs_vjp = True
    adjoint = False

    def stepped(self, call: Call, mean: Tensor) -> Tensor:
        return mean - self.scale * call.vjp(self.slope(call.clean))


@dataclass(frozen=True, eq=False)
class MCG(Measured):
    """Manifold-constrained gradient: the gradient across the measured subspace, and a projection onto it.

        x' <- x' - scale (I - A^T A / c) g,      x' <- x' + A^T (alpha' y + sigma' A z - A x') / c

    with the g of `DPS` and A A^T = c I. scale=0 is the projection alone. Reference: arXiv:2206.00941.
    """

    scale: float = 1.0
    on_forecast: Policy | None = None

    needs_vjp = True
    policies = ("drop", "hold", "forecast")
    refused = "the identity as a Jacobian has no part across the measured subspace, which is all that MCG takes"

    def check(self, x: Tensor, steps: int) -> None:
        super().check(x, steps)
        if self.multiple(x) is None:
            raise ValueError("MCG(operator=...) needs rows with A A^T = c I, as a mask has; use DDS or DPS.")

    def stepped(self, call: Call, mean: Tensor) -> Tensor:
        A, back, c = self.operator.A, self.operator.A_adjoint, self.multiple(mean)  # noqa: N806
        if self.scale:
            g = call.vjp(self.slope(call.clean))
            mean = mean - self.scale * (g - back(A(g)) / c)
        # The noise that is added behind the mean makes up the level.
        spread = max(0.0, call.sigma_next**2 - call.added**2) ** 0.5
        noisy = call.alpha_next * self.y.to(mean) + spread * A(call.draw(mean))
        found: Tensor = mean + back(noisy - A(mean)) / c
        return found


@dataclass(frozen=True, eq=False)
class Proximal(Measured):
    """The proximal step of a Gaussian measurement, without any gradient through the network.

        clean' = clean + r A^T (r A A^T + noise^2 I)^-1 (y - A clean),      r = sigma^2 / (alpha^2 + sigma^2)

    In closed form where A A^T is a multiple of the identity, else by conjugate gradients. Reference: r is that of
    pseudoinverse guidance (Song et al., ICLR 2023), the step that of DDS, arXiv:2303.05754.

    Args:
        noise: standard deviation of the measurement's noise.
        iterations: of conjugate gradients.
    """

    noise: float = 0.0
    iterations: int = 30

    def __post_init__(self) -> None:
        if not self.noise >= 0:
            raise ValueError(f"Proximal(noise=...) must be >= 0, got {self.noise}.")
        _check_iterations(self)

    def denoised(self, call: Call) -> Tensor:
        A, back = self.operator.A, self.operator.A_adjoint  # noqa: N806
        r, residual = call.sigma**2 / (call.alpha**2 + call.sigma**2), self.residual(call.clean)
        multiple = self.multiple(call.clean)
        if multiple is not None:
            u = residual / (r * multiple + self.noise**2)
        else:
            u = _solved(lambda v: r * A(back(v)) + self.noise**2 * v, residual, None, self.iterations)
        found: Tensor = call.clean + r * back(u)
        return found


@dataclass(frozen=True, eq=False)
class DDS(Measured):
    """Decomposed diffusion sampling: a few conjugate gradient steps from the estimate, no gradient of the network.

        A^T A clean' = A^T y,    or    (I + weight A^T A) clean' = clean + weight A^T y

    Few steps are the regularisation: more of them fit the noise of the measurement. Reference: arXiv:2303.05754.

    Args:
        iterations: of conjugate gradients, begun at the estimate.
        weight: of the measurement against the estimate; None for the measurement alone.
    """

    iterations: int = 5
    weight: float | None = None

    #: Whether the samples of a batch are solved for as one.
    whole: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_iterations(self)
        if self.weight is not None and not self.weight > 0:
            raise ValueError(f"{type(self).__name__}(weight=...) must be positive, got {self.weight}.")

    def denoised(self, call: Call) -> Tensor:
        A, back, weight = self.operator.A, self.operator.A_adjoint, self.weight  # noqa: N806
        goal = back(self.y.to(call.clean).expand(A(call.clean).shape))
        if weight is None:
            return _solved(lambda v: back(A(v)), goal, call.clean, self.iterations, whole=self.whole)
        goal = call.clean + weight * goal
        return _solved(lambda v: v + weight * back(A(v)), goal, call.clean, self.iterations, whole=self.whole)


@dataclass(frozen=True, eq=False)
class SVI(DDS):
    """Video inverse problems with an image model: the batch is one video, solved for as a whole.

    As `DDS`, with inner products over all frames, which the operator may mix. Sample with share="batch", so that the
    frames have their noise in common, and a small eta (0.15). Reference: arXiv:2409.02574.
    """

    whole = True


@dataclass(frozen=True, eq=False)
class TrustSampling(Measured):
    """Several normalised gradient steps per sampler step, while the noise that the network sees is not too large.

        while j < iterations and ||noise(x')|| <= bound:    x' <- x' - size g / ||g||,    g the gradient of DPS at x'

    of every sample, on the mean of the next one, evaluated at the level of this one; the last step is left alone. For
    nonlinear constraints above all; sample with eta="ancestral". Every inner step is an evaluation, and is made at
    evaluated steps alone. Reference: arXiv:2411.10932.

    Args:
        size: of an inner step.
        iterations: inner steps, or one number for each step of the sampler.
        bound: of the norm of the predicted noise; "sqrt" is the square root of the number of values, None is no bound.
        on_forecast: "drop".
    """

    size: float = 1.0
    iterations: int | tuple[int, ...] = 4
    bound: float | str | None = None
    on_forecast: Policy | None = None

    needs_vjp = True
    adjoint = False
    policies = ("drop",)
    refused = "its inner steps evaluate the network where they have just moved to, which nothing remembered tells of"

    def __post_init__(self) -> None:
        if isinstance(self.bound, str) and self.bound != "sqrt":
            raise ValueError(f'TrustSampling(bound=...) must be a number, "sqrt" or None, got {self.bound!r}.')
        if min([self.iterations] if isinstance(self.iterations, int) else self.iterations, default=0) < 0:
            raise ValueError(f"TrustSampling(iterations=...) must be >= 0, got {self.iterations!r:.60}.")

    def check(self, x: Tensor, steps: int) -> None:
        super().check(x, steps)
        if not isinstance(self.iterations, int) and len(self.iterations) != steps:
            raise ValueError(f"TrustSampling(iterations=...) has {len(self.iterations)} numbers for {steps} steps.")

    def stepped(self, call: Call, mean: Tensor) -> Tensor:
        if call.evaluate is None or call.sigma_next == 0:
            return mean
        inner = self.iterations if isinstance(self.iterations, int) else self.iterations[call.step]
        bound = mean[0].numel() ** 0.5 if isinstance(self.bound, str) else self.bound
        trusted = torch.ones_like(_norm(mean), dtype=torch.bool)
        for _ in range(inner):
            there = call.at(mean)
            if bound is not None:
                trusted = trusted & (_norm(there.noise) <= bound)
                if not trusted.any():
                    break
            g = there.vjp(self.slope(there.clean))
            mean = torch.where(trusted, mean - self.size * g / _norm(g), mean)
        return mean


def _check_iterations(part: Any) -> None:
    if part.iterations < 1:
        raise ValueError(f"{type(part).__name__}(iterations=...) must be at least 1, got {part.iterations}.")


def _expands(y: Tensor, made: Tensor) -> bool:
    """Whether y is of the shape of `made`, or is one for its whole batch."""
    return isinstance(y, Tensor) and y.ndim == made.ndim and y.shape in (made.shape, (1, *made.shape[1:]))


def _norm(x: Tensor) -> Tensor:
    """||x|| of every sample, never zero, of a shape that divides x."""
    found: Tensor = torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1)
    return found.clamp_min(1e-30).reshape(-1, *[1] * (x.ndim - 1))


def _solved(
    normal: Callable[[Tensor], Tensor], goal: Tensor, start: Tensor | None, iterations: int, *, whole: bool = False
) -> Tensor:
    """So many steps of conjugate gradients on normal(v) = goal, of every sample or of the batch as one.

    A sample stays where it is once its residual is rounding alone: that may point where normal(v) is zero.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum() if whole else (a * b).reshape(len(a), -1).sum(1).reshape(-1, *[1] * (a.ndim - 1))

    tiny, rounding = torch.finfo(goal.dtype).tiny, _ROUNDING * torch.finfo(goal.dtype).eps
    v = torch.zeros_like(goal) if start is None else start
    residual = goal if start is None else goal - normal(start)
    direction, size = residual, dot(residual, residual)
    least = rounding**2 * (dot(goal, goal) + size)
    for _ in range(iterations):
        moved = normal(direction)
        step = torch.where(size > least, size / dot(direction, moved).clamp_min(tiny), 0.0)
        v, residual = v + step * direction, residual - step * moved
        before, size = size, dot(residual, residual)
        direction = residual + size / before.clamp_min(tiny) * direction
    return v
