"""Told times tuned step by step, as TimeTuner does (arXiv:2310.09469), for any denoiser smooth in its timestep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from skipcast.checks import guarded
from skipcast.grid import TimeGrid, Vector
from skipcast.pipelines.denoiser import Denoiser, of_pairs, one_each, unaccelerated
from skipcast.plans.plain import SAMPLERS, sampler_rows
from skipcast.plans.plan import Plan
from skipcast.plans.propagation import Levels, Prediction

#: A level of a fine grid that lies so much beside that of the grid, relative to the first, is another one.
_SAME = 1e-6


@guarded(batches=1, batch=1, denoiser=None)
def tune(
    denoiser: Denoiser,
    data: Tensor,
    *,
    grid: TimeGrid,
    end: tuple[float, float] = (1.0, 0.0),
    prediction: Prediction = "velocity",
    solver: str = "euler",
    loss: Literal["paper", "teacher"] = "paper",
    order: Literal["parallel", "sequential"] = "parallel",
    fine: TimeGrid | None = None,
    batches: int = 500,
    batch: int = 64,
    rate: float = 2e-3,
    seed: int = 0,
    varied: Mapping[str, Any] | None = None,
    progress: bool = True,
    **kwargs: Any,
) -> Plan:
    """Tune what a network is told at each step of a sampler: one ratio per step, r_i t_i instead of t_i.

        plan = sc.tune(denoiser, data, grid=grid, prediction="epsilon")
        samples = sc.sample(denoiser, plan, noise)

    The levels of the steps stay where they are. Step by step, Adam minimises over r_i, from 1, the mean over samples of

        "paper"    |e(x_{i+1}(r), t_{i+1}) - e(x_i, t_i)|^2
        "teacher"  |x_{i+1}(r) - x*_{i+1}|^2

    where x_{i+1}(r) is the solver's step with the output at (x_i, r t_i), e the noise that an output tells, and
    x*_{i+1} the result of first-order steps on a finer grid from x_i. The paper's loss leaves the last ratio at 1.

    Args:
        denoiser: denoiser(x, timestep, **kwargs) on tensors, differentiable in the timestep, which has no dimensions.
            A network of whole timesteps needs an embedding that interpolates them.
        data: clean samples (M, *shape), drawn from in random batches.
        grid: the N steps.
        end: alpha and sigma behind the last step.
        prediction: what the denoiser returns, as for `record`.
        solver: "euler" (DDIM's step), "ab2", "dpmpp2m" or "unipc".
        loss: "paper" or "teacher".
        order: "parallel" draws x_i = alpha_i data + sigma_i noise; "sequential" makes it of such a sample of the first
            level by the tuned steps before, which several-step solvers need.
        fine: for the teacher: a grid of k N steps, of which every k-th is one of `grid`.
        batches: Adam steps per ratio.
        batch: samples of each.
        rate: of Adam.
        seed: of batches and noise.
        varied: arguments that differ from sample to sample, such as class labels: arrays or lists of M entries each.
        progress: show a bar on stderr.
        kwargs: go on to the denoiser as they are.

    Returns:
        The solver on all N steps as a plan, whose `evaluation_timesteps` are the tuned ones.

    Raises:
        ValueError: arguments that do not fit together, before any evaluation; an output that does not depend on the
            timestep in a differentiable way, or is not finite.

    Reference: arXiv:2310.09469; THU-LYJ-Lab/time-tuner@366bb74 time_tuner.py for what the text leaves open.
    """
    if not callable(denoiser):
        raise ValueError(f"tune(denoiser=...) must be a callable denoiser(x, timestep), got {type(denoiser).__name__}.")
    if not isinstance(data, Tensor) or not data.is_floating_point() or data.ndim < 2 or not len(data):
        got = f"{data.dtype} of shape {tuple(data.shape)}" if isinstance(data, Tensor) else type(data).__name__
        raise ValueError(f"tune(data=...) must be clean samples (M, *shape) as a floating-point tensor, got {got}.")
    if solver not in SAMPLERS:
        raise ValueError(f"tune(solver={solver!r}) must be one of {', '.join(SAMPLERS)}.")
    if solver != "euler" and order == "parallel":
        raise ValueError(
            f"tune(solver={solver!r}) needs the outputs of earlier steps, which a sample drawn at its own level does "
            'not have; give order="sequential".'
        )
    if not rate > 0:
        raise ValueError(f"tune(rate={rate}) must be positive.")
    plan, _ = unaccelerated(grid, end, prediction, None, "tune")
    levels = Levels(grid, end, prediction)
    teacher = _teacher(grid, end, prediction, fine) if loss == "teacher" else None
    if fine is not None and teacher is None:
        raise ValueError('tune(fine=...) is the grid of loss="teacher"; leave it out.')
    if solver != "euler":
        plan = replace(plan, rows=sampler_rows(solver, levels, plan.steps, plan.scale))
    network = _Network(denoiser, one_each(varied, len(data), "tune"), kwargs)
    tuner = _Tuner(network, levels, plan.rows, teacher)
    ratios = np.ones(len(grid))
    last = len(grid) if teacher else len(grid) - 1
    with torch.enable_grad():
        for i in track(range(last), "tuning", console=Console(stderr=True), disable=not progress):
            drawn = _drawn(data, network, batch, batches, seed + i)
            ratios[i] = tuner.tuned(i, ratios, drawn, rate=rate, sequential=order == "sequential")
    return replace(plan, evaluation_timesteps=ratios * grid.timestep, label=f"timetuner {solver}")


def _drawn(data: Tensor, network: _Network, batch: int, batches: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Random batches of clean samples, with noise; the network is told which they are."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(batches):
        network.pairs = torch.randint(len(data), (batch,), generator=generator).tolist()
        clean = data[network.pairs]
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        yield clean, noise.to(clean)


class _Network:
    """The denoiser on tensors, for the samples that are at work, with its further arguments."""

    def __init__(self, denoiser: Denoiser, varied: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        self.denoiser, self.varied, self.arguments = denoiser, varied, arguments
        self.pairs: list[int] = []

    def __call__(self, x: Tensor, timestep: Tensor) -> Tensor:
        own = {name: of_pairs(values, self.pairs) for name, values in self.varied.items()}
        y = self.denoiser(x, timestep.to(x.device), **own, **self.arguments)
        if not isinstance(y, Tensor) or y.shape != x.shape:
            got = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"denoiser(x, timestep) must return one tensor of x's shape {tuple(x.shape)}, got {got}.")
        return y


@dataclass(frozen=True)
class _Teacher:
    """First-order steps on a finer grid, k of them for one."""

    levels: Levels
    k: int

    def __call__(self, network: _Network, i: int, x: Tensor) -> Tensor:
        """The sample behind step i."""
        alpha, sigma = self.levels.at(range(len(self.levels.grid)))
        for j in range(i * self.k, (i + 1) * self.k):
            y = network(x, _time(self.levels.grid.timestep[j], x))
            p, q = self.levels.clean(float(alpha[j]), float(sigma[j]))
            clean = p * x + q * y
            x = float(alpha[j + 1]) * clean + float(sigma[j + 1] / sigma[j]) * (x - float(alpha[j]) * clean)
        return x


def _teacher(grid: TimeGrid, end: tuple[float, float], prediction: Prediction, fine: TimeGrid | None) -> _Teacher:
    count = len(fine) if isinstance(fine, TimeGrid) else 0
    k = count // len(grid)
    if not isinstance(fine, TimeGrid) or k < 2 or count % len(grid):
        raise ValueError(
            f'tune(loss="teacher") needs fine=, a TimeGrid of k times the {len(grid)} steps with k of 2 or more, got '
            f"{f'{count} steps' if count else type(fine).__name__}."
        )
    for name in ("timestep", "alpha", "sigma"):
        own, finer = getattr(grid, name), getattr(fine, name)[::k]
        if not np.allclose(own, finer, rtol=0, atol=_SAME * float(np.abs(own).max())):
            raise ValueError(f"tune(fine=...): every {k}th {name} of it must be that of grid=, which they are not.")
    return _Teacher(Levels(fine, end, prediction), k)


def _time(timestep: float, x: Tensor) -> Tensor:
    """A timestep as the network is told it: half precision would round it."""
    return torch.tensor(timestep, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


@dataclass(frozen=True)
class _Tuner:
    network: _Network
    levels: Levels
    rows: Sequence[Vector]
    teacher: _Teacher | None

    def moved(self, i: int, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """The solver's step i from x with the outputs y_0 .. y_i; those that weigh nothing may be None."""
        a, *weights = self.rows[i].tolist()
        x = (1 + a) * x
        for weight, y in zip(weights, outputs, strict=True):
            x = x + weight * y if weight else x
        return x

    def noise(self, i: int, x: Tensor, y: Tensor) -> Tensor:
        """The noise that an output at step i tells."""
        alpha, sigma = float(self.levels.grid.alpha[i]), float(self.levels.grid.sigma[i])
        p, q = self.levels.clean(alpha, sigma)
        return (x - alpha * (p * x + q * y)) / sigma

    def told(self, i: int, x: Tensor, ratio: float = 1.0) -> Tensor:
        return self.network(x, _time(ratio * float(self.levels.grid.timestep[i]), x))

    def before(
        self, i: int, ratios: Vector, clean: Tensor, noise: Tensor, sequential: bool
    ) -> tuple[Tensor, list[Any]]:
        """x_i, and the outputs of the steps before it where these were taken."""
        grid = self.levels.grid
        first = 0 if sequential else i
        x = float(grid.alpha[first]) * clean + float(grid.sigma[first]) * noise
        outputs: list[Any] = [None] * first
        for n in range(first, i):
            outputs.append(self.told(n, x, float(ratios[n])))
            x = self.moved(n, x, outputs)
        return x, outputs

    def tuned(
        self, i: int, ratios: Vector, drawn: Iterator[tuple[Tensor, Tensor]], *, rate: float, sequential: bool
    ) -> float:
        """The ratio of step i."""
        at = float(self.levels.grid.timestep[i])
        ratio = torch.ones((), dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([ratio], lr=rate)
        for clean, noise in drawn:
            with torch.no_grad():
                x, outputs = self.before(i, ratios, clean, noise, sequential)
                wanted = self.teacher(self.network, i, x) if self.teacher else self.noise(i, x, self.told(i, x))
            y = self.network(x, (ratio * at).to(_time(at, x)))
            if not y.requires_grad:
                raise ValueError(
                    f"tune(...): the denoiser's output at timestep {at:g} has no gradient by the timestep; it must not "
                    "run under no_grad, round it, or turn it into a number."
                )
            moved = self.moved(i, x, [*outputs, y])
            found = moved if self.teacher else self.noise(i + 1, moved, self.told(i + 1, moved))
            off = (found - wanted).flatten(1).square().sum(1).mean()
            if not bool(off.isfinite()):
                raise ValueError(
                    f"tune(...): the loss at step {i} is not finite; give data of the denoiser, or float32."
                )
            (ratio.grad,) = torch.autograd.grad(off, [ratio])
            adam.step()
        return float(ratio.detach())
