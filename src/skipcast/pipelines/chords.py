"""CHORDS for any denoiser, and for pipelines of diffusers: cores at several steps of one trajectory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipcast.checks import check
from skipcast.forecasters import Lagrange, LinearForecaster
from skipcast.grid import TimeGrid, Vector
from skipcast.methods.names import method
from skipcast.parallel.cores import Answer, Call, Coarse, Core, Fine, Matrix, Neighbours, Run, Within, apart, together
from skipcast.parallel.schedule import Schedule, schedule
from skipcast.parts import Method
from skipcast.pipelines.denoiser import Arrays, Denoiser, network_of, unaccelerated
from skipcast.plans.plan import Plan
from skipcast.plans.propagation import Prediction, grid_of, input_scale, propagation, segments
from skipcast.targets import Output


def chords(
    model: Any,
    *args: Any,
    cores: int,
    init: str | Sequence[int] | None = None,
    coarse: str | Method | Plan = "reuse",
    stop: int | float | None = None,
    group: Any = None,
    **options: Any,
) -> Iterator[Answer]:
    """Sample with K cores that start at different steps of one trajectory; the last answer is the sequential sampler's.

        for answer in sc.chords(denoiser, noise, grid=grid, cores=8):
            print(answer.rounds, answer.change)

    In every round all cores evaluate the network once, at the same time if each has a device. Core k starts at step i_k
    from a jump, and is corrected by the core before it whenever that one arrives where it has been:

        x_k  <-  F(x_k) + G(x_{k-1}) - G(x_k),      F one step of the sampler, G the jump over all steps since

    Args:
        model: a denoiser, called as in `sample`; or a pipeline of diffusers.
        args: the noise (M, *shape); or what the pipeline is called with.
        cores: K, the processes of `group`, or as many as are simulated in this one, one after the other.
        init: "chords", the published starts; "uniform"; or the first step of every core. By default those of a plan,
            "chords" otherwise.
        coarse: how to jump: a linear method, whose forecaster and coordinate are taken, or a plan, whose rows lead from
            start to start. "reuse" is Euler's jump, as published.
        stop: the last answer wanted, from 0, the jump from the last start, over 1, the fastest core's, to K; or the
            largest `change` of any sample at which to stop, a float. None for all of them.
        group: a group of `torch.distributed` of K processes, each of which yields its own answers.
        options: of a denoiser `grid`, `end`, `prediction`, `sampler` and `varied`, as for `record`; others go on to the
            denoiser, or to the pipeline's call.

    Returns:
        The answers as they are made; of a pipeline in one process, after its call.

    Raises:
        TypeError, ValueError: a sampler that is not deterministic or whose steps remember more than one output, starts
            that do not fit; before any evaluation.

    Reference: CHORDS, arXiv:2507.15260; forecasts and plans in place of Euler's jump are not in the paper.
    """
    if hasattr(model, "scheduler"):
        return _of_pipeline(model, args, cores, init, coarse, stop, group, options)
    if not callable(model) or len(args) != 1:
        raise ValueError(
            "chords(...) needs a pipeline of diffusers, or a callable denoiser(x, timestep) and its noise, got "
            f"{type(model).__name__} and {len(args)} further arguments."
        )
    return _of_denoiser(model, args[0], cores, init, coarse, stop, group, **options)


def _of_denoiser(
    denoiser: Denoiser,
    noise: Any,
    cores: int,
    init: str | Sequence[int] | None,
    coarse: str | Method | Plan,
    stop: int | float | None,
    group: Any,
    *,
    grid: TimeGrid | None = None,
    end: tuple[float, float] = (1.0, 0.0),
    prediction: Prediction = "velocity",
    sampler: Any = None,
    varied: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Iterator[Answer]:
    arrays = Arrays.of(noise, "chords")
    full, _ = unaccelerated(grid, end, prediction, sampler, "chords")
    levels = grid_of(sampler) if grid is None else grid
    rows = _rows(full.rows, type(sampler).__name__ if hasattr(sampler, "step") else "the sampler")
    made = _schedule(len(full), cores, init, coarse, group)
    jumps = _coarse(coarse, rows, levels, made)
    limit, enough = _stop(stop, made, group)
    network, scale = network_of(denoiser, arrays, varied, len(noise), kwargs), full.scale

    def fine(step: int, y: Tensor, x: Tensor) -> Tensor:
        return (x * float(rows[step, 0])).add_(y, alpha=float(rows[step, 1]))

    def answers() -> Iterator[Answer]:
        running = _run(made, jumps, fine, arrays.taken(noise), limit, group)
        item = next(running)
        while True:
            if isinstance(item, Answer):
                yield replace(item, samples=arrays.given(item.samples))
                if item.change is not None and float(item.change.max()) <= enough:
                    return
            with torch.no_grad():
                try:
                    item = running.send(_evaluated(network, item, scale) if isinstance(item, Call) else None)
                except StopIteration:
                    return

    return answers()


def _evaluated(network: Callable[[Tensor, float], Tensor], call: Call, scale: Vector) -> Tensor:
    factor = float(scale[call.step])
    return network(call.x * factor if factor != 1.0 else call.x, call.timestep)


def _run(made: Schedule, jumps: Coarse, fine: Fine, x: Tensor, limit: int, group: Any) -> Run:
    if group is None:
        return together(made, jumps, fine, x, limit)
    number = torch.distributed.get_rank(group)
    return apart(number, made, jumps, fine, x, Neighbours(group), limit)


def _of_pipeline(
    pipe: Any,
    args: tuple[Any, ...],
    cores: int,
    init: str | Sequence[int] | None,
    coarse: str | Method | Plan,
    stop: int | float | None,
    group: Any,
    call: dict[str, Any],
) -> Iterator[Answer]:
    from skipcast.pipelines.networks import denoisers  # with diffusers
    from skipcast.pipelines.recording.replay import prepare, scripted, swapped

    if isinstance(stop, float):
        raise ValueError(f"chords(stop={stop}) of a pipeline must be the number of an answer; its call cannot be left.")
    if len(args) > 1:
        raise ValueError("chords(pipe, ...) takes the prompt by place; give what else the pipeline takes by name.")
    given = {**({"prompt": args[0]} if args else {}), **call}
    with _unmoved(given.get("generator")):
        base = prepare(pipe, given)
    if getattr(base, "begin_index", None):
        raise ValueError("chords(pipe, ...) needs a run from noise; this call begins in the middle of the grid.")
    rows = _rows(tuple(segments(propagation(base), range(len(base.timesteps)))), type(base).__name__)
    levels, factors, times = grid_of(base), input_scale(base), base.timesteps
    made = _schedule(len(rows), cores, init, coarse, group)
    jumps = _coarse(coarse, rows, levels, made)
    limit, _ = _stop(stop, made, group)
    kind: Any = denoisers(pipe)[0].dtype

    def fine(step: int, y: Tensor, x: Tensor) -> Tensor:
        """The scheduler's own step, to the last bit."""
        if hasattr(base, "_step_index"):
            base._step_index = step
        if hasattr(base, "scale_model_input"):  # some note that it was called
            base.scale_model_input(x, times[step])
        moved: Tensor = base.step(y.to(kind), times[step], x.to(kind), return_dict=False)[0]
        return moved.to(x.dtype)

    def silent() -> Iterator[Call]:
        """The calls of the run in their order."""
        nothing = torch.zeros(1, 1, dtype=torch.float64)
        if group is not None:
            core = Core(torch.distributed.get_rank(group), made, jumps, lambda step, y, x: x, nothing, Within(), limit)
            while core.round < limit and not core.done:
                yield core.call
                core.round += 1
            return
        running = together(made, jumps, lambda step, y, x: x, nothing, limit)
        with suppress(StopIteration):
            item = next(running)
            while True:
                if isinstance(item, Call):
                    yield item
                item = running.send(nothing)

    script = list(silent())

    def answers() -> Iterator[Answer]:
        found: list[Answer] = []
        running: Run | None = None

        def move(place: int, output: Tensor, sample: Tensor) -> Tensor:
            nonlocal running
            if running is None:
                running = _run(made, jumps, fine, sample, limit, group)
                next(running)
            try:
                item = running.send(output)
                while isinstance(item, Answer):
                    found.append(item)
                    item = running.send(None)
            except StopIteration:
                return found[-1].samples if found else sample  # type: ignore[no-any-return]
            return item.x

        told, scale = [call.timestep for call in script], [float(factors[call.step]) for call in script]
        with swapped(pipe, scripted(pipe.scheduler, told, move, scale)):
            output = pipe(**given)
        yield from found[:-1]
        if found:
            yield replace(found[-1], output=output)

    return answers()


@contextmanager
def _unmoved(generators: Any) -> Iterator[None]:
    """Random generators are as before on exit."""
    held = [generators] if isinstance(generators, torch.Generator) else list(generators or ())
    states = [generator.get_state() for generator in held]
    yield
    for generator, state in zip(held, states, strict=True):
        generator.set_state(state)


# What every run checks before it evaluates anything.


def _rows(rows: Sequence[Vector], sampler: str) -> Matrix:
    """(1 + a, b) of every step of a sampler without a memory, (N, 2)."""
    for step, row in enumerate(rows):
        if row[1:-1].any():
            raise ValueError(
                f"chords(...): {sampler} weighs earlier outputs at step {step}, of which a core that starts late has "
                "none; use a first-order sampler such as FlowMatchEulerDiscreteScheduler or DDIMScheduler."
            )
    return np.array([[1 + row[0], row[-1]] for row in rows])


def _schedule(
    steps: int, cores: int, init: str | Sequence[int] | None, coarse: str | Method | Plan, group: Any
) -> Schedule:
    check("chords(cores=...)", cores, int)
    if group is not None and torch.distributed.get_world_size(group) != cores:
        raise ValueError(
            f"chords(cores={cores}) must be the {torch.distributed.get_world_size(group)} processes of its group."
        )
    if not isinstance(coarse, Plan):
        return schedule(steps, cores, "chords" if init is None else init)
    if len(coarse.whole("chords(coarse=...)")) < cores:
        raise ValueError(f"chords(cores={cores}) must be at most the {len(coarse)} evaluations of the plan.")
    found = schedule(steps, cores, coarse.steps[:cores] if init is None else init)
    if found.starts != coarse.steps[:cores]:
        raise ValueError(
            f"chords(init={init!r:.100}) must be left out with a plan, whose own steps {coarse.steps[:cores]} are the "
            "starts."
        )
    return found


def _coarse(coarse: str | Method | Plan, rows: Matrix, grid: TimeGrid, made: Schedule) -> Coarse:
    part = method(coarse)
    if isinstance(part, Plan):
        if part.knots or len(part.timesteps) != made.steps or not np.allclose(part.timesteps, grid.timestep):
            raise ValueError(
                "chords(coarse=...): this plan was made for another grid, or holds for several values of an argument; "
                "give the plan of this one, such as plan.at(guidance)."
            )
        return Coarse(rows, grid.timestep, np.arange(made.steps, dtype=np.float64), Lagrange(1), part)
    forecaster = part.forecaster if isinstance(part, Method) else None
    if not isinstance(part, Method) or not isinstance(forecaster, LinearForecaster) or part.target != Output():
        raise ValueError(
            f"chords(coarse={coarse!r:.100}) must be a method whose forecaster has weights of its own at the network's "
            'output, such as "reuse" or "lagrange:order=1", or a Plan.'
        )
    return Coarse(rows, grid.timestep, part.coordinate(grid), forecaster)


def _stop(stop: int | float | None, made: Schedule, group: Any) -> tuple[int, float]:
    """Rounds after which the run ends, and the change with which it does."""
    check("chords(stop=...)", stop, int | float | None)
    if stop is None:
        return made.until(len(made)), -1.0
    if isinstance(stop, int):
        if not 0 <= stop <= len(made):
            raise ValueError(f"chords(stop={stop}) must be an answer from 0 to {len(made)}, or a change as a float.")
        return made.until(stop), -1.0
    if not stop > 0:
        raise ValueError(f"chords(stop={stop}) must be a positive change, such as 0.01, or the number of an answer.")
    if group is not None:
        raise ValueError(
            f"chords(stop={stop}) would need all processes to agree on the way; give the number of an answer."
        )
    return made.until(len(made)), float(stop)
