"""The rows of a network's batch, and its arguments for some of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from skipcast.pipelines.steps import TIMES

#: Arguments of networks with a row for each row of the batch, and those without any.
_ROWS = {"added_cond_kwargs", "attention_mask", "cap_feats", "class_labels", "encoder_attention_mask", "guidance"}
_ROWS |= {"encoder_hidden_states", "encoder_hidden_states_mask", "pooled_projections", *TIMES}
_NO_ROWS = {"image_rotary_emb", "img_ids", "txt_ids"}
#: Those that are lists of tensors with such rows: what a ControlNet adds.
_LISTS = {"down_block_additional_residuals", "down_intrablock_additional_residuals", "controlnet_block_samples"}
_LISTS |= {"controlnet_single_block_samples", "mid_block_additional_residual"}


class Undivided(ValueError):
    """An argument of a network that is not known to have a row for each row of the batch, or none."""


def repeated(batch: Tensor, samples: int) -> bool:
    """Whether a batch holds all samples, and then all of them again for every further guidance branch."""
    blocks = batch.unflatten(0, (-1, samples))
    return bool((blocks == blocks[:1]).all())


def picked_of(given: Mapping[str, Any], sample: str, picked: Tensor, rows: int) -> dict[str, Any]:
    """The arguments of some rows.

    Raises:
        Undivided: one is not known to allow it.
    """
    found = {}
    for name, value in given.items():
        if name in _LISTS and isinstance(value, list | tuple):
            value = [_some(item, picked, rows) for item in value]
            value = _UNKNOWN if any(item is _UNKNOWN for item in value) else value
        elif name == sample or name in _ROWS or name in _LISTS:
            # Alone the sample and its texts come in lists of one entry for each row.
            value = _some(value, picked, rows, listed=name in (sample, "cap_feats"))
        elif not (_bare(value) or _numbers(value, rows) or (name in _NO_ROWS and _flat(value))):
            value = _UNKNOWN
        if value is _UNKNOWN:
            raise Undivided(f"the network's argument {name} is not known to have one row for each sample")
        found[name] = value
    return found


_UNKNOWN = object()


def _some(value: Any, picked: Tensor, rows: int, *, listed: bool = False) -> Any:
    """A value for some rows; one without rows as it is."""
    if isinstance(value, Tensor):
        if not value.ndim or len(value) == 1:
            return value
        return value[picked.to(value.device)] if len(value) == rows else _UNKNOWN
    if isinstance(value, Mapping):
        found = {name: _some(item, picked, rows) for name, item in value.items()}
        return _UNKNOWN if any(item is _UNKNOWN for item in found.values()) else found
    if listed and isinstance(value, list) and len(value) == rows:
        return [value[row] for row in picked.tolist()]
    return value if _bare(value) else _UNKNOWN


def _bare(value: Any) -> bool:
    """Whether a value holds no tensor, and nothing that may be one entry for each row."""
    if isinstance(value, Mapping):
        return all(map(_bare, value.values()))
    return not isinstance(value, Tensor) and not (isinstance(value, list | tuple) and value)


def _numbers(value: Any, rows: int) -> bool:
    """Whether a value is some plain numbers, of which there is not one for each row: scales of a rotary embedding."""
    plain = isinstance(value, tuple) and all(isinstance(item, int | float) for item in value)
    return plain and len(value) != rows


def _flat(value: Any) -> bool:
    """Whether a value is made of tables without a batch."""
    parts = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(part, Tensor) and part.ndim == 2 for part in parts)
