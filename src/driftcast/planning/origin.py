"""What a profile was recorded from, and what a plan is therefore made for."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
        prompts: one per pair.
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
    prompts: tuple[str, ...] = ()
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

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values; `Origin(**d)` makes it again."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]
