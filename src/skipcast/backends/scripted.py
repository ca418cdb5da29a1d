"""A pipeline call as a means to evaluate its network: samples and told times come from outside."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from skipcast.backends.calls import unpaired

#: (number of the evaluation, the network's output, the sample it was made from) -> the next sample to evaluate at.
Move = Callable[[int, Tensor, Tensor], Tensor]


def scripted(
    scheduler: Any, told: Sequence[float], move: Move, scale: Sequence[float] | None = None, pairs: int | None = None
) -> Any:
    """A copy of `scheduler` that runs len(told) evaluations and lets `move` decide where each of them leads.

    Args:
        scheduler: any scheduler; its class, configuration and initial noise level stay what they are.
        told: the timestep that the network is told at each evaluation, in any order.
        move: what becomes of the sample; called with whole batches, in float32.
        scale: factor of the network's input at each evaluation; by default 1.
        pairs: samples of a batch, where the pipeline may step each of them twice.
    """
    made = copy.deepcopy(scheduler)
    begun, factors = made.set_timesteps, [1.0] * len(told) if scale is None else list(scale)
    place = 0

    # Pipelines look at the signatures of both functions, which functools.wraps keeps.
    @functools.wraps(made.set_timesteps)
    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        nonlocal place
        begun(*args, **kwargs)
        floating = made.timesteps.is_floating_point() or any(float(t) != int(t) for t in told)
        kind = made.timesteps.dtype if made.timesteps.is_floating_point() else torch.float32
        values = torch.tensor(told, dtype=kind if floating else made.timesteps.dtype)
        made.timesteps = values.to(made.timesteps.device)
        made.num_inference_steps = len(told)
        place = 0

    @functools.wraps(made.step)
    def step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal place
        given = (model_output.float(), sample.float())
        output, x = given if pairs is None else (unpaired(value, pairs) for value in given)
        moved = move(place, output, x).to(sample.dtype)
        if len(moved) != len(sample):
            moved = moved.repeat(len(sample) // len(moved), *[1] * (moved.ndim - 1))
        place += 1
        return SchedulerOutput(prev_sample=moved) if kwargs.get("return_dict", True) else (moved,)

    def scale_model_input(sample: Tensor, timestep: Any = None) -> Tensor:
        return sample if factors[place] == 1.0 else sample * factors[place]

    made.set_timesteps, made.step = set_timesteps, step
    if hasattr(made, "scale_model_input"):
        made.scale_model_input = scale_model_input
    return made


@contextmanager
def swapped(pipe: Any, scheduler: Any) -> Iterator[Any]:
    """The pipeline with another scheduler, restored on exit."""
    before = pipe.scheduler
    pipe.scheduler = scheduler
    try:
        yield scheduler
    finally:
        pipe.scheduler = before
