"""What a pipeline holds and a network takes and returns: denoisers, schedulers, values, process groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import diffusers
import torch
import torch.distributed as dist
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from skipcast.parts import IncompatibleParts, Method


def scheduler_class(name: str) -> Any | None:
    """The class of this name; None if the installed diffusers has no such scheduler."""
    kind = getattr(diffusers, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, SchedulerMixin) else None


def scheduler_names() -> list[str]:
    """Names of all of them."""
    return sorted(name for name in dir(diffusers) if name.endswith("Scheduler") and name[0].isupper())


# The networks that a pipeline evaluates at every step.

#: Attributes of pipelines that hold them.
NAMES = ("transformer", "transformer_2", "unet")


def denoisers(pipe: Any) -> list[nn.Module]:
    """One network, or one expert per range of noise levels.

    Raises:
        ValueError: the pipeline has none, or no scheduler.
    """
    found = [network for name in NAMES if isinstance(network := getattr(pipe, name, None), nn.Module)]
    if not found or getattr(pipe, "scheduler", None) is None:
        raise ValueError(
            f"pipe=... must be a pipeline with a transformer or unet and a scheduler, got {type(pipe).__name__}; "
            "any other denoiser goes through skipcast.wrap(callable, method, grid)."
        )
    return found


#: Pipelines that look, behind every call of their network, at attention maps that it has left.
_READING = (
    "StableDiffusionSAGPipeline",
    "StableDiffusionAttendAndExcitePipeline",
    "StableDiffusionPix2PixZeroPipeline",
)


def check_reads_outputs(pipe: Any) -> None:
    """Refuse a pipeline that needs more of its network's calls than their output, which is all that is forecast.

    Raises:
        ValueError: names it and the cure.
    """
    for kind in type(pipe).__mro__:
        if kind.__name__ in _READING:
            raise ValueError(
                f"{kind.__name__} reads attention maps inside its network behind every call, and forecast steps make "
                "none: use a plan or a plain sampler, which evaluate the network whole at their steps, or a pipeline "
                "without that guidance."
            )


# The one value in what a denoiser takes or returns, and the form around it.


def value_of(given: Any) -> Tensor:
    """A sample as one tensor; a list of equally large ones is stacked.

    Raises:
        ValueError: neither a tensor nor such a list.
    """
    if isinstance(given, Tensor):
        return given
    if isinstance(given, list | tuple) and given and all(isinstance(item, Tensor) for item in given):
        if len({item.shape for item in given}) != 1:
            raise ValueError("samples of different sizes in one call cannot be forecast; call the pipeline for each.")
        return torch.stack(list(given))
    raise ValueError(f"the denoiser was given or returned {type(given).__name__}; only tensors can be forecast.")


class Form:
    """How a denoiser's output holds its values, learnt from an evaluated one.

    Besides its first value an output may hold further ones, such as sound beside video. Masks and counts are handed out
    again as they were.
    """

    def __init__(self, output: Any) -> None:
        self._bare = isinstance(output, Tensor)
        self._class: Callable[..., Any] = Transformer2DModelOutput  # for one that has answered in tuples so far
        self._names = ["sample"]
        if isinstance(output, Mapping):
            self._class, self._names = type(output), list(output)
        first, *self._others = _parts(output)
        self._listed = not isinstance(first, Tensor)
        self._places = [place for place, other in enumerate(self._others) if _is_value(other)]

    @property
    def single(self) -> bool:
        """Whether it holds one value and nothing else."""
        return not self._others

    @property
    def further(self) -> list[Tensor]:
        """The values beyond the first."""
        return [self._others[place] for place in self._places]

    def filled(self, value: Tensor, further: Sequence[Tensor] = (), *, return_dict: bool) -> Any:
        """An output around other values, in the form that the call asks for.

        Raises:
            ValueError: an output object of several values is asked for, and so far they came as tuples.
        """
        first = list(value.unbind(0)) if self._listed else value
        if self._bare:
            return first
        for place, other in zip(self._places, further, strict=True):
            self._others[place] = other
        values = (first, *self._others)
        if not return_dict:
            return values
        if further and len(self._names) < len(values):
            raise ValueError(
                f"the denoiser returned {1 + len(further)} values as a tuple, and now return_dict=True asks for an "
                "object; call it with return_dict=False at every step."
            )
        return self._class(**dict(zip(self._names, values, strict=False)))


def _is_value(part: Any) -> bool:
    return isinstance(part, Tensor) and part.is_floating_point()


def inputs_of(values: Sequence[Tensor], given: Mapping[str, Any]) -> list[str]:
    """The arguments of a call that further values of its output belong to: the first of a value's shape, or "".

    LTX-2 returns sound beside video: its shape is that of `audio_hidden_states`.
    """
    names: list[str] = []
    for value in values:
        fits = (name for name, x in given.items() if name not in names and _is_value(x) and x.shape == value.shape)
        names.append(next(fits, ""))
    return names


def output_of(output: Any) -> Tensor:
    """The value in a denoiser's output."""
    return value_of(_parts(output)[0])


def _parts(output: Any) -> tuple[Any, ...]:
    if isinstance(output, Mapping):
        return tuple(output.values())
    return output if isinstance(output, tuple) else (output,)


# Context parallelism: every process sees its own share of the tokens, and all must decide alike.


def group_of(denoiser: nn.Module) -> Any:
    """The process group over which a denoiser's tokens are split; None where they are not."""
    config = getattr(getattr(denoiser, "_parallel_config", None), "context_parallel_config", None)
    mesh = getattr(config, "_flattened_mesh", None)
    if mesh is None or mesh.size() < 2:
        return None
    return mesh.get_group()


def check_shares(method: Method, group: Any) -> None:
    """Refuse parts that would look at one process's share of the values where they mean all of them.

    Raises:
        IncompatibleParts: names them and the cure.
    """
    if group is None:
        return
    if not method.forecaster.linear:
        raise IncompatibleParts(
            f"{method.forecaster!r} looks at the values of all tokens, of which a process has only its share under "
            "context parallelism; use target=output, where outputs are whole."
        )
    if method.controller.remembers:
        raise IncompatibleParts(
            f"{method.controller!r} looks at remembered values, of which a process has only its share under context "
            "parallelism; use target=output or a controller of fixed steps."
        )


def gathered(tokens: Tensor, group: Any) -> Tensor:
    """The tokens of all processes, (B, L, D) from (B, L / n, D) each."""
    if group is None:
        return tokens
    parts = [torch.empty_like(tokens) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, tokens.contiguous(), group=group)
    return torch.cat(parts, dim=-2)


def averaged(value: Tensor, group: Any) -> Tensor:
    """The mean of a number over all processes."""
    if group is None:
        return value
    total = value.detach().clone()
    dist.all_reduce(total, group=group)
    return total / dist.get_world_size(group)
