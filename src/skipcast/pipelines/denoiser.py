"""Plans for any callable `denoiser(x, timestep, ...)`: recording it, closing the loop on it, sampling. No diffusers."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from skipcast.checks import guarded
from skipcast.grid import TimeGrid
from skipcast.pipelines.adaptive_run import AdaptiveRun, course_of
from skipcast.pipelines.plan_run import Course, PlanRun
from skipcast.plans.adaptive import AdaptivePlan
from skipcast.plans.closed_loop import Program
from skipcast.plans.plan import Origin, Plan, is_word, versions, word
from skipcast.plans.profile import Profile
from skipcast.plans.propagation import (
    Levels,
    Matrix,
    Prediction,
    first_order,
    grid_of,
    input_scale,
    propagation,
    segments,
)
from skipcast.run import OVERFLOW

if TYPE_CHECKING:
    from skipcast.pipelines.calls import Prompt

Denoiser = Callable[..., Any]

# Arrays of the caller: everything here computes with torch, and the denoiser sees what its noise was.


@dataclass(frozen=True)
class Arrays:
    """A kind of arrays: torch tensors, or those of a namespace such as numpy or jax.numpy.

    Args:
        namespace: "torch", or the name of a module with `asarray`.
        dtype: name of the dtype.
        device: of tensors.
    """

    namespace: str
    dtype: str
    device: str = ""

    @classmethod
    def of(cls, noise: Any, caller: str) -> Arrays:
        """The kind of the initial samples (M, *shape).

        Raises:
            ValueError: not floating-point arrays of at least two dimensions.
        """
        if not isinstance(noise, Tensor) and not hasattr(noise, "__array__"):
            raise ValueError(
                f"{caller}(noise=...) must be initial samples (M, *shape) as a tensor or an array, got "
                f"{type(noise).__name__}; prompts and seeds are for a pipeline, which has a scheduler."
            )
        if isinstance(noise, Tensor):
            found = cls("torch", str(noise.dtype).removeprefix("torch."), str(noise.device))
            floating = noise.is_floating_point()
        else:
            space = noise.__array_namespace__() if hasattr(noise, "__array_namespace__") else np
            found = cls(space.__name__, str(noise.dtype))
            floating = "float" in found.dtype
        if not floating or noise.ndim < 2 or not len(noise):
            raise ValueError(
                f"{caller}(noise=...) must be floating-point initial samples (M, *shape), got {found.dtype} of shape "
                f"{tuple(noise.shape)}."
            )
        return found

    @property
    def coarse(self) -> bool:
        """Whether values are rounded to half precision."""
        return self.dtype in ("float16", "bfloat16")

    @property
    def exact(self) -> torch.dtype:
        """The dtype of sums: float32, or float64 for float64 values."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    def given(self, x: Tensor, dtype: str | None = None) -> Any:
        """A tensor as an array of this kind."""
        dtype = dtype or self.dtype
        if self.namespace == "torch":
            return x.to(self.device, getattr(torch, dtype))
        module = sys.modules.get(self.namespace)
        if module is None:
            raise ValueError(f"the denoiser was recorded with arrays of {self.namespace}; import it first.")
        return module.asarray(x.cpu().numpy().astype(np.dtype(dtype)))

    def taken(self, values: Any) -> Tensor:
        """An array of this kind as a tensor in the dtype of sums."""
        if isinstance(values, Tensor):
            return values.to(self.exact)
        wide = np.float64 if self.exact == torch.float64 else np.float32
        return torch.from_numpy(np.array(values, dtype=wide))


class _Network:
    """The denoiser on tensors, with its further arguments."""

    def __init__(
        self, denoiser: Denoiser, arrays: Arrays, varied: Mapping[str, Any], arguments: Mapping[str, Any]
    ) -> None:
        self.denoiser, self.arrays, self.varied, self.arguments = denoiser, arrays, varied, arguments

    def __call__(self, x: Tensor, timestep: float, pairs: Sequence[int] = ()) -> Tensor:
        arrays = self.arrays
        wide = "float64" if arrays.exact == torch.float64 else "float32"  # half precision would round a timestep
        time = arrays.given(torch.tensor(timestep, dtype=torch.float64), wide)
        own = {name: of_pairs(values, pairs) for name, values in self.varied.items()}
        y = self.denoiser(arrays.given(x), time, **own, **self.arguments)
        if not (isinstance(y, Tensor) or hasattr(y, "__array__")) or tuple(y.shape) != tuple(x.shape):
            got = f"shape {tuple(y.shape)}" if hasattr(y, "shape") else type(y).__name__
            raise ValueError(f"denoiser(x, timestep) must return one array of x's shape {tuple(x.shape)}, got {got}.")
        return arrays.taken(y)


def of_pairs(values: Any, pairs: Sequence[int]) -> Any:
    """An argument that differs from sample to sample, for some of them."""
    if isinstance(values, list | tuple):
        return [values[pair] for pair in pairs]
    return values[np.array(pairs)] if not isinstance(values, Tensor) else values[list(pairs)]


def one_each(varied: Mapping[str, Any] | None, count: int, caller: str) -> dict[str, Any]:
    """Arguments that differ from sample to sample; refused with ValueError if there is not one for each."""
    for name, values in (varied or {}).items():
        many = np.ndim(values) or isinstance(values, list | tuple)
        found = f"{len(values)} values" if many else type(values).__name__
        if found != f"{count} values":
            raise ValueError(f"{caller}(varied=...): {found} of {name} for {count} samples; give one each.")
    return dict(varied or {})


def network_of(
    denoiser: Denoiser, arrays: Arrays, varied: Mapping[str, Any] | None, count: int, kwargs: Mapping[str, Any]
) -> Callable[[Tensor, float], Tensor]:
    """A denoiser of all samples as (x, timestep) -> output, on tensors."""
    network = _Network(denoiser, arrays, one_each(varied, count, "chords"), kwargs)
    return lambda x, timestep: network(x, timestep, range(count))


def _stepped(plan: Plan, x: Tensor, network: Callable[[Tensor, float], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Every output and the sample that it leads to."""
    run = PlanRun(Course.whole(plan), None)
    for timestep, scale in zip(plan.evaluation_timesteps.tolist(), plan.scale.tolist(), strict=True):
        y = network(x * scale if scale != 1.0 else x, timestep)
        x = run.advance(y, x)
        yield y, x


class Sampled(NamedTuple):
    """What `sample` returns of an `AdaptivePlan`.

    Args:
        samples: the final samples, (M, *shape), of the noise's kind.
        evaluations: network evaluations that each of them took, (M,) int64.
    """

    samples: Any
    evaluations: NDArray[np.int64]


def _adapted(adaptive: AdaptivePlan, x: Tensor, network: _Network) -> Sampled:
    """Every call evaluates the samples that need it, and no others."""
    run, course = AdaptiveRun(adaptive, len(x)), course_of(adaptive)
    for timestep, scale in zip(course.timesteps.tolist(), course.scale.tolist(), strict=True):
        some = x[run.wanted.to(x.device)]
        y = network(some * scale if scale != 1.0 else some, timestep, run.wanted.tolist()) if len(some) else some
        x = run.advance(y, x)
    return Sampled(x, run.evaluations.numpy())


@torch.no_grad()
@guarded()
def sample(
    denoiser: Denoiser, plan: Plan | AdaptivePlan, noise: Any, *, varied: Mapping[str, Any] | None = None, **kwargs: Any
) -> Any:
    """Run a plan on any denoiser: y_n = denoiser(scale_n x, timestep_n), x <- x + a_n x + sum_{j <= n} b_{n,j} y_j.

        plan = sc.record(denoiser, noise, grid=grid).plan(evaluations=8, refine=denoiser)
        samples = sc.sample(denoiser, plan, other_noise)

    Args:
        denoiser: called as denoiser(x, timestep, **kwargs), where x is of the noise's kind of array, dtype and device
            and the timestep is an array without dimensions, in float32 (float64 with float64 noise). No gradient flows.
        plan: recorded with this denoiser, or compiled from a method. With an `AdaptivePlan` every call is given those
            samples alone that need it.
        noise: initial samples (M, *shape) as the sampler begins with them: a tensor, or an array of NumPy or JAX.
        varied: arguments that differ from sample to sample, such as class labels: arrays or lists of M entries each.
        kwargs: go on to the denoiser as they are.

    Returns:
        The final samples (M, *shape), of the noise's kind; sums are taken in float32, or float64. Of an `AdaptivePlan`
        the pair (samples, evaluations), the second (M,) int64.

    Raises:
        ValueError: not a plan, no such noise, another shape than the plan's, or the denoiser returns something else.

    Reference: the form of the non-stationary solvers of arXiv:2403.01329.
    """
    if isinstance(plan, Plan):
        plan.whole("sample(plan=...)")
    arrays = Arrays.of(noise, "sample")
    shape = tuple(noise.shape[1:])
    if plan.origin.arrays and plan.origin.shape != shape:
        raise ValueError(
            f"sample(noise=...): this plan was recorded on samples of shape {plan.origin.shape}, not {shape}; record "
            "that size, too."
        )
    final = start = arrays.taken(noise)
    network = _Network(denoiser, arrays, one_each(varied, len(noise), "sample"), kwargs)
    if isinstance(plan, AdaptivePlan):
        found = _adapted(plan, start, network)
        _warn_if_broken(found.samples)
        return found._replace(samples=arrays.given(found.samples))
    everyone = range(len(noise))
    for _, x in _stepped(plan, start, lambda x, timestep: network(x, timestep, everyone)):
        final = x
    _warn_if_broken(final)
    return arrays.given(final)


def _warn_if_broken(final: Tensor) -> None:
    if not bool(final.isfinite().all()):
        warnings.warn(f"the final samples of this run are not finite: {OVERFLOW}.", stacklevel=4)


# Recording.


@overload
def record(pipe: Any, prompts: Sequence[Prompt], *, seeds: Sequence[int] | int, **options: Any) -> Profile: ...
@overload
def record(denoiser: Denoiser, noise: Any, **options: Any) -> Profile: ...
def record(*model: Any, **options: Any) -> Profile:
    """Run a model unaccelerated on a few samples and keep what plans are solved from.

        profile = sc.record(pipe, prompts, seeds=0)  # what has a scheduler is a pipeline of diffusers
        profile = sc.record(denoiser, noise, grid=grid)  # anything else is called as denoiser(x, timestep)

    Args:
        model: the pipeline and its prompts, or the denoiser and its noise.
        options: those of `skipcast.pipelines.recording.record.record` for a pipeline, those of
            `skipcast.pipelines.denoiser.record_denoiser` for a denoiser.

    Raises:
        ValueError: the model or an option does not allow it; where that can be known, before any evaluation.
    """
    first = model[0] if model else options.get("pipe", options.get("denoiser"))
    if hasattr(first, "scheduler"):
        from skipcast.pipelines.recording.record import record as record_pipeline  # with diffusers

        return record_pipeline(*model, **options)
    return record_denoiser(*model, **options)


@torch.no_grad()
@guarded("record", substeps=1, batch=1, denoiser=None)
def record_denoiser(
    denoiser: Denoiser,
    noise: Any,
    *,
    grid: TimeGrid | None = None,
    end: tuple[float, float] = (1.0, 0.0),
    prediction: Prediction = "velocity",
    sampler: Any = None,
    substeps: int = 1,
    batch: int = 8,
    varied: Mapping[str, Any] | None = None,
    data_range: float | None = None,
    revision: str | None = None,
    progress: bool = True,
    **kwargs: Any,
) -> Profile:
    """Run the unaccelerated sampler of a denoiser on M initial samples and keep the inner products of its outputs.

        grid = sc.TimeGrid(timestep=t, alpha=np.exp(-t / 2), sigma=np.sqrt(1 - np.exp(-t)))
        profile = sc.record(score, noise, grid=grid, prediction="score", end=(0.9999, 0.01))

    Args:
        denoiser: called as in `sample`.
        noise: initial samples (M, *shape) at the first level of the grid; 32 are for real use, every fourth is kept
            out of the fit.
        grid: the N steps.
        end: alpha and sigma behind the last step; clean by default.
        prediction: what the denoiser returns, of which `first_order` makes the sampler: "velocity" (noise - clean, of
            a flow), "epsilon" (the noise), "sample" (the clean sample), "score", or "v_prediction" (alpha noise - sigma
            clean).
        sampler: another sampler instead: a diffusers scheduler on which `set_timesteps` was called, whose grid and
            input scale are then taken, or the table of its coefficients on `grid`, x_i = sum_b table[i, b] basis_b in
            the basis (x_0, y_0 .. y_{N-1}), (N + 1, N + 1).
        substeps: k > 1 records a converged reference: the plan's steps are every k-th of the grid, which the sampler
            takes all.
        batch: samples per call of the denoiser.
        varied: arguments that differ from sample to sample, such as class labels: arrays or lists of M entries each,
            handed on in batches.
        data_range: of a PSNR over the final samples; by default the range of values of each of them.
        revision: what identifies the weights, for the profile.
        progress: show a bar on stderr.
        kwargs: go on to the denoiser as they are.

    Raises:
        ValueError: arguments that do not fit together, before any evaluation; outputs of another shape, or not finite.
    """
    if not callable(denoiser):
        raise ValueError(
            f"record(...) needs a pipeline of diffusers, which has a scheduler, or a callable denoiser(x, timestep), "
            f"got {type(denoiser).__name__}."
        )
    arrays = Arrays.of(noise, "record")
    full, levels = unaccelerated(grid, end, prediction, sampler, "record")
    count, different = len(noise), one_each(varied, len(noise), "record")
    if len(full) % substeps:
        raise ValueError(f"record(substeps={substeps}) must divide the {len(full)} steps of the grid.")
    if data_range is not None and not data_range > 0:
        raise ValueError(f"record(data_range={data_range}) must be positive.")
    network = _Network(denoiser, arrays, different, kwargs)

    def tapes() -> Iterator[tuple[Tensor, Tensor]]:
        starts = range(0, count, batch)
        for start in track(starts, "recording", console=Console(stderr=True), disable=not progress):
            pairs = range(count)[start : start + batch]
            states, outputs = [arrays.taken(noise[start : start + batch])], list[Tensor]()
            for y, x in _stepped(full, states[0], lambda x, t, pairs=pairs: network(x, t, pairs)):  # type: ignore[misc]
                if not bool(y.isfinite().all()):
                    at = full.timesteps[len(outputs)]
                    raise ValueError(
                        f"the denoiser returned values that are not finite at step {len(outputs)}, {at:g}."
                    )
                outputs.append(y.to("cpu", copy=True))  # the denoiser may reuse its buffer
                states.append(x.cpu())
            yield torch.stack([states[0].cpu(), *states[1:]][::substeps], 1), torch.stack(outputs[::substeps], 1)

    given = {name: value if _plain(value) else word(value) for name, value in kwargs.items()}
    return Profile.taped(
        tapes(),
        timesteps=full.timesteps[::substeps],
        states=levels if substeps == 1 else None,
        scale=full.scale[::substeps],
        gain=None if data_range is None else np.full(count, 1 / data_range**2),
        origin=Origin(
            pipeline="",
            scheduler=full.origin.scheduler,
            config=_thinned(full.origin.config, substeps),
            steps=len(full) // substeps,
            revision=revision,
            call={**given, **{name: word(values) for name, values in different.items()}},
            versions=versions("skipcast", "torch"),
            arrays=" ".join(filter(None, (arrays.namespace, arrays.dtype, arrays.device))),
        ),
    )


def unaccelerated(
    grid: TimeGrid | None, end: tuple[float, float], prediction: Prediction, sampler: Any, caller: str
) -> tuple[Plan, Matrix]:
    """The unaccelerated sampler as a plan of every step, and the table of its states; arguments as of `record`."""
    scheduler = hasattr(sampler, "set_timesteps")
    if (grid is None) != scheduler or not (grid is None or isinstance(grid, TimeGrid)):
        raise ValueError(
            f"{caller}(grid=...) must be a TimeGrid, unless sampler= is a prepared scheduler, which has its own; got "
            f"{type(grid).__name__} and sampler={type(sampler).__name__}."
        )
    config: dict[str, Any]
    if scheduler:
        states, levels, scale, kind = propagation(sampler), grid_of(sampler), input_scale(sampler), type(sampler)
        config = {key: value for key, value in dict(sampler.config).items() if not key.startswith("_")}
        origin = Origin("", kind.__name__, json.loads(json.dumps(config, default=str)), len(levels))
    else:
        assert grid is not None
        levels, scale = grid, np.ones(len(grid))
        states = first_order(grid, end, prediction) if sampler is None else _table(sampler, len(grid), caller)
        config = {"alpha": [*grid.alpha.tolist(), end[0]], "sigma": [*grid.sigma.tolist(), end[1]]}
        config |= {"prediction": prediction} if sampler is None else {}
        origin = Origin("", "", config, len(grid))
    steps = range(len(levels))
    rows = tuple(segments(states, steps))
    return Plan(tuple(steps), rows, levels.timestep, levels.timestep, scale, origin, label="unaccelerated"), states


def _table(sampler: ArrayLike, steps: int, caller: str) -> Matrix:
    table = np.array(sampler, dtype=np.float64)
    size = steps + 1
    if table.shape != (size, size) or (np.triu(table, 1) != 0).any() or table[0, 0] != 1:
        raise ValueError(
            f"{caller}(sampler=...) must be a prepared scheduler or the table of a sampler's states, ({size}, {size}), "
            "whose row i has weights on x_0 and on y_0 .. y_{i-1} only and begins as x_0 itself."
        )
    return table


def _thinned(config: Mapping[str, Any], substeps: int) -> dict[str, Any]:
    return {key: values[::substeps] if key in ("alpha", "sigma") else values for key, values in config.items()}


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


# Closing the loop.

#: Inner products of a first and a last output that differ by more, relative to their size, are not the recorded ones;
#: in half precision.
_SAME, _SAME_COARSE = 1e-3, 5e-2


def _levels(profile: Profile) -> Levels | None:
    config = profile.origin.config
    if profile.origin.scheduler or "prediction" not in config:
        return None
    alpha, sigma = (np.array(config[name]) for name in ("alpha", "sigma"))
    return Levels(TimeGrid(profile.timesteps, alpha[:-1], sigma[:-1]), (alpha[-1], sigma[-1]), config["prediction"])


class DenoiserEvaluator:
    """Evaluates a denoiser on the initial samples of a profile; `Profile.plan(refine=denoiser)` makes one.

    Args:
        denoiser: the one that was recorded, called as in `sample`.
        profile: its recording, with the trajectory.
        batch: samples per call.
        varied: as for `record_denoiser`; needed where it was recorded with some.
        like: an array of the kind that the denoiser takes; by default as recorded.
        kwargs: arguments of the recording that are no plain values, which a profile does not keep.

    Raises:
        ValueError: an argument of the recording is missing, or the first or last output of the first sample is not the
            recorded one.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        profile: Profile,
        batch: int = 8,
        *,
        varied: Mapping[str, Any] | None = None,
        like: Any = None,
        **kwargs: Any,
    ) -> None:
        origin, different = profile.origin, dict(varied or {})
        if not callable(denoiser):
            raise ValueError(
                "plan(refine=...) must be the recorded pipeline, the recorded denoiser or an evaluator, got "
                f"{denoiser!r:.60}; a name must be loaded first, as by skipcast.load_reference(name)."
            )
        if origin.pipeline:
            raise ValueError(
                f"this profile was recorded from {origin.pipeline}, which has a scheduler; pass refine=pipe, the "
                "pipeline itself."
            )
        if profile.trajectory is None:
            raise ValueError("refine=... needs the reference states, which this profile does not hold; record it anew.")
        known = {name: value for name, value in origin.call.items() if name not in different}
        lost = [name for name, value in known.items() if is_word(value) and name not in kwargs]
        if lost:
            raise ValueError(
                f"this profile was recorded with {lost[0]}={origin.call[lost[0]]}, kept as a word alone; pass "
                f"refine=DenoiserEvaluator(denoiser, profile, {lost[0]}=...) from skipcast.pipelines.denoiser, or with "
                f'varied={{"{lost[0]}": ...}} if it differs from sample to sample.'
            )
        if like is not None:
            self.arrays = Arrays.of(like, "DenoiserEvaluator")
        else:
            self.arrays = Arrays(*origin.arrays.split()) if origin.arrays else Arrays("torch", "float32", "cpu")
        self.coarse = self.arrays.coarse
        self.batch, self.evaluations = batch, 0
        self._network = _Network(denoiser, self.arrays, different, {**known, **kwargs})
        self._levels = _levels(profile)
        self._start = profile.trajectory[:, 0]
        self._compare(profile, profile.trajectory)

    @torch.no_grad()
    def _compare(self, profile: Profile, trajectory: Tensor) -> None:
        """Refuse a denoiser whose first sample does not give what was recorded of it, at the first and last step."""
        allowed = _SAME_COARSE if self.coarse else _SAME
        for step in (0, profile.origin.steps - 1):
            x = self._placed(trajectory[:1, step]) * float(profile.scale[step])
            y = self._network(x, float(profile.timesteps[step]), [0]).cpu()
            self.evaluations += 1
            noise = self._start[:1].to(y.dtype)
            table, place = profile.grams[0], 1 + step
            found = np.array([float((noise * y).mean()), float((y * y).mean())])
            size = np.array([np.sqrt(table[0, 0] * table[place, place]), table[place, place]])
            off = np.abs(found - table[[0, place], place]) / np.maximum(size, 1e-300)
            if not off.max() <= allowed:
                raise ValueError(
                    f"this is not what was recorded: at step {step} the output of the first sample is off by "
                    f"{off.max():.1e} (relative, allowed: {allowed:g}); give refine= the same network with the same "
                    "arguments, as in functools.partial(denoiser, ...)."
                )

    def _placed(self, x: Tensor) -> Tensor:
        return x.to(self.arrays.device or "cpu", self.arrays.exact)

    @property
    def levels(self) -> Levels | None:
        """Where the recorded steps lie; None for a table of coefficients, or runs that were taped elsewhere."""
        return self._levels

    def groups(self, pairs: Sequence[int]) -> list[list[int]]:
        """Divide the pairs into calls of at most `batch`."""
        return [list(pairs[i : i + self.batch]) for i in range(0, len(pairs), self.batch)]

    @torch.no_grad()
    def call(self, pairs: Sequence[int], timesteps: Sequence[float], scale: Sequence[float], program: Program) -> None:
        """Run `program` on the pairs, with one evaluation per timestep."""
        running = program(self._placed(self._start[list(pairs)]))
        x = next(running)
        for place, (timestep, factor) in enumerate(zip(timesteps, scale, strict=True)):
            self.evaluations += len(pairs)
            y = self._network(x * factor if factor != 1.0 else x, float(timestep), pairs)
            try:
                x = running.send(y)
            except StopIteration:
                if place != len(timesteps) - 1:
                    raise RuntimeError(
                        f"the program ended after {place + 1} of {len(timesteps)} evaluations."
                    ) from None
                return
        raise RuntimeError(f"the program wants more than its {len(timesteps)} evaluations.")
