"""The closed loop: what a plan does when it meets its own errors."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipcast.grid import Vector
from skipcast.plans.open_loop import RIDGE, Matrix, ridged
from skipcast.plans.propagation import Levels

#: Takes the initial samples x_0, yields the samples to evaluate (x_0 itself first) and is sent the outputs.
Program = Callable[[Tensor], Generator[Tensor, Tensor, None]]


class Evaluator(Protocol):
    """The network of a pipeline with the prompts and seeds of a profile.

    A guided network is what the scheduler receives of it: after guidance.
    """

    @property
    def evaluations(self) -> int:
        """Network evaluations so far, one per pair and sample."""

    @property
    def coarse(self) -> bool:
        """Whether outputs are rounded to half precision."""

    @property
    def levels(self) -> Levels | None:
        """Where the recorded steps lie; None where that is not known, and plain samplers cannot be compared with."""

    def groups(self, pairs: Sequence[int]) -> list[list[int]]:
        """The pairs as they can go together into calls."""

    def call(self, pairs: Sequence[int], timesteps: Sequence[float], scale: Sequence[float], program: Program) -> None:
        """Run `program` on the pairs, (len(pairs), *shape) float32, one evaluation per timestep."""


@dataclass(frozen=True)
class Table:
    """The free numbers of a plan: rows (a_n, b_{n,0..n}) and timesteps at given steps; and where they come from."""

    steps: tuple[int, ...]
    rows: tuple[Vector, ...]
    timesteps: Vector
    scale: Vector
    label: str = "refined"

    def moved(self, n: int, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """The sample after segment n."""
        return x + combined(self.rows[n], [x, *outputs])


def combined(weights: Vector, tensors: Sequence[Tensor]) -> Tensor:
    """sum_k w_k t_k."""
    total = float(weights[0]) * tensors[0]
    for weight, tensor in zip(weights[1:].tolist(), tensors[1:], strict=True):
        total = total + weight * tensor
    return total


def squared_errors(a: Tensor, b: Tensor) -> Vector:
    """Mean squared difference per pair, (B,) float64."""
    errors: Vector = (a.double() - b.double()).flatten(1).square().mean(1).cpu().numpy()
    return errors


def final_errors(table: Table, evaluator: Evaluator, final: Tensor, pairs: Sequence[int]) -> Vector:
    """Squared error of the final sample of every pair, (len(pairs),), from running the table.

    Args:
        final: reference samples x_N of all pairs, (M, *shape).
    """
    found: dict[int, float] = {}
    for some in evaluator.groups(pairs):

        def program(x: Tensor, some: list[int] = some) -> Generator[Tensor, Tensor, None]:
            outputs: list[Tensor] = []
            for n in range(len(table.steps)):
                outputs.append((yield x))
                x = table.moved(n, x, outputs)
            found.update(zip(some, squared_errors(x, final[some].to(x.device)).tolist(), strict=True))

        evaluator.call(some, table.timesteps.tolist(), table.scale.tolist(), program)
    return np.array([found[pair] for pair in pairs])


def close(
    steps: tuple[int, ...],
    timesteps: Vector,
    scale: Vector,
    evaluator: Evaluator,
    trajectory: Tensor,
    fit: Sequence[int],
    others: Sequence[int] = (),
    ridge: float = RIDGE,
) -> tuple[Table, Vector]:
    """Rows that carry the state actually reached to the reference state, segment by segment, and the final errors.

        min over row n of  sum_pairs || x + a_n x + sum_j b_{n,j} y_j - x_ref[s_{n+1}] ||^2  + ridge

    Each fit sees, and corrects, what the earlier ones missed. It costs m evaluations per pair in one call, and one more
    per later segment where the pairs need several calls.

    Args:
        trajectory: reference states, (M, N + 1, *shape).
        fit: the pairs that the rows are fitted on.
        others: pairs that run along, whose final errors are wanted as well.

    Returns:
        The table, and squared errors of the final samples, (M,), NaN where a pair did not run.
    """
    targets = (*steps[1:], trajectory.shape[1] - 1)
    everyone = sorted({*fit, *others})
    closing = _Closing(targets, trajectory, set(fit), ridge)
    groups = evaluator.groups(everyone)
    if len(groups) == 1:

        def program(x: Tensor) -> Generator[Tensor, Tensor, None]:
            outputs: list[Tensor] = []
            for n in range(len(steps)):
                outputs.append((yield x))
                closing.see(n, everyone, x, outputs)
                x = x + combined(closing.row(n), [x, *outputs])
            closing.end(everyone, x)

        evaluator.call(everyone, timesteps.tolist(), scale.tolist(), program)
        return Table(steps, tuple(closing.rows), timesteps, scale), closing.errors
    reached: dict[int, tuple[list[int], Tensor, list[Tensor]]] = {}
    for n in range(len(steps)):
        for number, some in enumerate(groups):

            def part(
                x: Tensor, n: int = n, number: int = number, some: list[int] = some
            ) -> Generator[Tensor, Tensor, None]:
                y = yield x  # every call begins at x_0, whose output is known behind the first segment
                outputs: list[Tensor] = []
                if n:
                    device = x.device
                    x, outputs = reached[number][1].to(device), [t.to(device) for t in reached[number][2]]
                    y = yield x
                outputs.append(y)
                closing.see(n, some, x, outputs)
                reached[number] = some, x.cpu(), [t.cpu() for t in outputs]

            times = [0, n] if n else [0]
            evaluator.call(some, [timesteps[k] for k in times], [scale[k] for k in times], part)
        for number, (some, x, outputs) in reached.items():
            reached[number] = some, x + combined(closing.row(n), [x, *outputs]), outputs
    for some, x, _ in reached.values():
        closing.end(some, x)
    return Table(steps, tuple(closing.rows), timesteps, scale), closing.errors


class _Closing:
    """The rows found so far, and the normal equations of the next one, added up batch by batch in float64."""

    def __init__(self, targets: Sequence[int], trajectory: Tensor, fit: set[int], ridge: float) -> None:
        self.targets, self.trajectory, self.fit, self.ridge = targets, trajectory, fit, ridge
        self.rows: list[Vector] = []
        self.errors: Vector = np.full(len(trajectory), np.nan)
        self._clear(2)

    def _clear(self, size: int) -> None:
        self._normal: Matrix = np.zeros((size, size))
        self._right: Vector = np.zeros(size)

    def see(self, n: int, pairs: Sequence[int], x: Tensor, outputs: Sequence[Tensor]) -> None:
        """Take what these pairs say of row n."""
        places = [place for place, pair in enumerate(pairs) if pair in self.fit]
        if not places:
            return
        target = self.trajectory[[pairs[place] for place in places], self.targets[n]].to(x.device) - x[places]
        columns = torch.stack([t[places].flatten().double() for t in (x, *outputs)])
        self._normal += (columns @ columns.T).cpu().numpy()
        self._right += (columns @ target.flatten().double()).cpu().numpy()

    def row(self, n: int) -> Vector:
        """Row n, solved for once."""
        if n == len(self.rows):
            self.rows.append(np.asarray(np.linalg.solve(ridged(self._normal, self.ridge), self._right)))
            self._clear(n + 3)
        return self.rows[n]

    def end(self, pairs: Sequence[int], x: Tensor) -> None:
        """Take the final samples of these pairs."""
        self.errors[list(pairs)] = squared_errors(x, self.trajectory[list(pairs), -1].to(x.device))


@dataclass(frozen=True)
class Local:
    """The final error of every pair as a quadratic of the table's parameters: c + 2 b'd + d'A d, per element.

    Args:
        pairs: M of them.
        a: (M, P, P).
        b: (M, P).
        c: (M,).
        places: parameter -> (n, k): weight k of row n, or the timestep of evaluation n for k = -1, (P, 2).
    """

    pairs: tuple[int, ...]
    a: NDArray[np.float64]
    b: Matrix
    c: Vector
    places: tuple[tuple[int, int], ...]

    def errors(self, step: Vector) -> Vector:
        """(M,)."""
        found: Vector = self.c + 2 * self.b @ step + np.einsum("i,pij,j->p", step, self.a, step)
        return np.maximum(found, 1e-30)

    def moved(self, step: Vector) -> Local:
        """The same quadratics around the table that such a step leads to."""
        return replace(self, b=self.b + self.a @ step, c=self.errors(step))

    def joined(self, older: Local | None) -> Local:
        """These, and of another one the pairs that are not among them."""
        if older is None:
            return self
        kept = [i for i, pair in enumerate(older.pairs) if pair not in self.pairs]
        a, b, c = (np.concatenate([getattr(self, name), getattr(older, name)[kept]]) for name in "abc")
        return Local((*self.pairs, *(older.pairs[i] for i in kept)), a, b, c, self.places)

    def step(self, damping: float, power: float = 0.0) -> Vector:
        """The damped Gauss-Newton step for the mean over pairs of error^power (for 0, log error: mean PSNR).

        Such concave functions are minimised by weights: each pair counts error^(power - 1) at the present errors, so
        that pairs near a branching point, whose errors are far beyond what is linear, do not drown the others.
        """
        weight = self.c ** (power - 1)
        normal: Matrix = np.einsum("p,pij->ij", weight, self.a) / weight.sum()
        scale = np.diag(normal)
        scale = np.maximum(scale, 1e-12 * scale.max())  # a parameter that rounding hides stays where it is
        change: Vector = np.linalg.solve(normal + damping * np.diag(scale), -(weight @ self.b) / weight.sum())
        return change

    def applied(self, table: Table, step: Vector) -> Table:
        """The table with its parameters moved."""
        rows, timesteps = [row.copy() for row in table.rows], table.timesteps.copy()
        for (n, k), change in zip(self.places, step.tolist(), strict=True):
            if k < 0:
                timesteps[n] += change
            else:
                rows[n][k] += change
        return replace(table, rows=tuple(rows), timesteps=timesteps)


def sweep_evaluations(evaluations: int, *, timesteps: bool = True) -> int:
    """What `linearise` costs per pair: m + sum_n (n + 2) (m - 1 - n), and m (m - 1) / 2 more for the timesteps."""
    m = evaluations
    return m + sum((n + 2) * (m - 1 - n) for n in range(m)) + (m * (m - 1) // 2 if timesteps else 0)


def linearise(
    table: Table, evaluator: Evaluator, final: Tensor, pairs: Sequence[int], *, timestep_change: float | None = None
) -> Local:
    """How every parameter moves the final samples, by forward differences: no gradient, forward passes only.

    A weight of row n is perturbed by moving the state after segment n, which costs the m - 1 - n evaluations behind
    it; a timestep costs one more. `sweep_evaluations(m)` in all, about m^3 / 6.

    Args:
        final: reference samples x_N of all pairs, (M, *shape).
        timestep_change: size of the differences in timestep; None keeps the times fixed.
    """
    m = len(table.steps)
    places = [(n, k) for n in range(m) for k in range(n + 2)]
    if timestep_change is not None:
        places += [(n, -1) for n in range(1, m)]
    size = 2e-2 if evaluator.coarse else 1e-3
    times, factors = list(table.timesteps), list(table.scale)
    for n, k in places:
        if k < 0:
            times.append(table.timesteps[n] + (timestep_change or 0.0))
            factors.append(table.scale[n])
        times += list(table.timesteps[n + 1 :])
        factors += list(table.scale[n + 1 :])
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    groups = evaluator.groups(pairs)
    for some in groups:

        def program(x: Tensor, some: list[int] = some) -> Generator[Tensor, Tensor, None]:
            states, outputs = [x], list[Tensor]()
            for n in range(m):
                outputs.append((yield states[n]))
                states.append(table.moved(n, states[n], outputs))
            columns: list[Tensor] = []
            for n, k in places:
                known = outputs[: n + 1]
                if k < 0:
                    height = float(timestep_change or 0.0)
                    known = [*outputs[:n], (yield states[n])]
                    x = table.moved(n, states[n], known)
                else:
                    direction = [states[n], *known][k]
                    height = size / float(direction.double().square().mean().sqrt())
                    x = states[n + 1] + height * direction
                for later in range(n + 1, m):
                    known = [*known, (yield x)]
                    x = table.moved(later, x, known)
                columns.append(((x.double() - states[m].double()) / height).flatten(1))
            jacobian = torch.stack(columns, 1)  # (B, P, D)
            error = (states[m].double() - final[some].to(x.device).double()).flatten(1)
            count = error.shape[1]
            a = jacobian @ jacobian.transpose(1, 2) / count
            b = torch.einsum("bpd,bd->bp", jacobian, error) / count
            parts.append((a.cpu().numpy(), b.cpu().numpy(), error.square().mean(1).cpu().numpy()))

        evaluator.call(some, times, factors, program)
    a, b, c = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return Local(tuple(pair for some in groups for pair in some), a, b, c, tuple(places))
