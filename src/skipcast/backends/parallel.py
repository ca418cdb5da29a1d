"""Context parallelism: every process sees its own share of the tokens, and all must decide alike."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from skipcast.method import IncompatibleParts, Method


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
