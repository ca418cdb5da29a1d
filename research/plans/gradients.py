"""Gradients of a plan's numbers through the network, and descent along them.

Rows and timesteps are trained through the sampler, as the non-stationary solvers of arXiv:2403.01329 are; likewise
arXiv:2505.21114 and arXiv:2603.11607. What is added here is the preconditioning, without which rows that are nearly
collinear take thousands of iterations.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from research.plans.meter import network_of
from skipcast.checkpoint import write_whole
from skipcast.grid import Vector
from skipcast.pipelines.recording.replay import PipelineEvaluator
from skipcast.plans.closed_loop import Local, Table, final_errors
from skipcast.plans.refine import Split

#: What a FLUX pipeline gives its transformer for every pair; the rest is the same for all.
_OF_PAIRS = ("encoder_hidden_states", "pooled_projections", "guidance")
#: Largest relative difference of final samples to those of the evaluator.
EQUAL = 1e-5
#: Of the Gauss-Newton matrix whose factor preconditions, relative to its diagonal.
DAMPING = 1e-4


class Network:
    """The guided network at a recording's pairs, y = negative + scale (positive - negative), as gradients pass it.

    Pipelines evaluate without gradients. So what one gives its transformer is caught in a call of one evaluation, and
    the transformer is then called with it, with other samples and timesteps in their place.

    Args:
        evaluator: of a FLUX pipeline.
        start: initial samples of all pairs, (M, *shape).
    """

    def __init__(self, evaluator: PipelineEvaluator, start: Tensor) -> None:
        self.module, self.start = network_of(evaluator.pipe), start.float()
        scales = [evaluator.origin.call_of(pair).get("true_cfg_scale", 1.0) for pair in range(len(start))]
        self._scale = torch.tensor(scales).view(-1, *[1] * (start.ndim - 1))
        self._branches, self._per_timestep = self._caught(evaluator)

    def _caught(self, evaluator: PipelineEvaluator) -> tuple[list[dict[str, Any]], float]:
        """The arguments of the transformer for every guidance branch, and its timestep over the scheduler's."""
        caught: list[dict[str, Any]] = []

        def catch(_module: Any, _given: Any, named: dict[str, Any]) -> None:
            caught.append(named)

        hook = self.module.register_forward_pre_hook(catch, with_kwargs=True)
        groups, time = evaluator.groups(range(len(self.start))), float(evaluator.origin.steps)
        try:
            for some in groups:
                evaluator.call(some, [time], [1.0], _once)
        finally:
            hook.remove()
        count = len(caught) // len(groups)
        place = torch.tensor([pair for some in groups for pair in some]).argsort()
        branches = []
        for branch in (caught[k::count] for k in range(count)):
            of_pairs = {
                name: torch.cat([given[name] for given in branch])[place]
                for name in _OF_PAIRS
                if branch[0].get(name) is not None
            }
            branches.append({**branch[0], **of_pairs})
        return branches, float(caught[0]["timestep"][0]) / time

    def __call__(self, x: Tensor, timestep: Tensor, pairs: Sequence[int]) -> Tensor:
        """The output at samples of these pairs, (B, *shape)."""
        given = {"hidden_states": x, "timestep": (timestep * self._per_timestep).to(x.dtype).expand(len(x))}
        outputs = []
        for branch in self._branches:
            of_pairs = {name: branch[name][pairs] for name in _OF_PAIRS if branch.get(name) is not None}
            outputs.append(self.module(**{**branch, **of_pairs, **given})[0])
        if len(outputs) == 1:
            return outputs[0]  # type: ignore[no-any-return]
        positive, negative = outputs
        return negative + self._scale[pairs] * (positive - negative)  # type: ignore[no-any-return]


def _once(x: Tensor) -> Any:
    yield x


class Course:
    """A table whose numbers move by a change d, and the final errors along it.

    Args:
        table: where d is zero.
        places: parameter -> (n, k): weight k of row n, or the timestep of evaluation n for k = -1, as in `Local`.
        network: evaluates.
        final: reference samples x_N of all pairs, (M, *shape).
    """

    def __init__(self, table: Table, places: Sequence[tuple[int, int]], network: Network, final: Tensor) -> None:
        self.table, self.network, self.final = table, network, final.double()
        self._where = {place: i for i, place in enumerate(places)}
        numbers = [table.timesteps[n] if k < 0 else table.rows[n][k] for n, k in places]
        self.base = torch.tensor(numbers, dtype=torch.float64)

    def samples(self, change: Tensor, pairs: Sequence[int]) -> Tensor:
        """Final samples, (B, *shape); gradients reach `change`, (P,)."""
        numbers, x, outputs = self.base + change, self.network.start[pairs], list[Tensor]()
        for n, scale in enumerate(self.table.scale.tolist()):
            row = numbers[[self._where[n, k] for k in range(n + 2)]].to(x.dtype)
            free = self._where.get((n, -1))
            time = torch.tensor(float(self.table.timesteps[n])) if free is None else numbers[free]
            outputs.append(self.network(x * scale, time, pairs))
            x = x + torch.tensordot(row, torch.stack([x, *outputs]), 1)
        return x

    def errors(self, change: Tensor, pairs: Sequence[int]) -> Tensor:
        """Squared errors of the final samples, (B,) float64."""
        return (self.samples(change, pairs).double() - self.final[pairs]).flatten(1).square().mean(1)

    def check(self, evaluator: PipelineEvaluator, pairs: Sequence[int]) -> None:
        """Refuse to differentiate another network than the one that runs.

        Raises:
            ValueError: final samples differ from those of the evaluator.
        """
        with torch.no_grad():
            ours = self.samples(torch.zeros_like(self.base), pairs)
        everyone = torch.zeros_like(self.network.start)
        everyone[list(pairs)] = ours
        size = ours.double().flatten(1).square().mean(1).numpy()
        apart = float(np.sqrt(final_errors(self.table, evaluator, everyone, pairs) / size).max())
        if not apart <= EQUAL:
            raise ValueError(
                f"the network under gradients departs from {type(evaluator.pipe).__name__} by {apart:.1e} (relative); "
                "only float32 FLUX pipelines with true CFG or none are known to agree."
            )


@dataclass(frozen=True)
class Descent:
    """Adam with a cosine decay on minibatches, in coordinates in which the loss is about |phi|^2 / 2.

    With L L' = H + damping diag(H), H the Gauss-Newton matrix of the loss at the start, d = L^-T phi.

    Args:
        iterations: in all.
        batch: pairs of one iteration.
        rate: of Adam at the beginning.
        power: the loss is the mean over pairs of error^power; for 0 of log error, the mean PSNR.
        every: iterations between two looks at the pairs that choose.
        joint: whether the coordinates are decorrelated; False only scales each by the diagonal of H.
    """

    iterations: int = 400
    batch: int = 16
    rate: float = 0.03
    power: float = 0.0
    every: int = 20
    joint: bool = True

    def loss(self, errors: Tensor, at_start: float) -> Tensor:
        """The mean of error^p / p over `at_start`, that mean of the start; for p = 0 of log error."""
        if self.power == 0:
            return errors.log().mean()
        return errors.pow(self.power).mean() / (self.power * at_start)

    def factor(self, local: Local) -> Tensor:
        """L^-T, (P, P)."""
        weight = local.c ** (self.power - 1)
        normal = 2 * np.einsum("p,pij->ij", weight, local.a) / (local.c**self.power).sum()
        size = np.maximum(np.diag(normal), 1e-12 * np.diag(normal).max())
        if not self.joint:
            return torch.diag(torch.tensor(size**-0.5))
        return torch.tensor(np.linalg.inv(np.linalg.cholesky(normal + DAMPING * np.diag(size))).T.copy())

    def run(
        self,
        course: Course,
        local: Local,
        split: Split,
        score: Callable[[Vector], float],
        *,
        state: Path | None = None,
        advance: Callable[[str], None] = lambda note: None,
    ) -> dict[str, Any]:
        """Descend on the pairs to fit, and keep the best change on those that choose.

        Args:
            course: the table that moves.
            local: its linearisation, on any of the pairs.
            split: the pairs by their use.
            score: of the squared errors of the pairs that choose; the larger the better.
            state: file from which an interrupted descent of the same table goes on.
            advance: called with a note at every look.

        Returns:
            `change`, (P,); `iteration` and `score` of it; `looks`, all (iteration, score, change); `evaluations`, of
            which a backward pass counts two.
        """
        inverse, m = self.factor(local), len(course.table.steps)
        at_start = float((local.c**self.power).mean())
        phi = torch.zeros(len(course.base), dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([phi], lr=self.rate)
        looks: list[tuple[int, float, list[float]]] = []
        what = {**asdict(self), "table": course.base.tolist(), "fit": split.fit}
        begun = 0
        if state is not None and state.is_file():
            kept = torch.load(state, weights_only=True)
            if kept["what"] == what:
                begun, looks = kept["iteration"], kept["looks"]
                with torch.no_grad():
                    phi.copy_(kept["phi"])
                adam.load_state_dict(kept["adam"])
        for i in range(begun, self.iterations + 1):
            if (i % self.every == 0 or i == self.iterations) and not any(look[0] == i for look in looks):
                change = (inverse @ phi).detach()
                with torch.no_grad():
                    errors = [course.errors(change, split.choose[k : k + 32]) for k in range(0, len(split.choose), 32)]
                looks.append((i, score(torch.cat(errors).numpy()), change.tolist()))
                advance(f"iteration {i}: {looks[-1][1]:.2f} dB")
                if state is not None:
                    kept = {"phi": phi.detach(), "adam": adam.state_dict()}
                    _keep(state, {"what": what, "iteration": i, "looks": looks, **kept})
            if i == self.iterations:
                break
            for group in adam.param_groups:
                group["lr"] = self.rate * 0.5 * (1 + math.cos(math.pi * i / self.iterations))
            # Drawn from the number of the iteration alone, so that a descent that goes on draws the same.
            pairs = np.random.default_rng(i).choice(split.fit, min(self.batch, len(split.fit)), replace=False).tolist()
            loss = self.loss(course.errors(inverse @ phi, pairs), at_start)
            (phi.grad,) = torch.autograd.grad(loss, [phi])
            # One pair near a branching point would otherwise fill Adam's second moments.
            torch.nn.utils.clip_grad_norm_([phi], 1.0)
            adam.step()
        best = max(looks, key=lambda look: look[1])
        used = m * (3 * min(self.batch, len(split.fit)) * self.iterations + len(looks) * len(split.choose))
        of_best = {"change": np.array(best[2]), "iteration": best[0], "score": best[1]}
        return {**of_best, "looks": looks, "evaluations": used}


def _keep(path: Path, state: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_whole(path, buffer.getvalue())
