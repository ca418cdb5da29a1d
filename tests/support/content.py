"""What a pipeline gives when each of its branches is forecast from its own evaluations, found without its names."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

import skipcast as sc
from skipcast.methods.families import family_of
from skipcast.pipelines.networks import denoisers, value_of
from skipcast.pipelines.steps import overridden
from skipcast.plans.propagation import grid_of


@contextmanager
def told_by_content(pipe: Any, spec: str) -> Iterator[None]:
    """The pipeline with a run of its own for every network, conditioning that it is given, and repetition of it."""
    method = sc.method(spec, family_of(denoisers(pipe)[0]))
    assert isinstance(method, sc.Method)
    step = pipe.scheduler.step
    runs: dict[Any, sc.Run] = {}
    taken, seen = 0, []

    @functools.wraps(step)
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal taken
        taken += 1
        seen.clear()
        return step(*args, **kwargs)

    def apart(network: nn.Module) -> Callable[..., Any]:
        forward = network.forward
        names = list(inspect.signature(forward).parameters)

        @functools.wraps(forward)
        def by_content(*args: Any, **kwargs: Any) -> Any:
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            sample = given.pop(names[0])
            content = (id(network), *_content({**given, "timestep": None, "t": None}))
            run = runs.setdefault((content, seen.count(content)), sc.Run(method, grid_of(pipe.scheduler)))
            seen.append(content)
            run.step = taken
            y = run.advance(value_of(sample), lambda: value_of(forward(*args, **kwargs)[0]))
            return (list(y.unbind(0)) if isinstance(sample, list) else y,)

        return by_content

    with ExitStack() as stack:
        stack.enter_context(overridden(pipe.scheduler, "step", counted))
        for network in denoisers(pipe):
            stack.enter_context(overridden(network, "forward", apart(network)))
        yield


def _content(value: Any) -> Iterator[Any]:
    if isinstance(value, Tensor):
        yield tuple(value.shape), float(value.double().sum())
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _content(item)
