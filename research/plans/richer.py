"""Closed loops whose rows weigh more than the sample and the outputs: bands, channels, branches, gates.

A row of a plan weighs the columns (x, y_0, .., y_n), one number each for all images and elements. Here the columns
are split or multiplied first; everything else is as in `skipcast.plans.closed_loop`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from research.plans.meter import network_of
from skipcast.grid import Vector
from skipcast.plans.closed_loop import Evaluator, combined, squared_errors
from skipcast.plans.open_loop import RIDGE, ridged


@dataclass
class Seen:
    """What an image's run has shown so far, batched, (B, *shape) each.

    Args:
        first: the noise x_0.
        x: the present sample.
        outputs: y_0 .. y_n.
        branches: per evaluation, what the network gave for each guidance branch; empty where nothing is tapped.
    """

    first: Tensor
    x: Tensor
    outputs: list[Tensor] = field(default_factory=list)
    branches: list[list[Tensor]] = field(default_factory=list)


Split = Callable[[Tensor], list[Tensor]]
Gate = Callable[[Seen], Tensor]


def whole(column: Tensor) -> list[Tensor]:
    """The column itself."""
    return [column]


def bands(column: Tensor) -> list[Tensor]:
    """The mean over tokens of packed latents (B, tokens, channels), and the rest."""
    mean = column.mean(dim=1, keepdim=True).expand_as(column)
    return [mean, column - mean]


def frequencies(column: Tensor) -> list[Tensor]:
    """Packed latents (B, h * h, channels) by frequency: the mean, the lower half of the discrete cosines, the rest."""
    side = round(column.shape[1] ** 0.5)
    if side * side != column.shape[1]:
        raise ValueError(f"frequencies(column=...) needs a square of tokens, got {column.shape[1]}.")
    places = torch.arange(side, dtype=torch.float64)
    cosines = torch.cos(torch.pi * (places[None, :] + 0.5) * places[:, None] / side)
    cosines = (cosines / cosines.norm(dim=1, keepdim=True)).to(column)  # (frequency, place)
    size = places[:, None] + places[None, :]
    image = column.reshape(len(column), side, side, -1)
    spectrum = torch.einsum("fp,gq,bpqc->bfgc", cosines, cosines, image)
    masks = [size == 0, (size > 0) & (size <= side / 2), size > side / 2]
    return [
        torch.einsum("fp,gq,bfgc->bpqc", cosines, cosines, spectrum * mask.to(column)[None, :, :, None]).flatten(1, 2)
        for mask in masks
    ]


def channels(groups: int) -> Split:
    """The column restricted to each of so many groups of the last axis."""

    def split(column: Tensor) -> list[Tensor]:
        size = column.shape[-1]
        group = torch.arange(size, device=column.device) * groups // size
        return [column * (group == k).to(column) for k in range(groups)]

    return split


def cosine(seen: Seen) -> Tensor:
    """Cosine of the two newest differences of outputs, (B,)."""
    if len(seen.outputs) < 3:
        return torch.zeros(len(seen.x))
    older, newer = (_difference(seen, k).double() for k in (2, 1))
    found: Tensor = (older * newer).sum(1) / (older.norm(dim=1) * newer.norm(dim=1)).clamp_min(1e-12)
    return found.float()


def turning(seen: Seen) -> Tensor:
    """log(1 - cosine) of the two newest differences of outputs, (B,): how sharply the trajectory turns."""
    return (1 - cosine(seen)).clamp_min(1e-6).log()


def change(seen: Seen) -> Tensor:
    """log of the newest relative change of the output, (B,)."""
    if len(seen.outputs) < 2:
        return torch.zeros(len(seen.x))
    size = _difference(seen, 1).norm(dim=1) / seen.outputs[-2].flatten(1).norm(dim=1)
    found: Tensor = size.clamp_min(1e-6).log()
    return found


def of_tokens(seen: Seen) -> Tensor:
    """log of the newest relative change of the output, token by token, (B, tokens)."""
    if len(seen.outputs) < 2:
        return torch.zeros(seen.x.shape[:2])
    size = (seen.outputs[-1] - seen.outputs[-2]).norm(dim=2) / seen.outputs[-2].norm(dim=2).clamp_min(1e-12)
    return size.clamp_min(1e-6).log()


def bends(seen: Seen) -> Tensor:
    """log of the newest second difference of the outputs over the first one, token by token, (B, tokens)."""
    if len(seen.outputs) < 3:
        return of_tokens(seen)
    older, newer = (seen.outputs[-k] - seen.outputs[-k - 1] for k in (2, 1))
    size = (newer - older).norm(dim=2) / newer.norm(dim=2).clamp_min(1e-12)
    return size.clamp_min(1e-6).log()


def _difference(seen: Seen, back: int) -> Tensor:
    return (seen.outputs[-back] - seen.outputs[-back - 1]).flatten(1)


@dataclass(frozen=True)
class Kind:
    """Which columns a row weighs.

    Args:
        name: in the table.
        split: of every column (x, y_0, .., y_n).
        gate: one number z per image, or per token, of its own outputs; every column comes twice, the second time times
            z, scaled to zero mean and unit variance over the fitted images.
        noise: x_0 is a column too.
        branches: the outputs of the guidance branches instead of the guided ones.
    """

    name: str
    split: Split = whole
    gate: Gate | None = None
    noise: bool = False
    branches: bool = False

    def columns(self, seen: Seen, centre: float, size: float) -> list[Tensor]:
        """The regressors of the present row, (B, *shape) each."""
        outputs = [part for parts in seen.branches for part in parts] if self.branches else seen.outputs
        plain = [seen.x, *outputs, *([seen.first] if self.noise and len(seen.outputs) > 1 else [])]
        found = [part for column in plain for part in self.split(column)]
        if self.gate is None or size == 0:
            return found
        z = (self.gate(seen).to(seen.x) - centre) / size
        z = z.view(*z.shape, *([1] * (seen.x.ndim - z.ndim)))
        return [*found, *(z * column for column in found)]


@dataclass(frozen=True)
class Row:
    """Weights of one segment, and the mean and deviation of the gate over the fitted images."""

    weights: Vector
    centre: float = 0.0
    size: float = 0.0


class Tap:
    """The newest outputs of the network itself, one per guidance branch of an evaluation."""

    def __init__(self) -> None:
        self._found: list[Tensor] = []

    def take(self) -> list[Tensor]:
        """What came since the last time, in float32."""
        found, self._found = self._found, []
        return found

    def __call__(self, _module: Any, _given: Any, output: Any) -> None:
        self._found.append(output[0].detach().float().clone())


@contextmanager
def tapped(pipe: Any) -> Iterator[Tap]:
    """Listen to the network of a pipeline; the hook is gone on exit."""
    tap = Tap()
    hook = network_of(pipe).register_forward_hook(tap)
    try:
        yield tap
    finally:
        hook.remove()


def close(
    kind: Kind,
    steps: Sequence[int],
    timesteps: Vector,
    scale: Vector,
    evaluator: Evaluator,
    trajectory: Tensor,
    fit: Sequence[int],
    tap: Tap | None = None,
    ridge: float = RIDGE,
) -> tuple[list[Row], Vector]:
    """Rows fitted segment by segment on the states actually reached, and the final errors of all pairs, (M,).

    As `skipcast.plans.closed_loop.close`, with the columns of `kind`; all pairs in one call.

    Raises:
        ValueError: more pairs than one call takes, or no tap for a kind that needs one.
    """
    if len(evaluator.groups(range(len(trajectory)))) > 1:
        raise ValueError(f"close() runs all pairs in one call; {len(trajectory)} need batch={len(trajectory)}.")
    if kind.branches and tap is None:
        raise ValueError(f"close(tap=None): {kind.name} needs to listen to the network.")
    ends = (*steps[1:], trajectory.shape[1] - 1)
    rows: list[Row] = []
    errors: list[Vector] = []
    chosen = list(fit)

    def program(x: Tensor) -> Generator[Tensor, Tensor, None]:
        seen = Seen(x, x)
        for n in range(len(steps)):
            yield from _look(seen, tap)
            centre = size = 0.0
            if kind.gate is not None:
                z = kind.gate(seen)[chosen].double()
                centre, size = float(z.mean()), float(z.std(unbiased=False))
                size = size if size > 1e-9 else 0.0
            columns = kind.columns(seen, centre, size)
            flat = torch.stack([column[chosen].flatten().double() for column in columns])
            target = (trajectory[chosen, ends[n]].to(seen.x.device) - seen.x[chosen]).flatten().double()
            normal, right = (flat @ flat.T).cpu().numpy(), (flat @ target).cpu().numpy()
            weights: Vector = np.asarray(np.linalg.solve(ridged(normal, ridge), right))
            rows.append(Row(weights, centre, size))
            seen.x = seen.x + combined(weights, columns)
        errors.append(squared_errors(seen.x, trajectory[:, -1].to(seen.x.device)))

    evaluator.call(range(len(trajectory)), [float(t) for t in timesteps], [float(s) for s in scale], program)
    return rows, errors[0]


def errors_of(
    kind: Kind,
    rows: Sequence[Row],
    timesteps: Vector,
    scale: Vector,
    evaluator: Evaluator,
    final: Tensor,
    tap: Tap | None = None,
) -> Vector:
    """Squared errors of the final samples of other images under these rows, (M,)."""
    found: Vector = np.zeros(len(final))
    for some in evaluator.groups(range(len(final))):

        def program(x: Tensor, some: list[int] = some) -> Generator[Tensor, Tensor, None]:
            seen = Seen(x, x)
            for row in rows:
                yield from _look(seen, tap)
                seen.x = seen.x + combined(row.weights, kind.columns(seen, row.centre, row.size))
            found[some] = squared_errors(seen.x, final[some].to(x.device))

        evaluator.call(some, [float(t) for t in timesteps], [float(s) for s in scale], program)
    return found


def _look(seen: Seen, tap: Tap | None) -> Generator[Tensor, Tensor, None]:
    """Evaluate at the present sample; the first evaluation of a call is over before its program begins."""
    seen.outputs.append((yield seen.x))
    if tap is not None:
        seen.branches.append(tap.take())
