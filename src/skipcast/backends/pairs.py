"""Pipeline calls for pairs of one prompt and one seed: what they are given, and what they may not be given."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from skipcast.backends.calls import Prompt, undecoded
from skipcast.backends.denoisers import denoisers
from skipcast.backends.registration import check_no_other_cache
from skipcast.backends.scripted import swapped
from skipcast.planning.propagation import check_linear

#: Arguments of a pipeline call that a recording sets itself, with what to give instead.
_OURS = {
    "prompt": "prompts",
    "generator": "seeds",
    "latents": "seeds",
    "output_type": "nothing, a recording needs latents",
    "return_dict": "nothing",
    "callback_on_step_end": "progress",
    "num_images_per_prompt": "the prompt several times with several seeds",
    "num_videos_per_prompt": "the prompt several times with several seeds",
}
_NEEDED = ("generator", "num_inference_steps", "output_type")


class _Begun(Exception):
    """Thrown to leave a pipeline call as soon as its scheduler is prepared."""


def prepare(pipe: Any, arguments: dict[str, Any]) -> Any:
    """A copy of the scheduler as the pipeline prepares it, with its own sigmas and shift; no network is evaluated."""
    made = copy.deepcopy(pipe.scheduler)
    begin = made.set_timesteps

    @functools.wraps(begin)
    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        begin(*args, **kwargs)
        raise _Begun

    made.set_timesteps = set_timesteps
    try:
        with swapped(pipe, made):
            pipe(**undecoded(pipe), **arguments)
    except _Begun:
        del made.set_timesteps
        return made
    raise ValueError(f"{type(pipe).__name__} did not call its scheduler's set_timesteps; it cannot be recorded.")


@contextmanager
def quiet(pipe: Any) -> Iterator[None]:
    """The pipeline without its own bars, which would tear ours; restored on exit."""
    name = "_progress_bar_config"
    before = vars(pipe).get(name)
    setattr(pipe, name, {**(before or {}), "disable": True})
    try:
        yield
    finally:
        if before is None:
            delattr(pipe, name)
        else:
            setattr(pipe, name, before)


def check_request(
    pipe: Any,
    prompts: Sequence[Prompt],
    steps: int,
    reference: str,
    batch: int,
    in_memory: int | None,
    substeps: int,
    call: Mapping[str, Any],
) -> None:
    """Refuse what cannot be recorded, as far as it shows without running the pipeline.

    Raises:
        ValueError: names the argument and the cure.
    """
    kind = type(pipe).__name__
    if not callable(pipe) or not hasattr(pipe, "scheduler"):
        raise ValueError(f"record(pipe=...) needs a diffusers pipeline with a scheduler, got {kind}.")
    taken = inspect.signature(pipe.__call__).parameters
    open_ended = any(value.kind is inspect.Parameter.VAR_KEYWORD for value in taken.values())
    if isinstance(prompts, str) or not all(isinstance(prompt, str | Mapping) for prompt in prompts):
        raise ValueError("record(prompts=...) must be a list of texts or of mappings of arguments, one per pair.")
    own = {name for prompt in prompts for name in (("prompt",) if isinstance(prompt, str) else prompt)}
    missing = [name for name in (*sorted(own), *_NEEDED) if name not in taken]
    if missing and not open_ended:
        raise ValueError(f"record(pipe=...) needs a pipeline whose call takes {missing[0]!r}; {kind} does not.")
    for name in call:
        if name in _OURS:
            raise ValueError(f"record({name}=...) is set by the recording; give {_OURS[name]}.")
        if name not in taken and not open_ended:
            raise ValueError(f"record({name}=...) is no argument of {kind}; known are {', '.join(taken)}.")
    if (call.get("eta") or 0) > 0:
        raise ValueError(f"record(eta={call['eta']}) adds noise at every step, which no plan can know; set it to 0.")
    if not len(prompts):
        raise ValueError("record(prompts=[]) holds no pair; give at least one, better 8.")
    least = {"num_inference_steps": steps, "batch": batch, "in_memory": in_memory, "substeps": substeps}
    for name, number in least.items():
        if number is not None and number < 1:
            raise ValueError(f"record({name}={number}) must be at least 1.")
    if reference not in ("default", "converged"):
        raise ValueError(f'record(reference={reference!r}) must be "default" or "converged".')
    for name in ("step", "set_timesteps"):
        if name in vars(pipe.scheduler):
            raise ValueError(
                f"the scheduler's {name} is wrapped, as by accelerate(); leave that first: "
                "a recording needs the pipeline as it is."
            )
    for network in denoisers(pipe):
        check_no_other_cache(network)
    check_linear(pipe.scheduler)
