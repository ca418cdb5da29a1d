"""Where in the grid a pipeline begins and ends, read from the pipeline itself, for the plan that it runs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from skipcast.pipelines.plan_scheduler import PlanScheduler
from skipcast.pipelines.steps import overridden, reference_to


@contextmanager
def cut_by(pipe: Any, scheduler: PlanScheduler) -> Iterator[None]:
    """Run, within the context, those steps of a plan that the pipeline would run of the whole grid.

    - `get_timesteps`, by which pipelines with a strength or `denoising_start` leave out the first steps, is given all N
      steps to cut, and returns the evaluated ones of what it kept.
    - `denoising_end`, by which Stable Diffusion XL and its relatives leave out the last ones, is read with every
      `set_timesteps`.
    - The pipeline's bar counts evaluations.
    """
    with ExitStack() as stack:
        if callable(getattr(pipe, "get_timesteps", None)):
            stack.enter_context(overridden(pipe, "get_timesteps", _get_timesteps(pipe.get_timesteps, scheduler)))
        stack.enter_context(counting(pipe, scheduler))
        stack.enter_context(overridden(scheduler, "set_timesteps", _set_timesteps(scheduler.set_timesteps, pipe)))
        yield


@contextmanager
def counting(pipe: Any, scheduler: PlanScheduler) -> Iterator[None]:
    """Have the pipeline's bar count evaluations within the context."""
    with ExitStack() as stack:
        if callable(getattr(pipe, "progress_bar", None)):
            stack.enter_context(overridden(pipe, "progress_bar", _progress_bar(pipe.progress_bar, scheduler)))
        yield


def _get_timesteps(original: Any, scheduler: PlanScheduler) -> Any:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def get_timesteps(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        with scheduler.whole_grid():
            own = {"timesteps": scheduler.timesteps, "sigmas": getattr(scheduler, "sigmas", None)}
            own["num_inference_steps"] = scheduler.asked
            given.arguments.update({name: value for name, value in own.items() if name in given.arguments})
            *kept, _ = original(*given.args, **given.kwargs)
        # Some return the cut noise levels before the cut timesteps.
        scheduler.cut(scheduler.plan.origin.steps - len(kept[-1]), scheduler.end)
        shown = (scheduler.sigmas, scheduler.timesteps) if len(kept) > 1 else (scheduler.timesteps,)
        return (*shown, len(scheduler.timesteps))

    return get_timesteps


def _progress_bar(original: Any, scheduler: PlanScheduler) -> Any:
    @functools.wraps(original)
    def progress_bar(iterable: Any = None, total: int | None = None) -> Any:
        # Of more timesteps than were requested, as of two plans, pipelines count the last ones alone.
        counted = min(len(scheduler.timesteps), scheduler.asked)
        return original(iterable, counted if total == scheduler.asked else total)

    return progress_bar


def _set_timesteps(original: Any, pipe: Any) -> Any:
    known = reference_to(pipe)  # the scheduler is told of by hooks on networks that may outlive the pipeline

    # Pipelines look at the signature of set_timesteps, which functools.wraps keeps.
    @functools.wraps(original)
    def set_timesteps(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        scheduler, share = known().scheduler, getattr(known(), "denoising_end", None)
        if isinstance(share, float) and 0 < share < 1:  # as these pipelines tell a share from nothing
            trained = scheduler.config.num_train_timesteps
            with scheduler.whole_grid():
                end = int((scheduler.timesteps >= round(trained - share * trained)).sum())
            scheduler.cut(end=end)
        return result

    return set_timesteps
