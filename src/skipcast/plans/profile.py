"""A profile: the Gram matrices of recorded trajectories; and the plans that are solved from it.

The matrices are all that the open-loop solve needs to know of a model.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from skipcast.checkpoint import write_whole
from skipcast.checks import Checked, guarded, shown
from skipcast.grid import Vector
from skipcast.plans.adaptive import AdaptivePlan
from skipcast.plans.closed_loop import Evaluator, Table, outputs_of
from skipcast.plans.doubting import BEHIND, Trial, cheapest
from skipcast.plans.gram import Shelf, grams, remainder
from skipcast.plans.knots import JointLoop, joined, varied_number
from skipcast.plans.open_loop import OpenLoop, Steps, forecasts, placed, search
from skipcast.plans.plain import even, extrapolated_tables, plain_tables, sampler_rows, spacings
from skipcast.plans.plan import Origin, Plan, Prediction, in_range
from skipcast.plans.propagation import Levels
from skipcast.plans.refine import EFFORTS, Advance, Effort, Recorded, Split
from skipcast.plans.refine import refine as close_the_loop
from skipcast.reading import SEAL, open_regular, parse_json, why

Matrix = NDArray[np.float64]
FORMAT = "skipcast-profile-1"
_ABOUT = "about"  # in the header of the file
_NUMBERS = ("grams", "states", "timesteps", "scale", "gain")
_KEPT = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of trajectories


@dataclass(frozen=True, eq=False)
class Profile(Checked):
    """Recorded trajectories of M pairs (prompt and seed), as inner products.

    The basis of a pair is x_0 (its noise) and the outputs y_0 .. y_{N-1} as the scheduler receives them; for the
    converged reference also its states x_1 .. x_N at the nodes of the grid. K = N + 1, or 2 N + 1.

    Args:
        grams: G[p, a, b] = mean over elements of basis_a basis_b of pair p, (M, K, K) float64.
        states: reference state i = sum_b states[i, b] basis_b, (N + 1, K).
        timesteps: what the steps tell the network, (N,).
        scale: factors by which the scheduler scales the network's input, (N,).
        gain: squared error of the decoded image in [0, 1] over that of the final sample, per pair, (M,).
        origin: what was recorded.
        trajectory: x_i of every pair, (M, N + 1, *shape), which closing the loop needs; None if not kept.

    Raises:
        ValueError: shapes that do not fit together, or numbers that cannot be inner products.
    """

    grams: NDArray[np.float64]
    states: Matrix
    timesteps: Vector
    scale: Vector
    gain: Vector
    origin: Origin
    trajectory: Tensor | None = None

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            value = np.array(getattr(self, name), dtype=np.float64)
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        n, pairs = self.origin.steps, len(self.grams)
        k = n + 1 if self.origin.reference == "default" else 2 * n + 1
        shapes = {
            "grams": (pairs, k, k),
            "states": (n + 1, k),
            "timesteps": (n,),
            "scale": (n,),
            "gain": (pairs,),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"Profile({name}=...) must be {shape}, got {getattr(self, name).shape}.")
            if not in_range(getattr(self, name)):
                raise ValueError(f"Profile({name}=...) holds numbers that are not finite, or beyond 1e30.")
        sizes, skew = self.grams.diagonal(axis1=1, axis2=2), np.abs(self.grams - self.grams.swapaxes(1, 2))
        if not (sizes > 0).all() or skew.max(initial=0.0) > 1e-9 * sizes.max(initial=0.0):
            raise ValueError("Profile(grams=...) must be symmetric with positive diagonals.")
        if (self.gain < 0).any():
            raise ValueError("Profile(gain=...) must not be negative.")
        if not pairs or pairs != len(self.origin.pairs) or len(self.origin.seeds) not in (0, pairs):
            raise ValueError(f"Profile(grams=...) holds {pairs} pairs, its origin {len(self.origin.pairs)}.")
        kept = self.trajectory
        if kept is not None and kept.shape != (pairs, n + 1, *self.origin.shape):
            raise ValueError(f"Profile(trajectory=...) must be {(pairs, n + 1, *self.origin.shape)}.")

    def __len__(self) -> int:
        return len(self.grams)

    @classmethod
    @guarded()
    def taped(
        cls,
        tapes: Iterable[tuple[Tensor, Tensor]],
        *,
        timesteps: ArrayLike,
        states: ArrayLike | None,
        scale: ArrayLike | None = None,
        gain: ArrayLike | None = None,
        origin: Origin | None = None,
    ) -> Profile:
        """The profile of runs that were taped in another sampler, such as that of an engine without a scheduler.

            table = skipcast.plans.propagation.first_order(grid, end, "sample")
            profile = sc.Profile.taped([(trajectory, outputs)], timesteps=grid.timestep, states=table)

        Args:
            tapes: trajectories x_0 .. x_N, (B, N + 1, *shape), and the outputs y_0 .. y_{N-1} that moved them,
                (B, N, *shape), in batches.
            timesteps: what the steps tell the network, (N,).
            states: the table of the sampler, x_i = sum_b states[i, b] basis_b in the basis (x_0, y_0 .. y_{N-1}),
                (N + 1, N + 1), against which the tapes are checked; or None for trajectories that were integrated
                with smaller steps than these (a converged reference), of which every state joins the basis.
            scale: factors of the network's input, (N,); by default 1.
            gain: squared error that counts over that of the final sample, (M,); by default 1 / range^2 with the range
                of values of every final sample, so that a PSNR is over it.
            origin: what was recorded; by default pairs that are known by their noise alone.

        Raises:
            ValueError: shapes that do not fit together, values that are not finite, no pair, or final samples that the
                table does not make of the outputs.
        """
        times = np.asarray(timesteps, dtype=np.float64)
        n, tables, kept = len(times), list[NDArray[np.float64]](), list[Tensor]()
        table = None if states is None else np.asarray(states, dtype=np.float64)
        for trajectory, outputs in tapes:
            _check_tape(trajectory, outputs, n)
            with Shelf() as shelf:
                basis = [trajectory[:, :1], outputs, trajectory[:, 1:] if table is None else trajectory[:, -1:]]
                places = [shelf.append(batch) for part in basis for batch in part.unbind(1)]
                found, coarse = grams(shelf, places), torch.finfo(shelf.dtype).eps > 1e-6
            if table is not None:
                worst = remainder(found, np.append(table[-1], -1.0))
                if not worst <= (1e-2 if coarse else 1e-4):
                    raise ValueError(
                        f"Profile.taped(states=...): the final samples are off by {worst:.1e} (relative) from what the "
                        "table makes of the outputs; give that of the sampler that ran, or states=None."
                    )
                found = found[:, :-1, :-1]
            tables.append(found)
            kept.append(trajectory.detach().cpu())
        if not kept:
            raise ValueError("Profile.taped(tapes=...) holds no pair; give at least one, better 8.")
        everything = torch.cat(kept)
        digests = tuple(hashlib.sha256(x.float().numpy().tobytes()).hexdigest()[:16] for x in everything[:, 0])
        known = Origin("", "", {}, n) if origin is None else origin
        about: dict[str, Any] = {"steps": n, "reference": "default" if table is not None else "converged"}
        if not known.prompts:
            about |= {"prompts": digests, "seeds": tuple(range(len(digests))), "texts": False}
        if gain is None:
            final = everything[:, -1].double().flatten(1)
            span = (final.amax(1) - final.amin(1)).numpy()
            gain = np.where(span > 0, span, 1.0) ** -2.0
        return cls(
            grams=np.concatenate(tables),
            states=np.eye(2 * n + 1)[[0, *range(n + 1, 2 * n + 1)]] if table is None else table,
            timesteps=times,
            scale=np.ones(n) if scale is None else np.asarray(scale, dtype=np.float64),
            gain=np.asarray(gain, dtype=np.float64),
            origin=replace(known, **about, shape=tuple(everything.shape[2:])),
            trajectory=everything,
        )

    def public(self) -> Profile:
        """The same without prompts, seeds and states: enough for plans of the open loop, and for nothing else."""
        return replace(self, origin=self.origin.public(), trajectory=None)

    @guarded()
    def save(self, path: str | Path) -> None:
        """Write one safetensors file with a digest of what it holds, whole or not at all."""
        write_whole(Path(path), self.as_bytes())

    def as_bytes(self) -> bytes:
        """What `save` writes."""
        tensors = {name: torch.tensor(getattr(self, name)) for name in _NUMBERS}
        rows, columns = np.triu_indices(self.grams.shape[1])
        tensors["grams"] = tensors["grams"][:, rows, columns].contiguous()  # symmetric: half of it says all
        if self.trajectory is not None:
            tensors["trajectory"] = self.trajectory.contiguous()
        about = {"format": FORMAT, "origin": json.dumps(self.origin.as_dict())}
        about[SEAL] = _digest(about, tensors)
        # One entry, for several would be written in another order every time.
        return save(tensors, metadata={_ABOUT: json.dumps(about)})

    @overload
    def plan(
        self, *, psnr: float, worst: float, refine: Any, effort: str | Effort = "normal", batch: int = 8,
        knots: bool = True, branches: bool = False, start: Plan | None = None, advance: Advance = ...,
    ) -> Plan | AdaptivePlan: ...  # fmt: skip
    @overload
    def plan(
        self, *, evaluations: int | None = None, speedup: float | None = None, psnr: float | None = None,
        worst: None = None, refine: Any = None, effort: str | Effort = "normal", batch: int = 8,
        steps: Sequence[int] | None = None, knots: bool = True, branches: bool = False, start: Plan | None = None,
        advance: Advance = ..., nfe: int | None = None,
    ) -> Plan: ...  # fmt: skip
    @guarded("plan", speedup=1, batch=1)
    def plan(
        self,
        *,
        evaluations: int | None = None,
        speedup: float | None = None,
        psnr: float | None = None,
        worst: float | None = None,
        refine: Any = None,
        effort: str | Effort = "normal",
        batch: int = 8,
        steps: Sequence[int] | None = None,
        knots: bool = True,
        branches: bool = False,
        start: Plan | None = None,
        advance: Advance = lambda note, share: None,
        nfe: int | None = None,
    ) -> Plan | AdaptivePlan:
        """The plan for a budget or for a quality; give exactly one of `evaluations`, `speedup` and `psnr`.

        A profile of several guidance scales (or values of any one other number) gives a plan with knots: steps that
        suit all of them, and rows for each, solved on its own pairs. Between the knots the rows are interpolated.

        Args:
            evaluations: network evaluations m.
            speedup: at least N / m.
            psnr: the fewest evaluations whose predicted mean PSNR against the reference reaches this many dB, at every
                knot.
            worst: with psnr=, also the mean of the 5 % worst reaches this many dB: the fewest evaluations on average,
                by one plan or by an `AdaptivePlan` of two. Needs refine= and one value of every argument.
            refine: the pipeline or the denoiser that was recorded, on which the loop is closed; None solves from the
                Gram matrices alone (open loop), which sees no error of its own and is much worse.
            effort: of a refined plan. "low" closes the loop on two step sets, 2 m evaluations per pair; "normal" and
                "high" close more and add joint sweeps of about m^3 / 6 evaluations per pair each (at ten, six
                unaccelerated runs), which is worth it where a plan serves for long. Or an `Effort`.
            batch: pairs per pipeline call of the refinement.
            steps: evaluated steps instead of searched ones; with `evaluations` their number, or none of the three.
            knots: whether a profile of several values of a number gives a plan with knots; False fits one set of rows
                on all pairs, which is a compromise.
            branches: whether the m evaluations may be spent as 2 m passes of single guidance branches: the leading one
                at more steps than m, the other at fewer, with a weight for each. Such a plan runs under `accelerate`
                and `enable` alone. Needs refine= with a pipeline that has both branches.
            start: a plan of as many evaluations to go on from, solved from this profile or from others of its model:
                its steps are closed first, and its own numbers compete. With branches=True it may be of whole
                evaluations, whose every number then becomes one for each branch. Needs refine=.
            advance: called after every candidate, with a note and the share of the most that the work may cost.
            nfe: another name of `evaluations`.

        Raises:
            ValueError: contradicting arguments, a budget out of range, a quality that no plan is predicted to reach
                (says what the best is), or a pipeline that is not the recorded one.
        """
        if nfe is not None:
            if evaluations is not None:
                raise ValueError(f"plan(evaluations={evaluations}, nfe={nfe}): two names of one number; give one.")
            evaluations = nfe
        request = Request(evaluations, speedup, psnr, steps, effort, batch, knots, branches, start)
        solver = _Solver(self, request, _evaluator(self, refine, batch), advance)
        count = request.count(self.origin.steps)
        if worst is not None:
            if psnr is None or solver.evaluator is None or solver.knots or branches:
                raise ValueError(
                    f"plan(worst={worst:g}) needs psnr=, refine=, a profile of one guidance scale or knots=False, and "
                    "whole evaluations."
                )
            evaluator, solve = solver.evaluator, functools.cache(solver.solve)
            return cheapest(solve, solver.reach, lambda plans: Trial(self, plans, evaluator), psnr, worst)
        return solver.solve(count) if count is not None else solver.reach(float(psnr or 0.0))

    @guarded("adaptive", false_alarms=(0, 1), batch=1)
    def adaptive(
        self,
        plans: Sequence[Plan],
        *,
        refine: Any,
        false_alarms: float = 0.05,
        behind: Sequence[int] = BEHIND,
        batch: int = 8,
    ) -> AdaptivePlan:
        """Two plans, and a rule fitted on these pairs by which a sample of the cheaper one begins again with the other.

            adaptive = profile.adaptive([plan10, plan17], refine=pipe)

        Costs m_1 + m_2 evaluations per pair that neither plan was fitted on.

        Args:
            plans: the cheaper and the dearer one, solved from this profile or from other pairs.
            refine: as for `plan`.
            false_alarms: share of the samples that are not among the worst twentieth and begin again nevertheless.
            behind: evaluations of the cheaper plan behind which a sample may be doubted.
            batch: pairs per pipeline call.

        Raises:
            ValueError: plans of different grids, or with knots; fewer than 32 pairs; no trajectory.
        """
        evaluator = _evaluator(self, refine, batch)
        if evaluator is None:
            raise ValueError("adaptive(refine=...) must be the recorded pipeline or denoiser, on which both plans run.")
        return Trial(self, plans, evaluator, behind).fitted(false_alarms)

    @guarded("curve", batch=1)
    def curve(
        self,
        budgets: Sequence[int],
        *,
        refine: Any = None,
        effort: str | Effort = "normal",
        batch: int = 8,
        advance: Advance = lambda note, share: None,
    ) -> list[Plan]:
        """One plan for each number of evaluations; the arguments are those of `plan`."""
        options: dict[str, Any] = {"refine": refine, "effort": effort, "batch": batch, "advance": advance}
        return [self.plan(evaluations=budget, **options) for budget in budgets]

    @guarded("subset")
    def subset(self, pairs: Sequence[int]) -> Profile:
        """The profile of some of its pairs, in this order; what all of them have in common is no longer varied."""
        origin, some = self.origin, list(pairs)
        if not some or not all(0 <= pair < len(self) for pair in some):
            raise ValueError(f"subset(pairs=...) must be places from 0 to {len(self) - 1}, got {some!r:.60}.")
        varied = {name: tuple(values[pair] for pair in some) for name, values in origin.varied.items()}
        common = {name: values[0] for name, values in varied.items() if all(value == values[0] for value in values)}
        return replace(
            self,
            grams=self.grams[some],
            gain=self.gain[some],
            trajectory=None if self.trajectory is None else self.trajectory[some],
            origin=replace(
                origin,
                prompts=tuple(origin.prompts[pair] for pair in some if origin.prompts),
                seeds=tuple(origin.seeds[pair] for pair in some if origin.prompts),
                pairs=tuple(origin.pairs[pair] for pair in some),
                call={**origin.call, **common},
                varied={name: values for name, values in varied.items() if name not in common},
            ),
        )

    @classmethod
    @guarded()
    def load(cls, path: str | Path) -> Profile:
        """Read a profile.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is not a profile, or does not hold what was saved.
        """
        path = Path(path)
        make = f"record one with `skipcast profile MODEL --out {path}`"
        try:
            open_regular(path).close()
        except FileNotFoundError:
            raise FileNotFoundError(f"no profile {path}; {make}.") from None
        try:
            about, tensors = _read(path)
            if SEAL not in about:
                raise ValueError(f"it carries no digest of its numbers ({SEAL}), so nothing proves them; {make}")
            if about.pop(SEAL) != _digest(about, tensors):
                raise ValueError(f"it is not what was saved (its {SEAL} does not match); fetch it again, or {make}")
            trajectory = tensors.pop("trajectory", None)
            if trajectory is not None and not bool(trajectory.isfinite().all()):
                raise ValueError("its trajectory holds values that are not finite")
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            arrays["grams"] = _unpacked(arrays["grams"], arrays["states"].shape[1])
            return cls(**arrays, origin=Origin(**parse_json(about["origin"])), trajectory=trajectory)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, SafetensorError) as error:
            raise ValueError(f"{path} is not a profile: {why(error)}.") from error


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What a file says, and its tensors, of known names and kinds.

    Raises:
        ValueError, SafetensorError: another file.
    """
    found: dict[str, Tensor] = {}
    with safe_open(path, framework="pt") as file:
        about = parse_json((file.metadata() or {}).get(_ABOUT, "{}"))
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise ValueError(f"format {FORMAT!r} is needed, its {_ABOUT} is {shown(about)}")
        names = set(file.keys())  # (not a dict)
        if names - {"trajectory"} != set(_NUMBERS):
            raise ValueError(f"its tensors are {shown(sorted(names))}, {', '.join(_NUMBERS)} are needed")
        for name in names:
            try:
                found[name] = file.get_tensor(name)
            except Exception as error:  # each of its own for a kind that one of the two libraries does not have
                raise ValueError(f"{name} cannot be read ({shown(str(error))})") from error
            if found[name].dtype not in (_KEPT if name == "trajectory" else (torch.float64,)):
                raise ValueError(f"{name} is of kind {found[name].dtype}, float64 is needed")
    return about, found


def _digest(about: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over all that a profile holds."""
    found = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _check_tape(trajectory: Tensor, outputs: Tensor, steps: int) -> None:
    shape = trajectory.shape[2:]
    if trajectory.ndim < 3 or trajectory.shape[1] != steps + 1:
        raise ValueError(
            f"Profile.taped(tapes=...): a trajectory of {steps} timesteps is (B, {steps + 1}, *shape), got "
            f"{tuple(trajectory.shape)}."
        )
    if outputs.shape != (len(trajectory), steps, *shape):
        raise ValueError(
            f"Profile.taped(tapes=...): its outputs must be {(len(trajectory), steps, *shape)}, got "
            f"{tuple(outputs.shape)}."
        )
    if not bool(trajectory.isfinite().all() and outputs.isfinite().all()):
        raise ValueError("Profile.taped(tapes=...) holds values that are not finite.")


def _unpacked(packed: Matrix, size: int) -> NDArray[np.float64]:
    """Symmetric matrices from their upper triangles, (M, K (K + 1) / 2) to (M, K, K)."""
    needed = size * (size + 1) // 2
    if packed.ndim != 2 or not len(packed) or packed.shape[1] != needed:
        raise TypeError(f"grams are {packed.shape}, {needed} numbers for each of one or more pairs are needed")
    rows, columns = np.triu_indices(size)
    full = np.empty((len(packed), size, size))
    full[:, rows, columns] = packed
    full[:, columns, rows] = packed
    return full


# Solving: from a profile and a request to a plan.


@dataclass(frozen=True)
class Request(Checked):
    """A request for a plan; its arguments are those of `Profile.plan`.

    Raises:
        ValueError: contradicting arguments.
    """

    evaluations: int | None = None
    speedup: float | None = None
    psnr: float | None = None
    steps: Sequence[int] | None = None
    effort: str | Effort = "normal"
    batch: int = 8
    knots: bool = True
    branches: bool = False
    start: Plan | None = None

    def __post_init__(self) -> None:
        if self.start is not None and (self.psnr is not None or self.steps is not None):
            raise ValueError("plan(start=...) goes with evaluations= or speedup=, not with psnr= or steps=.")
        if self.steps is not None:
            object.__setattr__(self, "steps", tuple(self.steps))
        given = [name for name in ("evaluations", "speedup", "psnr") if getattr(self, name) is not None]
        named = None if self.steps is None else len(self.steps) / (2 if self.branches else 1)
        if named is not None and named != int(named):
            raise ValueError(
                f"plan(steps=..., branches=True) names {len(self.steps or ())} passes; give an even number."
            )
        if named is not None and not given:
            object.__setattr__(self, "evaluations", int(named))
        elif len(given) != 1:
            raise ValueError(
                f"plan() needs exactly one of evaluations=, speedup= and psnr=, got {' and '.join(given) or None}."
            )
        if named is not None and self.evaluations != named:
            raise ValueError(f"plan(steps=...) names {named:g} steps; evaluations={self.evaluations} says otherwise.")
        if isinstance(self.effort, str) and self.effort not in EFFORTS:
            raise ValueError(f"plan(effort={self.effort!r}) must be one of {', '.join(EFFORTS)}, or an Effort.")

    @property
    def work(self) -> Effort:
        return EFFORTS[self.effort] if isinstance(self.effort, str) else self.effort

    def count(self, steps: int) -> int | None:
        """The number of evaluations requested, of N steps; None where a quality was."""
        if self.psnr is not None:
            return None
        wanted = (
            self.evaluations if self.evaluations is not None else math.floor(steps / float(self.speedup or 1) + 1e-9)
        )
        if not 1 <= wanted <= steps:
            raise ValueError(f"plan() would need {wanted} evaluations; between 1 and the {steps} recorded steps exist.")
        return wanted


def _evaluator(profile: Profile, refine: Any, batch: int) -> Evaluator | None:
    if refine is None or all(callable(getattr(refine, name, None)) for name in ("call", "groups")):
        return refine  # type: ignore[no-any-return]
    if not hasattr(refine, "scheduler"):
        from skipcast.pipelines.denoiser import DenoiserEvaluator

        return DenoiserEvaluator(refine, profile, batch)
    from skipcast.pipelines.recording.replay import PipelineEvaluator  # only with a pipeline at hand

    return PipelineEvaluator(refine, profile.origin, batch)


class _Solver:
    def __init__(self, profile: Profile, request: Request, evaluator: Evaluator | None, advance: Advance) -> None:
        self.profile, self.request, self.evaluator, self.advance = profile, request, evaluator, advance
        self.gram = profile.grams.mean(axis=0)
        self.knots = varied_number(profile.origin) if request.knots else None
        self.loop = OpenLoop(self.gram, profile.states)
        if self.knots:
            grams = [profile.grams[pairs].mean(axis=0) for pairs in self.knots[1].values()]
            self.loop = JointLoop(grams, profile.states)
        self.levels = self._levels() if request.steps is None else None  # given steps are closed, and nothing else
        self.branches = self._branches() if request.branches else ""
        self.start = self._start(request.start) if request.start is not None else ()

    def _start(self, plan: Plan) -> list[Table]:
        """The tables of a plan to go on from, one per knot.

        Raises:
            ValueError: a plan of another budget, or that was made for something else.
        """
        origin, profile = plan.origin, self.profile
        budget = self.request.count(profile.origin.steps)
        if self.evaluator is None:
            raise ValueError("plan(start=...) needs refine=: the open loop has no use for a plan.")
        if plan.evaluations != budget:
            raise ValueError(f"plan(evaluations={budget}, start=...) was given {plan!r}; the budgets must be the same.")
        if plan.branches not in ("", self.branches):
            raise ValueError(f"plan(start=...) was given {plan!r}, whose passes need branches=True in this pipeline.")
        same = len(plan.timesteps) == len(profile.timesteps) and np.allclose(plan.timesteps, profile.timesteps)
        if not same or (origin.shape, origin.scheduler) != (profile.origin.shape, profile.origin.scheduler):
            raise ValueError(f"plan(start=...) was given {plan!r}, which was made for another grid or shape.")
        values = list(self.knots[1]) if self.knots else [profile.origin.call.get(str(plan.argument), math.nan)]
        tables = [(plan.at(value) if plan.knots else plan).table for value in values]
        return [table.in_passes(self.branches) if self.branches else table for table in tables]

    def solve(self, evaluations: int) -> Plan:
        """The plan of m evaluations."""
        sets, closed, profile = self._sets(evaluations), self.evaluator is not None, self.profile
        tables, errors = self._closed(evaluations, sets) if closed else self._open(next(sets))
        if self.knots is None:
            return self._finished(profile, tables[0], errors, range(len(profile)))
        argument, groups = self.knots
        plans = {
            value: self._finished(profile.subset(pairs), table, errors[pairs], pairs)
            for (value, pairs), table in zip(groups.items(), tables, strict=True)
        }
        return joined(argument, plans, profile.origin)

    def _finished(self, profile: Profile, table: Table, errors: Vector, pairs: Sequence[int]) -> Plan:
        """The plan of a table, on the profile of its pairs; the forecasts of passes are found by running it."""
        known = None
        if table.branches:
            assert self.evaluator is not None
            run = outputs_of(table, self.evaluator, [pairs[i] for i in Split.of(len(profile)).fit])
            known = (forecasts(run.mean(axis=0), range(len(table.steps))), run[:, 1:, 1:])
        return _finished(profile, table, errors, closed=self.evaluator is not None, known=known)

    def _branches(self) -> str:
        """Where the evaluator has its leading guidance branch."""
        found = getattr(self.evaluator, "branches", None)
        if not found:
            raise ValueError(
                "plan(branches=True) needs refine= with the recorded pipeline, whose network is asked for one guidance "
                "branch at a time."
            )
        return str(found)

    def _open(self, steps: Steps) -> tuple[list[Table], Vector]:
        """Tables of the open loop, one per knot, and squared errors, (M,)."""
        profile, tables, errors = self.profile, list[Table](), np.zeros(len(self.profile))
        for pairs in self.knots[1].values() if self.knots else [list(range(len(profile)))]:
            loop = OpenLoop(profile.grams[pairs].mean(axis=0), profile.states)
            tables.append(Table(steps, loop.rows(steps), profile.timesteps[list(steps)], profile.scale[list(steps)]))
            residual = loop.residual(steps)
            errors[pairs] = np.einsum("a,pab,b->p", residual, profile.grams[pairs], residual)
        return tables, errors

    def _closed(self, evaluations: int, sets: Iterator[Steps]) -> tuple[Sequence[Table], Vector]:
        """Refined tables, one per knot, and squared errors, (M,)."""
        profile, work = self.profile, self.request.work
        assert self.evaluator is not None
        if profile.trajectory is None:
            raise ValueError(
                "plan(refine=...) needs the reference states; record the profile with keep_trajectory=True."
            )
        groups = self.knots[1] if self.knots else None
        recorded = Recorded(profile.trajectory, profile.gain, profile.timesteps, profile.scale, groups, self.branches)
        work = work if self.request.steps is None else replace(work, moves=0)
        plain = self._plain(evaluations)
        sets = itertools.chain((table.steps for table in self.start[:1]), sets)
        found = close_the_loop(
            recorded, self.evaluator, sets, work, plain=plain, start=self.start, advance=self.advance
        )
        return found.tables, found.errors

    def _levels(self) -> Levels | None:
        """Where the steps lie, if rows of samplers follow from it: what they do first is what the recorded run did."""
        levels = self.evaluator.levels if self.evaluator is not None else None
        if levels is None or self.profile.origin.reference != "default":
            return levels
        row = sampler_rows("euler", levels, (0, 1), self.profile.scale)[0]
        moved = np.zeros(self.profile.states.shape[1])
        moved[:2] = 1 + row[0], row[1]
        return levels if np.allclose(self.profile.states[1], moved, rtol=1e-3, atol=1e-6) else None

    def _plain(self, evaluations: int) -> list[Table]:
        """Plain samplers on their own spacing, where levels are known, and the recorded one with extrapolated outputs.

        Of a converged reference, which no sampler of these steps made, only the former.
        """
        profile, found = self.profile, list[Table]()
        if self.request.steps is not None:
            return found
        if self.levels is not None:
            found += plain_tables(self.levels, profile.scale, evaluations)
        if profile.origin.reference == "default":
            found += extrapolated_tables(profile.states, profile.timesteps, profile.scale, evaluations)
        return found

    def reach(self, psnr: float) -> Plan:
        """The plan of the fewest evaluations that is predicted to reach `psnr`, by bisection.

        Raises:
            ValueError: not even every second step evaluated is predicted to reach it.
        """
        known: dict[int, Plan] = {}

        def quality(evaluations: int) -> float:
            if evaluations not in known:
                known[evaluations] = self.solve(evaluations)
            plan = known[evaluations]
            return min(each.predicted.psnr for each in plan.knots or (plan,) if each.predicted is not None)

        fewest, most = 1, max(2, self.profile.origin.steps // 2)
        if quality(most) < psnr:
            best = known[most]
            raise ValueError(
                f"plan(psnr={psnr:g}) is out of reach: the best plan of at most {most} evaluations is predicted to "
                f"reach {quality(most):.1f} dB ({best!r}). Ask for less, or give refine= and more pairs."
            )
        while most - fewest > 1:
            middle = (fewest + most) // 2
            fewest, most = (fewest, middle) if quality(middle) >= psnr else (middle, most)
        return known[most]

    def _sets(self, evaluations: int) -> Iterator[Steps]:
        """Step sets, the most promising first, found as they are asked for; some of them twice."""
        if self.request.steps is not None:
            yield self._given(self.request.steps)
        elif self.branches:
            yield from self._sets_of_passes(evaluations)
        else:
            first, *others = search(self.loop, evaluations)
            yield first
            steps = self.profile.origin.steps
            yield from [even(evaluations, steps)] if self.levels is None else spacings(self.levels, evaluations)
            yield from (placed(evaluations, steps), *others)

    def _given(self, given: Sequence[int]) -> Steps:
        steps, last = tuple(int(step) for step in given), self.profile.origin.steps - 1
        rising = list(steps) == sorted(steps if self.branches else set(steps))
        if steps[:1] != (0,) or not rising or steps[-1] > last or max(map(steps.count, steps)) > 2:
            raise ValueError(f"plan(steps={steps}) must begin with 0, rise, and stay within the steps 0 to {last}.")
        return steps

    def _sets_of_passes(self, evaluations: int) -> Iterator[Steps]:
        """2 m passes: the leading branch at m to 2 m - 1 searched steps, the other one at as many of them as are left.

        The second passes are spread over the steps, and end with the last one or begin behind the first. A third more
        of the leading branch is where searches have ended; both at every step, as whole evaluations have them, come
        second.
        """
        steps = self.profile.origin.steps
        leads = range(evaluations, min(2 * evaluations - 1, steps) + 1)
        first, *others = sorted(leads, key=lambda lead: abs(lead - 4 * evaluations / 3))

        def shared(lead: int, chosen: Steps) -> Steps:
            again = 2 * evaluations - lead
            return tuple(sorted((*chosen, *(chosen[((2 * k + 1) * lead) // (2 * again)] for k in range(again)))))

        yield shared(first, search(self.loop, first)[0])
        yield shared(evaluations, search(self.loop, evaluations)[0])
        for lead in (first, *others):
            yield from (shared(lead, chosen) for chosen in (search(self.loop, lead)[0], placed(lead, steps)))


def _finished(
    profile: Profile,
    table: Table,
    errors: Vector,
    *,
    closed: bool,
    known: tuple[tuple[Vector, ...], NDArray[np.float64]] | None = None,
) -> Plan:
    """The plan of a table, predicted by the pairs that judge, or in the open loop by all.

    Args:
        profile: of the pairs of the table.
        table: solved.
        errors: squared, of the final samples, (M,).
        closed: whether the loop was.
        known: forecasts of the outputs, and the Gram matrices of the outputs of runs; by default those recorded.
    """
    pairs = Split.of(len(profile)).judge if closed else list(range(len(profile)))
    psnr = -10 * np.log10(np.maximum(profile.gain[pairs] * errors[pairs], 1e-20))
    if known is None:
        places = 1 + np.array(table.steps)
        known = forecasts(profile.grams.mean(axis=0), table.steps), profile.grams[:, places[:, None], places]
    rows, run = known
    return Plan(
        steps=table.steps,
        rows=table.rows,
        timesteps=profile.timesteps,
        evaluation_timesteps=table.timesteps,
        scale=table.scale,
        origin=profile.origin,
        forecasts=rows,
        expected=_expected(run, rows),
        predicted=Prediction.of(psnr, held_out=closed and len(pairs) < len(profile), closed=closed),
        label=table.label if closed else "open loop",
        branches=table.branches,
    )


def _expected(grams: NDArray[np.float64], rows: Sequence[Vector]) -> Vector:
    """Relative residuals of forecasts of m outputs from their Gram matrices, (M, m, m): mean and largest, (m, 2)."""
    found = np.zeros((len(rows), 2))
    for n in range(1, len(rows)):
        column = np.append(-rows[n], 1.0)
        squared = np.einsum("a,pab,b->p", column, grams[:, : n + 1, : n + 1], column) / grams[:, n, n]
        residual = np.sqrt(np.maximum(squared, 0.0))
        found[n] = residual.mean(), residual.max()
    return found
