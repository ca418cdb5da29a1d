"""Guided sampling of any denoiser: raw outputs are remembered, and every step is corrected, evaluated or forecast."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skipcast.checks import check
from skipcast.forecasters import Lagrange
from skipcast.grid import TimeGrid, Vector
from skipcast.guidance.corrections import POLICIES, Call, Correction
from skipcast.methods.names import method as parse
from skipcast.parts import Method, follower
from skipcast.plans.plan import Plan
from skipcast.plans.propagation import Levels, Prediction, first_order
from skipcast.run import Run
from skipcast.targets import Output

#: An evaluation of the step, told a timestep and scaled by a factor.
Evaluate = Callable[..., Tensor]
#: Residuals of a plan's forecasts below this share are as good as none.
_LEAST = 1e-2
#: A plan is doubted under a correction where its forecasts are so many times worse than the worst that was recorded.
_DOUBTED = 10.0
#: v -> J^T v.
Pull = Callable[[Tensor], Tensor]


class _Network:
    """The denoiser at the levels of a grid: an output, its clean estimate, and J^T of the latter."""

    def __init__(
        self,
        denoiser: Callable[..., Any],
        levels: Levels,
        arguments: dict[str, Any],
        dtype: torch.dtype,
        *,
        pulls: bool,
    ) -> None:
        self.denoiser, self.levels, self.arguments, self.dtype, self.pulls = denoiser, levels, arguments, dtype, pulls

    def clean(self, step: int) -> tuple[float, float]:
        """The clean estimate as p x + q y."""
        grid = self.levels.grid
        return self.levels.clean(float(grid.alpha[step]), float(grid.sigma[step]))

    def __call__(self, x: Tensor, step: int, told: float, scale: float = 1.0) -> tuple[Tensor, Pull | None]:
        """The output y, and v -> J^T v of its clean estimate where one is wanted."""
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        timestep = torch.tensor(told, dtype=wide, device=x.device)
        with torch.set_grad_enabled(self.pulls):
            leaf = x.detach().requires_grad_(self.pulls)
            y = self.denoiser((leaf if scale == 1.0 else leaf * scale).to(self.dtype), timestep, **self.arguments)
        if not isinstance(y, Tensor) or y.shape != x.shape:
            got = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"denoiser(x, timestep) must return one tensor of x's shape {tuple(x.shape)}, got {got}.")
        if not self.pulls:
            return y.to(x.dtype), None
        p, q = self.clean(step)

        def pull(v: Tensor) -> Tensor:
            found = torch.autograd.grad(y, leaf, v.to(y.dtype), allow_unused=True)[0] if y.requires_grad else None
            if found is None:
                raise ValueError(
                    "no gradient flows through the denoiser to its sample, which this correction needs: call it "
                    "without torch.no_grad() and detach(), or use a correction without gradients, such as DDS."
                )
            return p * v + q * found.to(v.dtype)

        return y.detach().to(x.dtype), pull


class _Unmerged:
    """A plan step by step: the move that a row merges is undone, so that a correction can act within it.

    At every step of a segment y = line + shift, the line through the last two evaluated outputs and one shift for all
    of it, so that the sampler's own steps, uncorrected, end exactly where the row does.
    """

    def __init__(self, plan: Plan, table: NDArray[np.float64]) -> None:
        self.plan, self.outputs, self.shift = plan, list[Tensor](), torch.zeros(())
        self.doubts = list[float]()  # how much worse the plan's own forecasts of its evaluations were than recorded
        steps = range(len(table) - 1)
        self.carried = [float(table[i + 1, 0] / table[i, 0]) for i in steps]  # x_{i+1} = carried x_i + moved y_i
        self.moved = [float(table[i + 1, i + 1]) for i in steps]

    def advance(self, step: int, x: Tensor, evaluate: Evaluate) -> Tensor:
        """The output of this step."""
        plan, n = self.plan, len(self.outputs)
        if n < len(plan) and plan.steps[n] == step:
            y = evaluate(float(plan.evaluation_timesteps[n]), float(plan.scale[n]))
            if n and plan.forecasts and plan.expected is not None:
                off = self._summed(plan.forecasts[n]) - y
                self.doubts.append(float(off.norm() / y.norm()) / max(float(plan.expected[n, 1]), _LEAST))
            self.outputs.append(y)
            self.shift = self._shift(n, x)
        return self._summed(self._line(step)) + self.shift

    def _line(self, step: int) -> Vector:
        """The weights of the line, on all outputs so far."""
        known = np.array(self.plan.steps[: len(self.outputs)], dtype=np.float64)
        weights = np.zeros(len(known))
        weights[-2:] = Lagrange(1).weights(known[-2:], step)
        return weights

    def _summed(self, weights: Vector) -> Tensor:
        return sum(
            (w * y for w, y in zip(weights.tolist(), self.outputs, strict=True) if w),
            torch.zeros_like(self.outputs[-1]),
        )

    def _shift(self, n: int, x: Tensor) -> Tensor:
        row, end = self.plan.rows[n], (*self.plan.steps, len(self.moved))[n + 1]
        left, share, total = row[1:].copy(), 1.0, 0.0  # what the lines of the steps do not bring; the products behind
        for step in reversed(range(self.plan.steps[n], end)):
            weight = share * self.moved[step]
            left -= weight * self._line(step)
            total, share = total + weight, share * self.carried[step]
        return (self._summed(left) + (1 + float(row[0]) - share) * x) / total


class _Gradients:
    """What `Call.vjp` gives: J^T v at evaluated steps, and what the policy makes of it at forecast ones."""

    def __init__(self, policy: str | None, method: Method | None, grid: TimeGrid) -> None:
        self.policy, self.newest = policy, torch.zeros(())
        self.run = (
            Run(follower(method, Output()), grid, forecast_error=False) if method and policy == "forecast" else None
        )

    def evaluated(self, step: int, pull: Pull) -> Pull:
        """Remembers what it returns."""

        def found(v: Tensor) -> Tensor:
            self.newest = g = pull(v)
            if self.run is not None:
                self.run.step = step
                self.run.observe(g, g)
            return g

        return found

    def forecast(self, step: int, alpha: float) -> Pull | None:
        """Needs no network."""

        def found(v: Tensor) -> Tensor:
            if self.policy == "identity":
                return v / alpha
            if self.policy == "drop":
                return torch.zeros_like(v)
            if self.run is None:
                return self.newest.expand_as(v)
            self.run.step = step
            return self.run.forecast(v)

        return found if self.policy else None


@torch.no_grad()
def sample(
    denoiser: Callable[..., Any],
    noise: Tensor,
    *,
    grid: TimeGrid,
    end: tuple[float, float] = (1.0, 0.0),
    prediction: Prediction = "velocity",
    method: str | Method | Plan | None = None,
    correction: Correction | None = None,
    eta: float | Literal["ancestral"] = 0.0,
    share: Literal["batch"] | None = None,
    forecasts: Literal["clean", "output"] = "clean",
    generator: torch.Generator | None = None,
    **kwargs: Any,
) -> Tensor:
    """Sample a denoiser under a correction, evaluated at some steps and forecast at the others.

        method = "lagrange:order=1,evaluations=25"
        known = sc.guidance.Proximal(operator, y, noise=0.05)
        x = sc.guidance.sample(denoiser, noise, grid=grid, prediction="epsilon", method=method, correction=known)

    At every step raw = clean estimate, evaluated or forecast from earlier evaluated ones; the correction acts on it
    afterwards, and what it makes of it is never remembered:

        x <- alpha' clean' + sqrt(sigma'^2 - added^2) noise + added z,    clean' and the mean as of `Correction`

    Args:
        denoiser: called as denoiser(x, timestep, **kwargs); the timestep is a tensor without dimensions. Where a
            correction needs it, a gradient flows through it to x.
        noise: initial samples at the first level of the grid, (B, *shape).
        grid: the N steps.
        end: alpha and sigma behind the last step.
        prediction: what the denoiser returns, as for `skipcast.record`.
        method: or its name, forecasting at the network's output; or a plan of N steps without knots, whose rows are
            undone so that every step is corrected; None evaluates every step. Under guidance low orders are better: 1
            at every second or third step, 0 where gaps are wider.
        correction: None samples without any.
        eta: share of the next noise level that is fresh noise; "ancestral" is the noise of DDPM.
        share: "batch" gives all samples the initial noise of the first one, and one draw at every step, as `SVI` wants.
        forecasts: whether a method forecasts the clean estimate, which is the more stable under guidance, or the
            output as it comes. A plan always weighs outputs.
        generator: of the noise that is drawn.
        kwargs: go on to the denoiser as they are.

    Warns:
        UserWarning: full noise under a method; or a correction has led away from what a plan was solved for.

    Returns:
        The final samples; sums are taken in float32, or float64 for float64 noise.

    Raises:
        ValueError: what does not fit together, by name and before any evaluation; or the denoiser returnsanother shape.
    """
    levels = Levels(grid, end, prediction)
    table = first_order(grid, end, prediction)
    used = _checked(denoiser, noise, levels, method, correction, eta, share, forecasts)
    wide = torch.promote_types(noise.dtype, torch.float32)
    x = noise.detach().to(wide)
    pulls = correction is not None and correction.needs_vjp
    if share == "batch":
        x = x[:1].repeat(len(x), *[1] * (x.ndim - 1))
    network = _Network(denoiser, levels, kwargs, noise.dtype, pulls=pulls)
    alphas, sigmas = (found.tolist() for found in levels.at(range(len(grid))))
    run = Run(used, grid, forecast_error=False) if isinstance(used, Method) else None
    unmerged = _Unmerged(used, table) if isinstance(used, Plan) else None
    leading = used if isinstance(used, Method) else Method(Lagrange(1))
    gradients = _Gradients(getattr(correction, "on_forecast", None), leading, grid)
    as_clean = unmerged is None and forecasts == "clean"

    def draw(like: Tensor) -> Tensor:
        shape = (1, *like.shape[1:]) if share == "batch" else like.shape
        z = torch.randn(shape, generator=generator, dtype=wide, device=generator.device if generator else like.device)
        return z.to(like.device).expand(like.shape)

    for step, (alpha, sigma) in enumerate(zip(alphas[:-1], sigmas[:-1], strict=True)):
        p, q = network.clean(step)
        pull: list[Pull | None] = []  # of the evaluation of this step; empty at a forecast

        def evaluate(told: float | None = None, scale: float = 1.0, x: Tensor = x) -> Tensor:
            y, pulled = network(x, step, float(grid.timestep[step]) if told is None else told, scale)  # noqa: B023
            pull.append(pulled)  # noqa: B023
            return p * x + q * y if as_clean else y  # noqa: B023

        def again(x: Tensor) -> tuple[Tensor, Pull | None]:
            y, pulled = network(x, step, float(grid.timestep[step]))  # noqa: B023
            return p * x + q * y, pulled  # noqa: B023

        if unmerged is not None:
            raw = unmerged.advance(step, x, evaluate)
        else:
            raw = run.advance(x, evaluate) if run is not None else evaluate()
        clean = raw if as_clean else p * x + q * raw
        alpha_next, sigma_next = alphas[step + 1], sigmas[step + 1]
        added = _added(eta, alpha, sigma, alpha_next, sigma_next)
        own = gradients.evaluated(step, pull[0]) if pull and pull[0] else gradients.forecast(step, alpha)
        call = Call(
            step, x, clean, alpha, sigma, alpha_next, sigma_next, added, bool(pull), draw, own if pulls else None,
            again if pull else None,
        )  # fmt: skip
        corrected = correction.denoised(call) if correction else clean
        mean = alpha_next * corrected + max(0.0, sigma_next**2 - added**2) ** 0.5 * call.noise
        mean = correction.stepped(call, mean) if correction else mean
        x = (mean + added * draw(mean) if added else mean).detach()
    if correction is not None and unmerged is not None and unmerged.doubts and not unmerged.doubts[-1] <= _DOUBTED:
        warnings.warn(
            f"the correction led where {used!r} was not solved for: its last forecast was "
            f"{unmerged.doubts[-1]:.0f} times worse than the worst recorded, and its samples may be worthless; take "
            "a plan of more evaluations, or a method of low order.",
            stacklevel=3,
        )
    return x.to(noise.dtype)


def _added(eta: float | str, alpha: float, sigma: float, alpha_next: float, sigma_next: float) -> float:
    """The standard deviation of a step's fresh noise."""
    if eta != "ancestral":
        return float(eta) * sigma_next
    kept = alpha * sigma_next / (alpha_next * sigma)  # sigma_next: of DDPM's posterior, between the two levels
    return float(sigma_next * max(0.0, 1 - kept**2) ** 0.5)


def _checked(
    denoiser: Any, noise: Any, levels: Levels, method: Any, correction: Any, eta: Any, share: Any, forecasts: Any
) -> Method | Plan | None:
    """The method or plan, after all refusals."""
    if not callable(denoiser):
        raise ValueError(f"sample(denoiser=...) must be callable, got {type(denoiser).__name__}.")
    if not isinstance(noise, Tensor) or not noise.is_floating_point() or noise.ndim < 2 or not len(noise):
        got = f"{noise.dtype} of shape {tuple(noise.shape)}" if isinstance(noise, Tensor) else type(noise).__name__
        raise ValueError(f"sample(noise=...) must be a floating-point tensor (B, *shape), got {got}.")
    if eta != "ancestral":
        check("sample(eta=...)", eta, float)
        if not 0 <= eta <= 1:
            raise ValueError(f'sample(eta=...) must lie in [0, 1] or be "ancestral", got {eta}.')
    if share not in ("batch", None):
        raise ValueError(f'sample(share=...) must be "batch" or None, got {share!r}.')
    if forecasts not in ("clean", "output"):
        raise ValueError(f'sample(forecasts=...) must be "clean" or "output", got {forecasts!r}.')
    used = None if method is None else _governs(method, levels)
    if correction is None:
        return used
    if not isinstance(correction, Correction):
        raise ValueError(
            f"sample(correction=...) must be a Correction, such as those of skipcast.guidance, got {correction!r:.100}."
        )
    if correction.needs_vjp:
        _check_policy(correction, forecast=used is not None)
        _check_differentiable(denoiser)
    if used is not None and eta == 1:
        warnings.warn(
            "eta=1 replaces all noise at every step, and with it what the evaluations remember; take fewer steps "
            "instead of a method, or a smaller eta.",
            stacklevel=4,
        )
    correction.check(noise.detach().to(torch.promote_types(noise.dtype, torch.float32)), len(levels.grid))
    return used


def _governs(method: Any, levels: Levels) -> Method | Plan:
    """A method, or a plan, that can govern this run."""
    grid = levels.grid
    used = parse(method) if isinstance(method, str) else method
    if isinstance(used, Plan):
        used.whole("sample(method=...)")
        if used.knots:
            raise ValueError(f"sample(method=...): {used!r} has knots; take the plan of one value, plan.at(value).")
        if len(used.timesteps) != len(grid) or not np.allclose(used.timesteps, grid.timestep, rtol=1e-3, atol=1e-6):
            raise ValueError(
                f"sample(grid=...) is not that of {used!r}, which has {len(used.timesteps)} steps of its own "
                "timesteps; give the grid that was recorded."
            )
        config = used.origin.config
        if not used.origin.scheduler and config.get("prediction", levels.prediction) != levels.prediction:
            raise ValueError(
                f"sample(prediction={levels.prediction!r}): {used!r} was made for {config['prediction']!r}."
            )
        return used
    if not isinstance(used, Method):
        raise ValueError(
            f"sample(method=...) must be a method that forecasts, or a plan, got {used!r:.100}; a plain sampler with "
            "fewer steps is a shorter grid."
        )
    if used.target.seam != "output":
        raise ValueError(f"sample(method=...): {used.target!r} lies inside the network; use target=output.")
    used.check(len(grid))
    return used


def _check_policy(correction: Any, *, forecast: bool) -> None:
    """Refuse a correction that does not say what it does where there is no gradient."""
    name, policy = type(correction).__name__, getattr(correction, "on_forecast", None)
    if policy is None and not forecast:
        return
    words = ", ".join(repr(known) for known in correction.policies)
    if policy is None:
        raise ValueError(
            f"{name}(on_forecast=...) must say what stands for the gradient through the network at forecast steps, "
            f"where there is none: {words}."
        )
    if policy not in correction.policies:
        why = f": {correction.refused}" if policy in POLICIES else ""
        raise ValueError(f"{name}(on_forecast={policy!r}) must be one of {words}{why}.")


def _check_differentiable(denoiser: Any) -> None:
    """Refuse a network whose gradient is not to be had; one inside a function shows at its first evaluation."""
    if not isinstance(denoiser, nn.Module):
        return
    if any("_orig_mod" in vars(m)["_modules"] or vars(m).get("_compiled_call_impl") for m in denoiser.modules()):
        raise ValueError(
            "this correction takes gradients through the denoiser, which is compiled for sampling; give the network "
            "as it was before torch.compile, or use a correction without gradients, such as DDS."
        )
    tensors = [*denoiser.parameters(), *denoiser.buffers()]
    quantised = any("quant" in type(m).__module__ for m in denoiser.modules())
    if quantised or any("torchao" in type(t.data).__module__ or t.dtype in (torch.int8, torch.uint8) for t in tensors):
        raise ValueError(
            "this correction takes gradients through the denoiser, whose weights are quantised; give the network in "
            "floating point, or use a correction without gradients, such as DDS."
        )
