"""Which model a pipeline holds: its commit on the hub where that is known, and the norms of a few of its weights."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from skipcast.pipelines.networks import NAMES
from skipcast.plans.plan import Origin

#: Norms of n numbers that differ by less, relative, are those of one tensor in two dtypes: rounding once in float16 and
#: again in bfloat16 is off by 2e-3 / sqrt(n) on random weights.
_FLOOR, _SAME = 2e-6, 1e-2
#: Where the hub's cache puts the files of a commit.
_SNAPSHOT = re.compile(r"models--([^/\\]+)[/\\]snapshots[/\\]([0-9a-f]{40})(?:[/\\]|$)")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def commit_of(pipe: Any) -> tuple[str, str | None]:
    """The hub id of a loaded pipeline and the commit of its weights; "" and None where they did not come from the hub.

    A pipeline itself keeps only what it was loaded by; its networks keep the folder in the hub's cache, which is
    called by the commit.
    """
    for _, network in _networks(pipe):
        place = str(getattr(network, "config", {}).get("_name_or_path", ""))
        if found := _SNAPSHOT.search(place):
            return found[1].replace("--", "/"), found[2]
    return "", None


def fingerprint(pipe: Any) -> dict[str, float]:
    """Norms of three large weights of the denoiser, by name: the first, the middle and the last of them.

    Weights are rounded to bfloat16 first, so that a model has the same norms in every dtype. What is quantised, split
    over processes or not in memory is left out; {} where nothing is left.
    """
    large = [(name, weight) for name, weight in _weights(pipe) if weight.ndim > 1 and _is_plain(weight)]
    if not large:
        return {}
    middle = sorted(weight.numel() for _, weight in large)[len(large) // 2]
    large = [(name, weight) for name, weight in large if weight.numel() >= middle]
    return {name: _norm(weight) for name, weight in (large[0], large[len(large) // 2], large[-1])}


def warn_of_another_model(pipe: Any, origin: Origin) -> None:
    """Warn where a pipeline's weights are not those that were recorded, as far as both are known.

    A fine-tune may well be run with the plan of its base model, so nothing is refused.
    """
    if origin.fingerprint:
        difference = _difference(dict(_weights(pipe)), origin.fingerprint)
    else:
        made, (_, found) = origin.revision, commit_of(pipe)
        known = found is not None and made is not None and _COMMIT.fullmatch(made)
        difference = f"they are of commit {found}, recorded was {made}" if known and found != made else ""
    if difference:
        name = f", of {origin.model!r:.100}" if origin.model else ""
        warnings.warn(
            f"this plan was made for other weights{name}: {difference:.300}. For a fine-tune, or another commit, the "
            "fidelity that the plan predicts is not known: compare with an unaccelerated run (skipcast compare), or "
            "record this model and solve a plan for it.",
            stacklevel=6,  # who makes the context of accelerate()
        )


def _networks(pipe: Any) -> Iterator[tuple[str, nn.Module]]:
    """The denoisers by their names in the pipeline, also where they are compiled."""
    for name in NAMES:
        network = getattr(pipe, name, None)
        if isinstance(network, nn.Module):
            yield name, getattr(network, "_orig_mod", network)


def _weights(pipe: Any) -> Iterator[tuple[str, Tensor]]:
    for name, network in _networks(pipe):
        for key, weight in network.named_parameters():
            yield f"{name}.{key}", weight


def _is_plain(weight: Tensor) -> bool:
    """Whether its values are at hand: no subclass, such as a quantised or a split one, and not on the meta device."""
    return type(weight) is nn.Parameter and weight.is_floating_point() and weight.itemsize > 1 and not weight.is_meta


def _norm(weight: Tensor) -> float:
    """The norm to seven digits, in which every device agrees."""
    return float(f"{torch.linalg.vector_norm(weight.detach().to(torch.bfloat16), dtype=torch.float64).item():.7g}")


def _difference(weights: Mapping[str, Tensor], recorded: Mapping[str, float]) -> str:
    """How weights differ from recorded ones in words; "" if they do not, or nothing can be compared."""
    for name, norm in recorded.items():
        owner, _, last = name.rpartition(".")
        weight = weights.get(name, weights.get(f"{owner}.base_layer.{last}"))  # behind adapters
        if weight is None:
            return f"they hold no {name}"
        if not _is_plain(weight):
            continue
        allowed = _FLOOR + _SAME / weight.numel() ** 0.5
        if abs((found := _norm(weight)) - norm) > allowed * norm:
            return f"{name} has norm {found:.6g}, recorded was {norm:.6g}"
    return ""
