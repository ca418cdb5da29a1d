"""The closed loop: what a plan does when it meets its own errors."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipcast.grid import Vector
from skipcast.plans.open_loop import RIDGE, Matrix, ridged
from skipcast.plans.propagation import Levels

#: What an evaluation asks of a guided network: both branches, or one of them in a pass of its own. Behind "other",
#: whose sample is that of the "lead" pass before it, the output is the guided one; behind "lead" that branch's alone.
Pass = Literal["whole", "lead", "other"]
#: Where a pipeline has its leading branch, which is evaluated at all steps of a plan of passes: it calls its network
#: twice at a step, or once with both branches as halves of the batch.
BRANCHES = ("first call", "first half", "second half")
#: Takes the initial samples x_0, yields the samples to evaluate (x_0 itself first) and is sent the outputs.
Program = Callable[[Tensor], Generator[Tensor, Tensor, None]]


class Evaluator(Protocol):
    """The network of a pipeline with the prompts and seeds of a profile.

    A guided network is what the scheduler receives of it: after guidance.
    """

    @property
    def evaluations(self) -> float:
        """Network evaluations so far, one per pair and sample; a pass of one guidance branch is half of one."""

    @property
    def coarse(self) -> bool:
        """Whether outputs are rounded to half precision."""

    @property
    def levels(self) -> Levels | None:
        """Where the recorded steps lie; None where that is not known, and plain samplers cannot be compared with."""

    def groups(self, pairs: Sequence[int]) -> list[list[int]]:
        """The pairs as they can go together into calls."""

    def call(self, pairs: Sequence[int], timesteps: Sequence[float], scale: Sequence[float], program: Program) -> None:
        """Run `program` on the pairs, (len(pairs), *shape) float32, one evaluation per timestep.

        One that has `branches` also takes `passes`, a `Pass` for each.
        """


def passes_of(steps: Sequence[int], branches: str) -> tuple[Pass, ...]:
    """What every evaluation at these steps asks for: of a plan of passes a step that comes twice has both branches."""
    found: list[Pass] = ["whole"] * len(steps)
    for n in range(len(steps)) if branches else ():
        found[n] = "other" if n and steps[n] == steps[n - 1] else "lead"
    return tuple(found)


def _asked(branches: str, passes: Sequence[Pass]) -> dict[str, Any]:
    """Evaluators that know whole evaluations alone need not take the argument."""
    return {"passes": passes} if branches else {}


@dataclass(frozen=True)
class Table:
    """The free numbers of a plan: rows (a_n, b_{n,0..n}) and timesteps at given steps; and where they come from.

    Args:
        steps: the evaluated ones; with `branches` a step comes twice where both branches are evaluated, and the row
            between its two passes is zero.
        rows: as those of a plan.
        timesteps: what the network is told.
        scale: factors of its input.
        label: where the weights come from.
        branches: where the leading guidance branch is found, for a table whose evaluations are passes of one branch.
    """

    steps: tuple[int, ...]
    rows: tuple[Vector, ...]
    timesteps: Vector
    scale: Vector
    label: str = "refined"
    branches: str = ""

    @property
    def passes(self) -> tuple[Pass, ...]:
        """What every evaluation asks for."""
        return passes_of(self.steps, self.branches)

    @property
    def asked(self) -> dict[str, Any]:
        """What `Evaluator.call` is told beyond whole evaluations."""
        return _asked(self.branches, self.passes)

    @property
    def cost(self) -> float:
        """Network evaluations of one run."""
        return len(self.steps) / (2 if self.branches else 1)

    def in_passes(self, branches: str) -> Table:
        """The same run as passes of both branches at every step; a weight of a leading branch alone is zero."""
        if self.branches:
            return self
        rows = list[Vector]()
        for n, row in enumerate(self.rows):
            twice = np.zeros(2 * n + 3)
            twice[0], twice[2::2] = row[0], row[1:]
            rows += [np.zeros(2 * n + 2), twice]
        steps = tuple(step for step in self.steps for _ in range(2))
        times, scale = np.repeat(self.timesteps, 2), np.repeat(self.scale, 2)
        return replace(self, steps=steps, rows=tuple(rows), timesteps=times, scale=scale, branches=branches)

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


def final_errors(
    table: Table, evaluator: Evaluator, final: Tensor, pairs: Sequence[int], *, images: bool = False
) -> Vector:
    """Squared error of the final sample of every pair, (len(pairs),), from running the table.

    Args:
        final: reference samples x_N of all pairs, (M, *shape).
        images: whether errors are those of decoded images.
    """
    found: dict[int, float] = {}
    for some in evaluator.groups(pairs):
        reached: list[Tensor] = []

        def program(x: Tensor, reached: list[Tensor] = reached) -> Generator[Tensor, Tensor, None]:
            outputs: list[Tensor] = []
            for n in range(len(table.steps)):
                outputs.append((yield x))
                x = table.moved(n, x, outputs)
            reached.append(x)

        evaluator.call(some, table.timesteps.tolist(), table.scale.tolist(), program, **table.asked)
        found.update(zip(some, _errors(evaluator, some, reached[0], final, images).tolist(), strict=True))
    return np.array([found[pair] for pair in pairs])


def _errors(evaluator: Evaluator, pairs: Sequence[int], x: Tensor, final: Tensor, images: bool) -> Vector:
    """Squared errors of final samples x of these pairs, or of their images."""
    goal = final[list(pairs)].to(x.device)
    if images:
        decode: Any = evaluator  # one that decodes
        x, goal = decode.decoded(pairs, x), decode.decoded(pairs, goal, reference=True)
    return squared_errors(x, goal)


def outputs_of(table: Table, evaluator: Evaluator, pairs: Sequence[int]) -> NDArray[np.float64]:
    """Inner products of what a run begins with and evaluates, x_0, y_0 .. y_{m-1}: (len(pairs), m + 1, m + 1).

    As those of a profile, they are means over elements.
    """
    found: dict[int, NDArray[np.float64]] = {}
    for some in evaluator.groups(pairs):

        def program(x: Tensor, some: list[int] = some) -> Generator[Tensor, Tensor, None]:
            start, outputs = x, list[Tensor]()
            for n in range(len(table.steps)):
                outputs.append((yield x))
                x = table.moved(n, x, outputs)
            basis = torch.stack([t.double().flatten(1) for t in (start, *outputs)], 1)
            found.update(zip(some, (basis @ basis.mT / basis.shape[2]).cpu().numpy(), strict=True))

        evaluator.call(some, table.timesteps.tolist(), table.scale.tolist(), program, **table.asked)
    return np.stack([found[pair] for pair in pairs])


def close(
    steps: tuple[int, ...],
    timesteps: Vector,
    scale: Vector,
    evaluator: Evaluator,
    trajectory: Tensor,
    fit: Sequence[int],
    others: Sequence[int] = (),
    ridge: float = RIDGE,
    branches: str = "",
    images: bool = False,
) -> tuple[Table, Vector]:
    """Rows that carry the state actually reached to the reference state, segment by segment, and the final errors.

        min over row n of  sum_pairs || x + a_n x + sum_j b_{n,j} y_j - x_ref[s_{n+1}] ||^2  + ridge

    Each fit sees, and corrects, what the earlier ones missed. It costs m evaluations per pair in one call, and one more
    per later segment where the pairs need several calls.

    Args:
        trajectory: reference states, (M, N + 1, *shape).
        fit: the pairs that the rows are fitted on.
        others: pairs that run along, whose final errors are wanted as well.
        branches: of a table of passes, as in `Table`.
        images: whether final errors are those of decoded images, and of the others alone; rows are fitted to samples.

    Returns:
        The table, and squared errors of the final samples, (M,), NaN where a pair did not run.
    """
    targets = (*steps[1:], trajectory.shape[1] - 1)
    everyone, passes = sorted({*fit, *others}), passes_of(steps, branches)
    closing = _Closing(steps, targets, trajectory, set(fit), ridge)
    groups = evaluator.groups(everyone)
    if len(groups) == 1:

        def program(x: Tensor) -> Generator[Tensor, Tensor, None]:
            outputs: list[Tensor] = []
            for n in range(len(steps)):
                outputs.append((yield x))
                closing.see(n, everyone, x, outputs)
                x = x + combined(closing.row(n), [x, *outputs])
            closing.end(everyone, x)

        evaluator.call(everyone, timesteps.tolist(), scale.tolist(), program, **_asked(branches, passes))
        errors = closing.errors(evaluator, others if images else None)
        return Table(steps, tuple(closing.rows), timesteps, scale, branches=branches), errors
    reached: dict[int, tuple[list[int], Tensor, list[Tensor]]] = {}
    for n in range(len(steps)):
        for number, some in enumerate(groups):
            # The guided output of a second pass is made with that of the first one, which comes again.
            times = [0] if not n else [0, n - 1, n] if n > 1 and passes[n] == "other" else [0, n]

            def part(
                x: Tensor, n: int = n, number: int = number, some: list[int] = some, again: int = len(times) - 1
            ) -> Generator[Tensor, Tensor, None]:
                y = yield x  # every call begins at x_0, whose output is known behind the first segment
                outputs: list[Tensor] = []
                if n:
                    device = x.device
                    x, outputs = reached[number][1].to(device), [t.to(device) for t in reached[number][2]]
                    for _ in range(again):
                        y = yield x
                outputs.append(y)
                closing.see(n, some, x, outputs)
                reached[number] = some, x.cpu(), [t.cpu() for t in outputs]

            told = ([timesteps[k] for k in times], [scale[k] for k in times])
            evaluator.call(some, *told, part, **_asked(branches, [passes[k] for k in times]))
        for number, (some, x, outputs) in reached.items():
            reached[number] = some, x + combined(closing.row(n), [x, *outputs]), outputs
    for some, x, _ in reached.values():
        closing.end(some, x)
    return Table(steps, tuple(closing.rows), timesteps, scale, branches=branches), closing.errors(
        evaluator, others if images else None
    )


class _Closing:
    """The rows found so far, and the normal equations of the next one, added up batch by batch in float64."""

    def __init__(
        self, steps: Sequence[int], targets: Sequence[int], trajectory: Tensor, fit: set[int], ridge: float
    ) -> None:
        self.steps, self.targets, self.trajectory, self.fit, self.ridge = steps, targets, trajectory, fit, ridge
        self.rows: list[Vector] = []
        self._reached: list[tuple[list[int], Tensor]] = []
        self._clear(2)

    def _clear(self, size: int) -> None:
        self._normal: Matrix = np.zeros((size, size))
        self._right: Vector = np.zeros(size)

    def see(self, n: int, pairs: Sequence[int], x: Tensor, outputs: Sequence[Tensor]) -> None:
        """Take what these pairs say of row n."""
        places = [place for place, pair in enumerate(pairs) if pair in self.fit]
        if not places or self.targets[n] == self.steps[n]:  # between two passes at one state
            return
        target = self.trajectory[[pairs[place] for place in places], self.targets[n]].to(x.device) - x[places]
        columns = torch.stack([t[places].flatten().double() for t in (x, *outputs)])
        self._normal += (columns @ columns.T).cpu().numpy()
        self._right += (columns @ target.flatten().double()).cpu().numpy()

    def row(self, n: int) -> Vector:
        """Row n, solved for once."""
        if n == len(self.rows):
            stays = self.targets[n] == self.steps[n]
            solved = np.zeros(n + 2) if stays else np.linalg.solve(ridged(self._normal, self.ridge), self._right)
            self.rows.append(np.asarray(solved))
            self._clear(n + 3)
        return self.rows[n]

    def end(self, pairs: Sequence[int], x: Tensor) -> None:
        """Take the final samples of these pairs."""
        self._reached.append((list(pairs), x))

    def errors(self, evaluator: Evaluator, images: Sequence[int] | None) -> Vector:
        """Squared errors of the final samples, or of the images of these pairs, (M,), NaN where there is none."""
        found: Vector = np.full(len(self.trajectory), np.nan)
        for pairs, x in self._reached:
            rows = [row for row, pair in enumerate(pairs) if images is None or pair in images]
            some = [pairs[row] for row in rows]
            if some:
                found[some] = _errors(evaluator, some, x[rows], self.trajectory[:, -1], images is not None)
        return found


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
                if table.passes[n + 1 : n + 2] == ("other",):
                    timesteps[n + 1] += change
            else:
                rows[n][k] += change
        return replace(table, rows=tuple(rows), timesteps=timesteps)


def sweep_evaluations(steps: Sequence[int], branches: str = "", *, timesteps: bool = True) -> float:
    """What `linearise` costs per pair at these steps: m + sum_n (n + 2) (m - 1 - n), and m (m - 1) / 2 for timesteps.

    Of a table of passes half of that for m passes, less what rows between two passes at one state save.
    """
    m, passes = len(steps), passes_of(steps, branches)
    free = list(_free(passes, timesteps=timesteps))
    count = m + sum(m - n if k < 0 else m - 1 - last for n, k, last in free)
    return count / (2 if branches else 1)


def _free(passes: Sequence[Pass], *, timesteps: bool) -> Iterator[tuple[int, int, int]]:
    """Every parameter (n, k), as in `Local.places`, and the last pass at the state of evaluation n.

    The row behind a pass whose state is evaluated once more is zero and stays so; both have one timestep.
    """
    last = [n + 1 if passes[n + 1 : n + 2] == ("other",) else n for n in range(len(passes))]
    for n, end in enumerate(last):
        if end == n:
            yield from ((n, k, n) for k in range(n + 2))
    if timesteps:
        yield from ((n, -1, end) for n, end in enumerate(last) if n and passes[n] != "other")


def linearise(
    table: Table, evaluator: Evaluator, final: Tensor, pairs: Sequence[int], *, timestep_change: float | None = None
) -> Local:
    """How every parameter moves the final samples, by forward differences: no gradient, forward passes only.

    A weight of row n is perturbed by moving the state after segment n, which costs the m - 1 - n evaluations behind
    it; a timestep costs one more. `sweep_evaluations` in all, about m^3 / 6.

    Args:
        final: reference samples x_N of all pairs, (M, *shape).
        timestep_change: size of the differences in timestep; None keeps the times fixed.
    """
    m, kinds = len(table.steps), table.passes
    free = list(_free(kinds, timesteps=timestep_change is not None))
    size = 2e-2 if evaluator.coarse else 1e-3
    times, factors, passes = list(table.timesteps), list(table.scale), list(kinds)
    for n, k, last in free:
        begin = n if k < 0 else n + 1
        times += [t + (timestep_change or 0.0) for t in table.timesteps[begin : last + 1]]
        times += list(table.timesteps[last + 1 :])
        factors += list(table.scale[begin:])
        passes += kinds[begin:]
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    groups = evaluator.groups(pairs)
    for some in groups:

        def program(x: Tensor, some: list[int] = some) -> Generator[Tensor, Tensor, None]:
            states, outputs = [x], list[Tensor]()
            for n in range(m):
                outputs.append((yield states[n]))
                states.append(table.moved(n, states[n], outputs))
            columns: list[Tensor] = []
            for n, k, last in free:
                known = outputs[: n + 1]
                if k < 0:
                    height = float(timestep_change or 0.0)
                    known = outputs[:n]
                    for _ in range(n, last + 1):
                        known = [*known, (yield states[n])]
                    x = table.moved(last, states[n], known)
                else:
                    direction = [states[n], *known][k]
                    height = size / float(direction.double().square().mean().sqrt())
                    x = states[n + 1] + height * direction
                for later in range(last + 1, m):
                    known = [*known, (yield x)]
                    x = table.moved(later, x, known)
                columns.append(((x.double() - states[m].double()) / height).flatten(1))
            jacobian = torch.stack(columns, 1)  # (B, P, D)
            error = (states[m].double() - final[some].to(x.device).double()).flatten(1)
            count = error.shape[1]
            a = jacobian @ jacobian.transpose(1, 2) / count
            b = torch.einsum("bpd,bd->bp", jacobian, error) / count
            parts.append((a.cpu().numpy(), b.cpu().numpy(), error.square().mean(1).cpu().numpy()))

        evaluator.call(some, times, factors, program, **_asked(table.branches, passes))
    a, b, c = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return Local(tuple(pair for some in groups for pair in some), a, b, c, tuple((n, k) for n, k, _ in free))
