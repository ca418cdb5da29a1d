"""What a profile was recorded from, and what a plan is therefore made for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Reference = Literal["default", "converged"]


@dataclass(frozen=True)
class Origin:
    """Where recorded trajectories come from; everything in it is plain JSON.

    Args:
        pipeline: name of the pipeline's class.
        scheduler: name of the scheduler's class.
        config: its configuration.
        steps: N, the steps of the recorded run.
        reference: "default", the N-step run itself, or "converged", the same model integrated finely.
        revision: what identifies the weights, if known.
        call: further arguments of the pipeline calls, such as the guidance.
        varied: arguments that differ from pair to pair, such as several guidance scales: one value per pair each.
        prompts: one per pair, as texts.
        texts: whether the pipeline was given these texts, or arguments of which they are descriptions.
        seeds: one per pair.
        shape: of one sample, without the batch.
        versions: of the libraries that recorded it.
    """

    pipeline: str
    scheduler: str
    config: Mapping[str, Any]
    steps: int
    reference: Reference = "default"
    revision: str | None = None
    call: Mapping[str, Any] = field(default_factory=dict)
    varied: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    prompts: tuple[str, ...] = ()
    texts: bool = True
    seeds: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.reference not in ("default", "converged"):
            raise ValueError(f'Origin(reference={self.reference!r}) must be "default" or "converged".')
        for name in ("prompts", "seeds", "shape"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "config", json.loads(json.dumps(dict(self.config))))
        object.__setattr__(self, "call", json.loads(json.dumps(dict(self.call))))
        varied = {name: tuple(values) for name, values in self.varied.items()}
        object.__setattr__(self, "varied", varied)
        for name, values in varied.items():
            if len(values) != len(self.prompts):
                raise ValueError(f"Origin(varied=...): {len(values)} values of {name} for {len(self.prompts)} pairs.")

    def call_of(self, pair: int) -> dict[str, Any]:
        """The arguments of the pipeline call of one pair."""
        return {**self.call, **{name: values[pair] for name, values in self.varied.items()}}

    def alike(self, pairs: Sequence[int]) -> list[list[int]]:
        """The pairs in groups of the same arguments, in the order of their first pair."""
        groups: dict[str, list[int]] = {}
        for pair in pairs:
            groups.setdefault(json.dumps(self.call_of(pair), sort_keys=True), []).append(pair)
        return list(groups.values())

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values; `Origin(**d)` makes it again."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]
