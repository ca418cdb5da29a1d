"""The one place that calls a pipeline to draw: pairs of a prompt and a seed in, a measured sample out."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipcast.parts import Method
from skipcast.pipelines.accelerate import accelerate
from skipcast.pipelines.calls import Prompt, arguments, undecoded
from skipcast.pipelines.networks import denoisers
from skipcast.pipelines.steps import overridden
from skipcast.pipelines.summary import Acceleration, Summary
from skipcast.plans.adaptive import AdaptivePlan
from skipcast.plans.plan import Plan
from skipcast.samplers import Sampler

#: What draws the steps: a method, a sampler with fewer steps, a plan; None for the unaccelerated run.
How = Method | Sampler | Plan | AdaptivePlan | None


@dataclass(frozen=True)
class Pair:
    """One image to draw: its prompt and seed, and where both stand in the request (`index`, `number`)."""

    prompt: Prompt
    seed: int
    index: int = 0  # of the prompt
    number: int = 0  # of the seed, per prompt


Batch = tuple[Pair, ...]  # of one call


@dataclass(frozen=True)
class Sample:
    """What one call drew, and what it took.

    Args:
        images: (B, 3, H, W) float32 in [0, 1] on the CPU, of videos (B, F, 3, H, W); the latents where `decode` is off.
        latents: what the sampler ended on, float32 on the CPU.
        seconds: of the whole call.
        evaluations: per branch; the mean of branches that decide each for itself.
        evaluated_steps: None for a sampler and for the unaccelerated run.
        cached_bytes: what the method remembered, of the whole batch.
        loop_seconds: from the first evaluation to the last step, where it was requested.
        peak_bytes: of the GPU, where there is one.
        summary: of the acceleration; None for the unaccelerated run.
        errors: branch -> step -> relative error of the forecast, where `diagnose` is on.
    """

    images: Tensor
    latents: Tensor
    seconds: float = float("nan")
    evaluations: float = 0
    evaluated_steps: list[int] | None = None
    cached_bytes: int = 0
    loop_seconds: float | None = None
    peak_bytes: int | None = None
    summary: Summary | None = None
    errors: Mapping[str, Mapping[int, Any]] = field(default_factory=dict)

    @property
    def trusted(self) -> tuple[bool, ...] | None:
        """Per image, whether the check of its plan trusts it; None where nothing checks."""
        return self.summary.trusted if self.summary else None


def draw(
    pipe: Any,
    pairs: Sequence[Pair],
    method: How = None,
    *,
    steps: int,
    call: Mapping[str, Any] | None = None,
    decode: bool = True,
    loop: bool = False,
    diagnose: bool = False,
) -> Sample:
    """Draw pairs in one call of a pipeline.

    Args:
        pipe: the pipeline.
        pairs: of the batch.
        method: how to draw; None for the unaccelerated run.
        steps: of the sampler.
        call: further arguments of the call.
        decode: whether latents become images.
        loop: whether the loop is timed too.
        diagnose: whether every forecast is compared with the evaluation that it replaced.

    Raises:
        ValueError: the method does not suit the pipeline, or it returns neither images nor videos.
    """
    last: dict[str, Tensor] = {}
    moments: dict[str, float] = {}
    gpu = torch.cuda.is_available()

    def begin(_module: Any, _args: Any) -> None:
        if "begin" not in moments:
            moments["begin"] = _now()

    def keep(step: int, latents: Tensor) -> None:
        last["latents"] = latents
        if loop and step + 1 >= pipe.num_timesteps:  # to synchronise at every step would slow a GPU down
            moments["end"] = _now()

    given = arguments(call or {}, [pair.prompt for pair in pairs], [pair.seed for pair in pairs], steps)
    given |= {"output_type": "pt"} if decode else undecoded(pipe)
    hooks = [module.register_forward_pre_hook(begin) for module in denoisers(pipe)] if loop else []
    accelerated = nullcontext(None) if method is None else accelerate(pipe, method, diagnose=diagnose)
    try:
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        started = _now()
        with accelerated as acceleration:
            with listening(pipe, keep) as listener:
                output = pipe(**given, **listener)
            seconds = _now() - started
    finally:
        for hook in hooks:
            hook.remove()
    images = _images(output) if decode else last["latents"]
    found = Sample(
        images=images.float().cpu(),
        latents=last["latents"].float().cpu(),
        seconds=seconds,
        evaluations=steps,
        loop_seconds=moments["end"] - moments["begin"] if loop else None,
        peak_bytes=torch.cuda.max_memory_allocated() if gpu else None,
    )
    return found if acceleration is None or method is None else _accelerated(found, method, acceleration)


@contextmanager
def listening(pipe: Any, listener: Callable[[int, Tensor], None]) -> Iterator[dict[str, Any]]:
    """The arguments of a call that report every step to a listener: its number and the sample after it.

    There are none for a pipeline without callbacks; its scheduler is listened to instead.
    """
    if "callback_on_step_end" in inspect.signature(type(pipe).__call__).parameters:

        def callback(_pipe: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            listener(step, values["latents"])
            return values

        yield {"callback_on_step_end": callback}
        return
    original, steps = pipe.scheduler.step, count()

    def step(*args: Any, **given: Any) -> Any:
        made = original(*args, **given)
        listener(next(steps), made[0])
        return made

    with overridden(pipe.scheduler, "step", step):
        yield {}


def _accelerated(sample: Sample, method: Method | Sampler | Plan | AdaptivePlan, acceleration: Acceleration) -> Sample:
    """A sample with what its acceleration says of it."""
    summary = acceleration.summary()
    evaluated = list(summary.evaluated_steps) if isinstance(method, Method) else None
    return replace(
        sample,
        evaluations=acceleration.evaluations(),
        evaluated_steps=list(method.steps) if isinstance(method, Plan) else evaluated,
        cached_bytes=summary.cached_bytes,
        summary=summary,
        errors=acceleration.errors,
    )


def _images(output: Any) -> Tensor:
    """The images or videos of an output as a tensor in [0, 1], channels before height and width."""
    found = getattr(output, "frames", None)
    found = getattr(output, "images", None) if found is None else found
    if found is None:
        raise ValueError(
            f"the pipeline returns neither images nor videos but {type(output).__name__}; call it in Python and keep "
            "what it returns."
        )
    if isinstance(found, Tensor):
        return found
    if isinstance(found, list):  # of Pillow, whatever was requested; videos as lists of them
        found = np.stack(
            [np.stack(list(map(_floats, one))) if isinstance(one, list) else _floats(one) for one in found]
        )
    return torch.from_numpy(found).movedim(-1, -3)


def _floats(image: Any) -> np.ndarray[Any, Any]:
    values = np.asarray(image)
    return values.astype(np.float32) / 255 if values.dtype == np.uint8 else values


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
